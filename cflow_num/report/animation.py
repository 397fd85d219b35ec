"""The cycle view of a run as a short film: displacement, effective sharpness and loss, with a moving marker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from ..record.measures import first_crossing, threshold, values
from ..record.run import Run
from ..support.errors import InputError
from ..support.files import replacing
from . import canvas
from .canvas import COLOURS, EDGE, FLOW, PREDICTED, RAW, line, styled

MOST_FRAMES, PER_SECOND, TRAIL = 120, 15, 14
_LONGEST = 150  # steps shown where the last one is not given
_DOTS = 100  # per inch


def animate(
    run: Run, path: str | os.PathLike[str], *, first: int | None = None, last: int | None = None, frames: int = 90
) -> Path:
    """Write the cycle view of a run as a GIF, or as MP4 where the name ends so and ffmpeg is installed.

    **Arguments:**

    - `run`: with the discrete and the central process.
    - `path`: a name that ends in `.gif` or `.mp4`.
    - `first`, `last`: steps; by default from shortly before the first crossing for 150 steps.
    - `frames`: how many pictures at most, up to 120.

    **Returns:** the path.

    **Raises:** `InputError` for bad input, before anything is drawn.
    """
    path = Path(path)
    writer = _writer(path)
    first, last = _window(run, first, last)
    if isinstance(frames, bool) or not 2 <= frames <= MOST_FRAMES:
        raise InputError(f"frames is {frames!r}, it must be between 2 and {MOST_FRAMES}")
    steps = np.unique(np.linspace(first, last, min(frames, last - first + 1)).round().astype(int))
    view = _View(run, first, last)
    fig = styled(lambda _: view.draw())(None)
    assert fig is not None
    with replacing(path) as temporary, writer.saving(fig, str(temporary), _DOTS):
        for step in steps.tolist():
            view.move(step)
            writer.grab_frame()
    return path


def _writer(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise InputError(f"{path} does not say which kind of film it is: let its name end in .gif or .mp4")
    if suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise InputError(f"{path} needs ffmpeg, which is not installed: install it, or let the name end in .gif")
    return PillowWriter(fps=PER_SECOND) if suffix == ".gif" else FFMpegWriter(fps=PER_SECOND)


def _window(run: Run, first: int | None, last: int | None) -> tuple[int, int]:
    """Return the steps to show; raises `InputError` where the run lacks them."""
    for name in ("discrete", "central"):
        if name not in run.tree.children:
            raise InputError(f"the run has no {name} process: run again with the processes discrete and central")
    end = run.tree["discrete"].sizes["step"] - 1
    first = max(1, (first_crossing(run) or 1) - 15) if first is None else first
    last = min(first + _LONGEST, end) if last is None else last
    if not 0 <= first < last <= end:
        raise InputError(f"steps {first} to {last} are not in the run: pass --first and --last between 0 and {end}")
    return first, last


class _View:
    """A phase portrait at the left, three series by step at the right, and what moves over them."""

    def __init__(self, run: Run, first: int, last: int):
        self.run, self.first, self.last = run, first, last
        self.x = np.nan_to_num(values(run, "discrete", "displacement")[:, 0])
        self.S = values(run, "discrete", "effective_eigenvalues")[:, 0]
        self.loss = values(run, "discrete", "loss")
        self.moving: list[tuple[Any, np.ndarray]] = []

    def draw(self) -> Figure:
        """Draw what stays, and markers at the first step."""
        fig = canvas.canvas(self.run, "One cycle after another", 4.2)
        FigureCanvasAgg(fig)
        grid = fig.add_gridspec(3, 2, width_ratios=(1, 1.5))
        portrait = fig.add_subplot(grid[:, 0])
        series = [fig.add_subplot(grid[i, 1]) for i in range(3)]
        self._portrait(portrait)
        self._series(series)
        fig.draw_without_rendering()  # the layout, once for all frames
        fig.set_layout_engine(PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False))
        return fig

    def _portrait(self, ax: Axes) -> None:
        shown = slice(self.first, self.last + 1)
        ax.plot(self.x[shown], self.S[shown], color=COLOURS["discrete"], alpha=0.18, linewidth=0.7)
        ax.axhline(float(np.nanmean(threshold(self.run))), color=EDGE, linewidth=1, linestyle=(0, (1, 2)))
        ax.set_xlabel("displacement along the top eigenvector")
        ax.set_ylabel("effective sharpness")
        (self.trail,) = ax.plot([], [], color=COLOURS["discrete"], linewidth=1.2)
        (self.head,) = ax.plot([], [], "o", color=EDGE, markersize=5)

    def _series(self, axes: list[Axes]) -> None:
        run, predicted = self.run, values(self.run, "central", "predicted_loss")
        rows = (
            (self.x, "displacement"),
            (self.S, r"$S_{\mathrm{eff}}$"),
            (self.loss, "loss"),
        )
        for ax, (y, label) in zip(axes, rows, strict=True):
            line(ax, y, "optimizer", **RAW | {"linewidth": 1.0, "alpha": 0.7})
            ax.set_ylabel(label)
            ax.set_xlim(self.first, self.last)
            (marker,) = ax.plot([], [], "o", color=EDGE, markersize=4, zorder=5)
            self.moving.append((marker, y))
            self._limits(ax, y, predicted if y is self.loss else y)
            ax.tick_params(labelbottom=ax is axes[-1])
        line(axes[1], values(run, "central", "effective_eigenvalues")[:, 0], "central flow", **FLOW["central"])
        line(axes[1], threshold(run), "threshold", color=EDGE, linewidth=1, linestyle=(0, (1, 2)))
        line(axes[2], predicted, "predicted average", **PREDICTED)
        axes[2].set_xlabel("step")
        for ax in (axes[1], axes[2]):
            ax.legend(*_others(ax), loc="upper right", fontsize=7.5, frameon=False, ncols=2)

    def _limits(self, ax: Axes, *series: np.ndarray) -> None:
        shown = np.concatenate([y[self.first : self.last + 1] for y in series])
        low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
        room = 0.08 * (high - low or abs(high) or 1.0)
        ax.set_ylim(low - room, high + 2 * room)

    def move(self, step: int) -> None:
        """Move the markers to a step."""
        recent = slice(max(self.first, step - TRAIL), step + 1)
        self.trail.set_data(self.x[recent], self.S[recent])
        self.head.set_data([self.x[step]], [self.S[step]])
        for marker, y in self.moving:
            marker.set_data([step], [y[step]])


def _others(ax: Axes) -> tuple[list, list]:
    """Return the legend's entries without the optimizer, which is everywhere."""
    pairs = [(h, text) for h, text in zip(*ax.get_legend_handles_labels(), strict=True) if text != "optimizer"]
    return [h for h, _ in pairs], [text for _, text in pairs]

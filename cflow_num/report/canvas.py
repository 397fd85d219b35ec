"""The look that all figures share: colours, line styles, header, axes. Nothing here touches pyplot.

One colour per process everywhere. Thin and pale: a discrete quantity step by step. Wide and pale: its time
average. Solid: a process itself. Dashed and dark: what the central flow predicts, on top of the measured.
"""

from __future__ import annotations

import contextlib
import functools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..record.measures import first_crossing
from ..record.run import Run
from ..record.titles import title
from ..support.files import replacing

DPI = 150
WIDTH, HEIGHT, HEADER = 8.0, 4.3, 0.6  # inches

COLOURS = {
    "discrete": "#2f7ebc",
    "stable": "#e8871e",
    "central": "#16202c",
    "ablated": "#a2449c",
    "stationary": "#2e8b57",
    "rod": "#8a6d3b",
    "edge": "#c4527c",
    "envelope": "#4b9da9",
}
EDGE = "#c8102e"  # the threshold, and what is equal to it
SHADES = ("#b35c9e", "#e8871e", "#d9b430", "#7aa874", "#9db8d2")  # of what is stacked
INK, SOFT, PALE = "#16202c", "#5b6670", "#8a94a0"

RAW: dict[str, Any] = dict(color=COLOURS["discrete"], alpha=0.5, linewidth=0.6)
AVERAGE: dict[str, Any] = dict(color=COLOURS["discrete"], alpha=0.45, linewidth=4.0)
PREDICTED: dict[str, Any] = dict(color=COLOURS["central"], linewidth=1.5, linestyle=(0, (4, 1.6)))
FLOW: dict[str, dict[str, Any]] = {
    "stable": dict(color=COLOURS["stable"], linewidth=1.5),
    "central": dict(color=COLOURS["central"], linewidth=1.7),
    "ablated": dict(color=COLOURS["ablated"], linewidth=1.5),
    "stationary": dict(color=COLOURS["stationary"], linewidth=1.5),
    **{name: dict(color=COLOURS[name], linewidth=1.3) for name in ("rod", "edge", "envelope")},
}
OTHER: dict[str, Any] = dict(color="#6f7d2f", linewidth=1.3)  # a flow of one's own

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": "#2b3640",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.01,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "text.color": INK,
}


def look(flow: str) -> dict[str, Any]:
    """Return colour and width of the line of a flow."""
    return FLOW.get(flow, OTHER)


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def styled(draw: Callable[[Any], Figure | None]) -> Callable[[Any], Figure | None]:
    """Draw in this module's style, whatever the user's is, and leave theirs alone."""

    @functools.wraps(draw)
    def drawn(subject: Any) -> Figure | None:
        with _style():
            return draw(subject)

    return drawn


def save(figure: Figure, path: Path) -> Path:
    """Write one figure as PNG; raises `InputError` where it cannot be written."""
    with replacing(path) as temporary, _style():
        figure.savefig(temporary, dpi=DPI)
    return path


def canvas(run: Run, heading: str, height: float = HEIGHT) -> Figure:
    """Return an empty figure with its header: what it shows, of which run."""
    return headed(heading, title(run), height)


def headed(heading: str, whose: str, height: float = HEIGHT) -> Figure:
    """Return an empty figure with a heading and, at the right, whose it is."""
    fig = Figure(figsize=(WIDTH, height), dpi=DPI)
    fig.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEADER / height), w_pad=0.08, h_pad=0.05))
    y = 1 - 0.22 / height
    fig.text(0.012, y, heading, fontsize=12.5, fontweight="bold")
    fig.text(
        0.988, y, textwrap.shorten(whose, 80, placeholder=" …"), ha="right", color=PALE, fontsize=8.5, parse_math=False
    )
    return fig


def single(run: Run, heading: str, ylabel: str) -> Axes:
    """Return the axes of a figure with one panel."""
    ax = canvas(run, heading).subplots()
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    return ax


def finished(ax: Axes, run: Run) -> Figure:
    """Return the figure of `ax` with its legend and the first crossing marked."""
    mark_crossing(ax, run, "first crossing, step {}")
    return legend(ax)


def legend(*axes: Axes) -> Figure:
    """Return the figure of the axes with one legend for all of them, each label once, in the header."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig = axes[0].get_figure(root=True)
    assert isinstance(fig, Figure)
    anchor = (0.012, 1 - 0.31 / fig.get_figheight())
    look: dict[str, Any] = dict(frameon=False, fontsize=8.8, handlelength=1.6, columnspacing=1.5, borderaxespad=0)
    key = fig.legend(
        list(handles.values()),
        list(handles),
        loc="upper left",
        bbox_to_anchor=anchor,
        ncols=7,
        borderpad=0.2,
        **look,
    )
    for handle in key.get_lines():
        handle.set_linewidth(max(handle.get_linewidth(), 1.2))
    return fig


def mark_crossing(ax: Axes, run: Run, label: str = "") -> None:
    """Mark the first crossing of the central flow with a vertical line."""
    crossing = first_crossing(run) if "central" in run.tree.children else None
    if crossing is None:
        return
    ax.axvline(crossing, color=PALE, linewidth=0.8, zorder=1)
    place, text = ax.get_xaxis_transform(), label.format(crossing)
    late = crossing > 0.8 * run.tree["central"].sizes["step"]
    ax.text(crossing, 1.015, text, transform=place, ha="right" if late else "left", color=PALE, fontsize=8)


def line(ax: Axes, y: np.ndarray, label: str, **look: Any) -> None:
    """Draw y by step, a line for each column, joined across steps where nothing is known."""
    for i, column in enumerate(y.reshape(len(y), -1).T):
        known = np.flatnonzero(np.isfinite(column))
        if known.size:
            ax.plot(known, column[known], label=label if i == 0 else None, **look)

"""The look that all figures share: colours, line styles, header, axes. Nothing here touches pyplot.

One colour per process everywhere. Thin and pale: a discrete quantity step by step. Wide and pale: its time
average. Solid: a process itself. Dashed and dark: what the central flow predicts, on top of the measured.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import io
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath
from PIL import Image

from ..record.measures import first_crossing
from ..record.run import Run
from ..record.titles import title
from ..record.variables import DISCRETE
from ..support.files import replacing
from ..verdict.onset import crossing
from .cuts import mark_cuts

DPI, NARROW_DPI = 150, 220
KEY_TEXT = 8.8  # points
KEPT = 128  # colours of an image
WIDTH, HEIGHT, HEADER, KEY = 8.0, 4.3, 0.6, 0.31  # inches; the key is in the header
LARGEST = 1e200  # that is drawn: ticks of an axis beyond are no numbers any more


class Sheet(NamedTuple):
    """What a figure is drawn on; sizes in inches and points, `keys` the entries of a legend in a row, at most."""

    width: float
    height: float  # of one panel with what is above it
    more: float  # of a further row of panels, relative to what it is on a wide sheet
    columns: int
    keys: int
    letters: int  # in a line of small print
    heading: float
    text: float


WIDE = Sheet(WIDTH, HEIGHT, 1.0, 2, 7, 80, 12.5, 9.5)
NARROW = Sheet(3.8, 3.6, 0.9, 1, 2, 58, 10.5, 8.5)  # for a phone, where it is shown at about its own size
_sheet: contextvars.ContextVar[Sheet] = contextvars.ContextVar("sheet", default=WIDE)


def sheet() -> Sheet:
    """Return what figures are drawn on now."""
    return _sheet.get()


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Draw figures for narrow pages: one column of panels, larger text for their width."""
    token = _sheet.set(NARROW)
    try:
        yield
    finally:
        _sheet.reset(token)


class Drawing(Figure):
    """A figure that a notebook shows, with pyplot in use there or not; its legend begins `header` below the top."""

    header = KEY

    def _repr_png_(self) -> bytes:
        """Return the image."""
        return image(pixels(self))


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
LABEL, AXIS, GRID = "#2b3640", "#b8c0c8", "#e6e9ed"

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
    "axes.edgecolor": AXIS,
    "axes.labelcolor": LABEL,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.01,
    "grid.color": GRID,
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
        mpl.rcParams.update(STYLE | {"font.size": sheet().text})
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


def pixels(figure: Figure) -> Image.Image:
    """Draw a figure once and return it as an image."""
    figure.set_dpi(DPI if figure.get_figwidth() > NARROW.width else NARROW_DPI)
    drawn = FigureCanvasAgg(figure)
    with _style():
        drawn.draw()
    return Image.fromarray(np.asarray(drawn.buffer_rgba())).convert("RGB")


def fixed(figure: Figure) -> None:
    """Leave the panels of a figure that was drawn where they are, however often it is drawn."""
    figure.set_layout_engine("none")


def image(picture: Image.Image) -> bytes:
    """Return an image as a PNG of few colours, which takes a third of the room."""
    file = io.BytesIO()
    picture.quantize(KEPT, dither=Image.Dither.NONE).save(file, format="png")
    return file.getvalue()


def rows_high(rows: int, each: float) -> float:
    """Return the height of a figure with rows of panels that are `each` high on a wide sheet."""
    page = sheet()
    return page.height if rows == 1 else 1.2 + page.more * each * rows


def canvas(run: Run, heading: str, height: float | None = None) -> Drawing:
    """Return an empty figure with its header: what it shows, of which run."""
    return headed(heading, title(run), height)


def headed(heading: str, whose: str, height: float | None = None, width: float | None = None) -> Drawing:
    """Return an empty figure with a heading and whose it is: at the right of it, or below on a narrow sheet."""
    page = sheet()
    height, width = page.height if height is None else height, page.width if width is None else width
    letters = page.letters - round(16 * (page.width - width))
    lines = textwrap.wrap(whose, letters, max_lines=1 if page is WIDE else 3, placeholder=" …")
    fig = Drawing(figsize=(width, height), dpi=DPI)
    fig.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05))
    fig.text(0.012, 1 - 0.22 / height, heading, fontsize=page.heading, fontweight="bold")
    small: Any = dict(color=PALE, fontsize=8.5 if page is WIDE else 8, parse_math=False)
    if page is WIDE:
        fig.text(0.988, 1 - 0.22 / height, "".join(lines), ha="right", **small)
    else:
        fig.text(0.012, 1 - KEY / height, "\n".join(lines), va="top", linespacing=1.25, **small)
        fig.header = KEY + 0.03 + 0.16 * len(lines)
    _below(fig, fig.header + HEADER - KEY)
    return fig


def _below(fig: Drawing, header: float) -> None:
    """Leave room for the header of a figure."""
    engine = fig.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - header / fig.get_figheight()))


def single(run: Run, heading: str, ylabel: str) -> Axes:
    """Return the axes of a figure with one panel."""
    ax = canvas(run, heading).subplots()
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    return ax


def finished(ax: Axes, run: Run) -> Figure:
    """Return the figure of `ax` with its legend, the first crossing and what its limits cut marked."""
    mark_crossing(ax, run, "first crossing, step {}")
    mark_cuts(ax)
    return legend(ax)


def legend(*axes: Axes) -> Figure:
    """Return the figure of the axes with one legend for all of them, each label once, in the header."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig, page = axes[0].get_figure(root=True), sheet()
    assert isinstance(fig, Figure)
    header = getattr(fig, "header", KEY)
    keys = _keys(list(handles), page)
    if isinstance(fig, Drawing):
        _below(fig, header + 0.165 * (-(-len(handles) // keys) - 1) + HEADER - KEY)
    anchor = (0.012, 1 - header / fig.get_figheight())
    look: dict[str, Any] = dict(frameon=False, fontsize=KEY_TEXT, handlelength=1.6, columnspacing=1.5, borderaxespad=0)
    key = fig.legend(
        list(handles.values()),
        list(handles),
        loc="upper left",
        bbox_to_anchor=anchor,
        ncols=keys,
        borderpad=0.2,
        **look,
    )
    for handle in key.get_lines():
        handle.set_linewidth(max(handle.get_linewidth(), 1.2))
    return fig


def _keys(labels: list[str], page: Sheet) -> int:
    """Return how many entries of a legend fit into a row; they are put in by columns."""
    font = FontProperties(family=STYLE["font.family"], size=KEY_TEXT)
    wide = [TextPath((0, 0), label, prop=font).get_extents().width + 4 * KEY_TEXT for label in labels]
    for keys in range(min(page.keys, len(labels)), 1, -1):
        if sum(max(column) for column in np.array_split(wide, keys)) < 72 * (page.width - 0.1):
            return keys
    return 1


def crossing_of(run: Run) -> int | None:
    """Return the first crossing: of the central flow, or of the threshold by the optimizer where there is no flow."""
    if "central" in run.processes:
        return first_crossing(run)
    return crossing(run, DISCRETE) if DISCRETE in run.processes else None


def mark_crossing(ax: Axes, run: Run, label: str = "") -> None:
    """Mark the first crossing with a vertical line."""
    at = crossing_of(run)
    if at is None:
        return
    ax.axvline(at, color=PALE, linewidth=0.8, zorder=1)
    place, text = ax.get_xaxis_transform(), label.format(at)
    late = at > 0.6 * run.size("central" if "central" in run.processes else DISCRETE)
    ax.text(at, 1.015, text, transform=place, ha="right" if late else "left", color=PALE, fontsize=8)


def line(ax: Axes, y: np.ndarray, label: str, **look: Any) -> None:
    """Draw y by step, a line for each column, joined across steps where nothing is known or it is out of all bounds."""
    for i, column in enumerate(y.reshape(len(y), -1).T):
        known = np.flatnonzero(np.abs(column) < LARGEST)
        if known.size:
            ax.plot(known, column[known], label=label if i == 0 else None, **look)

"""The figure of a sweep: how much closer than the stable flow the central flow is, over the axes of the grid.

One axis runs along x, one is told by colour, the others by panels. Lines go through judged runs only; others are marked
and stand alone. Seeds are repetitions: a line through the medians of the judged ones, bars to the smallest and the
largest, a pale dot each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..report.canvas import COLOURS, EDGE, HEADER, HEIGHT, PALE, SOFT, WIDTH, headed, styled
from ..verdict.definitions import LIMITS
from .grid import shown
from .outcome import REPEATED, Outcome
from .summary import Sweep

_CATEGORIES = ("#2f7ebc", "#a2449c", "#2e8b57", "#8c6d31", "#16202c", "#d16ba5", "#1aa6a6", "#7f8c99")
_BAR = "$|$"  # of a legend
_STABLE: dict[str, Any] = dict(color=COLOURS["stable"], linewidth=1.2)
_LIMIT: dict[str, Any] = dict(color=EDGE, linewidth=1, linestyle=(0, (4, 1.6)))
_MOST_PANELS, _PANELS_A_ROW = 12, 3
_CLOSEST = 0.05  # of an axis' length: values that lie closer are spread evenly
_APART = 0.008  # of an axis' length: between series whose bars would lie on each other
_NARROW = 6.0  # inches: the width of a single panel, which is then legible on a phone


@dataclass(frozen=True)
class _Roles:
    """Which axis of the grid is told by what; None where there is none."""

    x: str
    colour: str | None
    panels: tuple[str, ...]


@styled
def figure(sweep: Sweep) -> Figure | None:
    """Return the distance ratio of all cells over the axes; None where no cell has one."""
    known = [row for row in sweep.rows if _ratio(row) is not None]
    if not known:
        return None
    roles = _roles(sweep.axes)
    combinations = [dict(zip(roles.panels, v, strict=True)) for v in _product(sweep.axes, roles.panels)]
    panels = combinations[:_MOST_PANELS]
    last = len(sweep.axes[roles.panels[-1]]) if roles.panels else 1
    columns = min(last if last in (2, 3) else _PANELS_A_ROW, len(panels))
    lines = math.ceil(len(panels) / columns)
    repeated = REPEATED not in (roles.x, roles.colour) and len(sweep.axes.get(REPEATED, [])) > 1
    whose = sweep.title + f"; first {len(panels)} of {len(combinations)} panels" * (len(panels) < len(combinations))
    height = HEIGHT + 0.3 if lines == 1 else HEADER + 0.3 + 2.5 * lines
    width = _NARROW if columns == 1 else WIDTH
    fig = headed("Distance from the optimizer", whose, height, width)
    grid = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, panel in itertools.zip_longest(grid.flat, panels):
        if panel is None:
            ax.set_visible(False)
            continue
        _draw(ax, sweep, roles, panel, repeated)
        if panel:
            title = ", ".join(f"{axis} = {shown(value)}" for axis, value in panel.items())
            ax.set_title(title, fontsize=9, color=SOFT, loc="left")
    n_series = len(sweep.axes[roles.colour]) if roles.colour else 1
    room = 0.05 * n_series if len(known) < len(sweep.rows) else 0.0  # for the crosses
    _scale(grid[0, 0], [r for row in known if (r := _ratio(row)) is not None], room)
    for i, ax in enumerate(grid.flat):
        below = i + columns >= len(panels)
        ax.tick_params(labelbottom=below)
        if below:
            ax.set_xlabel(roles.x)
    for ax in grid[:, 0]:
        ax.set_ylabel(r"$D_{\mathrm{central}}\,/\,D_{\mathrm{stable}}$")
    return _with_legends(fig, grid[0, 0], sweep, repeated)


def _roles(axes: dict[str, list[Any]]) -> _Roles:
    """Choose: x is the numeric axis with the most values, colour the next one with few enough, panels the rest."""
    varied = [name for name, values in axes.items() if len(values) > 1] or list(axes)
    rest = [name for name in varied if name != REPEATED] or varied
    by_size = sorted(rest, key=lambda name: (_numeric(axes[name]), len(axes[name])), reverse=True)
    x, rest = by_size[0], [name for name in rest if name != by_size[0]]
    few = [name for name in rest if len(axes[name]) <= len(_CATEGORIES)]
    colour = max(few, key=lambda name: len(axes[name])) if few else None
    return _Roles(x, colour, tuple(name for name in rest if name != colour))


def _draw(ax: Axes, sweep: Sweep, roles: _Roles, panel: dict[str, Any], repeated: bool) -> None:
    values = sweep.axes[roles.x]
    places, numeric = _places(ax, values), _numeric(values)
    series = sweep.axes[roles.colour] if roles.colour else [None]
    colours = _colours(series)
    ax.axhline(1, zorder=1, **_STABLE)
    ax.axhline(LIMITS.distance_ratio, zorder=1, **_LIMIT)
    for i, (value, colour) in enumerate(zip(series, colours, strict=True)):
        chosen = panel | ({roles.colour: value} if roles.colour else {})
        # A row that lacks an axis (its optimizer has no such hyperparameter) belongs to all values of it.
        rows = [row for row in sweep.rows if all(row.values.get(k, v) == v for k, v in chosen.items())]
        at = _aside(ax, places, i - (len(series) - 1) / 2, 0.5 / len(series) if not numeric else _APART * repeated)
        of_places = [[row for row in rows if row.values.get(roles.x, x) == x] for x in values]
        line = numeric and roles.x != REPEATED
        _draw_series(ax, at, of_places, colour, line, repeated)
        missing = [place for place, here in zip(at, of_places, strict=True) if not all(map(_ratio, here))]
        look: dict[str, Any] = dict(color=colour, markersize=5, transform=ax.get_xaxis_transform(), zorder=3)
        ax.plot(missing, [0.035 + 0.045 * i] * len(missing), "x", **look)
        label = "central flow" if roles.colour is None else shown(value)
        if roles.colour and not isinstance(value, str):
            label = f"{roles.colour} = {label}"
        ax.plot([], [], "o-" if line else "o", color=colour, markersize=4.5, label=label)


def _draw_series(
    ax: Axes,
    places: np.ndarray,
    of_places: Sequence[Sequence[Outcome]],
    colour: Any,
    line: bool,
    repeated: bool,
) -> None:
    """Draw judged runs with a line through their medians, and bars where they are repeated; others stand alone."""
    spreads = []
    for place, here in zip(places, of_places, strict=True):
        judged = [r for row in here if row.judged and (r := _ratio(row)) is not None]
        others = [r for row in here if not row.judged and (r := _ratio(row)) is not None]
        spreads.append([np.median(judged), min(judged), max(judged)] if judged else [np.nan] * 3)
        own: dict[str, Any] = dict(color=colour, linestyle="none")
        ax.plot([place] * len(others), others, marker="o", markersize=4.5, markerfacecolor="w", **own)
        faint: dict[str, Any] = dict(markersize=3.5, alpha=0.35) if repeated else dict(markersize=4.5)
        ax.plot([place] * len(judged), judged, marker="o", markeredgewidth=0 if repeated else 1, **faint, **own)
    median, low, high = np.transpose(spreads)
    if repeated:
        ax.vlines(places, low, high, color=colour, linewidth=1.6)
    look: dict[str, Any] = dict(marker="o" if line else "_", markersize=5 if line else 16) if repeated else {}
    drawn = "-" if line else "none"
    ax.plot(places, median, color=colour, linestyle=drawn, markeredgewidth=1.5, **look)


def _aside(ax: Axes, places: Sequence[float], by: float, share: float) -> np.ndarray:
    """Return places `by` times a share of their range aside; of the distance between names, which are one apart."""
    x = np.log(places) if ax.get_xscale() == "log" else np.asarray(places, float)
    x = x + by * share * (np.ptp(x) if share == _APART else 1.0)
    return np.exp(x) if ax.get_xscale() == "log" else x


def _places(ax: Axes, values: Sequence[Any]) -> list[float]:
    """Return where the values of the x-axis lie, after choosing its scale and its ticks."""
    places = [float(v) for v in values] if _numeric(values) else []
    gaps = np.diff(np.sort(places))
    if places and min(places) > 0 and gaps.size > 1:
        ratios = np.diff(np.sort(np.log(places)))
        if ratios.max() / ratios.min() < gaps.max() / gaps.min():  # closer to geometric than to even spacing
            ax.set_xscale("log")
            gaps = ratios
    if not places or (gaps.size and gaps.min() < _CLOSEST * gaps.sum()):
        ax.set_xscale("linear")
        places = [float(i) for i in range(len(values))]
    texts = {place: shown(value) for place, value in zip(places, values, strict=True)}
    if len(values) <= 8:
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: texts.get(min(texts, key=lambda p: abs(p - x)), "")))
        ax.xaxis.set_minor_locator(NullLocator())
        if sum(map(len, texts.values())) > 50:
            ax.tick_params(axis="x", rotation=25)
    ax.margins(x=0.06 if _numeric(values) else 0.15)
    return places


def _scale(ax: Axes, ratios: list[float], room: float) -> None:
    """Choose the logarithmic range of all panels: every ratio, the limit and 1, and `room` below, as a share."""
    low, high = min(*ratios, LIMITS.distance_ratio), max(*ratios, 1.0)
    ax.set_yscale("log")
    ax.set_ylim(low / (high / low) ** (0.08 + 1.3 * room), high * (high / low) ** 0.06)
    if high < 300 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _with_legends(fig: Figure, ax: Axes, sweep: Sweep, repeated: bool) -> Figure:
    """Return the figure with its series named in the header, which grows with them, and its marks below."""
    series, labels = ax.get_legend_handles_labels()
    columns = max(1, int((fig.get_figwidth() - 0.2) / (0.55 + 0.078 * max(map(len, labels)))))
    height, more = fig.get_figheight(), 0.19 * (math.ceil(len(labels) / columns) - 1)
    engine = fig.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - (HEADER + more) / height))  # pyright: ignore[reportArgumentType]
    look: dict[str, Any] = dict(frameon=False, handlelength=1.6, columnspacing=1.5, borderpad=0.2, borderaxespad=0.2)
    fig.legend(series, labels, loc="upper left", bbox_to_anchor=(0.012, 1 - 0.31 / height), ncols=columns, **look)
    circle, cross = (Line2D([], [], linestyle="none", marker=m, color=PALE, markerfacecolor="w") for m in "ox")
    marks = {
        "as far as the stable flow": Line2D([], [], **_STABLE),
        f"limit {LIMITS.distance_ratio:g}": Line2D([], [], **_LIMIT),
    }
    if repeated:
        marks[f"{REPEATED}s: median, smallest, largest"] = Line2D(
            [], [], linestyle="none", marker=_BAR, markersize=11, markeredgewidth=1.3, color=PALE
        )
    if any(_ratio(row) is not None and not row.judged for row in sweep.rows):
        marks["not judged"] = circle
    if any(_ratio(row) is None for row in sweep.rows):
        marks["no number"] = cross
    fig.legend(
        list(marks.values()),
        list(marks),
        loc="outside lower left",
        ncols=int(fig.get_figwidth() / 1.9),
        labelcolor=SOFT,
        fontsize=8.8,
        **look,
    )
    return fig


def _colours(series: Sequence[Any]) -> list[Any]:
    if len(series) == 1:
        return [COLOURS["central"]]
    if _numeric(series):
        ranks = np.argsort(np.argsort([float(v) for v in series]))
        return [mpl.colormaps["viridis"](0.8 * rank / (len(series) - 1)) for rank in ranks]
    return list(_CATEGORIES[: len(series)])


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _product(axes: dict[str, list[Any]], names: Sequence[str]) -> itertools.product:
    return itertools.product(*(axes[name] for name in names))


def _ratio(row: Outcome) -> float | None:
    value = row.numbers.get("distance_ratio")
    return value if value is not None and math.isfinite(value) and value > 0 else None

"""The figure of a sweep: how much closer than the stable flow the central flow is, over the axes of the grid.

One axis runs along x, one is told by colour, the others by panels; seeds are repetitions: a dot each, a line through
their medians.
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
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .canvas import COLOURS, EDGE, HEADER, HEIGHT, PALE, SOFT, headed, legend, styled
from .sweep_grid import shown
from .sweep_summary import Row, Sweep
from .verdict import LIMITS

REPEATED = "seed"
_CATEGORIES = ("#2f7ebc", "#e8871e", "#a2449c", "#2e8b57", "#8c6d31", "#16202c", "#d16ba5", "#7f8c99")
_MOST_PANELS, _PANELS_A_ROW = 12, 3
_CLOSEST = 0.05  # of an axis' length: values that lie closer are spread evenly


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
    shown_ones = combinations[:_MOST_PANELS]
    columns = min(len(shown_ones), _PANELS_A_ROW)
    lines = math.ceil(len(shown_ones) / columns)
    left_out = len(combinations) - len(shown_ones)
    repeated = REPEATED in sweep.axes and REPEATED not in (roles.x, roles.colour) and len(sweep.axes[REPEATED]) > 1
    whose = sweep.title + f"; lines: medians over {REPEATED}s" * repeated
    whose += f"; {left_out} more panels left out" if left_out else ""
    fig = headed("Central flow's distance from the optimizer", whose, HEIGHT if lines == 1 else HEADER + 2.6 * lines)
    grid = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, panel in itertools.zip_longest(grid.flat, shown_ones):
        if panel is None:
            ax.set_visible(False)
            continue
        _draw(ax, sweep, roles, panel)
        if panel:
            title = ", ".join(f"{axis} = {shown(value)}" for axis, value in panel.items())
            ax.set_title(title, fontsize=9, color=SOFT, loc="left")
    _scale(grid[0, 0], [r for row in known if (r := _ratio(row)) is not None])
    for i, ax in enumerate(grid.flat):
        below = i + columns >= len(shown_ones)
        ax.tick_params(labelbottom=below)
        if below:
            ax.set_xlabel(roles.x)
    for ax in grid[:, 0]:
        ax.set_ylabel(r"$D_{\mathrm{central}}\,/\,D_{\mathrm{stable}}$")
    return _with_legend(fig, grid[0, 0], sweep)


def _roles(axes: dict[str, list[Any]]) -> _Roles:
    """Choose: x is the numeric axis with the most values, colour the next one with few enough, panels the rest."""
    varied = [name for name, values in axes.items() if len(values) > 1] or list(axes)
    rest = [name for name in varied if name != REPEATED] or varied
    by_size = sorted(rest, key=lambda name: (_numeric(axes[name]), len(axes[name])), reverse=True)
    x, rest = by_size[0], [name for name in rest if name != by_size[0]]
    few = [name for name in rest if len(axes[name]) <= len(_CATEGORIES)]
    colour = max(few, key=lambda name: len(axes[name])) if few else None
    return _Roles(x, colour, tuple(name for name in rest if name != colour))


def _draw(ax: Axes, sweep: Sweep, roles: _Roles, panel: dict[str, Any]) -> None:
    values = sweep.axes[roles.x]
    places, joined = _places(ax, values), _numeric(values)
    series = sweep.axes[roles.colour] if roles.colour else [None]
    colours = _colours(series)
    ax.axhline(1, color=COLOURS["stable"], linewidth=1.2, zorder=1)
    ax.axhline(LIMITS.distance_ratio, color=EDGE, linewidth=1, linestyle=(0, (4, 1.6)), zorder=1)
    for i, (value, colour) in enumerate(zip(series, colours, strict=True)):
        chosen = panel | ({roles.colour: value} if roles.colour else {})
        # A row that lacks an axis (its optimizer has no such hyperparameter) belongs to all values of it.
        rows = [row for row in sweep.rows if all(row.values.get(k, v) == v for k, v in chosen.items())]
        dodge = 0.0 if joined else (i - (len(series) - 1) / 2) * 0.5 / len(series)
        medians = []
        for x, place in zip(values, places, strict=True):
            here = [row for row in rows if row.values.get(roles.x, x) == x]
            found = [(r, row) for row in here if (r := _ratio(row)) is not None]
            for r, row in found:
                filled = row.numbers.get("judged") and not row.reason
                ax.plot(place + dodge, r, "o", color=colour, markersize=4.5, markerfacecolor=colour if filled else "w")
            for _ in range(len(here) - len(found)):
                below = ax.get_xaxis_transform()
                ax.plot(place + dodge, 0.035, "x", color=colour, markersize=5.5, transform=below, clip_on=False)
            medians.append(np.median([r for r, _ in found]) if found else np.nan)
        label = f"{roles.colour} = {shown(value)}" if roles.colour else "central flow"
        look = "-" if joined else "none"
        ax.plot(places, medians, linestyle=look, marker="none" if joined else "o", markersize=0, color=colour)
        ax.plot([], [], "o-" if joined else "o", color=colour, markersize=4.5, label=label)


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


def _scale(ax: Axes, ratios: list[float]) -> None:
    """Choose the logarithmic range of all panels: every ratio, the limit and 1."""
    low, high = min(*ratios, LIMITS.distance_ratio), max(*ratios, 1.0)
    ax.set_yscale("log")
    ax.set_ylim(low / (high / low) ** 0.12, high * (high / low) ** 0.06)
    if high < 300 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _with_legend(fig: Figure, ax: Axes, sweep: Sweep) -> Figure:
    marks = [
        (any(_ratio(row) is not None and not row.numbers.get("judged") for row in sweep.rows), "o", "not judged"),
        (any(_ratio(row) is None for row in sweep.rows), "x", "no number"),
    ]
    for there, marker, label in marks:
        if there:
            ax.plot([], [], marker, color=PALE, markerfacecolor="w", markersize=5, label=label)
    ax.plot([], [], color=COLOURS["stable"], linewidth=1.2, label="as far as the stable flow")
    ax.plot([], [], color=EDGE, linewidth=1, linestyle=(0, (4, 1.6)), label=f"limit {LIMITS.distance_ratio:g}")
    return legend(ax)


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


def _ratio(row: Row) -> float | None:
    value = row.numbers.get("distance_ratio")
    return value if value is not None and math.isfinite(value) and value > 0 else None

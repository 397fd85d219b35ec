"""Peaks that the limits of an axis cut: a small triangle there, with the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

BEYOND = 0.01  # of the axis' length, that is ignored
APART = 0.3  # of the axis' width, that two marks need side by side
LINE = 0.07  # of the axis' height, that a mark takes


class _Cut(NamedTuple):
    """The farthest point of a curve beyond a limit: `x` and its place in fractions of the axis."""

    x: float
    across: float
    value: float
    colour: Any
    above: bool


def mark_cuts(ax: Axes) -> None:
    """Mark for every curve the largest value above the axis, and the smallest below it, if there are such.

    Curves of one name are one. Call it when the limits are final.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> _ = ax.plot([0, 1, 2], [0, 50, 1], label="loss"), ax.set_ylim(0, 10)
    >>> mark_cuts(ax)
    >>> [text.get_text() for text in ax.texts]
    ['▲ 50']
    """
    for above in (True, False):
        placed: list[_Cut] = []
        for cut in sorted((c for c in _cuts(ax) if c.above is above), key=lambda c: c.x):
            rank = sum(abs(other.across - cut.across) < APART for other in placed)
            placed.append(cut)
            right = cut.across > 0.6
            arrow, number = "▲" if above else "▼", f"{cut.value:.3g}"
            text = f"{number} {arrow}" if right else f"{arrow} {number}"
            y = 1 - 0.012 - LINE * rank if above else 0.012 + LINE * rank
            look: Any = dict(color=cut.colour, fontsize=8, ha="right" if right else "left", zorder=6)
            ax.text(cut.x, y, text, transform=ax.get_xaxis_transform(), va="top" if above else "bottom", **look)


def _cuts(ax: Axes) -> Iterator[_Cut]:
    """Give for every name, and side, the farthest point beyond the limits."""
    farthest: dict[tuple[str, bool], tuple[float, _Cut]] = {}
    name = ""
    to_axes = ax.transData + ax.transAxes.inverted()
    for line in ax.get_lines():
        label = str(line.get_label())
        name = name if label.startswith("_") else label
        if not name or line.get_transform() != ax.transData or not line.get_visible():
            continue
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        known = np.isfinite(y) & (y > 0 if ax.get_yscale() == "log" else True)
        if not known.any():
            continue
        x, y = x[known], y[known]
        places = to_axes.transform(np.stack([x, y], axis=1))
        for above, at in ((True, int(y.argmax())), (False, int(y.argmin()))):
            off = places[at, 1] - 1 if above else -places[at, 1]
            if off > BEYOND and off > farthest.get((name, above), (0.0,))[0]:
                colour = line.get_color()
                farthest[name, above] = off, _Cut(float(x[at]), float(places[at, 0]), float(y[at]), colour, above)
    yield from (cut for _, cut in farthest.values())

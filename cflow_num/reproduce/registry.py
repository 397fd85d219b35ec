"""The list of figures: name, line, paragraph, panels, and the function that draws."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..support.errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .runs import Runs

Numbers = dict[str, float | int | str]
Draw = Callable[["Runs", "Sequence[Axes]"], Numbers]


@dataclass(frozen=True)
class Entry:
    """One figure of the paper.

    `line` is what listings and its heading say, `paragraph` what it shows, with its numbers as named fields, `panels`
    how many rows and columns it has, `height` that of one row in inches, and `draw(runs, axes)` returns the numbers.
    """

    name: str
    line: str
    paragraph: str
    panels: tuple[int, int]
    height: float
    draw: Draw


FIGURES: dict[str, Entry] = {}


def figure(name: str, *, rows: int = 1, columns: int = 1, height: float | None = None) -> Callable[[Draw], Draw]:
    """Register a figure: the first line of the function's docstring is its line, the rest its paragraph."""

    def registered(draw: Draw) -> Draw:
        line, _, paragraph = inspect.cleandoc(draw.__doc__ or "").partition("\n")
        tall = height or {1: 3.4, 2: 2.3}.get(rows, 1.8)
        FIGURES[name] = Entry(name, line.rstrip("."), " ".join(paragraph.split()), (rows, columns), tall, draw)
        return draw

    return registered


def find(name: str) -> Entry:
    """Return a figure by name; raises `InputError` with the nearest one.

    >>> find("gd-sharpness").line
    'Sharpness of gradient descent: up to the edge, then about it in cycles'
    >>> find("gd-sharpnes")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: figure "gd-sharpnes" is not known (did you mean "gd-sharpness"?): ...
    """
    if name not in FIGURES:
        raise InputError(f'figure "{name}" is not known{nearest(name, FIGURES)}: see cflow reproduce --list')
    return FIGURES[name]

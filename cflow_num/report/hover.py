"""What a picture tells the pointer: the curves of a figure as numbers, placed in the coordinates of its image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from .dark import on_dark

POINTS = 400  # kept of a curve, at most
DIGITS = 4  # significant, of a curve's values
EXACT = 9  # significant digits of steps, limits and places


def panels(figure: Figure) -> list[dict[str, Any]]:
    """Return the panels of a figure that was saved whole (`canvas.save`), as plain data.

    `box` is a panel's place in the image, [left, top, width, height], in fractions of the image; `xlim` and `ylim`
    are its limits, `xlog` and `ylog` whether they are logarithmic. Each of `curves` has a name, a colour, values and
    the index, in `steps`, of where they are. All numbers are data points: of longer curves every third, fifth, ...,
    so that at most 400 points are kept and an oscillation keeps both its sides. A line without a label belongs to the
    one before where it has its colour (a further eigenvalue); any other is left out, as is a panel without curves.

    >>> import matplotlib.figure
    >>> figure = matplotlib.figure.Figure()
    >>> _ = figure.subplots().plot([0, 1, 2], [0.5, 0.123456, 2], label="loss", color="red")
    >>> (panel,) = panels(figure)
    >>> panel["steps"], panel["curves"]
    ([[0, 1, 2]], [{'name': 'loss', 'colour': '#ff0000', 'dark': '#ff0000', 'steps': 0, 'values': [0.5, 0.1235, 2]}])
    >>> panel["box"]  # where matplotlib puts a single panel
    [0.125, 0.12, 0.775, 0.77]
    """
    described = [_panel(ax) for ax in figure.axes if ax.get_visible()]
    return [panel for panel in described if panel["curves"]]


def boxes(figure: Figure) -> list[list[float]]:
    """Return the places of the panels of a figure that was saved whole, as `panels` has them."""
    return [_box(ax) for ax in figure.axes if ax.get_visible() and any(_labelled(ax))]


def embedded(figure: Figure, narrow: Sequence[list[float]] = ()) -> str:
    """Return the panels of a saved figure as a `<script>` that holds JSON, which no name in it can leave.

    `narrow` are the places of the same panels in the image for narrow pages.

    >>> import matplotlib.figure
    >>> figure = matplotlib.figure.Figure()
    >>> _ = figure.subplots().plot([0, 1], [2, 3], label="</script>")
    >>> text = embedded(figure)
    >>> text.count("</script>"), json.loads(text.split(">", 1)[1].rsplit("<", 1)[0])[0]["curves"][0]["name"]
    (1, '</script>')
    """
    described = panels(figure)
    for panel, box in zip(described, narrow or [panel["box"] for panel in described], strict=True):
        panel["narrow"] = box
    text = json.dumps(described, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json">{text}</script>'


def asset(name: str) -> str:
    """Return the text of a file that is part of the page: `report.css`, or `hover.js`, which reads the panels.

    >>> asset("hover.js").splitlines()[0]
    '// Values of the curves under the pointer, for the pictures of a report.'
    """
    return files("cflow_num.report").joinpath(name).read_text(encoding="utf-8")


def _panel(ax: Axes) -> dict[str, Any]:
    lines = list(_labelled(ax))
    steps, curves = [], []
    grid = _grid([x for *_, x, _ in lines])
    for name, colour, x, y in lines:
        chosen = _nearest(x, grid)
        at = [_number(value, EXACT) for value in x[chosen]]
        if at not in steps:
            steps.append(at)
        shown = [_number(value, DIGITS) for value in y[chosen]]
        colours = {"colour": colour, "dark": on_dark(colour)}
        curves.append({"name": name, **colours, "steps": steps.index(at), "values": shown})
    return {
        "box": _box(ax),
        "xlim": [_number(value, EXACT) for value in ax.get_xlim()],
        "ylim": [_number(value, EXACT) for value in ax.get_ylim()],
        "xlog": ax.get_xscale() == "log",
        "ylog": ax.get_yscale() == "log",
        "steps": steps,
        "curves": curves,
    }


def _box(ax: Axes) -> list[float]:
    place = ax.get_position()
    return [_number(value, 5) for value in (place.x0, 1 - place.y1, place.width, place.height)]


def _labelled(ax: Axes) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Give name, colour, x (n,) and y (n,) of every curve; x ascends, and only known points are left."""
    name = colour = ""
    for line in ax.get_lines():
        label, before = str(line.get_label()), colour
        colour = to_hex(line.get_color())
        if label.startswith("_") and colour != before:
            name = ""  # a mark, such as the first crossing
        elif not label.startswith("_"):
            name = label
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if name and line.get_visible() and line.get_transform() == ax.transData:
            known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
            order = known[np.argsort(x[known], kind="stable")]
            if order.size:
                yield name, colour, x[order], y[order]


def _grid(xs: list[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " m"]:
    """Return at most `POINTS` of all x that occur, the last one among them: every third, or every fifth, ...

    >>> _grid([np.arange(5.0), np.arange(3.0, 1600.0)])[[0, 1, 2, -1]]
    array([   0.,    5.,   10., 1599.])
    """
    if not xs:
        return np.zeros(0)
    every = np.unique(np.concatenate(xs))
    stride = -(-len(every) // (POINTS - 1))
    stride += 1 - stride % 2
    return np.union1d(every[::stride], every[-1:])


def _nearest(x: Float[np.ndarray, " n"], grid: Float[np.ndarray, " m"]) -> np.ndarray:
    """Return the indices of the points of x, ascending, that are nearest to some point of the grid."""
    right = np.clip(np.searchsorted(x, grid), 0, len(x) - 1)
    left = np.maximum(right - 1, 0)
    return np.unique(np.where(np.abs(x[left] - grid) < np.abs(x[right] - grid), left, right))


def _number(x: float, digits: int) -> int | float:
    rounded = float(f"{x:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded

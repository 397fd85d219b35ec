"""A figure for dark pages: the same picture, every colour of the style in the place of another one."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import canvas

PAGE = "#1a2129"  # what pictures lie on, as in report.css
_COLOURS = {
    "discrete": "#5aa9e6",
    "stable": "#f0983a",
    "central": "#e8ecf1",
    "ablated": "#d184cc",
    "stationary": "#55c488",
    "rod": "#c2a36b",
    "edge": "#e884a8",
    "envelope": "#6cc3cf",
}
# colour on a light page: on a dark one; others serve both
DARK = {
    "#ffffff": PAGE,
    canvas.INK: "#e8ecf1",
    canvas.SOFT: "#a0abb6",
    canvas.PALE: "#94a0ab",
    canvas.LABEL: "#c9d1d9",
    canvas.AXIS: "#4a5561",
    canvas.GRID: "#2b343e",
    canvas.EDGE: "#ff6b7e",
    canvas.OTHER["color"]: "#b3c45a",
    **{colour: _COLOURS[name] for name, colour in canvas.COLOURS.items()},
}
THIN, FULLER = 1.3, 1.7  # points: thinner lines that are pale on a light page are fuller on a dark one, by a factor
_SOFT = DARK[canvas.SOFT]
_PROPERTIES = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def darkened(figure: Figure) -> Figure:
    """Recolour a figure that was drawn, in its place, for a dark page.

    >>> figure = canvas.headed("heading", "whose")
    >>> (line,) = figure.subplots().plot([0, 1], [2, 3], color=canvas.COLOURS["central"])
    >>> _ = canvas.pixels(figure)
    >>> line.axes is not None and darkened(figure) is figure, line.get_color()
    (True, '#e8ecf1')
    """
    artists = figure.findobj()
    behind = [getattr(artist, "get_bbox_patch", lambda: None)() for artist in artists]  # of texts
    for artist in [*artists, *(patch for patch in behind if patch is not None)]:
        for name in _PROPERTIES:
            get, put = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if get is None or put is None:
                continue
            known = DARK.get(_hex(get()))
            if known is not None:
                put(known)
        if isinstance(artist, Axes):  # marks of the axes that are yet to be made
            artist.tick_params(which="both", color=_SOFT, labelcolor=_SOFT, grid_color=DARK[canvas.GRID])
        if isinstance(artist, Line2D) and (alpha := artist.get_alpha()) and artist.get_linewidth() < THIN:
            artist.set_alpha(min(1.0, FULLER * alpha))
    return figure


def on_dark(colour: str) -> str:
    """Return what stands for a colour on a dark page.

    >>> on_dark("#16202c"), on_dark("#123456")
    ('#e8ecf1', '#123456')
    """
    return DARK.get(colour, colour)


def _hex(colour: Any) -> str:
    """Return one colour as text, empty for none or several; transparency is another property."""
    try:
        return to_hex(colour) if colour is not None and getattr(colour, "ndim", 1) == 1 and len(colour) else ""
    except (ValueError, TypeError):
        return ""

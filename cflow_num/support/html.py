"""Small tables for notebooks, light or dark: they take the colours of the page that they are shown on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LINE = "1px solid rgba(128,128,128,.35)"
MARKS = {"pass": "#1b8a4f", "fail": "#d13438"}  # readable on white and on black


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return an HTML table; the columns with indices `numbers` are aligned to the right. All texts are escaped.

    >>> table(["a", "b"], [["<", "1"]], numbers=[1]).count("&lt;")
    1
    """
    lines = [_row("th", head, numbers, "600"), *(_row("td", row, numbers, "400") for row in rows)]
    look = "border-collapse:collapse;color:inherit;background:transparent;font-size:.9em;margin:.4em 0"
    return f'<table style="{look}">{"".join(lines)}</table>'


def paragraph(text: str, bold: bool = False) -> str:
    """Return a paragraph.

    >>> paragraph("a < b")
    '<p style="margin:.3em 0;font-weight:400">a &lt; b</p>'
    """
    return f'<p style="margin:.3em 0;font-weight:{600 if bold else 400}">{escape(text)}</p>'


def folded(summary: str, content: str) -> str:
    """Return HTML `content` that is shown when its summary is clicked."""
    return f'<details><summary style="cursor:pointer">{escape(summary)}</summary>{content}</details>'


def _row(tag: str, texts: Sequence[str], numbers: Sequence[int], weight: str) -> str:
    cells: list[str] = []
    for i, text in enumerate(texts):
        look = f"text-align:{'right' if i in numbers else 'left'};border-bottom:{LINE};padding:.2em .7em"
        mark = f"color:{MARKS[text]};font-weight:600" if text in MARKS else f"font-weight:{weight}"
        cells.append(f'<{tag} style="{look};{mark};vertical-align:baseline">{escape(text)}</{tag}>')
    return f'<tr style="background:transparent">{"".join(cells)}</tr>'

"""Formulas as MathML, which browsers draw themselves: no script and no font has to be fetched."""

from __future__ import annotations

import functools
import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
UNKNOWN = re.compile(r"\\[A-Za-z]+|(?<=>)&(?:amp|#x00026);")
ROWS = re.compile(r"\\\\\[[\w.]+\]")  # ends of rows with a distance, which style.css sets


RELATIONS = re.compile(r"<mi>(&#x0(?:00B1|2AAF|2AB0|27F9|27C2);)</mi>")  # that are taken for letters


def with_mathml(page: str) -> tuple[str, list[str]]:
    """Return a page whose formulas are MathML, and what of them could not be converted."""
    unknown: list[str] = []

    def drawn(match: re.Match[str]) -> str:
        kind, latex = match.groups()
        text = _converted(html.unescape(latex).strip(), "block" if kind == "div" else "inline")
        unknown.extend(UNKNOWN.findall(text))
        return f'<div class="formula">{text}</div>' if kind == "div" else text

    return FORMULA.sub(drawn, page), unknown


@functools.cache
def _converted(latex: str, display: str) -> str:
    text = convert(ROWS.sub(r"\\\\", latex).replace("{aligned}", "{split}"), display=display)
    return RELATIONS.sub(r"<mo>\1</mo>", text)

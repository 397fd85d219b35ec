"""A sweep as text: a line a cell, and below a line for each combination of the other axes with its spread over seeds.

Where a number is not known there is a reason: at the end of the line, or in a note below.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .grid import shown
from .outcome import OF_JUDGED, REPEATED, WORDS, Outcome, Repeated

# heading of the printed table: (number of a row, format)
COLUMNS = {
    "D_central/D_stable": ("distance_ratio", ".3g"),
    "loss error": ("predicted_loss", ".1%"),
    "crossing": ("first_crossing", ".0f"),
    "onset lag": ("onset_lag", ".0f"),
    "≥ 2 critical": ("critical_2", ".0f"),
    "final loss": ("final_loss", ".3g"),
    "seconds": ("seconds", ".0f"),
}
NONE = "—"
NO_SETTING = "the optimizer or the problem has no such setting"
NO_VERDICT = "a verdict needs the processes discrete, stable and central"
NOT_RECORDED = "not recorded"


class _Notes:
    """The notes below the tables, numbered in order, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the number under which a reason stands."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """Return the notes."""
        return [f"[{i}] {text}" for i, text in enumerate(self.texts, start=1)]


def tables(axes: Collection[str], rows: Sequence[Outcome], repetitions: Sequence[Repeated]) -> str:
    """Return a table with a line for each cell, where there are repetitions a table of these, and their notes."""
    heads, notes = [head for head, (name, _) in COLUMNS.items() if any(row.knows(name) for row in rows)], _Notes()
    parts = [_over_cells(axes, rows, heads, notes)]
    if repetitions:
        parts += [[_over_what(heads)], _over_seeds([a for a in axes if a != REPEATED], repetitions, heads, notes)]
    return "\n\n".join("\n".join(lines) for lines in (*parts, notes.lines()) if lines)


def _over_cells(axes: Collection[str], rows: Sequence[Outcome], heads: Sequence[str], notes: _Notes) -> list[str]:
    table = [[*axes, "status", "verdict", *heads, ""]]
    for row in rows:
        first = [*_values(row.values, axes, notes), row.status, _verdict(row, notes)]
        table.append([*first, *(_number(row, head, notes) for head in heads), row.reason])
    return _aligned(table, {len(axes), len(axes) + 1})


def _over_what(heads: Sequence[str]) -> str:
    names = " and ".join(head for head in heads if COLUMNS[head][0] in OF_JUDGED)
    which = f"; {names} of the judged runs, other numbers of all that are done" if names else ""
    return f"over {REPEATED}s: median (smallest–largest){which}"


def _over_seeds(axes: Collection[str], all_of: Sequence[Repeated], heads: Sequence[str], notes: _Notes) -> list[str]:
    table = [[*axes, "judged", "passed", *heads, ""]]
    for one in all_of:
        judged = one.judged
        passed = sum(row.numbers.get("passed") is True for row in judged)
        counts = [f"{len(judged)} of {len(one.rows)}", f"{passed} of {len(judged)}" if judged else NONE]
        spreads = [_spread(one, head) for head in heads]
        table.append([*_values(one.values, axes, notes), *counts, *spreads, _left_out(one, notes)])
    return _aligned(table, set())


def _values(values: dict[str, Any], axes: Iterable[str], notes: _Notes) -> list[str]:
    return [_short(values[axis]) if axis in values else f"{NONE} {notes.mark(NO_SETTING)}" for axis in axes]


def _verdict(row: Outcome, notes: _Notes) -> str:
    word = WORDS[row.numbers.get("passed")]
    return word if row.reason or row.numbers.get("passed") else f"{word} {notes.mark(row.why or NO_VERDICT)}"


def _number(row: Outcome, head: str, notes: _Notes) -> str:
    """Return a number of a cell, or a dash and its reason, unless that stands at the end of the line."""
    name, form = COLUMNS[head]
    value = row.number(name)
    if value is not None:
        return format(value, form)
    if row.reason:
        return NONE
    unjudged = row.numbers.get("passed") is None and row.why
    return f"{NONE} {notes.mark(unjudged or row.numbers.get('notes', {}).get(name) or NOT_RECORDED)}"


def _spread(one: Repeated, head: str) -> str:
    name, form = COLUMNS[head]
    spread = one.spread(name)
    if spread is None:
        return NONE
    median, low, high = (format(x, form) for x in spread)
    return median if low == high else f"{median} ({low}–{high})"


def _left_out(one: Repeated, notes: _Notes) -> str:
    """Return which runs are not judged, and where the reason stands."""
    reasons: dict[str, list[str]] = {}
    for row in one.rows:
        if not row.judged:
            reasons.setdefault(notes.mark(row.why or NO_VERDICT), []).append(shown(row.values.get(REPEATED, "")))
    told = "; ".join(f"{', '.join(seeds)} {mark}" for mark, seeds in reasons.items())
    return f"not judged: {REPEATED} {told}" if told else ""


def _aligned(table: list[list[str]], left: set[int]) -> list[str]:
    """Return the lines of a table, columns to the right but for some; the last one is text."""
    wide = [max(len(texts[i]) for texts in table) for i in range(len(table[0]) - 1)]
    lines = [
        "  ".join(f"{t:<{w}}" if i in left else f"{t:>{w}}" for i, (t, w) in enumerate(zip(texts, wide, strict=False)))
        + f"  {texts[-1]}"
        for texts in table
    ]
    return [line.rstrip() for line in lines]


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else f"{text[:39]}…"

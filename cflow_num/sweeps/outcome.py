"""What became of one cell of a grid, and of those that differ in their seed alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DONE, ENDED_EARLY, FAILED, NOT_RUN = "done", "ended early", "failed", "not run"
WORDS = {True: "pass", False: "fail", None: "—"}
OF_JUDGED = ("distance_ratio", "predicted_loss")  # what is not settled before a long stay at the edge
REPEATED = "seed"  # the axis whose values are repetitions of one experiment


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    `status` is `done`, `ended early` (a run with its data and a `reason`, such as a divergence), `failed` (there is no
    run, for a `reason`) or `not run` (the sweep was interrupted). `numbers` are those of `Comparison`, by name, with
    its `verdict` in words and `notes` on what it does not have.
    """

    values: dict[str, Any]
    status: str
    reason: str = ""
    path: Path | None = None
    numbers: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def judged(self) -> bool:
        """Whether the run was taken to its end and stayed at the edge for long enough to be judged."""
        return bool(self.numbers.get("judged")) and not self.reason

    @property
    def why(self) -> str:
        """Why there is no run, or not the whole, or what keeps its verdict from being a pass; empty for a pass."""
        return self.reason or ("" if self.numbers.get("passed") else self.numbers.get("verdict", ""))

    def knows(self, name: str) -> bool:
        """Say whether a number of the comparison is known."""
        return self.number(name) is not None

    def number(self, name: str) -> float | int | None:
        """Return a number of the comparison; None where it is not known."""
        value = self.numbers.get(name)
        return None if value is None or value != value else value


@dataclass(frozen=True)
class Repeated:
    """Cells that differ in their seed alone, with their other values along the axes.

    >>> rows = [Outcome({"seed": x}, DONE, numbers={"onset_lag": x, "judged": x > 1}) for x in (1, 3, 5, 4)]
    >>> repeated = Repeated({}, rows)
    >>> repeated.spread("onset_lag"), repeated.spread("distance_ratio"), len(repeated.judged)
    ((3.5, 1.0, 5.0), None, 3)
    """

    values: dict[str, Any]
    rows: list[Outcome]

    @property
    def judged(self) -> list[Outcome]:
        """Those that are judged."""
        return [row for row in self.rows if row.judged]

    def spread(self, name: str) -> tuple[float, float, float] | None:
        """Return median, smallest and largest of a number; None where no run has it.

        Distances and errors are those of the judged runs, other numbers those of all runs that are done.
        """
        rows = self.judged if name in OF_JUDGED else [row for row in self.rows if row.status == DONE]
        found = [x for row in rows if (x := row.number(name)) is not None]
        return (float(statistics.median(found)), float(min(found)), float(max(found))) if found else None


def together(rows: Iterable[Outcome]) -> list[Repeated]:
    """Return the cells that differ in their seed alone, together, in order.

    >>> rows = [Outcome({"beta2": b, "seed": s}, DONE) for b in (0.9, 0.99) for s in (0, 1)]
    >>> [(one.values, len(one.rows)) for one in together(rows)]
    [({'beta2': 0.9}, 2), ({'beta2': 0.99}, 2)]
    """
    groups: dict[str, Repeated] = {}
    for row in rows:
        values = {axis: x for axis, x in row.values.items() if axis != REPEATED}
        groups.setdefault(json.dumps(values), Repeated(values, [])).rows.append(row)
    return list(groups.values())

"""What became of a grid's cells: rows, the table of them, and their file of comma-separated values."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..support.files import write_text
from .grid import shown

DONE, ENDED_EARLY, FAILED, NOT_RUN = "done", "ended early", "failed", "not run"
WORDS = {True: "pass", False: "fail", None: "—"}

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
NUMBERS = (
    *("distance_ratio", "judged", "distance_travelled", "ablated_ratio", "stationary_ratio", "predicted_loss"),
    *("predicted_squared_gradient_norm", "variance_slope", "variance_correlation", "first_crossing", "onset_lag"),
    *("critical_1", "critical_2", "critical_3", "largest_eigenvalue", "residual", "smallest_sigma"),
    *("effective_step_size", "discrete_sharpness", "gain", "cost", "final_loss", "steps", "seconds"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    `status` is `done`, `ended early` (a run with its data and a `reason`, such as a divergence), `failed` (there is no
    run, for a `reason`) or `not run` (the sweep was interrupted). `numbers` are those of `Comparison`, by name.
    """

    values: dict[str, Any]
    status: str
    reason: str = ""
    path: Path | None = None
    numbers: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Sweep:
    """The rows of a grid, in its order: `print` it for the table; `cflow_num.load(row.path)` gives a run.

    >>> numbers = {"distance_ratio": 0.0085, "passed": True}
    >>> row = Outcome({"learning_rate": 0.1}, DONE, path=Path("a.nc"), numbers=numbers)
    >>> print(Sweep("rmsprop on digits-mlp, 1 runs", {"learning_rate": [0.1]}, [row], Path("out")))
    rmsprop on digits-mlp, 1 runs
    <BLANKLINE>
    learning_rate  status  verdict  D_central/D_stable
              0.1  done    pass                 0.0085
    """

    title: str
    axes: dict[str, list[Any]]
    rows: list[Outcome]
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether every cell has a run, even one that ended early."""
        return all(row.path is not None for row in self.rows)

    @property
    def files(self) -> list[Path]:
        """The summary's files that there are."""
        return [path for name in ("summary.csv", "summary.png") if (path := self.folder / name).is_file()]

    def __str__(self) -> str:
        heads = [head for head, (name, _) in COLUMNS.items() if any(_known(row, name) for row in self.rows)]
        table = [[*self.axes, "status", "verdict", *heads, ""]]
        for row in self.rows:
            values = [_short(row.values[axis]) if axis in row.values else "—" for axis in self.axes]
            cells = [
                format(row.numbers[COLUMNS[h][0]], COLUMNS[h][1]) if _known(row, COLUMNS[h][0]) else "—" for h in heads
            ]
            table.append([*values, row.status, WORDS[row.numbers.get("passed")], *cells, row.reason])
        wide = [max(len(texts[i]) for texts in table) for i in range(len(table[0]) - 1)]
        left = {len(self.axes), len(self.axes) + 1}  # status and verdict
        lines = [
            "  ".join(
                f"{t:<{w}}" if i in left else f"{t:>{w}}" for i, (t, w) in enumerate(zip(texts, wide, strict=False))
            )
            + f"  {texts[-1]}"
            for texts in table
        ]
        return "\n".join([self.title, "", *(line.rstrip() for line in lines)])


def write_csv(sweep: Sweep, path: Path) -> Path:
    """Write one line a cell: axes, status, verdict, every number, file, reason; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*sweep.axes, "status", "verdict", *(_head(name, sweep) for name in NUMBERS), "file", "reason"])
    for row in sweep.rows:
        values = [shown(row.values[axis]) if axis in row.values else "" for axis in sweep.axes]
        verdict = "" if row.numbers.get("passed") is None else WORDS[row.numbers["passed"]]
        found = [row.numbers[name] if _known(row, name) else "" for name in NUMBERS]
        file = "" if row.path is None else row.path.relative_to(sweep.folder)
        writer.writerow([*values, row.status, verdict, *found, file, row.reason])
    return write_text(path, text.getvalue())


def _head(name: str, sweep: Sweep) -> str:
    """Return a column's name: that of the number, told apart from an axis (`steps`)."""
    return f"{name}_found" if name in sweep.axes else name


def _known(row: Outcome, name: str) -> bool:
    value = row.numbers.get(name)
    return value is not None and value == value


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else f"{text[:39]}…"

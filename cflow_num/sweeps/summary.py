"""What became of a grid: its cells, their tables, and their file of comma-separated values."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.files import write_text
from .grid import shown
from .outcome import DONE, ENDED_EARLY, FAILED, NOT_RUN, REPEATED, WORDS, Outcome, Repeated, together
from .tables import tables

__all__ = ["DONE", "ENDED_EARLY", "FAILED", "NOT_RUN", "Outcome", "Sweep", "write_csv"]


NUMBERS = (
    *("distance_ratio", "judged", "distance_travelled", "ablated_ratio", "stationary_ratio", "predicted_loss"),
    *("predicted_squared_gradient_norm", "variance_slope", "variance_correlation", "first_crossing", "onset_lag"),
    *("critical_1", "critical_2", "critical_3", "largest_eigenvalue", "residual", "smallest_sigma"),
    *("effective_step_size", "discrete_sharpness", "gain", "cost", "final_loss", "steps", "seconds"),
)


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

    @property
    def repetitions(self) -> list[Repeated]:
        """The cells that differ in their seed alone, together; empty where there are not several seeds."""
        if len(self.axes.get(REPEATED, [])) < 2:
            return []
        return together(self.rows)

    def __str__(self) -> str:
        return f"{self.title}\n\n{tables(self.axes, self.rows, self.repetitions)}"


def write_csv(sweep: Sweep, path: Path) -> Path:
    """Write one line a cell: axes, status, verdict, every number, file, reason; unknown values are empty.

    The reason is why a cell ended early or not at all, or what keeps its verdict from being a pass.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*sweep.axes, "status", "verdict", *(_head(name, sweep) for name in NUMBERS), "file", "reason"])
    for row in sweep.rows:
        values = [shown(row.values[axis]) if axis in row.values else "" for axis in sweep.axes]
        verdict = "" if row.numbers.get("passed") is None else WORDS[row.numbers["passed"]]
        found = ["" if (x := row.number(name)) is None else x for name in NUMBERS]
        file = "" if row.path is None else row.path.relative_to(sweep.folder)
        writer.writerow([*values, row.status, verdict, *found, file, row.why])
    return write_text(path, text.getvalue())


def _head(name: str, sweep: Sweep) -> str:
    """Return a column's name: that of the number, told apart from an axis (`steps`)."""
    return f"{name}_found" if name in sweep.axes else name

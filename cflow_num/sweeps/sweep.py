"""`sweep(...)`: a grid of runs on many workers, one file a run, which a second call takes up where the first one ended.

A cell that fails, or whose worker dies, is a row with a reason and never stops the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..support.errors import InputError
from ..support.executors import checked_workers, completed, opener
from ..support.files import replacing, write_text
from .cell import SETTINGS, check_cell, numbers, run_cell
from .grid import Cell, Grid, read_grid
from .summary import DONE, ENDED_EARLY, FAILED, NOT_RUN, Outcome, Sweep, write_csv


def sweep(
    grid: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    executor: str | Executor | Callable[[int], Any] | None = None,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> Sweep:
    """Run every cell of a grid and write one file for each, then a table and a figure of all of them.

    **Arguments:**

    - `grid`: a TOML file or a mapping of the same form (see `cflow_num.sweeps.grid.read_grid`): settings that are
      fixed, and a table `axes` whose lists are multiplied.
    - `out`: the folder: `runs/NAME.nc` for each cell, `summary.csv`, `summary.png`. Cells whose file is there, with
      the same settings, are not run again; those that failed are.
    - `executor`: `None` or `"processes"` (fresh processes), `"dask"` (dask.distributed on this machine), any
      `concurrent.futures.Executor`, or a function of the number of workers that returns one.
    - `workers`: how many cells are handed out at a time; the number of processors by default.
    - `quiet`: no progress bar.

    **Returns:** a `Sweep`. A cell that fails is a row with its reason. A cell whose worker dies is tried once more,
    alone in a fresh pool, as are those that the dying pool took along. After an interrupt the rows are those so far.

    **Raises:** `InputError` for bad input, before work starts, and where the folder cannot be written.

    Fresh processes import the main script: there, call this under `if __name__ == "__main__":`.

    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> grid = {"optimizer": "gradient_descent", "problem": "quadratic:n=2", "steps": 3, "processes": ["discrete"]}
    >>> with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor() as threads:
    ...     result = sweep(grid | {"axes": {"learning_rate": [0.1, 0.2]}}, out, threads, quiet=True)
    ...     [(row.values, row.status) for row in result.rows]
    [({'learning_rate': 0.1}, 'done'), ({'learning_rate': 0.2}, 'done')]
    """
    planned, folder, open_executor = read_grid(grid), Path(out), opener(executor)
    workers = checked_workers(workers)
    cells = {cell.name: cell for cell in planned.cells}
    paths = {name: folder / "runs" / f"{name}.nc" for name in cells}
    there = [name for name, cell in cells.items() if _is_done(paths[name], cell)]
    todo = {name: cell.settings for name, cell in cells.items() if name not in set(there)}
    rows: dict[str, Outcome] = {}
    with _progress(len(cells), quiet) as bar:
        bar.set_description("checking")
        _check(todo)
        settings = {name: cell.settings for name, cell in cells.items()}
        write_text(folder / "grid.json", json.dumps({"axes": planned.axes, "cells": settings}, indent=1) + "\n")
        try:
            bar.set_description("reading")
            for name in there:
                rows[name] = _row_of(cells[name], paths[name], _read(paths[name]))
                bar.update()
            bar.set_description("running")
            with contextlib.closing(completed(run_cell, todo, open_executor, workers)) as results:
                for name, result in results:
                    rows[name] = _kept(cells[name], paths[name], result)
                    bar.set_postfix(failed=sum(row.status == FAILED for row in rows.values()), refresh=False)
                    bar.update()
        except KeyboardInterrupt:  # what is finished is kept
            bar.set_description("interrupted")
    missing = {name: Outcome(cell.values, NOT_RUN, "interrupted") for name, cell in cells.items()}
    result = Sweep(_title(planned), planned.axes, list((missing | rows).values()), folder)
    write_csv(result, folder / "summary.csv")
    _draw(result, folder / "summary.png")
    return result


def _progress(total: int, quiet: bool) -> tqdm:
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, disable=quiet, unit="cell", file=sys.stderr, dynamic_ncols=True, mininterval=interval)


def _check(todo: Mapping[str, Any]) -> None:
    """Raise `InputError` with the name of the first cell whose settings no run can start with."""
    for name, settings in todo.items():
        try:
            check_cell(settings)
        except (ValueError, LookupError) as error:
            if not type(error).__module__.startswith("cflow_"):
                raise
            raise InputError(f"cell {name}: {_sentence(error)}") from error


def _is_done(path: Path, cell: Cell) -> bool:
    """Say whether there is a run file with these settings; a damaged one is run again."""
    if not path.is_file():
        return False
    import h5py

    try:
        with h5py.File(path) as file:
            stored = json.loads(str(file.attrs[SETTINGS]))
    except (OSError, KeyError, ValueError):
        return False
    return stored == json.loads(json.dumps(cell.settings))


def _read(path: Path) -> dict[str, Any]:
    from ..record.run import load

    return numbers(load(path))


def _kept(cell: Cell, path: Path, result: Any) -> Outcome:
    """Write the file of a finished cell; return its row, or that of its failure."""
    if isinstance(result, BaseException):
        return Outcome(cell.values, FAILED, _sentence(result))
    with replacing(path) as temporary:
        temporary.write_bytes(result.file)
    return _row_of(cell, path, result.numbers)


def _row_of(cell: Cell, path: Path, found: dict[str, Any]) -> Outcome:
    rest = {name: value for name, value in found.items() if name != "reason"}
    return Outcome(cell.values, ENDED_EARLY if found["reason"] else DONE, found["reason"], path, rest)


def _sentence(error: BaseException) -> str:
    """Return what an exception says in one line, with its type where it is none of ours."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    return text if type(error).__module__.startswith("cflow_") else f"{type(error).__name__}: {text}"[:300]


def _title(grid: Grid) -> str:
    def which(name: str) -> str:
        names = list(dict.fromkeys(cell.settings[name] for cell in grid.cells))
        names = [Path(text).stem if text.endswith(".py") else text for text in names]
        return names[0] if len(names) == 1 else f"{len(names)} {name}s"

    return f"{which('optimizer')} on {which('problem')}, {len(grid.cells)} runs"


def _draw(result: Sweep, path: Path) -> None:
    """Write the figure; without a number to draw there is none, not even an old one."""
    from ..report.canvas import save
    from .figure import figure

    drawn = figure(result)
    if drawn is None:
        path.unlink(missing_ok=True)
    else:
        save(drawn, path)

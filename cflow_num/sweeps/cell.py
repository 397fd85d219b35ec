"""One cell of a grid: from its settings, plain data that travels to any worker, to the bytes of a run file.

Nothing slow is imported with this module: a worker pays for JAX when it runs its first cell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cflow_sym.python_file import digest

from ..running.settings import Settings
from ..support.errors import GainWarning, GrowthWarning, InputError, RunError

if TYPE_CHECKING:
    from ..loss.problem import Problem
    from ..record.run import Run

RUN = Settings.defaults()  # the words of a run that are neither the optimizer's nor the problem's
DTYPES = ("float32", "float64")
SETTINGS = "sweep"  # the attribute of a run file that holds the settings of its cell


class Finished(NamedTuple):
    """What a worker sends back: the run file, and its numbers as `numbers` reads them off."""

    file: bytes
    numbers: dict[str, Any]


def run_cell(settings: Mapping[str, Any]) -> Finished:
    """Run one cell; raises what `run` raises, and `RunError` where it was interrupted."""
    if "jax" not in sys.modules:  # the workers share an accelerator
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from ..support.programs import make_room

    with _ready(settings) as arguments:
        from ..running.run import run

        result = run(*arguments, quiet=True)
    if result.reason.startswith("interrupted"):
        raise RunError(result.reason)
    result.tree.attrs[SETTINGS] = json.dumps(settings)
    with tempfile.TemporaryDirectory() as folder:
        file = result.save(Path(folder) / "run.nc").read_bytes()
    make_room()
    return Finished(file, numbers(result))


def check_cell(settings: Mapping[str, Any]) -> None:
    """Raise `InputError`, or what else says that the input is bad, before anything is compiled.

    >>> check_cell({"optimizer": "gradient_descent", "problem": "ramp", "options": {"S": -1}, "hyperparameters": {}})
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: S is -1, it must be positive
    """

    with _ready(settings) as arguments:
        from ..running.run import check

        check(*arguments)


def numbers(run: Run) -> dict[str, Any]:
    """Return what a summary says about a run: its verdict, the values of its comparison, the final loss, seconds."""
    from ..record.measures import values

    processes = set(run.tree.children)
    found: dict[str, Any] = {"reason": run.reason, "passed": None, "judged": False}
    if "discrete" in processes:
        found["final_loss"] = float(values(run, "discrete", "loss")[-1])
    found["seconds"] = float(run.tree.attrs["total_seconds"])
    if {"discrete", "stable", "central"} <= processes:
        comparison = run.compare()
        found["passed"], found["judged"] = comparison.passed, comparison["distance_ratio"].passed is not None
        found |= {row.name: row.value for row in comparison.rows}
        found["verdict"] = comparison.verdict
        found["notes"] = {row.name: row.note for row in comparison.rows if row.value is None and row.note}
    return found


def fingerprint(name: str) -> str:
    """Return a digest of the file with an optimizer, a problem or data, empty for others.

    A cell of an older file is not done.
    """
    path = Path(name)
    if path.suffix not in (".toml", ".py", ".npz") or not path.is_file():
        return ""
    return digest(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def _ready(settings: Mapping[str, Any]) -> Iterator[tuple[Problem, Any, dict[str, Any], Settings]]:
    """Return what `run` takes, within the precision of the cell."""
    import jax

    from ..problems import in_precision
    from ..support.cache import keep_programs

    chosen = Settings.of(None, {name: x for name, x in settings.items() if name in RUN})
    dtype = settings.get("dtype", "float64")
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")
    keep_programs()
    with jax.enable_x64(dtype == "float64"), warnings.catch_warnings():
        warnings.simplefilter("ignore", GainWarning)  # in the run's configuration
        warnings.simplefilter("ignore", GrowthWarning)  # in its notes
        optimizer, values = _optimizer(settings)
        yield in_precision(settings["problem"], settings["options"], dtype), optimizer, values, chosen


def _optimizer(settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what `run` takes for an optimizer and its hyperparameters: texts are schedules, truth values switches."""
    from ..optimizer.words import compiled, hyperparameters, is_external

    name, values = settings["optimizer"], dict(settings["hyperparameters"])
    for key, value in values.items():
        if isinstance(value, str):
            values |= hyperparameters((f"{key}={value}",), key)
    if not is_external(name):
        return name, values
    switches = {key: value for key, value in values.items() if isinstance(value, bool)}
    values = {key: value for key, value in values.items() if key not in switches}
    return compiled(name, tuple(sorted(switches.items())), settings.get("fingerprint", "")), values

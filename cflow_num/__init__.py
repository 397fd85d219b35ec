"""cflow's numerical side: integrate central flows next to the optimizers they describe, and compare.

Names are imported when first used, so that `import cflow_num` costs nothing. Methods that belong to a later stage
(`Run.compare`, `Run.report`) go through the same table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flows.preconditioner import conic_preconditioner as conic_preconditioner
    from .flows.preconditioner import stationary_preconditioner as stationary_preconditioner
    from .loss.problem import Problem as Problem
    from .problems import PROBLEMS as PROBLEMS
    from .problems import problem as problem
    from .record.run import Run as Run
    from .record.run import load as load
    from .report.overview import plot as plot
    from .report.page import write_report as write_report
    from .running.estimate import Estimate as Estimate
    from .running.estimate import estimate as estimate
    from .running.run import run as run
    from .running.run import run_batch as run_batch
    from .support.cache import keep_programs as keep_programs
    from .support.errors import ChangedWarning as ChangedWarning
    from .support.errors import GainWarning as GainWarning
    from .support.errors import GrowthWarning as GrowthWarning
    from .support.errors import InputError as InputError
    from .support.errors import KinkWarning as KinkWarning
    from .support.errors import PrecisionWarning as PrecisionWarning
    from .support.errors import RunError as RunError
    from .sweeps.summary import Sweep as Sweep
    from .sweeps.sweep import sweep as sweep
    from .verdict.compare import Comparison as Comparison
    from .verdict.compare import compare as compare
    from .verdict.error_budget import budget_terms as budget_terms
    from .verdict.onset import Onset as Onset
    from .verdict.onset import measured_onset as measured_onset
    from .verdict.onset import predicted_onset as predicted_onset

_HOMES = {
    "Comparison": "verdict.compare",
    "compare": "verdict.compare",
    "ChangedWarning": "support.errors",
    "GainWarning": "support.errors",
    "KinkWarning": "support.errors",
    "PrecisionWarning": "support.errors",
    "GrowthWarning": "support.errors",
    "Estimate": "running.estimate",
    "estimate": "running.estimate",
    "InputError": "support.errors",
    "RunError": "support.errors",
    "Onset": "verdict.onset",
    "PROBLEMS": "problems",
    "Problem": "loss.problem",
    "Run": "record.run",
    "Sweep": "sweeps.summary",
    "budget_terms": "verdict.error_budget",
    "conic_preconditioner": "flows.preconditioner",
    "keep_programs": "support.cache",
    "load": "record.run",
    "measured_onset": "verdict.onset",
    "plot": "report.overview",
    "predicted_onset": "verdict.onset",
    "problem": "problems",
    "run": "running.run",
    "run_batch": "running.run",
    "stationary_preconditioner": "flows.preconditioner",
    "sweep": "sweeps.sweep",
    "write_report": "report.page",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

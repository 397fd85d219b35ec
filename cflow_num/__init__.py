"""cflow's numerical side: integrate central flows next to the optimizers they describe, and compare.

Names are imported when first used, so that `import cflow_num` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget_summary import budget_terms as budget_terms
    from .cache import keep_programs as keep_programs
    from .compare import Comparison as Comparison
    from .compare import compare as compare
    from .errors import ChangedWarning as ChangedWarning
    from .errors import GainWarning as GainWarning
    from .errors import GrowthWarning as GrowthWarning
    from .errors import InputError as InputError
    from .errors import KinkWarning as KinkWarning
    from .errors import PrecisionWarning as PrecisionWarning
    from .errors import RunError as RunError
    from .interpretation import conic_preconditioner as conic_preconditioner
    from .interpretation import stationary_preconditioner as stationary_preconditioner
    from .loss import Problem as Problem
    from .onset import Onset as Onset
    from .onset import measured_onset as measured_onset
    from .onset import predicted_onset as predicted_onset
    from .problems import PROBLEMS as PROBLEMS
    from .problems import problem as problem
    from .report import write_report as write_report
    from .run import Run as Run
    from .run import load as load
    from .run import run as run
    from .run import run_batch as run_batch
    from .sweep import sweep as sweep
    from .sweep_summary import Sweep as Sweep

_HOMES = {
    "Comparison": "compare",
    "compare": "compare",
    "ChangedWarning": "errors",
    "GainWarning": "errors",
    "KinkWarning": "errors",
    "PrecisionWarning": "errors",
    "GrowthWarning": "errors",
    "InputError": "errors",
    "RunError": "errors",
    "Onset": "onset",
    "PROBLEMS": "problems",
    "Problem": "loss",
    "Run": "run",
    "Sweep": "sweep_summary",
    "budget_terms": "budget_summary",
    "conic_preconditioner": "interpretation",
    "keep_programs": "cache",
    "load": "run",
    "measured_onset": "onset",
    "predicted_onset": "onset",
    "problem": "problems",
    "run": "run",
    "run_batch": "run",
    "stationary_preconditioner": "interpretation",
    "sweep": "sweep",
    "write_report": "report",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Package(types.ModuleType):
    """Keeps the function `run` in its place when the submodule `run` is imported (likewise `compare`)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

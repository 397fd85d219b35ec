"""`Settings`: what a run is asked to do besides its problem and optimizer. Their one place: defaults, checks, help.

The command line reads flags and help off the fields, a sweep takes every field as an axis or a fixed value, a run's
configuration lists them, checkpoints compare it. Nothing slow is imported.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from tyro.conf import arg

from ..record.variables import PROCESSES
from ..support.errors import InputError, check_flag, check_one_of

MOST_STEPS = 10_000_000
OFFERED = ("outputs",)  # what a problem offers to observe
DIAGNOSTICS = ("gbs", "critical_step")
AUTO, EFFORTS = "auto", ("quick", "moderate", "full")  # of the compiler


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run, the flags of `cflow run`.

    >>> Settings.of(None, dict(steps=20, processes=["central"])).processes
    ('central',)
    >>> Settings(steps=0).checked()
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: steps is 0, it must be a whole number of at least 1
    """

    steps: int = 500
    """Optimizer steps, each one unit of flow time."""
    warm_start: int = 0
    """Discrete steps that all processes take before step 0."""
    processes: tuple[str, ...] = ("discrete", "stable", "central")
    """Any of discrete, stable, central, ablated, stationary; the closures rod, edge, envelope."""
    integrator: str | None = None
    """anchored (the default), anchored-full (double precision everywhere), heun, leapfrog or published."""
    onset: str = "published"
    """published (the oscillation is there at once at the edge) or delayed (once it has grown)."""
    average_start: bool = False
    """Flows start from the discrete run's time average: for a warm start that ends at an edge."""
    closure_step: float = 0.25  # half of it moves no distance at an edge by more than a few per cent (see the study)
    """Time step of the closures, one over a whole number of at least 2."""
    eig_every: int = 1
    """Evaluate effective eigenvalues every so many steps, nan between; 0: where they move, interpolated between."""
    capture: tuple[int, ...] | int = ()
    """Weights (their indices; in Python also how many) whose own states and squared gradients are kept and drawn."""
    keep_weights: int = 0
    """Keep the weights of every process at every so many steps; 0: at the end only."""
    observe: tuple[str, ...] = ()
    """What of the problem's own is recorded at every step: outputs (in Python also any functions of the parameters)."""
    observe_every: int = 1
    """Evaluate observables every so many steps, nan between; the optimizer at the steps beside these, too."""
    memory: Annotated[str | int | float | None, arg(metavar="SIZE")] = None
    """What data and derivatives may take on each device, as in 2GB: sums over examples are cut into parts."""
    diagnostics: tuple[str, ...] = ()
    """Of the optimizer's steps, beyond zeta: gbs (a Hessian-vector product a step), critical_step (eight losses)."""
    effort: str = AUTO
    """The compiler's: quick (a quarter of the time, runs up to twice as long), moderate, full; auto: by the problem."""
    budget: bool = False
    """Evaluate what the central flow drops, every eig-every steps: the error budget."""

    @classmethod
    def of(cls, settings: Settings | None, given: Mapping[str, Any]) -> Settings:
        """Return settings with some fields given by name; raises `InputError` for a field or value that cannot be."""
        for name in given:
            check_one_of("setting", name, [f.name for f in fields(cls)])
        return cls(**_checked(vars(settings or cls()) | dict(given)))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults by name as plain data, tuples as lists."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(cls()).items()}

    def checked(self) -> Settings:
        """Return the settings in plain types; raises `InputError` for one that no run can have."""
        return Settings(**_checked(vars(self)))


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all fields in plain types; raises `InputError` for one that no run can have."""
    found = dict(given)
    for name, low in (("steps", 1), ("warm_start", 0), ("eig_every", 0), ("keep_weights", 0), ("observe_every", 1)):
        value = found[name]
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < low:
            raise InputError(f"{name} is {value!r}, it must be a whole number of at least {low}")
        if name in ("steps", "warm_start") and int(value) > MOST_STEPS:
            raise InputError(f"{name} is {value}, it must be at most {MOST_STEPS}: every step is kept in memory")
        found[name] = int(value)
    for name, known in (("observe", OFFERED), ("diagnostics", DIAGNOSTICS)):
        if isinstance(found[name], str) or not isinstance(found[name], Iterable):
            raise InputError(f"{name} is {found[name]!r}, it must list names: pass for instance {[known[0]]}")
        found[name] = tuple(found[name])
        for one in found[name]:
            check_one_of(name, one, known)
    check_one_of("effort", found["effort"], (AUTO, *EFFORTS))
    processes = found["processes"]
    listed = tuple(processes) if isinstance(processes, Iterable) and not isinstance(processes, str) else ()
    if not listed:
        raise InputError(f"processes is {processes!r}, it must list at least one of {', '.join(PROCESSES)}")
    for name in listed:
        check_one_of("process", name, PROCESSES)
    found["processes"] = listed
    for name in ("average_start", "budget"):
        found[name] = check_flag(name, found[name])
    if found["average_start"] and not found["warm_start"]:
        raise InputError("average_start needs steps before the start to average over: pass a warm_start of at least 1")
    if found["budget"] and "central" not in listed:
        raise InputError("the error budget is that of the central flow: add central to the processes")
    step = found["closure_step"]
    number = isinstance(step, (int, float)) and not isinstance(step, bool)
    if not number or not 0 < step <= 0.5 or abs(1 / step - round(1 / step)) > 1e-6:
        raise InputError(
            f"closure_step is {step!r}, it must be one over a whole number of at least 2: pass for instance 0.125"
        )
    found["closure_step"] = float(step)
    if isinstance(found["capture"], (list, range)):
        found["capture"] = tuple(found["capture"])
    return found

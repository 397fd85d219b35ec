"""`run(...)`: the discrete optimizer and its flows side by side, and `Run`, what is kept of them in one file."""

from __future__ import annotations

import datetime
import inspect
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from . import filters
from .batch import alike, check_numbers_only
from .checkpoints import INTERVAL, Checkpoints, fingerprint
from .devices import describe as place
from .devices import full_precision
from .discrete import DiscreteOptimizer
from .errors import GainWarning, InputError, nearest
from .files import replacing
from .filters import check_filter
from .flows.base import FlowState
from .hyperparameters import as_arrays, check_schedules, describe, resolve
from .integrate import DEFAULT_INTEGRATOR, PROCESSES, Process
from .loop import Progress, advance_all
from .loss import Problem
from .provenance import versions
from .warm_start import warm_started

CHUNK = 16  # steps per compiled call: a multiple of the longest step of any integrator
_MOST_STEPS = 10_000_000
_ALONE = (
    "quiet",
    "on_start",
    "checkpoints",
    "checkpoint_every",
    "resume",
    "keep_checkpoints",
)  # settings of single runs


class Run:
    """The result of `run`: everything recorded, step by step.

    `tree` is an xarray DataTree with one group per process (`/discrete`, `/stable`, `/central`, ...) and dimensions
    `step` (0 is the state after the warm start) and `eig`. `reason` says why the run ended early, or is empty.
    """

    def __init__(self, tree: xr.DataTree):
        self.tree = tree

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do: optimizer, hyperparameters, problem, steps, ..."""
        return json.loads(self.tree.attrs["config"])

    @property
    def reason(self) -> str:
        """Why the run ended early; empty if it took all its steps."""
        return self.tree.attrs["reason"]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one netCDF file, to a temporary name first; raises `InputError` where it cannot be written."""
        with replacing(Path(path)) as temporary:
            self.tree.to_netcdf(temporary, engine="h5netcdf")
        return Path(path)

    def compare(self):
        """Return the `Comparison` of the flows with the discrete run."""
        from .compare import compare

        return compare(self)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.html` and its figures into `folder`; return the page's path."""
        from .report import write_report

        return write_report([self], folder)

    def __repr__(self) -> str:
        config = self.config
        ended = f", ended early: {self.reason}" if self.reason else ""
        return f"Run({config['optimizer']} on {config['problem']}, {config['steps']} steps{ended})"


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run file; raises `InputError` with the path where it is missing, damaged or not a run."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file: pass the run.nc that a run wrote")
    try:
        tree = xr.load_datatree(path, engine="h5netcdf")
    except Exception as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged or not a run file") from error
    if "config" not in tree.attrs or "reason" not in tree.attrs:
        raise InputError(f"{path} is a netCDF file but not one that cflow wrote: it has no config attribute")
    try:
        complete = {"optimizer", "problem", "steps", "hyperparameters"} <= set(json.loads(tree.attrs["config"]))
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path} cannot be used, its config attribute is damaged: run again")
    return Run(tree)


@full_precision()
def run(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    *,
    steps: int = 500,
    warm_start: int = 0,
    processes: Sequence[str] = ("discrete", "stable", "central"),
    integrator: str | None = None,
    eig_every: int = 1,
    average_start: bool = False,
    capture: Sequence[int] | int = 0,
    memory: str | int | float | None = None,
    quiet: bool = False,
    on_start: Callable[[dict[str, Any]], None] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | float = INTERVAL,
    resume: bool = False,
    keep_checkpoints: bool = False,
) -> Run:
    """Run an optimizer and its flows side by side on a problem.

    **Arguments:**

    - `problem`: a `Problem`.
    - `optimizer`: a name (see `cflow optimizers`), an `OptimizerSpec`, a `Derivation` or a compiled flow.
    - `hyperparameters`: by name (`learning_rate`, `beta2`, ...), with the optimizer's switches.
    - `steps`: how many optimizer steps; one unit of flow time each.
    - `warm_start`: discrete steps taken by all processes before step 0.
    - `processes`: any of `discrete`, `stable`, `central`, `ablated` (the edge is kept without reduction of sharpness)
      and `stationary` (the states are at rest at every time); the last two where they are defined.
    - `integrator`: of the constrained flows; `None` is the best we have, `"published"` the baseline.
    - `eig_every`: effective eigenvalues are recorded every so many steps, nan between.
    - `average_start`: flows start from the time average of the discrete run around the end of the warm start, not from
      its last iterate: for starts from an edge at which it already oscillates.
    - `capture`: weights (their indices, or how many, spread evenly over those with a gradient) whose own states,
      squared gradient and its prediction are kept, along a dimension `coordinate`.
    - `memory`: what data and derivatives may take on each device, as in `"2GB"`: see `Problem.within`.
    - `quiet`: no progress bar.
    - `on_start`: called with the run's configuration after the input was checked, before anything is compiled.
    - `checkpoints`: a folder in which the last two checkpoints are kept until the run is done.
    - `checkpoint_every`: seconds between them.
    - `resume`: go on from the newest checkpoint there, if there is one; the numbers are those of a run that was never
      interrupted.
    - `keep_checkpoints`: do not delete them when the run is done: for a caller that saves it first.

    **Returns:** a `Run`. A run that cannot go on (divergence, unconverged eigenpairs, complementarity residual above
    its tolerance) is a result too: its data up to there, with `reason` set.

    **Raises:** `InputError` for bad input, before work starts.
    **Warns:** `GainWarning` where bursts are to be expected.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda w: jnp.sum(jnp.array([1.0, 2.0]) * w**2) / 2, jnp.ones(2))
    >>> result = run(problem, "gradient_descent", dict(learning_rate=0.1), steps=20, quiet=True)
    >>> result.tree["central"]["loss"].dims, result.reason
    (('step',), '')
    """
    prepared = _prepare(
        problem,
        optimizer,
        hyperparameters,
        steps=steps,
        warm_start=warm_start,
        processes=processes,
        integrator=integrator,
        eig_every=eig_every,
        average_start=average_start,
        capture=capture,
        memory=memory,
    )
    if prepared.config["note"]:
        warnings.warn(prepared.config["note"], GainWarning, stacklevel=2)
    if on_start is not None:
        on_start(prepared.config)
    if checkpoints is None:
        return _finish([prepared], quiet)[0]
    about = prepared.config | {"numbers": fingerprint((problem.w0, problem.data)), "versions": _rounding()}
    return _finish(
        [prepared], quiet, Checkpoints(Path(checkpoints), about, checkpoint_every), resume, keep_checkpoints
    )[0]


def _rounding() -> dict[str, str]:
    """Return the versions on which the last digits depend."""
    return {name: version for name, version in versions().items() if name in ("cflow", "jax", "jaxlib", "diffrax")}


@full_precision()
def run_batch(
    problems: Problem | Sequence[Problem],
    optimizer: Any,
    hyperparameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    quiet: bool = False,
    **settings: Any,
) -> list[Run]:
    """Run an optimizer and its flows for several seeds or hyperparameters at once, mapped by one compiled program.

    **Arguments:**

    - `problems`: one, or as many as runs: the same loss with other initial weights or data of the same shapes.
    - `optimizer`: one for all.
    - `hyperparameters`: one dictionary, or as many as runs, with the same names and switches.
    - `settings`: as for `run`: `steps`, `warm_start`, `processes`, `integrator`, `eig_every`, `average_start`.

    **Returns:** the `Run`s, in order. Seconds are shared out evenly. One that ends early does not stop the others.

    **Raises:** `InputError` for bad input, before work starts, also where the runs differ in more than numbers;
    `RunError` where one cannot start (it diverges in the warm start).

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda w: jnp.sum(jnp.array([1.0, 2.0]) * w**2) / 2, jnp.ones(2))
    >>> rates = [dict(learning_rate=rate) for rate in (0.1, 0.2)]
    >>> runs = run_batch(problem, "gradient_descent", rates, steps=16, processes=("discrete", "central"), quiet=True)
    >>> [float(r.tree["central"]["loss"][-1]) < 0.1 for r in runs]
    [True, True]
    """
    several = [problems] if isinstance(problems, Problem) else list(problems)
    rates = [hyperparameters] if isinstance(hyperparameters, Mapping) else list(hyperparameters)
    size = max(len(several), len(rates))
    if not size or not {len(several), len(rates)} <= {1, size}:
        raise InputError(
            f"{len(several)} problems and {len(rates)} sets of hyperparameters make no batch: pass equally many, or one"
        )
    several = alike(several) * (size // len(several))
    rates = rates * (size // len(rates))
    names = {tuple(sorted(r)) for r in rates}
    if len(names) > 1:
        raise InputError(f"the runs of a batch must have the same hyperparameters, these have {sorted(names)}")
    known = {n: p.default for n, p in inspect.signature(run).parameters.items() if p.default is not p.empty}
    known = {name: value for name, value in known.items() if name not in _ALONE}
    for name in settings:
        if name not in known:
            raise InputError(f'setting "{name}" is not one of {", ".join(known)}{nearest(name, known)}')
    prepared = [_prepare(p, optimizer, r, **known | settings) for p, r in zip(several, rates, strict=True)]
    check_numbers_only([one.processes for one in prepared])
    for note in {p.config["note"] for p in prepared if p.config["note"]}:
        warnings.warn(note, GainWarning, stacklevel=2)
    return _finish(prepared, quiet)


class _Prepared(NamedTuple):
    """A run that is checked and can start."""

    processes: dict[str, Process]
    discrete: DiscreteOptimizer
    config: dict[str, Any]


def _prepare(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    *,
    steps: int,
    warm_start: int,
    processes: Sequence[str],
    integrator: str | None,
    eig_every: int,
    average_start: bool,
    capture: Sequence[int] | int,
    memory: str | int | float | None,
) -> _Prepared:
    """Check the input of a run; raises `InputError`."""
    flow, hp = resolve(optimizer, hyperparameters)
    problem = problem.within(memory) if memory is not None and isinstance(problem, Problem) else problem
    _check_arguments(problem, steps, warm_start, processes, eig_every)
    _check_average_start(average_start, warm_start)
    arrays = as_arrays(flow, hp, problem)
    check_schedules(flow, hp, warm_start + steps)
    edge = check_filter(flow, arrays, warm_start + steps)
    coordinates = _coordinates(problem, capture)
    everything = {
        name: Process(
            name,
            problem,
            flow,
            arrays,
            integrator=integrator,
            chunk=CHUNK,
            eig_every=eig_every,
            coordinates=coordinates,
        )
        for name in PROCESSES
        if name in processes
    }
    config = {
        "optimizer": flow.NAME,
        "title": flow.TITLE,
        "switches": list(flow.SWITCHES),
        "hyperparameters": describe(hp),
        "problem": problem.name,
        "problem_description": problem.description,
        "n_weights": problem.n_weights,
        "dtype": problem.w0.dtype.name,
        "device": place(problem.w0),
        "budget": memory,
        "examples_at_once": problem.chunks.examples,
        "vectors_at_once": problem.chunks.vectors,
        "steps": steps,
        "warm_start": warm_start,
        "processes": list(everything),
        "integrator": integrator or DEFAULT_INTEGRATOR,
        "average_start": average_start,
        "gain": edge.gain,
        "memory": edge.memory,
        "note": filters.warning(flow, edge),
        "eig_every": eig_every,
    }
    return _Prepared(everything, DiscreteOptimizer(problem, arrays, flow), config)


def _finish(
    prepared: Sequence[_Prepared],
    quiet: bool,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    keep: bool = False,
) -> list[Run]:
    """Run what was prepared, all at once; checkpoints are kept of the first."""
    began, found_versions = time.perf_counter(), versions()
    last = checkpoints.read() if checkpoints is not None and resume else None
    runs = []
    for one in prepared:
        start = warm_started(one.discrete, one.config["warm_start"], one.config["average_start"])
        _check_preconditioner(one.discrete, start.here)
        runs.append(Progress(one.discrete, one.processes, start, one.config["steps"]))
    if last is not None:
        runs[0].resume(last)
    advance_all(runs, quiet, checkpoints)
    if checkpoints is not None and not runs[0].interrupted and not keep:
        checkpoints.clear()
    command = " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv))
    seconds = (time.perf_counter() - began) / len(runs)
    return [_result(one, run, found_versions, command, seconds) for one, run in zip(prepared, runs, strict=True)]


def _result(one: _Prepared, progress: Progress, versions: dict[str, str], command: str, seconds: float) -> Run:
    groups = {
        name: recorder.dataset(progress.reached, {"compile_seconds": one.processes[name].compile_seconds})
        for name, recorder in progress.recorders.items()
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "title": f"{one.config['title']} on {one.config['problem']}: discrete optimizer and flows",
        "config": json.dumps(one.config),
        "reason": progress.reason,
        "command": command,
        "versions": json.dumps(versions),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "total_seconds": seconds,
    }
    return Run(tree)


def _check_arguments(problem: Any, steps: Any, warm_start: Any, processes: Any, eig_every: Any) -> None:
    if not isinstance(problem, Problem):
        raise InputError(
            f"problem is a {type(problem).__name__}, it must be a Problem: pass cflow_num.problem(NAME) or "
            "cflow_num.Problem(loss, params)"
        )
    for name, value, least in (
        ("steps", steps, 1),
        ("warm_start", warm_start, 0),
        ("eig_every", eig_every, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{name} is {value!r}, it must be a whole number of at least {least}")
    if steps > _MOST_STEPS:
        raise InputError(f"steps is {steps}, it must be at most {_MOST_STEPS}: every step is kept in memory")
    if isinstance(processes, str) or not processes:
        raise InputError(f"processes is {processes!r}, it must list at least one of {', '.join(PROCESSES)}")
    for name in processes:
        if name not in PROCESSES:
            raise InputError(f'process "{name}" is not one of {", ".join(PROCESSES)}{nearest(name, PROCESSES)}')
    loss = float(problem.value(problem.w0))
    if not np.isfinite(loss):
        raise InputError(f"the loss is {loss} at the start: check the data and the initial weights")


def _check_average_start(average_start: Any, warm_start: int) -> None:
    if not isinstance(average_start, bool):
        raise InputError(f"average_start is {average_start!r}, it must be True or False")
    if average_start and not warm_start:
        raise InputError("average_start needs steps before the start to average over: pass a warm_start of at least 1")


def _coordinates(problem: Problem, capture: Sequence[int] | int) -> tuple[int, ...]:
    """Return the indices of the weights to capture; raises `InputError` where there are no such weights."""
    n = problem.n_weights
    if isinstance(capture, bool):
        raise InputError(f"capture is {capture}, it must be a number of weights or a list of their indices")
    if isinstance(capture, (int, np.integer)):
        if not 0 <= capture <= n:
            raise InputError(f"capture is {capture}, it must be between 0 and the number of weights, {n}")
        felt = np.flatnonzero(np.asarray(problem.gradient(problem.w0)))
        return tuple(felt[np.linspace(0, felt.size - 1, min(int(capture), felt.size)).astype(int)].tolist())
    chosen = [i for i in capture if isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < n]
    if len(chosen) != len(capture) or isinstance(capture, str):
        raise InputError(f"capture is {capture!r}, it must list indices of weights between 0 and {n - 1}")
    return tuple(int(i) for i in chosen)


def _check_preconditioner(discrete: DiscreteOptimizer, y: FlowState) -> None:
    """Refuse a start at which some weight has no preconditioner: its gradient has always been zero."""
    P = np.atleast_1d(np.asarray(discrete.optimizer.preconditioner(y.slow, discrete.hp)))
    bad = ~(np.isfinite(P) & (P > 0))
    if bad.any():
        many = f"for {bad.sum()} of {P.size} weights" if P.size > 1 else "there"
        remedy = "pass epsilon=1e-8" if "epsilon" in discrete.hp else "add a positive constant to the denominator"
        raise InputError(
            f"the preconditioner of {discrete.optimizer.NAME} is {P[bad][0]:g} {many} at the start, where the gradient "
            f"is zero: {remedy}"
        )

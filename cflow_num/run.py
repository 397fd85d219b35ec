"""`run(...)`: the discrete optimizer and its flows side by side, and `Run`, what is kept of them in one file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from tqdm import tqdm

from . import filters
from .devices import describe as place
from .devices import full_precision
from .discrete import DiscreteOptimizer
from .errors import GainWarning, InputError, RunError, nearest
from .files import replacing
from .filters import check_filter
from .flows.base import FlowState
from .hyperparameters import as_arrays, check_schedules, describe, resolve
from .integrate import PROCESSES, Carry, Process, Records, default_integrator
from .loss import Problem
from .record import Lockstep, Recorder
from .warm_start import Start, warm_started

CHUNK = 10  # steps per compiled call
_MOST_STEPS = 10_000_000
_EXPLOSION = 1e4  # rise of the loss, relative to the median of the first chunk, that counts as divergence


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
    flow, hp = resolve(optimizer, hyperparameters)
    problem = problem.within(memory) if memory is not None and isinstance(problem, Problem) else problem
    _check_arguments(problem, steps, warm_start, processes, eig_every)
    _check_average_start(average_start, warm_start)
    arrays = as_arrays(flow, hp, problem)
    check_schedules(flow, hp, warm_start + steps)
    edge = check_filter(flow, arrays, warm_start + steps)
    note = filters.warning(flow, edge)
    coordinates = _coordinates(problem, capture)
    everything = {
        name: Process(
            name,
            problem,
            flow,
            arrays,
            integrator=integrator,
            chunk=min(CHUNK, steps),
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
        "integrator": integrator or default_integrator(flow),
        "average_start": average_start,
        "gain": edge.gain,
        "memory": edge.memory,
        "note": note,
        "eig_every": eig_every,
    }
    if note:
        warnings.warn(note, GainWarning, stacklevel=2)
    if on_start is not None:
        on_start(config)
    began, found_versions = time.perf_counter(), versions()
    discrete = DiscreteOptimizer(problem, arrays, flow)
    start = warm_started(discrete, warm_start, average_start)
    _check_preconditioner(discrete, start.here)
    recorders, end, reason = _loop(discrete, everything, start, steps, quiet)
    groups = {
        name: recorder.dataset(end, {"compile_seconds": everything[name].compile_seconds})
        for name, recorder in recorders.items()
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "title": f"{flow.TITLE} on {problem.name}: discrete optimizer and flows",
        "config": json.dumps(config),
        "reason": reason,
        "command": " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)),
        "versions": json.dumps(found_versions),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "total_seconds": time.perf_counter() - began,
    }
    return Run(tree)


def versions() -> dict[str, str]:
    """Return the versions that a run depends on, the device, and the commit where cflow runs from a checkout."""
    packages = ("cflow", "jax", "jaxlib", "diffrax", "equinox", "numpy", "xarray")
    found = {name: metadata.version(name) for name in packages}
    device = jax.devices()[0]
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": f"{device.platform} {device.device_kind}",
        "commit": _commit(),
    }


def _commit() -> str:
    head = Path(__file__).resolve().parent.parent / ".git" / "HEAD"
    try:
        text = head.read_text().strip()
        return (head.parent / text[5:]).read_text().strip() if text.startswith("ref: ") else text
    except OSError:
        return "unknown"


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


def _loop(
    discrete: DiscreteOptimizer, everything: dict[str, Process], start: Start, steps: int, quiet: bool
) -> tuple[dict[str, Recorder], int, str]:
    """Advance all processes in lockstep; return what was recorded, the last step reached and what went wrong.

    A flow that fails stops alone; when the optimizer diverges there is nothing left to compare, and all stop.
    """
    recorders = {name: Recorder(steps, process.coordinates) for name, process in everything.items()}
    carries: dict[str, Carry] = {}
    starts = {name: start.here if name == "discrete" else start.flows for name in everything}
    lockstep = Lockstep(discrete, recorders, {name: np.asarray(y.w) for name, y in starts.items()})
    interval = 0.1 if sys.stderr.isatty() else 10.0
    bar = tqdm(total=steps, disable=quiet, unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=interval)
    reached, ended, reasons, failed = 0, False, [], {}
    try:
        for name, process in everything.items():
            bar.set_description(f"starting {name}")
            carries[name], seen = process.start(starts[name], start.before)
            recorders[name].start(seen, process.constrained)
        while reached < steps and not ended and carries:
            taken, chunk = min(CHUNK, steps, steps - reached), {}
            for name in list(carries):
                process, recorder = everything[name], recorders[name]
                compiling = not process.compile_seconds
                bar.set_description(f"{'compiling' if compiling else 'running'} {name}", refresh=compiling)
                began = process.seconds
                try:
                    carries[name], chunk[name] = process.advance(carries[name])
                except RunError as error:
                    reasons.append(f"the {name} process stopped at step {reached} of {steps}: {error}")
                    failed[name] = reached
                    del carries[name]
                    continue
                recorder.chunk(reached + 1, chunk[name], began, process.seconds)
                failure = process.failure(chunk[name]) or _explosion(chunk[name], recorder)
                if failure and failure[0] < taken:  # the others go on, unless it is the optimizer itself
                    good = reached + failure[0]
                    reasons.append(f"the {name} process stopped at step {good} of {steps}: {failure[1]}")
                    failed[name] = good
                    del carries[name]
                    if name == "discrete":
                        ended, taken = True, failure[0]
                        break
            lockstep.add(reached, chunk)
            for name, good in failed.items():
                recorders[name].forget_after(good)
                if name == "central" and "discrete" in recorders:
                    recorders["discrete"].forget_after(good, "displacement")
            reached += taken
            bar.update(taken)
    except KeyboardInterrupt:
        reasons.append(f"interrupted at step {reached} of {steps}")
    bar.close()
    lockstep.close(reached)
    return recorders, reached, "; ".join(reasons)


def _explosion(records: Records, recorder: Recorder) -> tuple[int, str] | None:
    loss, early = np.asarray(records.seen.loss), recorder.arrays["loss"][: CHUNK + 1]
    first, scale = early[0], np.median(np.abs(early[np.isfinite(early)]))
    bad = loss - first > _EXPLOSION * scale
    if not bad.any():
        return None
    step = int(np.argmax(bad))
    return step, f"it diverges (loss {loss[step]:.3g} from {first:.3g}), use a smaller learning rate"

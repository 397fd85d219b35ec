"""`run(...)`: the discrete optimizer and its flows side by side."""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..loss.problem import Problem
from ..loss.weights import storable
from ..record.run import Run
from ..support.devices import full_precision
from ..support.errors import ChangedWarning, GainWarning, GrowthWarning, InputError
from ..support.jax_settings import default_settings
from ..support.provenance import versions
from .batch import alike, check_numbers_only
from .checkpoints import INTERVAL, Checkpoint, Checkpoints
from .continued import whole
from .ends import ending
from .loop import Latest, Progress, Standing, advance_all
from .observables import functions_of
from .prepare import CHANGED, Prepared, prepare
from .settings import Settings
from .warm_start import check_preconditioner, warm_started


@full_precision()
@default_settings()
def run(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    settings: Settings | None = None,
    *,
    start: Any = None,
    observe: Any = None,
    quiet: bool = False,
    on_start: Callable[[dict[str, Any]], None] | None = None,
    on_chunk: Callable[[Latest], Any] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | float = INTERVAL,
    resume: bool = False,
    **fields: Any,
) -> Run:
    """Run an optimizer and its flows side by side on a problem.

    **Arguments:**

    - `problem`: a `Problem`.
    - `optimizer`: a name (see `cflow optimizers`), an `OptimizerSpec`, a `Derivation` or a compiled flow.
    - `hyperparameters`: by name (`learning_rate`, `beta2`, ...), with the optimizer's switches. A learning rate may be
      a function of the number of steps taken, or a text: an expression in t, that number, as in
      `"0.5 + 0.6*tanh(t/300)"`.
    - `settings`, `fields`: a `Settings`, or its fields by name:
        - `steps`: how many optimizer steps; one unit of flow time each.
        - `warm_start`: discrete steps taken by all processes before step 0.
        - `processes`: any of `discrete`, `stable`, `central`, `ablated` (the edge is kept without reduction of
          sharpness) and `stationary` (the states are at rest at every time); the last two where they are defined. And
          the closures `rod`, `edge` (not with momentum) and `envelope`, which carry an oscillation of their own.
        - `integrator`: of the constrained flows; `None` is the best we have, `"published"` the baseline.
        - `eig_every`: effective eigenvalues are evaluated every so many steps, nan between; 0: where they move, such
          that those between are interpolated to about a thousandth of the threshold (`eigenvalues_exact` says which).
        - `average_start`: flows start from the time average of the discrete run around the end of the warm start, not
          from its last iterate: for starts from an edge at which it already oscillates.
        - `closure_step`: time step of the closures, one over a whole number of at least 2.
        - `capture`: weights (their indices, or how many, spread evenly over those with a gradient) whose own states,
          squared gradient and its prediction are kept, along a dimension `coordinate`.
        - `memory`: what data and derivatives may take on each device, as in `"2GB"`: see `Problem.within`.
        - `keep_weights`: keep the weights of every process at every so many steps, for `Run.weights`; 0: at the end
          only.
        - `budget`: evaluate along the central flow what it drops, every `eig_every` steps: see
          `stepping/dropped_terms.py`.
        - `onset`: of the central and the ablated flow: `"published"`, at once where an eigenvalue reaches its
          threshold, or `"delayed"`, when the oscillation has grown from its initial value or from rounding; until then
          eigenvalues pass.
    - `start`: where the optimizer begins, if not at the problem's own weights and with fresh states: a `Run`, from
      whose end it goes on (the same optimizer with its states, another one afresh), `params`, or `(params, states)`
      with states as `Run.state("discrete")` gives them.
    - `observe`: functions by name, of the parameters or of parameters and data, that return a number or an array; or
      `["outputs"]`, the problem's own. They are recorded along every process, under these names, every
      `observe_every` steps (a field of the settings), and for flows whose Sigma is known as `predicted_NAME` what
      the time average over the oscillation is, to second order; not where a function has kinks or jumps.
    - `quiet`: no progress bar.
    - `on_start`: called with the run's configuration after the input was checked, before anything is compiled.
    - `on_chunk`: called after every chunk of steps with what it added, a `running.loop.Latest`, for loggers. Where it
      raises an exception the run ends there, with that as its reason.
    - `checkpoints`: a folder in which the last two checkpoints are left, for the caller to delete
      (`checkpoints.clear(folder)`) once the run is saved.
    - `checkpoint_every`: seconds between them.
    - `resume`: go on from the newest checkpoint there, if there is one; the numbers are those of a run that was never
      interrupted.

    **Returns:** a `Run`. A run that cannot go on (numbers that are not finite, unconverged eigenpairs, complementarity
    residual above its tolerance) or is interrupted is a result too: its data up to there, with `reason` set.

    **Raises:** `InputError` for bad input, before work starts.
    **Warns:** `GainWarning` where bursts are to be expected, `GrowthWarning` where a process ended far above its start,
    `ChangedWarning` where the loss reads something that has changed since the problem was made. The run uses the loss
    as it is when it starts.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda w: jnp.sum(jnp.array([1.0, 2.0]) * w**2) / 2, jnp.ones(2))
    >>> result = run(problem, "gradient_descent", dict(learning_rate=0.1), steps=20, quiet=True)
    >>> result.tree["central"]["loss"].dims, result.reason
    (('step',), '')
    """
    functions, names = functions_of(observe)
    chosen = Settings.of(settings, fields | ({"observe": names} if names else {}))
    prepared = prepare(problem, optimizer, hyperparameters, chosen, start, functions)
    if prepared.config["note"]:
        warnings.warn(prepared.config["note"], GainWarning, stacklevel=3)
    for note in prepared.notes:
        warnings.warn(note, ChangedWarning, stacklevel=3)
    if on_start is not None:
        on_start(prepared.config)
    kept = _kept(prepared, checkpoints, checkpoint_every)
    (found,) = _finish([prepared], quiet, kept, resume, on_chunk=on_chunk)
    for note in found.notes[len(prepared.notes) :]:
        warnings.warn(note, GrowthWarning, stacklevel=3)
    return found


@full_precision()
@default_settings()
def check(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    settings: Settings | None = None,
    start: Any = None,
    **fields: Any,
) -> Prepared:
    """Check the input of a run, as `run` does before any work starts; `finish` runs it. Raises `InputError`."""
    return prepare(problem, optimizer, hyperparameters, Settings.of(settings, fields), start)


@full_precision()
@default_settings()
def finish(
    prepared: Prepared,
    quiet: bool = False,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | float = INTERVAL,
    resume: bool = False,
) -> Run:
    """Run what was checked; arguments and result as of `run`."""
    return _finish([prepared], quiet, _kept(prepared, checkpoints, checkpoint_every), resume)[0]


def _kept(prepared: Prepared, folder: str | os.PathLike[str] | None, every: int | float) -> Checkpoints | None:
    about = prepared.config | {"programs": prepared.programs, "versions": _rounding()}
    return None if folder is None else Checkpoints(Path(folder), about, every)


def _rounding() -> dict[str, str]:
    """Return the versions on which the last digits depend."""
    return {name: version for name, version in versions().items() if name in ("cflow", "jax", "jaxlib", "diffrax")}


@full_precision()
@default_settings()
def run_batch(
    problems: Problem | Sequence[Problem],
    optimizer: Any,
    hyperparameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    settings: Settings | None = None,
    *,
    quiet: bool = False,
    **fields: Any,
) -> list[Run]:
    """Run an optimizer and its flows for several seeds or hyperparameters at once, mapped by one compiled program.

    **Arguments:**

    - `problems`: one, or as many as runs: the same loss with other initial weights or data of the same shapes.
    - `optimizer`: one for all.
    - `hyperparameters`: one dictionary, or as many as runs, with the same names and switches.
    - `settings`, `fields`: as for `run`, one for all.

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
    changed = [CHANGED.format(p.name) for p in several if isinstance(p, Problem) and p.changed][:1]
    given = several * (size // len(several))
    several = alike(several) * (size // len(several))
    rates = rates * (size // len(rates))
    names = {tuple(sorted(r)) for r in rates}
    if len(names) > 1:
        raise InputError(f"the runs of a batch must have the same hyperparameters, these have {sorted(names)}")
    chosen = Settings.of(settings, fields)
    if chosen.observe:
        raise InputError("the runs of a batch observe nothing: run them one by one, or as a sweep")
    prepared = [prepare(p, optimizer, r, chosen) for p, r in zip(several, rates, strict=True)]
    check_numbers_only([one.processes for one in prepared])
    for note in {p.config["note"] for p in prepared if p.config["note"]}:
        warnings.warn(note, GainWarning, stacklevel=3)
    for note in changed:
        warnings.warn(note, ChangedWarning, stacklevel=3)
    prepared = [one._replace(notes=tuple(changed), problem=p) for one, p in zip(prepared, given, strict=True)]
    found = _finish(prepared, quiet)
    for i, one in enumerate(found, start=1):
        for note in one.notes[len(changed) :]:
            warnings.warn(f"run {i} of the batch: {note}", GrowthWarning, stacklevel=3)
    return found


def _finish(
    prepared: Sequence[Prepared],
    quiet: bool,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    last: Checkpoint | None = None,
    on_chunk: Callable[[Latest], Any] | None = None,
) -> list[Run]:
    """Run what was prepared, all at once; checkpoints are kept of the first, which may go on from the `last` one."""
    began, found_versions = time.perf_counter(), versions()
    last = checkpoints.read() if checkpoints is not None and resume else last
    runs = [begun(one) for one in prepared]
    if last is not None:
        runs[0].resume(last)
    advance_all(runs, quiet, checkpoints, on_chunk)
    command = storable(" ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)))
    seconds = (time.perf_counter() - began) / len(runs)
    found = [_result(one, run, found_versions, command, seconds) for one, run in zip(prepared, runs, strict=True)]
    for run, one, progress in zip(found, prepared, runs, strict=True):
        run.with_origin(Made(one, progress.standing() if len(runs) == 1 else None))
    return found


def begun(one: Prepared) -> Progress:
    """Return a run at its start: after the optimizer's first steps, before any process has begun."""
    start = warm_started(one.discrete, one.config["warm_start"], one.config["average_start"], one.given)
    check_preconditioner(one.discrete, start.here)
    keep = one.config.get("keep_weights", 0)
    return Progress(one.discrete, one.processes, start, one.config["steps"], keep, one.observing)


SAME = ("numbers", "optimizer_source", "hyperparameters", "problem")  # of the configurations of a run and a longer one


class Made(NamedTuple):
    """What made a run, and where its processes stood; None in a batch."""

    prepared: Prepared
    standing: Standing | None

    def params(self, w: np.ndarray) -> Any:
        """Return the parameters with these weights."""
        return self.prepared.problem.params(w)

    @full_precision()
    @default_settings()
    def longer(self, steps: int, quiet: bool) -> Run:
        """Return the run with so many steps more.

        **Raises:** `InputError` where its optimizer failed, or the loss or a schedule is not what it was.
        """
        more = whole(steps)
        if self.standing is None:
            raise InputError("more goes on with a single run, not with one of a batch: pass it as start=run to cn.run")
        if self.standing.over:
            raise InputError(f"there is nothing to go on from: {self.standing.reason}")
        asked, before = self.prepared.asked, self.prepared
        settings = replace(asked.settings, steps=self.standing.reached + more)
        now = prepare(asked.problem, asked.optimizer, asked.hyperparameters, settings, asked.start, asked.observe)
        changed = [name for name, digest in before.programs.items() if now.programs.get(name) != digest]
        changed += [name for name in SAME if now.config[name] != before.config[name]]
        if changed:
            raise InputError(
                f"the {changed[0]} of the run has changed since it was made: pass the run as start=run to cflow_num.run"
            )
        (found,) = _finish([now._replace(notes=before.notes)], quiet, last=self.standing.checkpoint)
        for note in found.notes[len(before.notes) :]:
            warnings.warn(note, GrowthWarning, stacklevel=4)
        return found


def _spent(one: Prepared, name: str) -> dict[str, float]:
    """Return seconds of a process beside those of its steps."""
    observed = one.observing.seconds.get(name)
    return {"compile_seconds": one.processes[name].compile_seconds} | (
        {} if observed is None else {"observe_seconds": observed}
    )


def _result(one: Prepared, progress: Progress, versions: dict[str, str], command: str, seconds: float) -> Run:
    ends = {name: ending(end, progress.kept[name]) for name, end in progress.ends.items()}
    groups = {
        name: recorder.dataset(progress.reached, _spent(one, name)) for name, recorder in progress.recorders.items()
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "title": f"{one.config['title']} on {one.config['problem']}: discrete optimizer and flows",
        "config": json.dumps(one.config),
        "reason": progress.reason,
        "notes": json.dumps([*one.notes, *progress.growth]),
        "command": command,
        "versions": json.dumps(versions),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "total_seconds": seconds,
    }
    return Run(tree, ends)

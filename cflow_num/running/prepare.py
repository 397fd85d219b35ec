"""The input of a run, checked: what is wrong is said in one sentence before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..flows.discrete import DiscreteOptimizer
from ..loss.parameters import deleted, nonfinite
from ..loss.parts import parse_memory, show_memory
from ..loss.problem import Problem
from ..optimizer import filter as filters
from ..optimizer.filter import check_filter
from ..optimizer.hyperparameters import Schedule, as_arrays, check_schedules, describe, resolve
from ..optimizer.original import check_original
from ..optimizer.own_constants import has_own_decays
from ..support.devices import available_memory
from ..support.devices import describe as place
from ..support.errors import NO_GRADIENT, InputError
from ..support.programs import call
from .checkpoints import fingerprint
from .continued import Source, given, source
from .kinds import DEFAULT_INTEGRATOR, KINDS, Closed
from .observables import Observing, observables
from .process import Process
from .settings import Settings

CHUNK = 16  # steps per compiled call: a multiple of the longest step of any integrator
TRACED = "the {} traced, a run needs numbers: call it outside jit, vmap and grad"
CHANGED = (
    "the loss of {} is another one than when its problem was made (it reads something that has changed since): the run "
    "takes it as it is now"
)


class Prepared(NamedTuple):
    """A run that is checked and can start."""

    processes: dict[str, Process]
    discrete: DiscreteOptimizer
    config: dict[str, Any]
    notes: tuple[str, ...]  # about the problem, for the user
    programs: dict[str, str]  # digests of loss and schedules
    problem: Problem  # as it was given, at the weights it starts from
    asked: Asked
    observing: Observing
    given: dict[str, Array] | None = None  # states that the optimizer goes on with


class Asked(NamedTuple):
    """The arguments of a run; those that a user could change are copies."""

    problem: Problem
    optimizer: Any
    hyperparameters: dict[str, Any]
    settings: Settings
    start: Source | None
    observe: dict[str, Any]


def prepare(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    settings: Settings,
    start: Any = None,
    observe: Mapping[str, Any] | None = None,
) -> Prepared:
    """Check the input of a run, with functions to `observe`; raises `InputError`."""
    if isinstance(hyperparameters, Mapping) and any(isinstance(x, Tracer) for x in hyperparameters.values()):
        raise InputError(TRACED.format("hyperparameters are"))
    flow, hp = resolve(optimizer, hyperparameters, problem if isinstance(problem, Problem) else None)
    frozen = getattr(flow, "FROZEN", ())
    asked = problem
    begun = None if start is None or not isinstance(problem, Problem) else source(problem, start)
    if begun is not None:
        problem = problem.replaced(w0=jax.device_put(begun.w, problem.w0.sharding))
    problem = problem.holding(frozen) if frozen and isinstance(problem, Problem) else problem
    memory = settings.memory
    problem = problem.within(memory) if memory is not None and isinstance(problem, Problem) else problem
    _check_problem(problem)
    settings = settings.checked()
    _check_kept(problem, settings)
    processes, end = settings.processes, settings.warm_start + settings.steps
    notes = (CHANGED.format(problem.name),) if _has_changed(problem) else ()
    own, seen, verified = problem, check_start(problem), problem.checked()
    problem = seen if verified is own else verified.traced()
    taken = 0 if begun is None else begun.steps_taken(flow)
    end += taken
    floors = check_schedules(flow, hp, settings.warm_start + taken, end, float(np.finfo(problem.w0.dtype).eps))
    arrays = as_arrays(flow, hp, problem, floors)
    states = None if begun is None else given(begun, flow, arrays, problem.w0)
    check_original(flow, arrays, own)
    _check_own_decays(flow, arrays, processes, settings.budget)
    edge = check_filter(flow, arrays, end)
    coordinates = _coordinates(problem, settings.capture)
    observed = observables(observe or {}, settings.observe, own, {*flow.initial_state(problem.w0, arrays)})
    everything = {
        name: Process(
            name,
            problem,
            flow,
            arrays,
            integrator=settings.integrator,
            chunk=CHUNK,
            eig_every=settings.eig_every,
            coordinates=coordinates,
            budget=settings.budget,
            onset=settings.onset,
            closure_step=settings.closure_step,
            diagnostics=settings.diagnostics,
            effort=settings.effort,
            last=settings.steps,
        )
        for name in KINDS
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
        "memory_budget": memory.item() if isinstance(memory, np.generic) else memory,
        "examples_at_once": problem.chunks.examples,
        "vectors_at_once": problem.chunks.vectors,
        "steps": settings.steps,
        "warm_start": settings.warm_start,
        "processes": list(everything),
        "integrator": settings.integrator or DEFAULT_INTEGRATOR,
        "onset": settings.onset,
        "average_start": settings.average_start,
        "gain": edge.gain,
        "burst_index": edge.burst_index,
        "memory": edge.memory,
        "note": filters.warning(flow, edge),
        "eig_every": settings.eig_every,
        "budget": settings.budget,
        "numbers": _numbers(problem, states),
        "optimizer_source": flow.SOURCE_HASH,
    }
    if problem.label.origin:
        config["problem_file"] = problem.label.origin[:16]
    if settings.effort != Settings.effort:
        config["effort"] = settings.effort
    if settings.keep_weights:
        config["keep_weights"] = settings.keep_weights
    if settings.diagnostics:
        config["diagnostics"] = list(settings.diagnostics)
    if observed:
        config |= {"observe": {one.name: one.kinks for one in observed}, "observe_every": settings.observe_every}
    if begun is not None:
        config["start"] = begun.described(flow)
    if frozen:
        config["held"] = list(frozen)
    if any(isinstance(KINDS[name], Closed) for name in everything):
        config["closure_step"] = settings.closure_step
    again = Asked(asked, optimizer, dict(hyperparameters), settings, begun, dict(observe or {}))
    functions = {"loss": problem.loss} | {name: x.function for name, x in arrays.items() if isinstance(x, Schedule)}
    functions |= {f"observable {one.name}": one.program for one in observed}
    programs = {name: function.digest[:16] for name, function in functions.items()}
    observing = Observing.of(observed, settings.observe_every, own)
    discrete = DiscreteOptimizer(problem, arrays, flow)
    return Prepared(everything, discrete, config, notes, programs, own, again, observing, states)


def _check_kept(problem: Problem, settings: Settings) -> None:
    """Refuse to keep more weights than there is memory for; they are kept beside what `memory` cuts into parts."""
    if not settings.keep_weights:
        return
    times = settings.steps // settings.keep_weights + 1
    kept = times * len(settings.processes) * problem.w0.nbytes
    given = settings.memory is not None
    limit = parse_memory(settings.memory) if given else (available_memory() or 2**62) // 2
    if kept > limit:
        what = "memory is" if given else "half of what is free is"
        raise InputError(
            f"keep_weights is {settings.keep_weights}: the weights of {len(settings.processes)} processes at {times} "
            f"steps take {show_memory(kept)}, {what} {show_memory(limit)}: pass a larger keep_weights"
        )


def _numbers(problem: Problem, states: dict[str, Array] | None) -> str:
    """Return a checksum of weights, data and given states, empty where they lie on other machines too."""
    arrays = (problem.w0, problem.data) if states is None else (problem.w0, problem.data, states)
    here = all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(arrays))
    return fingerprint(arrays)[:16] if here else ""


def _check_problem(problem: Any) -> None:
    if not isinstance(problem, Problem):
        raise InputError(
            f"problem is a {type(problem).__name__}, it must be a Problem: pass cflow_num.problem(NAME) or "
            "cflow_num.Problem(loss, params)"
        )
    for path, x in jax.tree_util.tree_leaves_with_path(problem.data):
        if deleted(x):
            where = jax.tree_util.keystr(path)
            raise InputError(f"data{where} was deleted since the problem was made: make the problem of a copy")
    if isinstance(problem.w0, Tracer):
        raise InputError(TRACED.format("weights are"))
    if problem.w0.dtype != jax.dtypes.canonicalize_dtype(problem.w0.dtype):
        raise InputError(
            f"{problem.name} was made with weights of {problem.w0.dtype} and jax_enable_x64 is off: make the problem "
            "under the precision that it runs under"
        )


def _has_changed(problem: Problem) -> bool:
    """Say whether the loss is another one than when the problem was made, which is then examined again."""
    try:
        changed = problem.changed
    except Exception:  # whatever the loss raises now: examining it says so
        changed = True
    if changed:
        problem.examine()
    return changed


def check_start(problem: Problem) -> Problem:
    """Return the problem as it is traced; raises `InputError` with the array to blame where numbers are not finite.

    These are the weights at the start and the loss and its gradient there.
    """
    weights = problem.weights(problem.w0)
    if found := nonfinite("params", weights):
        raise InputError(f"the initial weights are not finite{found}: check how they are made")
    traced = problem.traced()
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(traced)):
        raise InputError(TRACED.format("loss is"))
    loss, gradient = call(_value_and_gradient, traced)
    if not np.isfinite(loss):
        raise InputError(
            f"the loss is {float(loss)} at the start{nonfinite('data', problem.data)}: check the data and the initial "
            "weights"
        )
    if found := nonfinite("its part for params", problem.weights(gradient)):
        raise InputError(
            f"the gradient is not finite at the start{found} although the loss is ({float(loss):.6g}): {NO_GRADIENT}"
        )
    return traced


def _check_own_decays(flow: Any, hp: Mapping[str, Any], processes: Sequence[str], budget: bool) -> None:
    without = [name for name in processes if name == "stationary" or isinstance(KINDS[name], Closed)]
    without += ["the error budget"] * budget
    if without and has_own_decays(flow, hp):
        raise InputError(
            f"{flow.NAME} has decoupled decays of its own for groups of arrays, with which {without[0]} is not "
            "defined: leave it out"
        )


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
    if not isinstance(capture, (Sequence, np.ndarray)):
        raise InputError(f"capture is {capture!r}, it must be a number of weights or a list of their indices")
    chosen = [i for i in capture if isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < n]
    if len(chosen) != len(capture) or isinstance(capture, str):
        raise InputError(f"capture is {capture!r}, it must list indices of weights between 0 and {n - 1}")
    return tuple(int(i) for i in chosen)


@eqx.filter_jit
def _value_and_gradient(problem: Problem) -> tuple[Array, Array]:
    return problem.value_and_gradient(problem.w0)

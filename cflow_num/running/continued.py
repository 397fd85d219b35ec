"""Where a run starts but at its problem's own weights: from another run, from weights, from weights and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..loss.problem import Problem
from ..record.ends import UPDATED
from ..record.run import Run
from ..support.errors import InputError


class Given(NamedTuple):
    """States that an optimizer goes on with: before its update at the start and, where a run left them, after it."""

    states: dict[str, Array]
    updated: dict[str, Array] | None


class Source(NamedTuple):
    """A start as it was given: weights `w (n,)`, states by name or None for fresh ones, and words for it."""

    w: Array
    states: Mapping[str, Any] | None
    updated: Mapping[str, Any] | None
    optimizer: str | None  # whose the states are, where that is known
    words: str


def source(problem: Problem, start: Any) -> Source:
    """Return what `start` says: a `Run`, `(params, states)` or `params`.

    **Raises:** `InputError` where it does not fit the problem.
    """
    if isinstance(start, Run):
        return _of_run(problem, start)
    shape = jax.tree.structure(problem.weights(problem.w0))
    pair = isinstance(start, tuple) and len(start) == 2 and isinstance(start[1], Mapping)
    if pair and not _fits(problem, start, shape):
        return Source(_raveled(problem, start[0], shape), start[1], None, None, "weights and states")
    return Source(_raveled(problem, start, shape), None, None, None, "weights")


def _of_run(problem: Problem, run: Run) -> Source:
    if "discrete" not in run.processes:
        raise InputError(
            f"start is a run without a discrete process (it has {', '.join(run.processes)}): pass weights of one of "
            'its flows, as in start=run.weights("central")'
        )
    end = run.ending("discrete")
    w = end.weights("discrete")
    if w.shape != problem.w0.shape:
        raise InputError(
            f"start is a run with {w.size} weights and the problem has {problem.n_weights}: pass one of this problem"
        )
    states, updated = end.states("discrete"), end.states("discrete", UPDATED)
    words = f"{run.config['optimizer']} after {run.config['warm_start'] + end.step} steps"
    return Source(jnp.asarray(w, problem.w0.dtype), states, updated, run.config["optimizer"], words)


def _fits(problem: Problem, params: Any, shape: Any) -> bool:
    try:
        return jax.tree.structure(problem.weights(problem.ravel(params))) == shape
    except Exception:  # whatever it is, it is no such pytree
        return False


def _raveled(problem: Problem, params: Any, shape: Any) -> Array:
    """Return the weight vector of params; `InputError` where these are not like those of the problem."""
    try:
        w = problem.ravel(params)
        fine = w.shape == problem.w0.shape
    except Exception:  # whatever it is, it is no such pytree
        fine, w = False, problem.w0
    if not fine:
        raise InputError(
            f"start is a {type(params).__name__} unlike the problem's parameters: pass a Run, such parameters, or a "
            "pair (parameters, states by name)"
        )
    if not bool(jnp.all(jnp.isfinite(w))):
        raise InputError("the weights of start are not finite")
    return w.astype(problem.w0.dtype)


def given(found: Source, flow: Any, hp: Mapping[str, Any], w0: Array) -> Given | None:
    """Return the states with which an optimizer goes on; None for fresh ones: no states, or those of another optimizer.

    **Raises:** `InputError` for states that are not the optimizer's.
    """
    if found.states is None or found.optimizer not in (None, flow.NAME):
        return None
    expected = flow.initial_state(w0, hp)
    has = {name: np.asarray(x) for name, x in found.states.items()}
    if "t" in expected and "t" not in has:
        raise InputError(_wrong(flow, expected, has, "t, the number of steps taken, is missing"))
    for name, x in expected.items():
        if name not in has or has[name].shape != jnp.shape(x):
            what = "is missing" if name not in has else f"has shape {has[name].shape} instead of {jnp.shape(x)}"
            raise InputError(_wrong(flow, expected, has, f"{name} {what}"))
    if more := has.keys() - expected.keys():
        raise InputError(_wrong(flow, expected, has, f"it has no {', '.join(sorted(more))}"))

    def arrays(states: Mapping[str, Any]) -> dict[str, Array]:
        return {name: jnp.asarray(states[name], jnp.result_type(x)) for name, x in expected.items()}

    return Given(arrays(has), None if found.updated is None else arrays(found.updated))


def _wrong(flow: Any, expected: Mapping[str, Any], has: Mapping[str, Any], what: str) -> str:
    return f"the states of start do not fit {flow.NAME}: {what}; its states are {', '.join(expected) or 'none'}"

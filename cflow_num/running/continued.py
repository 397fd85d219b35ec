"""Where a run starts but at its problem's own weights: from another run, from weights, from weights and states."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..loss import parameters
from ..loss.problem import Problem
from ..record.run import Run
from ..support.errors import InputError
from .settings import MOST_STEPS


class Source(NamedTuple):
    """A start as plain arrays: weights `w (n,)`, states by name or None for fresh ones, and words for it.

    `optimizer` says whose the states are, where that is known: name and switches.
    """

    w: np.ndarray
    states: dict[str, np.ndarray] | None
    optimizer: tuple[str, tuple[str, ...]] | None
    words: str

    def for_the(self, flow: Any) -> bool:
        """Say whether there are states, and whether an optimizer can go on with them."""
        return self.states is not None and self.optimizer in (None, (flow.NAME, tuple(flow.SWITCHES)))

    def steps_taken(self, flow: Any) -> int:
        """Return how many steps the optimizer that goes on has taken."""
        return int(self.states["t"]) if self.states is not None and self.for_the(flow) else 0

    def described(self, flow: Any) -> str:
        """Return words for the start of an optimizer."""
        fresh = self.states is not None and not self.for_the(flow)
        return f"weights of {self.words}" if fresh else self.words


def source(problem: Problem, start: Any) -> Source:
    """Return what `start` says: a `Run`, `(params, states)` or `params`; nothing is held of a problem yet.

    **Raises:** `InputError` where it does not fit the problem.
    """
    if isinstance(start, Source):
        return start
    if isinstance(start, Run):
        return _of_run(problem, start)
    if isinstance(start, tuple) and len(start) == 2 and isinstance(start[1], Mapping) and not _alike(problem, start):
        return Source(_weights(problem, start[0]), _states(start[1]), None, "weights and states")
    return Source(_weights(problem, start), None, None, "weights")


def _of_run(problem: Problem, run: Run) -> Source:
    if "discrete" not in run.processes:
        raise InputError(
            f"start is a run without a discrete process (it has {', '.join(run.processes)}): pass weights of one of "
            'its flows, as in start=run.weights("central")'
        )
    config, end = run.config, run.ending("discrete")
    w = _weights(problem, run.weights("discrete", problem=None if run.live else problem))
    known = (config["optimizer"], tuple(config["switches"]))
    if not end.has_states:  # it failed: another optimizer may begin there all the same
        return Source(w, None, None, f"weights where {config['optimizer']} stopped")
    states = _states(end.states("discrete"))
    return Source(w, states, known, f"{config['optimizer']} after {int(states['t'])} steps")


def _alike(problem: Problem, params: Any) -> bool:
    """Say whether something is a pytree with arrays like those of the problem's parameters."""
    try:
        mine, theirs = (jax.tree.flatten(x) for x in (problem.weights(problem.w0), parameters.split(params)[0]))
        return mine[1] == theirs[1] and all(x.shape == y.shape for x, y in zip(mine[0], theirs[0], strict=True))
    except Exception:  # whatever it is, it is no such pytree
        return False


def _weights(problem: Problem, params: Any) -> np.ndarray:
    """Return the weight vector of params; `InputError` where these are not like those of the problem."""
    flat = isinstance(params, (np.ndarray, jax.Array)) and params.shape == problem.w0.shape
    if not flat and not _alike(problem, params):
        raise InputError(
            f"start is a {type(params).__name__} unlike the problem's parameters: pass a Run, parameters with the same "
            "names and shapes, one array of all weights, or a pair (parameters, states by name)"
        )
    w = np.array(params if flat else problem.ravel(params), problem.w0.dtype)
    if not np.isfinite(w).all():
        raise InputError("the weights of start are not finite")
    return w


def _states(states: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return states as arrays of their own; `InputError` for what are no numbers, or no count of steps."""
    found: dict[str, np.ndarray] = {}
    for name, x in states.items():
        try:
            found[name] = np.array(x, float)
        except (TypeError, ValueError):
            raise InputError(f"the state {name} of start is a {type(x).__name__}: states are arrays by name") from None
        if not np.isfinite(found[name]).all():
            raise InputError(f"the state {name} of start is not finite")
    t = found.get("t")
    if t is None:
        raise InputError("the states of start lack t, the number of steps taken")
    if t.ndim or not 0 <= t <= MOST_STEPS or t != np.floor(t):
        raise InputError(f"t of start is {t}, it must be a whole number of steps between 0 and {MOST_STEPS}")
    return found


def given(found: Source, flow: Any, hp: Mapping[str, Any], w0: Array) -> dict[str, Array] | None:
    """Return the states with which an optimizer goes on; None for fresh ones: no states, or those of another optimizer.

    **Raises:** `InputError` for states that are not the optimizer's.
    """
    if found.states is None or not found.for_the(flow):
        return None
    expected, has = flow.initial_state(w0, hp), found.states
    wrong = [f"it has no {name}" for name in has if name not in expected]
    for name, x in expected.items():
        if name not in has:
            wrong.append(f"{name} is missing")
        elif has[name].shape != jnp.shape(x):
            wrong.append(f"{name} has shape {has[name].shape} instead of {jnp.shape(x)}")
    if wrong:
        raise InputError(
            f"the states of start do not fit {flow.NAME}: {wrong[0]}; its states are {', '.join(expected)}: pass the "
            "weights alone to begin with fresh ones"
        )
    return {name: jnp.asarray(has[name], jnp.result_type(x)) for name, x in expected.items()}


def whole(steps: Any) -> int:
    """Return a number of steps; raises `InputError` where it is none."""
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or int(steps) < 1:
        raise InputError(f"steps is {steps!r}, it must be a whole number of at least 1")
    return int(steps)

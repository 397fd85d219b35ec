"""The start of a run: some steps of the optimizer alone, and where flows start from after them."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..flows.base import FlowState
from ..flows.discrete import DiscreteOptimizer, midpoints
from ..support.errors import NO_GRADIENT, InputError, RunError
from ..support.programs import call


class Start(NamedTuple):
    """Where a run starts: the optimizer, the point and states that flows start from, and those before their update.

    `oscillation` is the optimizer, with its states before their update, minus that start: zero but for averages; `own`
    are those states.
    """

    here: FlowState
    flows: FlowState
    before: dict[str, Array]
    oscillation: FlowState
    own: dict[str, Array]


@eqx.filter_jit
def _warm_start_path(discrete: DiscreteOptimizer, length: int, states: dict[str, Array]) -> tuple[FlowState, FlowState]:
    y = discrete.updated(discrete.problem.w0, states)
    return y, discrete.steps(y, length)


def warm_started(
    discrete: DiscreteOptimizer, warm_start: int, average: bool = False, given: dict[str, Array] | None = None
) -> Start:
    """Return the start after `warm_start` discrete steps, which go on with the states that are given.

    On average the midpoints (x[t-1] + 2 x[t] + x[t+1])/4 of weights and states: the oscillation cancels.
    """
    unmoved = discrete.optimizer.initial_state(discrete.problem.w0, discrete.hp) if given is None else given
    first, path = call(_warm_start_path, discrete, warm_start + average, unmoved)
    points = [first] + [jax.tree.map(lambda x, t=t: x[t], path) for t in range(warm_start + average)]
    for t, y in enumerate(points):
        if t and not bool(jnp.all(jnp.isfinite(y.w))):
            loss, gradient = discrete.problem.value_and_gradient(points[t - 1].w)
            if bool(jnp.isfinite(loss)) and bool(jnp.any(jnp.isnan(gradient))):
                raise RunError(
                    f"the gradient is nan at warm-start step {t - 1} although the loss is finite ({float(loss):.6g}): "
                    f"{NO_GRADIENT}"
                )
            check_preconditioner(discrete, points[t - 1], f"warm-start step {t - 1}" if t > 1 else "the start")
            raise RunError(f"the discrete optimizer diverges at warm-start step {t}: use a smaller learning rate")
    states = [unmoved, *(y.slow for y in points)]  # states[t] is the one before the update at step t
    here, before = points[warm_start], states[warm_start]
    if not average:
        return Start(here, here, before, jax.tree.map(jnp.zeros_like, FlowState(here.w, before)), before)
    around = slice(warm_start - 1, warm_start + 2)
    flows = FlowState(_averaged([y.w for y in points[around]]), _averaged([y.slow for y in points[around]]))
    centre = FlowState(flows.w, _averaged(states[around]))
    return Start(here, flows, centre.slow, jax.tree.map(jnp.subtract, FlowState(here.w, before), centre), before)


def check_preconditioner(discrete: DiscreteOptimizer, y: FlowState, where: str = "the start") -> None:
    """Refuse a state at which some weight has no preconditioner: the square of its gradient has always been zero."""
    P = np.atleast_1d(np.asarray(discrete.optimizer.preconditioner(y.slow, discrete.hp)))
    bad = ~(np.isfinite(P) & (P > 0))
    if bad.any():
        many = f"for {bad.sum()} of {P.size} weights" if P.size > 1 else "there"
        remedy = "pass epsilon=1e-8" if "epsilon" in discrete.hp else "add a positive constant to the denominator"
        raise InputError(
            f"the preconditioner of {discrete.optimizer.NAME} is {P[bad][0]:g} {many} at {where}, where the gradient "
            f"is zero or so small that its square is: {remedy}"
        )


def _averaged(three: list) -> Any:
    """Return the midpoints of weights or states at three steps in turn."""
    return jax.tree.map(lambda *x: midpoints(jnp.stack(x))[0], *three)

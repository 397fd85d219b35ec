"""The start of constrained flows: how stiff their slow states are, and states that are to be at rest from there on."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..flows.base import Flow, FlowState
from ..flows.central import CentralFlow
from ..flows.stationary import StationaryFlow
from .base import SolverState, turn

SETTLING_ITERATIONS = 60
SETTLED = 1e-8  # relative change of the preconditioner at which states are at rest, by Newton's method
RELAXED = 1e-4  # the same, by iteration


@eqx.filter_jit
def stiffness(flow: Flow, y: FlowState) -> Array:
    """Return the fastest relaxation rate of the slow states that have dynamics of their own."""
    g = flow.gradient(y.w)
    resting = flow.at_rest if isinstance(flow, CentralFlow) else ()
    own = {name: s for name, s in y.slow.items() if name not in resting and name != "t"}
    if not own:
        return jnp.zeros(())

    def drift(own: dict[str, Array]) -> dict[str, Array]:
        rates = flow.optimizer.slow_drift(y.slow | own, g, flow.hp)
        return {name: rates[name] for name in own}

    _, slopes = jax.jvp(drift, (own,), (jax.tree.map(jnp.ones_like, own),))
    return jnp.max(jnp.stack([jnp.max(-slope) for slope in jax.tree.leaves(slopes)]))


@eqx.filter_jit
def closer_to_rest(flow: Flow, y: FlowState, memory: SolverState) -> tuple[dict[str, Array], SolverState, Array, Array]:
    """Return the states closer to rest, weights held: one Newton step, or the iteration of `StationaryFlow`.

    Also their relative change, and the largest eigenvalue that was not tracked, relative to c.
    """
    if isinstance(flow, StationaryFlow):
        rest = flow.rest(y, memory.V, tolerance=RELAXED, max_iterations=500)
        return rest.slow, SolverState(rest.V, memory.X), rest.change, jnp.zeros(())
    assert isinstance(flow, CentralFlow)
    tangent = flow.linearize(y, memory.V)
    k = memory.X.shape[0]
    P, V = flow.optimizer.preconditioner(y.slow, flow.hp), tangent.frame.pairs.U  # () or (n,), (n, K)
    weight = jnp.asarray(1e-12, y.w.dtype)  # of a displacement in which the weights stand still
    offset = jax.tree.map(jnp.zeros_like, y)
    rates, X, _ = flow.equilibrium(tangent, offset, weight, turn(flow, tangent.frame, memory))
    slow = y.slow | {name: y.slow[name] + weight * rates.slow[name] for name in flow.at_rest}
    change = jnp.max(jnp.abs(flow.optimizer.preconditioner(slow, flow.hp) / P - 1))
    untracked = tangent.frame.pairs.eigenvalues[k] / tangent.c if V.shape[1] > k else jnp.zeros(())
    return slow, SolverState(V, X), change, untracked

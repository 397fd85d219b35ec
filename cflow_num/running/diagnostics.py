"""Diagnostics that cost no gradient: how much of the decrease that a gradient promises the oscillation takes back.

Over some steps s = w' - w of an optimizer, with g the gradients where they begin,

    zeta = 1 - sum (L(w') - L(w)) / sum g's        0 for small steps, 1 where nothing of the promise is kept
    GBS  = sum s'H s / sum -g's                    zeta = GBS/2 for a quadratic loss

Along a flow with covariance Sigma and velocity v the promise of a step is 2 <Sigma, H> - gbar'v on average, for an
oscillation of period two, and the averaged loss changes as predicted; hence the flow's own zeta. Gradient descent
clipped at a norm keeps the flow's edge down to the root of the time average of |g|^2, which is there the norm that its
gradients reach: below it clipping acts on every step. Derived.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flows.base import Flow, FlowState, Observation
from ..flows.central import CentralFlow
from ..record.measures import loss_changes, not_kept, ratio_of_sums
from ..stepping.log import Log


def of_flow(
    flow: Flow, states: FlowState, before: FlowState, seen: Observation, log: Log
) -> dict[str, Float[Array, " T"]]:
    """Return the promised decrease of the step that leads to each state, and the clipping threshold there."""
    if not isinstance(flow, CentralFlow) or not flow.sharpness_reduction:
        return {}
    v = jnp.diff(states.w, axis=0, prepend=before.w[None])  # (T, n) over each step
    earlier = jnp.concatenate([2 * v[:1] - v[1:2], v[:-1]])  # (T, n)
    begun = (v + earlier) / 2  # (T, n) where each step begins

    def along(y: FlowState, v: Float[Array, " n"], begun: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return -gbar'v and |gbar|^2, with gbar the averaged gradient that gives the velocity `begun`."""
        decay = flow.optimizer.filter_coefficients(y.slow, flow.hp).decay  # () or (n,)
        pull = flow.step_preconditioner(y) * (begun + decay * y.w) / flow.speed(y)  # (n,) -gbar
        return jnp.vdot(v, pull), jnp.vdot(pull, pull)

    steady, squared = jax.vmap(along)(states, v, begun)  # (T,), (T,)
    found = {"first_order_decrease": 2 * log.oscillation_energy + steady}
    if set(states.slow) == {"t"} and "effective_step_size" in seen.scalars:  # gradient descent
        variance = jnp.sum(log.squared_gradient, axis=1) - seen.gradient_norm**2  # (T,) <H^2, Sigma>
        found["clipping_threshold"] = jnp.sqrt(squared + jnp.maximum(variance, 0))
    return found


def summed(arrays: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, " step"]]:
    """Return zeta, and GBS where it was asked for, of what was recorded of a process."""
    promise = arrays.get("first_order_decrease")
    if promise is None:
        return {}
    of_flow = "predicted_loss" in arrays
    loss = arrays["predicted_loss" if of_flow else "loss"]
    found = {"zeta": not_kept(loss_changes(loss, of_flow), promise)}
    if "curvature_along_step" in arrays:
        found["gbs"] = ratio_of_sums(arrays["curvature_along_step"], promise)
    return found

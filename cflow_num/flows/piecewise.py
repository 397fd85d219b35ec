"""Whether signs in the rates of states stay over a period of the oscillation.

The flow takes such a sign of the averaged quantity: of nu - E[g^2], not of nu - g^2 at either end. Where both ends have
that sign too, the averaged rate is exact to second order. Where they differ it is not: it is held here against the mean
over the two ends.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import Moments

from .base import Flow, FlowState

MISSED = 0.05  # of the rate of a state, in norm, at which a flow stops


def missed_by_signs(flow: Flow, states: FlowState, squared_gradient: Float[Array, "T n"]) -> Float[Array, " T"]:
    """Return by how much averaged rates miss the mean over the two ends of the oscillation, relative to the ends' own.

    `squared_gradient` is the predicted time average: its excess over g^2 is the squared reach of the oscillation.
    """
    opt, hp = flow.optimizer, flow.hp

    def missed(at: tuple[FlowState, Float[Array, " n"]]) -> Float[Array, ""]:
        y, averaged = at
        g = flow.gradient(y.w)                                                # (n,)
        variance = jnp.maximum(averaged - g**2, 0)                            # (n,)
        reach = jnp.sqrt(variance)                                            # (n,)
        still, moments = opt.slow_drift(y.slow, g, hp), Moments(jnp.zeros_like(g), variance, variance)
        moved = opt.slow_drift_moments(y.slow, g, moments, hp)
        high, low = (opt.slow_drift(y.slow, g + end, hp) for end in (reach, -reach))
        shares = []
        for name in opt.PIECEWISE:
            miss = still[name] + moved[name] - (high[name] + low[name]) / 2   # (n,)
            size = jnp.linalg.norm(jnp.abs(high[name]) + jnp.abs(low[name])) / 2
            shares.append(jnp.linalg.norm(miss) / jnp.where(size > 0, size, 1))
        return jnp.max(jnp.stack(shares))

    return jax.lax.map(missed, (states, squared_gradient))

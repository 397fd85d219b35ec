"""The real optimizer, and the averages of its path that flows are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .base import Flow, FlowState, Observation

LOSSES = 8  # evaluated to find the critical step
FOUND = 1e-2  # of the promised decrease: what may be left of the change of the loss there


class DiscreteOptimizer(Flow):
    """The discrete optimizer as a map on `FlowState(w_t, s_t)`, s_t being the state used when leaving w_t.

    `diagnostics` are what is observed beyond the promised decrease: `gbs` (the curvature along the step, one
    Hessian-vector product) and `critical_step` (some losses).
    """

    diagnostics: tuple[str, ...] = eqx.field(static=True, default=())

    def first(self, w: Float[Array, " n"]) -> FlowState:
        """Return the state at w before the first step: every state updated once, the weights not moved."""
        return self.updated(w, self.optimizer.initial_state(w, self.hp))

    def updated(self, w: Float[Array, " n"], slow: dict[str, Array]) -> FlowState:
        """Return the state at w with every state updated there."""
        return FlowState(w, self.optimizer.update_state(slow, self.gradient(w), self.hp))

    def steps(self, y: FlowState, length: int) -> FlowState:
        """Return the states at the next `length` steps, stacked; one gradient a step."""

        def body(carry: tuple[FlowState, Array], _: None) -> tuple[tuple[FlowState, Array], FlowState]:
            carry = self._advance(*carry)
            return carry, carry[0]

        _, path = jax.lax.scan(body, (y, self.gradient(y.w)), None, length=length)
        return path

    def _advance(self, y: FlowState, g: Float[Array, " n"]) -> tuple[FlowState, Float[Array, " n"]]:
        w = self.optimizer.update_weights(y.w, y.slow, g, self.hp)            # (n,)
        g = self.gradient(w)                                          # (n,)
        return FlowState(w, self.optimizer.update_state(y.slow, g, self.hp)), g

    def _seen(self, y: FlowState, V: Float[Array, "n K"]) -> tuple[Observation, Float[Array, " n"]]:
        """Return what any flow has, and how the loss changes along the step that leaves y."""
        seen, g = super()._seen(y, V)
        s = self.optimizer.update_weights(y.w, y.slow, g, self.hp) - y.w      # (n,)
        found = {"first_order_decrease": -jnp.vdot(g, s)}
        if "gbs" in self.diagnostics:
            found["curvature_along_step"] = jnp.vdot(s, self.hessian_vectors(y.w, s[:, None])[:, 0])
        if "critical_step" in self.diagnostics:
            found["critical_step"] = critical_step(lambda a: self.value(y.w + a * s) - seen.loss, jnp.vdot(g, s))
        return seen._replace(scalars=seen.scalars | found), g


def critical_step(
    change: Callable[[Float[Array, ""]], Float[Array, ""]], slope: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the a > 0 at which `change(a)`, the change of the loss after a steps at once, is zero again.

    `slope` is its derivative at 0. By false position on change(a)/a, which is linear for a quadratic loss; nan where
    the loss rises at once, or is still smaller a thousand steps away.

    >>> import jax.numpy as jnp
    >>> round(float(critical_step(lambda a: -a + a**2 / 4, jnp.asarray(-1.0))), 6)
    4.0
    """

    def closer(_: Any, last: tuple[Array, ...]) -> tuple[Array, ...]:
        a, low, b, high, side, _, here = last  # low < 0; until high > 0, b is the furthest point yet
        between = high > 0
        c = b - high * (b - a) / jnp.where(high == low, jnp.nan, high - low)
        c = jnp.where(between, c, jnp.clip(jnp.where(jnp.isfinite(c), c, jnp.inf), 1.5 * b, 10 * b))
        found = change(c) / c
        up = jnp.where(found > 0, 1.0, -1.0)
        stays = jnp.where(up == side, 0.5, 1.0)  # an end that stays twice counts half, or it would stay for long
        ends = (a, stays * low, c, found), (c, found, b, stays * high)
        inside = jax.tree.map(lambda x, y: jnp.where(up > 0, x, y), *ends)
        new = jax.tree.map(lambda x, y: jnp.where(between, x, y), (*inside, up), (b, high, c, found, 0 * up))
        done = jnp.abs(here) <= 1e-6 * jnp.abs(slope)
        return jax.tree.map(lambda x, y: jnp.where(done, x, y), last, (*new, c, found))

    one, first = jnp.ones_like(slope), change(jnp.ones_like(slope))
    start = (0 * one, slope, one, first, 0 * one, one, first)
    *_, a, left = jax.lax.fori_loop(1, LOSSES, closer, start)
    return jnp.where((slope < 0) & (jnp.abs(left) <= FOUND * jnp.abs(slope)), a, jnp.nan)


def midpoints(path: Float[Array | np.ndarray, "t ..."]) -> Float[Array | np.ndarray, "t-2 ..."]:
    """Return the second-order midpoints (w_{t-1} + 2 w_t + w_{t+1}) / 4: an exact period-two oscillation cancels.

    >>> import jax.numpy as jnp
    >>> t = jnp.arange(5.0)
    >>> path = (3 + t + (-1) ** t)[:, None]
    >>> midpoints(path)[:, 0].tolist()
    [4.0, 5.0, 6.0]
    """
    return (path[:-2] + 2 * path[1:-1] + path[2:]) / 4

"""The real optimizer, and the averages of its path that flows are compared with."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float

from .base import Flow, FlowState


class DiscreteOptimizer(Flow):
    """The discrete optimizer as a map on `FlowState(w_t, s_t)`, s_t being the state used when leaving w_t."""

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


def midpoints(path: Float[Array | np.ndarray, "t ..."]) -> Float[Array | np.ndarray, "t-2 ..."]:
    """Return the second-order midpoints (w_{t-1} + 2 w_t + w_{t+1}) / 4: an exact period-two oscillation cancels.

    >>> import jax.numpy as jnp
    >>> t = jnp.arange(5.0)
    >>> path = (3 + t + (-1) ** t)[:, None]
    >>> midpoints(path)[:, 0].tolist()
    [4.0, 5.0, 6.0]
    """
    return (path[:-2] + 2 * path[1:-1] + path[2:]) / 4

"""Flows in phase space: beside the weights the averages of the gradient that momentum keeps.

Conventions (derivation: "The centre flow and its leapfrog"): averages m_i are normalized to the gradient in the steady
state; averages and slow states live half a time step before the weights, and their counter says where. All formulas
come from the generated module: `leapfrog` (coefficients, at dt = 0 those of the differential equation), `leap_slow`,
`leap_slow_moments`, `start_slow`. Nothing here asks which optimizer it runs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import Leapfrog, Moments

from .base import Flow, FlowState


class PhaseSpace(Flow):
    """What stable and central flow in phase space share: their start, and what a step does with averaged gradients."""

    def started(self, w: Float[Array, " n"], before: dict[str, Array], dt: Float[Array, ""] | float) -> FlowState:
        """Return the state at w from the optimizer's states before their update there.

        Deviations of averages and states from their drive are scaled such that their total effect on the weights is
        the optimizer's; at dt = 1 the states are its own.
        """
        opt, hp = self.optimizer, self.hp
        g = self.gradient(w)                                                  # (n,)
        here = before | {"t": before["t"] + (1 - dt) / 2}
        k = opt.leapfrog(here, hp, dt)
        left = self.left(k)
        raw = [before[name] for name in opt.FILTERED_STATES]
        own = jnp.stack([*raw, *[g] * (k.rate.size - len(raw))]) / k.steady[:, None]  # (F, n)
        filtered = g + left[:, None] * (own - g)                              # (F, n)
        after = opt.update_state(before, g, hp)
        read = before | {name: after[name] for name in opt.FILTERED_STATES} | {"t": after["t"]}
        change = opt.start_slow(read, g, hp, dt)
        slow = {name: before[name] + change[name] for name in change}
        return FlowState(w, slow | {"t": here["t"]}, filtered)

    def leap(
        self,
        y: FlowState,
        g: Float[Array, " n"],
        shift: Float[Array, " n"],
        moments: Moments,
        dt: Float[Array, ""] | float,
    ) -> FlowState:
        """Return the state after one leapfrog step; `shift` is what the averaged gradient has beyond g.

        At dt = 1 and without oscillation this is one step of the optimizer.
        """
        assert y.filtered is not None
        opt, hp = self.optimizer, self.hp
        middle = y.slow | {"t": y.slow["t"] + dt}
        k = opt.leapfrog(middle, hp, dt)
        m = y.filtered + dt * k.rate[:, None] * (g + shift - y.filtered)      # (F, n)
        read = middle | self.read(k, g, g + shift - m)
        still, moved = opt.leap_slow(read, g, hp, dt), opt.leap_slow_moments(read, g, moments, hp, dt)
        slow = middle | {name: y.slow[name] + dt * (still[name] + moved[name]) for name in still}
        P = opt.preconditioner(slow, hp)                                      # () or (n,)
        w = y.w - dt * k.w_rate * (k.weight @ m / P + k.decay * y.w)          # (n,)
        return FlowState(w, slow, m)

    def read(self, k: Leapfrog, g: Float[Array, " n"], lag: Float[Array, "F n"]) -> dict[str, Array]:
        """Return the optimizer's averages as slow states read them: the gradient less what is left of the lag."""
        names, left = self.optimizer.FILTERED_STATES, self.left(k)
        return {name: k.steady[i] * (g - left[i] * lag[i]) for i, name in enumerate(names)}

    def left(self, k: Leapfrog) -> Float[Array, " F"]:
        """Return what is left of a deviation: at step 1 an average that forgets everything has 0/0 there."""
        return jnp.where(jnp.isnan(k.left), 0.0, k.left)

    def stable_drift(self, y: FlowState) -> FlowState:
        """Return the rates without oscillation: the limit of the leapfrog for small steps."""
        assert y.filtered is not None
        opt, hp = self.optimizer, self.hp
        g = self.gradient(y.w)                                                # (n,)
        k = opt.leapfrog(y.slow, hp, 0.0)
        lag = g - y.filtered                                                  # (F, n)
        slow = opt.leap_slow(y.slow | self.read(k, g, lag), g, hp, 0.0)
        P = opt.preconditioner(y.slow, hp)                                    # () or (n,)
        w = -k.w_rate * (k.weight @ y.filtered / P + k.decay * y.w)           # (n,)
        return FlowState(w, slow | {"t": jnp.ones_like(y.slow["t"])}, k.rate[:, None] * lag)


def slow_states(optimizer: Any, state: dict[str, Array]) -> dict[str, Array]:
    """Return an optimizer's states without its averages of the gradient."""
    return {name: x for name, x in state.items() if name not in optimizer.FILTERED_STATES}


def no_moments(like: Float[Array, " n"]) -> Moments:
    """Return the moments of no oscillation."""
    return jax.tree.map(jnp.zeros_like, Moments(like, like))

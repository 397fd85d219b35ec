"""The envelope closure (ours): the oscillation's amplitude in all states, by the odd part of the optimizer's map.

One step of the optimizer is y -> y + F(y), y being the weights and all states before their update. If y_t oscillates
with period two, y_t = y +- d in turn, then even and odd part of a step say how centre y and half-difference d move:

    f = [F(y + d) + F(y - d)]/2,   o = [F(y + d) - F(y - d)]/2,
    dy/dt = f - Df[f]/2,           dd/dt = -2 d - o.

-Df[f]/2 makes it the flow whose value at whole times is the map's, to second order in the step (`correction`); Df is
the derivative of f by y. At time step 1 without the correction these are two runs of the optimizer, from y + d and
y - d. No eigenvector is needed: d turns into the least damped direction by itself, in all states at once.

An oscillation below the size of rounding errors is lost in y + d, so that nothing could bring it back ("dead after a
stable phase"): there o is the derivative of F along d, and the amplitude is kept at rounding errors' size (`floor`).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...optimizer.multiplier import rounding
from ..base import FlowState
from .base import Closure, along, even_odd, heun, plus, scaled


class EnvelopeState(NamedTuple):
    """Centre `y` and half-difference `d`, both weights and all states before their update."""

    y: FlowState
    d: FlowState


class Envelope(Closure):
    """The envelope closure, for every optimizer; `floor` is in units of the rounding errors' size, 0 for none.

    >>> import jax, cflow_num as cn
    >>> valley, hp = cn.problem("valley"), dict(learning_rate=1.0, beta1=0.5)
    >>> run = cn.run(valley, "heavy_ball_ema", hp, steps=16, processes=("envelope",), quiet=True)
    >>> run.tree["envelope"]["loss"].size
    17
    """

    NAME: ClassVar[str] = "envelope"
    LABEL: ClassVar[str] = "ours"

    floor: float = 1.0
    correction: bool = True

    @property
    def cost(self) -> int:
        """Gradients and Hessian-vector products of one time step: two stages."""
        return 8 if self.correction else 4

    def started(
        self, y: FlowState, before: dict[str, Array], oscillation: FlowState, V: Float[Array, "n K"]
    ) -> EnvelopeState:
        """Return the start: the optimizer's displacement; where there is none, rounding errors along V's first."""
        d = oscillation
        none = jnp.linalg.norm(d.w) == 0
        seed = self.floor * rounding(y.w) * V[:, 0] / jnp.linalg.norm(V[:, 0])
        d = d._replace(w=jnp.where(none, seed, d.w))
        return self._kept(EnvelopeState(FlowState(y.w, before), d))

    def step(self, y: EnvelopeState, h: Float[Array, ""]) -> EnvelopeState:
        """Return the state after a time h: Heun's method, then the floor of d."""
        return self._kept(heun(self.rates, y, h))

    def rates(self, state: EnvelopeState) -> EnvelopeState:
        """Return the rates of centre and half-difference."""
        y, d = state
        f, odd = self._parts(y, d)
        eps, size = jnp.finfo(y.w.dtype).eps, jnp.linalg.norm(y.w)
        # differences lose what derivatives lose of curvature: the better one of both
        odd = jax.lax.cond(
            jnp.linalg.norm(d.w) < eps ** (1 / 3) * size,
            lambda: along(self.increment, y, d),
            lambda: odd,
        )
        rate = f
        if self.correction:
            rate = plus(f, along(lambda y: self._parts(y, d)[0], y, f), -0.5)
        return EnvelopeState(rate, plus(scaled(-1, odd), d, -2))

    def shown(self, y: EnvelopeState) -> tuple[FlowState, Float[Array, ""]]:
        """Return the centre with its states after their mean update, and the mean of the losses at both ends."""
        ends = [plus(y.y, y.d, sign) for sign in (1, -1)]
        updated, losses = [], []
        for end in ends:
            loss, g = self.value_and_gradient(end.w)
            updated.append(self.optimizer.update_state(end.slow, g, self.hp))
            losses.append(loss)
        slow, _ = even_odd(*updated)
        return FlowState(y.y.w, self.slow_of(slow)), (losses[0] + losses[1]) / 2

    def _parts(self, y: FlowState, d: FlowState) -> tuple[FlowState, FlowState]:
        """Return even and odd part of the optimizer's increment."""
        both = jax.vmap(lambda sign: self.increment(plus(y, d, sign)))(jnp.array([1, -1], y.w.dtype))
        return even_odd(*(jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1)))

    def _kept(self, state: EnvelopeState) -> EnvelopeState:
        size = jnp.linalg.norm(state.d.w)
        least = self.floor * rounding(state.y.w)
        factor = jnp.where((size > 0) & (size < least), least / jnp.where(size > 0, size, 1), 1)
        return EnvelopeState(state.y, scaled(factor, state.d))

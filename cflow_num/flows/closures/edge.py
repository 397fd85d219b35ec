"""The edge closure: one direction u and one amplitude x. Reconstructed from an abstract (Marion, arXiv 2606.18080).

For gradient descent, with |u| = 1:

    dw/dt = -eta/2 [g(w + x u) + g(w - x u)],   du/dt = eta (I - u u') H u,   dx/dt = (eta u'H u - 2) x.

Ours is the form for any preconditioner P without momentum, u'P u = 1 and u turning towards the leading eigenvector of
P^{-1} H, and slow states on average over the two points:

    dw/dt = -P^{-1}/2 [g(w + x u) + g(w - x u)] - decay w,   du/dt = P^{-1} H u - (u'H u) u,   dx/dt = (u'H u - c) x.

Two gradients and one Hessian-vector product a rate. With several critical directions it follows one of them. x decays
below the edge and is kept at the size of rounding errors (`floor`), as it is in the optimizer: without that floor it
has to grow back from nothing, and the onset comes late.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import CompiledFlow

from ...optimizer.multiplier import rounding
from ..base import FlowState
from .base import Closure, even_odd, heun, refuse


class EdgeState(NamedTuple):
    """Centre `y`, direction `u (n,)` with u'P u = 1, amplitude `x ()`: the oscillation is +-x u."""

    y: FlowState
    u: Float[Array, " n"]
    x: Float[Array, ""]


class Edge(Closure):
    """The edge closure; `floor` is in units of the rounding errors' size, 0 for none.

    >>> import jax, cflow_num as cn
    >>> valley = cn.problem("valley")
    >>> run = cn.run(valley, "gradient_descent", dict(learning_rate=1.0), steps=16, processes=("edge",), quiet=True)
    >>> run.tree["edge"]["loss"].size
    17
    """

    NAME: ClassVar[str] = "edge"
    LABEL: ClassVar[str] = "reconstructed"

    floor: float = 1.0

    @classmethod
    def check(cls, optimizer: CompiledFlow) -> None:
        """Raise `InputError` for an optimizer with momentum."""
        if optimizer.FILTERED_STATES:
            raise refuse("edge", optimizer, "which has momentum", "optimizers without, such as gradient_descent")

    @property
    def cost(self) -> int:
        """Gradients and Hessian-vector products of one time step: two stages of three."""
        return 6

    def started(
        self, y: FlowState, before: dict[str, Array], oscillation: FlowState, V: Float[Array, "n K"]
    ) -> EdgeState:
        """Return the start: the leading eigenvector, and how far the optimizer is displaced along it."""
        y = y._replace(slow=self.slow_of(y.slow))
        P = self.optimizer.preconditioner(y.slow, self.hp)                    # () or (n,)
        state = EdgeState(y, V[:, 0], jnp.abs(jnp.vdot(V[:, 0], P * oscillation.w)))
        return self._kept(state)

    def step(self, y: EdgeState, h: Float[Array, ""]) -> EdgeState:
        """Return the state after a time h: Heun's method, then u'P u = 1 and the floor of x."""
        return self._kept(heun(self.rates, y, h))

    def rates(self, state: EdgeState) -> EdgeState:
        """Return the rates of centre, direction and amplitude."""
        opt, hp, (y, u, x) = self.optimizer, self.hp, state
        g_up, g_down = self.gradient(y.w + x * u), self.gradient(y.w - x * u) # (n,)
        mean, _ = even_odd(g_up, g_down)
        y = self._settled(y, g_up, g_down)
        slow, _ = even_odd(opt.slow_drift(y.slow, g_up, hp), opt.slow_drift(y.slow, g_down, hp))
        P, c = opt.preconditioner(y.slow, hp), opt.threshold(y.slow, hp)      # () or (n,); ()
        Hu = self.hessian_vectors(y.w, u[:, None])[:, 0]                      # (n,)
        curvature = jnp.vdot(u, Hu)                                           # ()
        return EdgeState(
            FlowState(self.weights_drift(y, mean), slow),
            Hu / P - curvature * u,
            (curvature - c) * x,
        )

    def shown(self, y: EdgeState) -> tuple[FlowState, Float[Array, ""]]:
        """Return the centre and the mean of the losses at both ends."""
        up, down = (y.y.w + sign * y.x * y.u for sign in (1, -1))
        (loss_up, g_up), (loss_down, g_down) = self.value_and_gradient(up), self.value_and_gradient(down)
        return self._settled(y.y, g_up, g_down), (loss_up + loss_down) / 2

    def _settled(self, y: FlowState, g_up: Float[Array, " n"], g_down: Float[Array, " n"]) -> FlowState:
        """Return y with the states that have no memory at their mean over both ends."""
        up, down = (self.settled(y, g) for g in (g_up, g_down))
        return y._replace(slow=even_odd(up.slow, down.slow)[0])

    def _kept(self, state: EdgeState) -> EdgeState:
        P = self.optimizer.preconditioner(state.y.slow, self.hp)              # () or (n,)
        u = state.u / jnp.sqrt(jnp.vdot(state.u, P * state.u))                # (n,)
        least = self.floor * rounding(state.y.w) / jnp.linalg.norm(u)
        return EdgeState(state.y, u, jnp.maximum(state.x, least))

"""The central flow in phase space, advanced by the leapfrog: at time step 1 the optimizer on averaged gradients.

Complementarity is asked for at the end of the discrete step. Averages are updated first, so that the oscillation's
shift of the gradient moves the weights within the same step, by the coefficient `leap_push` of the derivation; in that
step P is the one predicted with the last X, which makes the weights affine in X.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import Moments

from ..linalg.complementarity import SdcpInfo
from ..linalg.symmetric import svec
from .base import FlowState
from .central import CentralFlow, Tangent
from .phase_space import PhaseSpace


class LeapfrogFlow(PhaseSpace, CentralFlow):
    """The central flow in phase space for up to `capacity` critical eigenvalues."""

    STAGGERED: ClassVar[bool] = True

    def affine(self, y: FlowState, g: Float[Array, " n"], moments: Moments) -> tuple[FlowState, FlowState]:
        """Return nothing yet: the rates of a discrete step depend on its length, see `step`."""
        zero = jax.tree.map(jnp.zeros_like, y._replace(filtered=None))
        return zero, jax.tree.map(lambda x: jnp.zeros((len(moments.gradient_shift), *x.shape), x.dtype), zero)

    def step(
        self,
        y: FlowState,
        tangent: Tangent,
        X0: Float[Array, "k k"],
        dt: Float[Array, ""],
        relief: Float[Array, ""] | float = jnp.inf,
    ) -> tuple[FlowState, Float[Array, "k k"], SdcpInfo]:
        """Return the state after a step, X and the solver's report; `X0` is the last X in the tangent's basis."""
        displacement = self.displacement(y, tangent, X0, dt)
        nothing = jax.tree.map(jnp.zeros_like, y._replace(filtered=None))
        _, X, info = self.equilibrium(displacement, nothing, dt, X0, relief)
        moments = tangent.frame.moments_of(X)
        if self.optimizer.PIECEWISE:
            moments = moments._replace(signs_at=tangent.frame.moments_of(X0).gradient_variance)
        return self.leap(y, tangent.g, self.shift(moments), moments, dt), X, info

    def with_signs(self, tangent: Tangent, X: Float[Array, "k k"]) -> Tangent:
        """Return the tangent itself: a displacement has its signs already."""
        return tangent

    def displacement(self, y: FlowState, tangent: Tangent, X0: Float[Array, "k k"], dt: Float[Array, ""]) -> Tangent:
        """Return the tangent with the mean rates over the step, affine in X."""
        assert y.filtered is not None
        opt, hp, g, basis = self.optimizer, self.hp, tangent.g, tangent.frame.moments
        middle = y.slow | {"t": y.slow["t"] + dt}
        k = opt.leapfrog(middle, hp, dt)
        last = tangent.frame.moments_of(X0)
        driven = g + self.shift(last)                                         # (n,)
        m = y.filtered + dt * k.rate[:, None] * (driven - y.filtered)         # (F, n)
        read = middle | self.read(k, g, driven - m)
        # of the same order as the variance, the shift's own share (order "consistent") would spoil monotonicity: lagged
        none, at = jnp.zeros_like(last.gradient_variance), last.gradient_variance if opt.PIECEWISE else None
        lagged = last._replace(gradient_variance=none, signs_at=at)           # signs, too, are those of the last X
        still, late = opt.leap_slow(read, g, hp, dt), opt.leap_slow_moments(read, g, lagged, hp, dt)
        still = {name: still[name] + late[name] for name in still}
        only = basis._replace(gradient_shift=jnp.zeros_like(basis.gradient_shift))
        moved = jax.vmap(lambda q: opt.leap_slow_moments(read, g, q._replace(signs_at=at), hp, dt))(only)
        if opt.PIECEWISE:
            added = opt.leap_slow_moments(read, g, Moments(none, none, at), hp, dt)
            moved = {name: moved[name] - added[name] for name in moved}
        x = svec(X0)                                                          # (m,)
        predicted = {name: y.slow[name] + dt * (still[name] + jnp.tensordot(x, moved[name], axes=1)) for name in still}
        P = opt.preconditioner(middle | predicted, hp)                        # () or (n,)
        alone = y.filtered + dt * k.rate[:, None] * (g - y.filtered)          # (F, n)
        w_still = -k.w_rate * (k.weight @ alone / P + k.decay * y.w)          # (n,)
        w_moved = -k.push * self.shift(basis) / P                             # (m, n)
        one = jnp.ones_like(y.slow["t"])
        return tangent._replace(
            still=FlowState(w_still, still | {"t": one}),
            moved=FlowState(w_moved, moved | {"t": jnp.zeros((len(w_moved),), one.dtype)}),
        )

    def shift(self, moments: Moments) -> Float[Array, "... n"]:
        """Return what the oscillation adds to the gradient that moves the weights: nothing in the ablated flow."""
        return moments.gradient_shift if self.sharpness_reduction else jnp.zeros_like(moments.gradient_shift)

"""The stationary flow: slow states are at rest at every time, with the oscillation that keeps the edge there.

At rest the states are functions of the covariance, nu = q(g) + q'[Sigma], and so is P. With one P for each weight the
conditions H <= c P, Sigma >= 0, <Sigma, c P - H> = 0 then determine both: for RMSProp they are the optimality
conditions of a convex program, P = argmin tr P + |g|^2_{1/P} / eta^2 under H <= 2 P, with multiplier 2 Sigma / eta^2
(arXiv 2410.24206, part III; the multiplier is derived).

They are solved in factored form, Sigma = V V', by the self-consistent power iteration

    nu = q(g) + q'[|(H V)_i|^2],   P = P(nu),   V <- (c P)^{-1} H V,

whose fixed points are H V = c P V (derived): it is the optimizer's own dynamics, averaged, with its step size at rest.
Where H is positive semidefinite each iteration maximizes a lower bound of the dual program, so the dual never falls.
Cost: one Hessian-vector product per column. Columns beyond the number of critical directions die out.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_sym.interface import Moments

from .base import Flow, FlowState

SEED = 1e-4  # of the largest column of V: what is kept of directions that do not oscillate, in Sigma its square
QUIET = 1e-3  # of the gradient's norm: an oscillation whose gradient stays below is taken for none


class Rest(NamedTuple):
    """States at rest at given weights, and the oscillation that keeps the edge there.

    `slow` the states by name, `P ()` or `(n,)`, `V (n, k)` with Sigma = V V', `HV (n, k)`, `change ()` the relative
    change of V in the last iteration (in the P metric), `iterations ()`, and whether the tolerance was reached.
    """

    slow: dict[str, Array]
    P: Float[Array, " n"] | Float[Array, ""]
    V: Float[Array, "n k"]
    HV: Float[Array, "n k"]
    change: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class StationaryFlow(Flow):
    """The stationary flow of an optimizer with elementwise states: dw/dt = -P^{-1} (g + T[Sigma]/2) - decay w."""

    capacity: int = eqx.field(static=True)
    gradient_counts: bool = eqx.field(static=True, default=True)  # else the first term of the program alone

    def rest(
        self, y: FlowState, V: Float[Array, "n k"], tolerance: float = 1e-4, max_iterations: int = 40
    ) -> Rest:
        """Return the states at rest at the weights of y, starting from the factor V of the covariance."""
        opt, hp = self.optimizer, self.hp
        g = self.gradient(y.w) * self.gradient_counts                         # (n,)
        c = jnp.asarray(opt.threshold(y.slow, hp), y.w.dtype)                 # ()

        def evaluate(V: Array) -> tuple[dict[str, Array], Array, Array]:
            HV = self.hessian_vectors(y.w, V)                                 # (n, k)
            moments = Moments(jnp.zeros_like(g), jnp.sum(HV**2, axis=1))      # (n,), (n,)
            still = opt.stationary_state(y.slow, g, hp)
            moved = opt.stationary_state_moments(y.slow, g, moments, hp)
            slow = y.slow | {name: still[name] + moved[name] for name in opt.STATIONARY}
            P = jnp.broadcast_to(opt.preconditioner(slow, hp), g.shape)       # (n,)
            return slow, jnp.maximum(P, jnp.finfo(P.dtype).tiny), HV

        def iterate(carry: tuple) -> tuple:
            V, _, it = carry
            _, P, HV = evaluate(V)
            V_new = _seeded(HV / (c * P[:, None]), P)                         # (n, k)
            before, after, step = (jnp.sqrt(jnp.sum(P[:, None] * x**2)) for x in (V, V_new, V_new - V))
            loud = jnp.linalg.norm(HV) / (QUIET * jnp.linalg.norm(g))         # > 1: felt by the states
            quiet = (loud <= 1) & (after < before)
            # nothing oscillates: keep a seed, from which a direction that becomes critical grows again
            V_new = jnp.where(quiet, V_new / jnp.maximum(loud, jnp.finfo(P.dtype).tiny), V_new)
            return V_new, jnp.where(quiet, 0.0, step / (after + jnp.finfo(P.dtype).tiny)), it + 1

        start = (V, jnp.full((), jnp.inf, V.dtype), jnp.zeros((), jnp.int32))
        V, change, it = jax.lax.while_loop(
            lambda carry: (carry[1] > tolerance) & (carry[2] < max_iterations), iterate, start
        )
        slow, P, HV = evaluate(V)
        return Rest(slow, P, V, HV, change, it, change <= tolerance)

    def seed(self, y: FlowState, block: Float[Array, "n k"], share: float = QUIET) -> Float[Array, "n k"]:
        """Return a factor of the covariance to start from: a block as large as makes |H V| that share of |g|."""
        g, HV = self.gradient(y.w), self.hessian_vectors(y.w, block)          # (n,), (n, k)
        felt, size = jnp.linalg.norm(HV), share * jnp.linalg.norm(g)          # (), ()
        without = jnp.linalg.norm(y.w) / jnp.linalg.norm(block)               # () where there is no gradient
        return block * jnp.where((felt > 0) & (size > 0), size / jnp.where(felt > 0, felt, 1), without)

    def drift(self, y: FlowState, rest: Rest) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return dw/dt with the states at rest, and the predicted averaged squared gradient."""
        g = self.gradient(y.w)                                                # (n,)
        T = jax.lax.map(lambda v: self.problem.third_derivative(y.w, v), rest.V.T)   # (k, n)
        moments = Moments(jnp.sum(T, axis=0) / 2, jnp.sum(rest.HV**2, axis=1))
        decay = self.optimizer.filter_coefficients(rest.slow, self.hp).decay  # ()
        w_dot = -(g + moments.gradient_shift) / rest.P - decay * y.w          # (n,)
        return w_dot, self.optimizer.averaged_squared_gradient(g, moments)


def _seeded(V: Float[Array, "n k"], P: Float[Array, " n"]) -> Float[Array, "n k"]:
    """Return V with its smallest directions, in the metric of P, brought up to a seed.

    A direction that died out would otherwise have to grow from rounding errors when it becomes critical, and late.
    """
    x, C = jnp.linalg.eigh(V.T @ (P[:, None] * V))                            # (k,) rising, (k, k)
    size = jnp.sqrt(jnp.maximum(x, jnp.finfo(x.dtype).eps * x[-1]))           # (k,)
    factor = jnp.maximum(1, SEED * size[-1] / jnp.where(size > 0, size, 1))   # (k,)
    return V @ (C * factor) @ C.T

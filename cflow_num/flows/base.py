"""What every flow is: an optimizer's generated functions on a problem, and what one looks at along the way."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cflow_sym.interface import CompiledFlow

from ..linalg.eigenpairs import Eigenpairs, leading_eigenpairs
from ..linalg.precision import astype
from ..loss.problem import Problem
from ..optimizer.multiplier import growth, multipliers, rounding

AnyFlow = TypeVar("AnyFlow", bound="Flow")


class FlowState(NamedTuple):
    """Where a flow, or an optimizer, stands: weights `w (n,)` and the slow states by name.

    For an optimizer `slow` holds all its states. A flow in phase space has the F averages of the gradient, each
    normalized to g in the steady state, in `filtered`; its states live half a time step before the weights.
    """

    w: Float[Array, " n"]
    slow: dict[str, Array]
    filtered: Float[Array, "F n"] | None = None


class Observation(NamedTuple):
    """What is recorded at one step of any process.

    `loss ()`, `gradient_norm ()`, `effective_eigenvalues (K,)` of P^{-1} H with their eigenvectors `V (n, K)`,
    the slow states of shape `()` in `scalars`, whether the wanted eigenpairs `converged`, and the `threshold ()`. Of
    the oscillation along each eigenvector: its `growth (K,)`, log|mu|, and `offset (K,)`, how far the weights are from
    where the gradient along it vanishes (nan for eigenvalues below a tenth of the threshold).
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    effective_eigenvalues: Float[Array, " K"]
    V: Float[Array, "n K"]
    threshold: Float[Array, ""]
    scalars: dict[str, Array]
    converged: Bool[Array, ""]
    growth: Float[Array, " K"]
    offset: Float[Array, " K"]


class Flow(eqx.Module):
    """An optimizer on a problem. Arrays (data, hyperparameters) are leaves; the optimizer's code is static.

    Subclasses add the dynamics. `hp` maps hyperparameter names to arrays of shape `()` or to schedules. Loss, gradient
    and Hessian are those of the problem plus rho/2 |w|^2, with rho the optimizer's coupled weight decay.
    """

    problem: Problem
    hp: dict[str, Any]
    optimizer: CompiledFlow = eqx.field(static=True)

    def astype(self: AnyFlow, dtype: str) -> AnyFlow:
        """Return the flow with problem and hyperparameters in another precision."""
        if dtype == self.problem.w0.dtype.name:
            return self
        numbers = self.problem.astype(dtype), astype(self.hp, dtype)
        return eqx.tree_at(lambda flow: (flow.problem, flow.hp), self, numbers)

    def value(self, w: Float[Array, " n"]) -> Float[Array, ""]:
        """Return the loss, with the penalty of coupled weight decay."""
        return self.problem.value(w) + jnp.vdot(w, self.optimizer.l2_penalty(self.hp) * w) / 2

    def gradient(self, w: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the gradient of `value`."""
        return self.problem.gradient(w) + self.optimizer.l2_penalty(self.hp) * w

    def value_and_gradient(self, w: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Return `value` and its gradient."""
        pull = self.optimizer.l2_penalty(self.hp) * w                         # (n,)
        loss, g = self.problem.value_and_gradient(w)
        return loss + jnp.vdot(w, pull) / 2, g + pull

    def hessian_vectors(self, w: Float[Array, " n"], V: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return the Hessian of `value` times V."""
        rho = self.optimizer.l2_penalty(self.hp)                              # () or (n,)
        return self.problem.hessian_vectors(w, V) + (rho * V.T).T

    def stable_drift(self, y: FlowState) -> FlowState:
        """Return (dw/dt, ds/dt) without oscillation: dw/dt = -P^{-1} g - decay w."""
        g = self.gradient(y.w)                                                # (n,)
        y = self.settled(y, g)
        slow = self.optimizer.slow_drift(y.slow, g, self.hp)
        return FlowState(self.weights_drift(y, g), slow)

    def settled(self, y: FlowState, g: Float[Array, " n"]) -> FlowState:
        """Return y with the states that have no memory where they are at rest without oscillation."""
        if not self.optimizer.MEMORYLESS:
            return y
        rest = self.optimizer.stationary_state(y.slow, g, self.hp)
        return y._replace(slow=y.slow | {name: rest[name] for name in self.optimizer.MEMORYLESS})

    def weights_drift(self, y: FlowState, averaged_gradient: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return dw/dt = -v P^{-1} E[grad L] - decay w: with momentum the reduced flow, else v = 1."""
        P = self.step_preconditioner(y)                                       # () or (n,)
        decay = self.optimizer.filter_coefficients(y.slow, self.hp).decay     # () or (n,)
        return -self.speed(y) * averaged_gradient / P - decay * y.w

    def step_preconditioner(self, y: FlowState) -> Float[Array, ""] | Float[Array, " n"]:
        """Return P of the step: that of the edge too, unless groups of arrays have decays of their own."""
        P = getattr(self.optimizer, "step_preconditioner", self.optimizer.preconditioner)
        return P(y.slow, self.hp)

    def speed(self, y: FlowState) -> Float[Array, ""] | float:
        """Return v, by which momentum multiplies the steady step; 1 without."""
        if not self.optimizer.FILTERED_STATES:
            return 1.0
        return jnp.sum(self.optimizer.leapfrog(y.slow, self.hp, 0.0).weight)

    def observe(self, y: FlowState, V: Float[Array, "n K"], capacity: int) -> Observation:
        """Return what is recorded of the state y, refining the eigenvectors V of the last observation."""
        seen, g = self._seen(y, V)
        pairs = self.leading(y, V, seen.threshold, capacity)
        lam = pairs.eigenvalues                                               # (K,)
        return seen._replace(
            effective_eigenvalues=lam,
            V=pairs.U,
            converged=pairs.converged,
            growth=self._growth(y, lam),
            offset=offsets(g, pairs.U, lam, seen.threshold),
        )

    def leading(
        self, y: FlowState, V: Float[Array, "n K"], c: Float[Array, ""], capacity: int, others: float = math.inf
    ) -> Eigenpairs:
        """Return the leading effective eigenpairs at y, of the same sign as V; those below 0.9 c as exact as `others`.

        See `leading_eigenpairs`.
        """
        P = self.optimizer.preconditioner(y.slow, self.hp)                    # () or (n,)
        pairs = leading_eigenpairs(
            lambda V: self.hessian_vectors(y.w, V),
            P,
            V,
            wanted_above=0.9 * c,
            capacity=capacity,
            others=others,
        )
        along = jnp.sum(pairs.U * jnp.broadcast_to(P, y.w.shape)[:, None] * V, axis=0)    # (K,)
        return pairs._replace(U=pairs.U * jnp.where(along < 0, -1, 1))        # signs kept from step to step

    def observe_between(
        self, y: FlowState, V: tuple[Float[Array, "n K"], Float[Array, "n K"]], share: Array, lam: Float[Array, " K"]
    ) -> Observation:
        """Return the observation where eigenvalues are known, and eigenvectors before and after; it costs one gradient.

        `share` is how far y lies from the first towards the second.
        """
        seen, g = self._seen(y, V[0])
        before, after = (offsets(g, U, lam, seen.threshold) for U in V)       # (K,), (K,)
        offset = before + share * (after - before)
        return seen._replace(effective_eigenvalues=lam, growth=self._growth(y, lam), offset=offset)

    def _growth(self, y: FlowState, lam: Float[Array, " K"]) -> Float[Array, " K"]:
        return growth(multipliers(self.optimizer, y.slow, lam, self.hp))

    def observe_cheaply(self, y: FlowState, V: Float[Array, "n K"]) -> Observation:
        """Return the observation without eigenvalues (nan), which costs one gradient."""
        return self._seen(y, V)[0]

    def _seen(self, y: FlowState, V: Float[Array, "n K"]) -> tuple[Observation, Float[Array, " n"]]:
        """Return the observation without eigenvalues, and the gradient."""
        loss, g = self.value_and_gradient(y.w)
        P = self.optimizer.preconditioner(y.slow, self.hp)                    # () or (n,)
        c = jnp.asarray(self.optimizer.threshold(y.slow, self.hp), y.w.dtype)
        scalars: dict[str, Any] = {k: x for k, x in y.slow.items() if jnp.ndim(x) == 0 and k != "t"}
        scalars["optimization_speed"] = jnp.vdot(g, g / P)
        if jnp.ndim(P) == 0:
            scalars["effective_step_size"] = jnp.asarray(1 / P, y.w.dtype)
        scalars["rounding"] = rounding(y.w)
        unknown = jnp.full((V.shape[1],), jnp.nan, y.w.dtype)
        norm, true = jnp.linalg.norm(g), jnp.asarray(True)
        return Observation(loss, norm, unknown, V, c, scalars, true, unknown, unknown), g


def offsets(
    g: Float[Array, " n"], U: Float[Array, "n K"], lam: Float[Array, " K"], c: Float[Array, ""]
) -> Float[Array, " K"]:
    """Return how far the weights are, along each eigenvector, from where the gradient along it vanishes."""
    return jnp.linalg.norm(U, axis=0) * (U.T @ g) / jnp.where(lam > c / 10, lam, jnp.nan)

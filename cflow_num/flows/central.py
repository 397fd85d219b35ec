"""The central flow: the averaged equations, with the oscillation's covariance fixed by complementarity.

With U the critical generalized eigenvectors (H U = P U Lambda, U' P U = I) and Sigma = U X U', the averaged
dynamics are affine in X, and X is what keeps the edge slack A = U'(c P - H) U positive semidefinite:

    X >= 0,   A >= 0,   <X, A> = 0   for all time.

`linearize` evaluates everything costly at one point, `equilibrium` asks for complementarity after a displacement
from there. Time stepping (`time_stepping.py`) decides where and how often. Sources: arXiv 2410.24206; the
complementarity on the discrete step and several critical eigenvalues with state dynamics: derived.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cflow_sym.interface import Moments

from ..complementarity import SdcpInfo, solve_sdcp
from ..eigenpairs import Eigenpairs, leading_eigenpairs
from ..symmetric import smat, svec, svec_basis
from .base import Flow, FlowState

TRACKING_GAP = 0.1  # relative to c: curvature gradients are evaluated for eigenvalues above (1 - gap) c
ACTIVE_GAP = (
    0.03  # relative to c: eigenvalues that close, or arriving within two steps, enter the complementarity
)
RELIEF_RATE = 0.1  # relative to c, per unit time: how fast an infeasible start is pulled below the threshold


class Tangent(NamedTuple):
    """The averaged dynamics at one point, affine in svec(X), and their effect on the edge slack A.

    With m = k(k+1)/2: rates at X = 0 in `still`, linear parts in `moved` (leading axis m; for states at rest these are
    values, not rates), curvature gradients
    `D (m, n)`, eigenpairs in `pairs`, `slack (k,)` the diagonal of A, `c ()`, the gradient `g (n,)` and what X
    contributes to its moments in `moments` (leading axis m).
    """

    y: FlowState
    pairs: Eigenpairs
    D: Float[Array, "m n"]
    still: FlowState
    moved: FlowState
    slack: Float[Array, " k"]
    c: Float[Array, ""]
    near: Bool[Array, " k"]
    g: Float[Array, " n"]
    moments: Moments


class CentralFlow(Flow):
    """The central flow for up to `capacity` critical eigenvalues.

    With `sharpness_reduction=False` the *ablated* flow: the preconditioner adapts as in the central flow, so that
    the edge is kept (Scalar RMSProp: dw/dt = -(2/S) grad L), but the averaged gradient's T[Sigma]/2 is left out.
    States in `at_rest` have no dynamics: at every time they are where they stand still with the oscillation that
    keeps the edge (all that can, for the *stationary* flow; without it those that have no memory).
    """

    capacity: int = eqx.field(static=True)
    sharpness_reduction: bool = eqx.field(static=True, default=True)
    at_rest: tuple[str, ...] = eqx.field(static=True, default=())

    def linearize(
        self, y: FlowState, V: Float[Array, "n K"], eigenpairs=leading_eigenpairs, all_pairs: bool = False
    ) -> Tangent:
        """Evaluate eigenpairs (from the block V), curvature gradients and the affine dynamics at y.

        Curvature gradients are evaluated for eigenvalues near the threshold, or for all tracked with `all_pairs`.
        """
        opt, hp, k = self.optimizer, self.hp, min(self.capacity, V.shape[1])
        g = self.gradient(y.w)                                                # (n,)
        P = opt.preconditioner(y.slow, hp)                                    # () or (n,)
        c = jnp.asarray(opt.threshold(y.slow, hp), y.w.dtype)                 # ()
        pairs = eigenpairs(
            lambda V: self.hessian_vectors(y.w, V),
            P,
            V,
            wanted_above=(1 - TRACKING_GAP) * c,
            capacity=k,
        )
        U, HU, lam = pairs.U[:, :k], pairs.HU[:, :k], pairs.eigenvalues[:k]   # (n, k), (n, k), (k,)
        near = (lam > (1 - TRACKING_GAP) * c) | all_pairs                     # (k,)
        D = self.problem.curvature_gradients(y.w, U, jnp.sum(near))           # (m, n)

        E = svec_basis(k)                                                     # (m, k, k)
        variance = jnp.einsum("ni,mij,nj->mn", HU, E.astype(HU.dtype), HU)    # (m, n) diag(H U E U' H)
        moments = Moments(D / 2, variance)
        still, moved = self.affine(y, g, moments)
        return Tangent(y, pairs, D, still, moved, c - lam, c, near, g, moments)

    def affine(self, y: FlowState, g: Float[Array, " n"], moments: Moments) -> tuple[FlowState, FlowState]:
        """Return the rates at X = 0 and their linear parts, from the moments of the basis of X."""
        opt, hp = self.optimizer, self.hp
        slow = jax.vmap(lambda q: self._slow_moments(y, g, q))(moments)
        P = opt.preconditioner(y.slow, hp)                                    # () or (n,)
        shift = moments.gradient_shift                                        # (m, n)
        w_moved = -self.speed(y) * shift / P if self.sharpness_reduction else jnp.zeros_like(shift)
        slow_still = opt.slow_drift(y.slow, g, hp)
        if self.at_rest:
            rest = opt.stationary_state(y.slow, g, hp)
            slow_still = slow_still | {name: rest[name] for name in self.at_rest}
        return FlowState(self.weights_drift(y, g), slow_still), FlowState(w_moved, slow)

    def _slow_moments(self, y: FlowState, g: Float[Array, " n"], moments: Moments) -> dict[str, Array]:
        slow = self.optimizer.slow_drift_moments(y.slow, g, moments, self.hp)
        if self.at_rest:
            rest = self.optimizer.stationary_state_moments(y.slow, g, moments, self.hp)
            slow = slow | {name: rest[name] for name in self.at_rest}
        return slow

    def _rates(self, tangent: Tangent, offset: FlowState, weight: Float[Array, ""]) -> tuple[FlowState, FlowState]:
        """Return the rates at X = 0 and their linear parts; states at rest get there by the end of the displacement."""
        still, moved = dict(tangent.still.slow), dict(tangent.moved.slow)
        for name in self.at_rest:
            here = tangent.y.slow[name] + offset.slow[name]
            still[name] = (still[name] - here) / weight
            moved[name] = moved[name] / weight
        return tangent.still._replace(slow=still), tangent.moved._replace(slow=moved)

    def slack_change(self, tangent: Tangent, dy: FlowState) -> Float[Array, " m"]:
        """Return svec of the first-order change of A = U'(cP - H)U under dy: c U' dP U + dc I - <d_ij, dw>."""
        opt, hp, y = self.optimizer, self.hp, tangent.y
        k = tangent.slack.shape[0]
        U = tangent.pairs.U[:, :k]                                            # (n, k)
        dP = opt.preconditioner_drift(y.slow, dy.slow, hp)                    # () or (n,)
        dc = jnp.asarray(opt.threshold_drift(y.slow, dy.slow, hp), U.dtype)   # ()
        dP = jnp.broadcast_to(dP, (U.shape[0],))[:, None]                     # (n, 1)
        return svec(tangent.c * (U.T @ (dP * U)) + dc * jnp.eye(k, dtype=U.dtype)) - tangent.D @ dy.w

    def equilibrium(
        self,
        tangent: Tangent,
        offset: FlowState,
        weight: Float[Array, ""],
        X0: Float[Array, "k k"],
        relief: Float[Array, ""] | float = jnp.inf,
    ) -> tuple[FlowState, Float[Array, "k k"], SdcpInfo]:
        """Return the rates, X and the solver's report such that complementarity holds at y + offset + weight * rates.

        The slack after the displacement is A + B[X], affine in X; directions whose slack stays far above zero are
        left out. Where the point itself is infeasible by more than `relief`, only that much is corrected.
        """
        k = tangent.slack.shape[0]
        still, moved = self._rates(tangent, offset, weight)
        change = self.slack_change(tangent, _scaled_sum(offset, still, weight))           # (m,)
        B = weight * jax.vmap(lambda dy: self.slack_change(tangent, dy), out_axes=1)(moved)   # (m, m)
        slack = jnp.maximum(tangent.slack, -relief)                           # (k,)
        A = jnp.diag(slack) + smat(change)
        falling = jnp.maximum(-jnp.diag(smat(change)), 0.0)
        active = tangent.near & (tangent.slack < ACTIVE_GAP * tangent.c + 2 * falling)
        if (
            not self.sharpness_reduction
        ):  # U'U alone drives A: B has rank one, so X is not unique; take the smallest
            B = B + 1e-9 * jnp.max(jnp.abs(jnp.diag(B))) * jnp.eye(B.shape[0], dtype=B.dtype)
        X, info = solve_sdcp(A, B, X0, active)
        known = jnp.all(jnp.isfinite(change)) & jnp.all(jnp.isfinite(B))  # nan makes every direction look inactive
        info = info._replace(residual=jnp.where(known, info.residual, jnp.inf))
        x = svec(X)                                                           # (m,)
        rates = jax.tree.map(lambda f0, f1: f0 + jnp.tensordot(x, f1, axes=1), still, moved)
        return rates, X.reshape(k, k), info


def _scaled_sum(a: FlowState, b: FlowState, weight: Float[Array, ""]) -> FlowState:
    return jax.tree.map(lambda x, y: x + weight * y, a, b)

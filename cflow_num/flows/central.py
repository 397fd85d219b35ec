"""The central flow: the averaged equations, with the oscillation's covariance fixed by complementarity.

With U the critical generalized eigenvectors (H U = P U Lambda, U' P U = I) and Sigma = U X U', the averaged
dynamics are affine in X, and X is what keeps the edge slack A = U'(c P - H) U positive semidefinite:

    X >= 0,   A >= 0,   <X, A> = 0   for all time.

`frame` evaluates at one point what is costly and turns slowly (eigenvectors, curvature gradients), `tangent` the
dynamics at any point near it for one gradient, `equilibrium` asks for complementarity after a displacement from there.
Time stepping (`stepping/half_explicit.py`, `stepping/anchored.py`) decides where and how often. Sources: arXiv
2410.24206; the complementarity on the discrete step and several critical eigenvalues with state dynamics: derived.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cflow_sym.interface import Moments

from ..linalg.complementarity import SdcpInfo, solve_sdcp
from ..linalg.eigenpairs import leading_eigenpairs
from ..linalg.precision import product
from ..linalg.symmetric import congruence, diagonal_entries, outer_products, smat, svec
from .base import Flow, FlowState
from .frame import Frame

TRACKING_GAP = 0.1  # relative to c: curvature gradients are evaluated for eigenvalues above (1 - gap) c
ACTIVE_GAP = 0.03  # relative to c: eigenvalues that close, or arriving within two steps, enter the complementarity
OPENING = 0.05  # of the variance that complementarity asks for: an oscillation that large takes part in it
RELIEF_RATE = 0.1  # relative to c, per unit time: how fast an infeasible start is pulled below the threshold


class Tangent(NamedTuple):
    """The averaged dynamics at the point y, affine in svec(X), and the edge slack there, in a frame's basis U.

    Rates at X = 0 in `still`, linear parts in `moved` (leading axis m; for states at rest these are values, not
    rates), the edge slack U'(cP - H)U in `slack (k, k)`, U'PU in `metric (k, k)`, `c ()`, the gradient `g (n,)`.
    """

    frame: Frame
    y: FlowState
    still: FlowState
    moved: FlowState
    slack: Float[Array, "k k"]
    metric: Float[Array, "k k"]
    c: Float[Array, ""]
    g: Float[Array, " n"]


class CentralFlow(Flow):
    """The central flow for up to `capacity` critical eigenvalues.

    With `sharpness_reduction=False` the *ablated* flow: the preconditioner adapts as in the central flow, so that
    the edge is kept (Scalar RMSProp: dw/dt = -(2/S) grad L), but the averaged gradient's T[Sigma]/2 is left out.
    States in `at_rest` have no dynamics: at every time they are where they stand still with the oscillation that
    keeps the edge (all that can, for the *stationary* flow; without it those that have no memory).
    """

    STAGGERED: ClassVar[bool] = False  # whether states live half a short step before the weights
    capacity: int = eqx.field(static=True)
    sharpness_reduction: bool = eqx.field(static=True, default=True)
    at_rest: tuple[str, ...] = eqx.field(static=True, default=())

    def frame(
        self,
        y: FlowState,
        V: Float[Array, "n K"],
        eigenpairs=leading_eigenpairs,
        all_pairs: bool = False,
        arriving: Float[Array, " K"] | float = 0.0,
        gap: float = TRACKING_GAP,
        wanted: float = TRACKING_GAP,
        coupling: float = TRACKING_GAP,
    ) -> Frame:
        """Evaluate eigenpairs (from the block V) and curvature gradients at y, in the precision of V.

        Curvature gradients are evaluated for eigenvalues above (1 - gap) c once `arriving` is added to them, those
        between different ones above (1 - coupling) c, or for all tracked with `all_pairs`; eigenpairs above
        (1 - wanted) c must converge.
        """
        opt, hp, k = self.optimizer, self.hp, min(self.capacity, V.shape[1])
        P = jnp.asarray(opt.preconditioner(y.slow, hp), V.dtype)              # () or (n,)
        c = jnp.asarray(opt.threshold(y.slow, hp), y.w.dtype)                 # ()
        rising = jnp.broadcast_to(jnp.asarray(arriving, y.w.dtype), (V.shape[1],))        # (K,)
        later = jax.lax.cummax(rising, reverse=True)                          # (K,) also of those below
        coarse, w = self.astype(V.dtype.name), y.w.astype(V.dtype)
        pairs = eigenpairs(
            lambda V: coarse.hessian_vectors(w, V),
            P,
            V,
            wanted_above=((1 - wanted) * c - later).astype(V.dtype),
            capacity=k,
        )
        lam = pairs.eigenvalues.astype(c.dtype)                               # (K,)
        pairs = pairs._replace(eigenvalues=lam, residuals=pairs.residuals.astype(c.dtype))
        U, HU = pairs.U[:, :k], pairs.HU[:, :k]                               # (n, k), (n, k)

        def within(gap: float) -> Bool[Array, " k"]:
            above = ((lam + rising)[:k] > (1 - gap) * c) | all_pairs
            return jnp.cumsum(above[::-1])[::-1] > 0                          # the first ones up to the last such one

        near, coupled = within(gap), within(min(coupling, gap))               # (k,), (k,)
        D = coarse.problem.curvature_gradients(w, U, jnp.sum(near), jnp.sum(coupled))     # (m, n)
        return Frame(y, pairs, D, near, coupled, outer_products(U), outer_products(HU), U.T @ U)

    def tangent(self, frame: Frame, y: FlowState) -> Tangent:
        """Return the dynamics at y, one gradient; the Hessian there is linear from the frame's point on."""
        opt, hp = self.optimizer, self.hp
        lam = frame.pairs.eigenvalues[: frame.near.size]                      # (k,)
        g = self.gradient(y.w)                                                # (n,)
        P = opt.preconditioner(y.slow, hp)                                    # () or (n,)
        c = jnp.asarray(opt.threshold(y.slow, hp), y.w.dtype)                 # ()
        metric = frame.inner(P)                                               # (k, k)
        slack = c * metric - jnp.diag(lam) - frame.turned(y)                  # (k, k)
        still, moved = self.affine(y, g, frame.moments)
        return Tangent(frame, y, still, moved, slack, metric, c, g)

    def linearize(self, y: FlowState, V: Float[Array, "n K"], eigenpairs=leading_eigenpairs, all_pairs: bool = False):
        """Return the tangent at y in the frame of y itself."""
        return self.tangent(self.frame(y, V, eigenpairs, all_pairs), y)

    def affine(self, y: FlowState, g: Float[Array, " n"], moments: Moments) -> tuple[FlowState, FlowState]:
        """Return the rates at X = 0 and their linear parts, from the moments of the basis of X."""
        opt, hp = self.optimizer, self.hp
        unsigned = jnp.zeros_like(g) if opt.PIECEWISE else None  # signs as without oscillation
        slow = jax.vmap(lambda q: self._slow_moments(y, g, q._replace(signs_at=unsigned)))(moments)
        P = self.step_preconditioner(y)                                       # () or (n,)
        shift = moments.gradient_shift                                        # (m, n)
        w_moved = -self.speed(y) * shift / P if self.sharpness_reduction else jnp.zeros_like(shift)
        slow_still = opt.slow_drift(y.slow, g, hp)
        if self.at_rest:
            rest = opt.stationary_state(y.slow, g, hp)
            slow_still = slow_still | {name: rest[name] for name in self.at_rest}
        return FlowState(self.weights_drift(y, g), slow_still), FlowState(w_moved, slow)

    def with_signs(self, tangent: Tangent, X: Float[Array, "k k"]) -> Tangent:
        """Return the tangent with signs in the rates of states taken at the oscillation X, affine around it."""
        if not self.optimizer.PIECEWISE:
            return tangent
        y, g, basis = tangent.y, tangent.g, tangent.frame.moments
        none = jnp.zeros_like(g)                                              # (n,)
        at = tangent.frame.moments_of(X).gradient_variance                    # (n,)
        added = self._slow_moments(y, g, Moments(none, none, at))
        moved = jax.vmap(lambda q: self._slow_moments(y, g, q._replace(signs_at=at)))(basis)
        moved = {name: moved[name] - added[name] for name in moved}
        still = {name: tangent.still.slow[name] + added[name] for name in added}
        return tangent._replace(
            still=tangent.still._replace(slow=still), moved=tangent.moved._replace(slow=moved)
        )

    def _slow_moments(self, y: FlowState, g: Float[Array, " n"], moments: Moments) -> dict[str, Array]:
        slow = self.optimizer.slow_drift_moments(y.slow, g, moments, self.hp)
        if self.at_rest:
            rest = self.optimizer.stationary_state_moments(y.slow, g, moments, self.hp)
            slow = slow | {name: rest[name] for name in self.at_rest}
        return slow

    def rates(self, tangent: Tangent, offset: FlowState, weight: Float[Array, ""]) -> tuple[FlowState, FlowState]:
        """Return the rates at X = 0 and their linear parts; states at rest get there by the end of the displacement."""
        still, moved = dict(tangent.still.slow), dict(tangent.moved.slow)
        for name in self.at_rest:
            here = tangent.y.slow[name] + offset.slow[name]
            still[name] = (still[name] - here) / weight
            moved[name] = moved[name] / weight
        return tangent.still._replace(slow=still), tangent.moved._replace(slow=moved)

    def slack_change(self, tangent: Tangent, dy: FlowState) -> Float[Array, " m"]:
        """Return svec of the first-order change of A = U'(cP - H)U under dy: c U'dP U + dc U'PU - <d_ij, dw>."""
        frame = tangent.frame
        dP, dc = self._edge_drift(tangent, dy)                                # () or (n,), ()
        return svec(tangent.c * frame.inner(dP) + dc * tangent.metric) - product(frame.D, dy.w)

    def _edge_drift(self, tangent: Tangent, dy: FlowState) -> tuple[Array, Array]:
        """Return the first-order changes of preconditioner and threshold under dy."""
        opt, hp, slow, dtype = self.optimizer, self.hp, tangent.y.slow, dy.w.dtype
        dP, dc = opt.preconditioner_drift(slow, dy.slow, hp), opt.threshold_drift(slow, dy.slow, hp)
        return jnp.asarray(dP, dtype), jnp.asarray(dc, dtype)

    def equilibrium(
        self,
        tangent: Tangent,
        offset: FlowState,
        weight: Float[Array, ""],
        X0: Float[Array, "k k"],
        relief: Float[Array, ""] | float = jnp.inf,
    ) -> tuple[FlowState, Float[Array, "k k"], SdcpInfo]:
        """Return the rates, X and the solver's report such that complementarity holds at y + offset + weight * rates.

        The slack after the displacement is A + B[X], affine in X. The problem is solved in the eigenvectors of the
        slack before it: directions whose slack stays far above zero are left out, and where the point itself is
        infeasible by more than `relief`, only that much is corrected.
        """
        tangent = self.with_signs(tangent, X0)
        still, moved = self.rates(tangent, offset, weight)
        change = self.slack_change(tangent, scaled_sum(offset, still, weight))           # (m,)
        X, info = self.covariance(tangent, change, self.response(tangent, moved, weight), X0, relief)
        x = svec(X)                                                           # (m,)
        rates = jax.tree.map(lambda f0, f1: f0 + jnp.tensordot(x, f1, axes=1), still, moved)
        return rates, X, info

    def response(
        self,
        tangent: Tangent,
        moved: FlowState,
        weight: Float[Array, ""],
        D_moved: Float[Array, "m m"] | None = None,
    ) -> Float[Array, "m m"]:
        """Return B: svec(X) -> svec of what X adds to the slack within `weight`; `D_moved` replaces D moved.w'."""
        frame = tangent.frame
        dP, dc = jax.vmap(lambda dy: self._edge_drift(tangent, dy))(moved)    # (m,) or (m, n), (m,)
        edge = tangent.c * frame.inners(dP) + dc[:, None, None] * tangent.metric          # (m, k, k)
        D_moved = product(frame.D, moved.w.T) if D_moved is None else D_moved
        return weight * (svec(edge).T - D_moved)

    def covariance(
        self,
        tangent: Tangent,
        change: Float[Array, " m"],
        B: Float[Array, "m m"],
        X0: Float[Array, "k k"],
        relief: Float[Array, ""] | float = jnp.inf,
    ) -> tuple[Float[Array, "k k"], SdcpInfo]:
        """Return X, complementary to the slack at y with `change` and B[X] added (see `equilibrium`), and a report."""
        near, c = tangent.frame.near & self.free(tangent, change, B, relief), tangent.c
        apart = jnp.diag(jnp.where(near, 0, 10 * c))  # what is not near stays last and by itself
        slack, Q = jnp.linalg.eigh(jnp.where(near[:, None] & near, tangent.slack, 0) + apart) # (k,), (k, k)
        C = congruence(Q)                                                     # (m, m) svec(M) -> svec(Q'MQ)
        change, B = smat(C @ change), C @ B @ C.T                             # (k, k), (m, m)
        A = jnp.diag(jnp.maximum(slack, -relief)) + change                    # (k, k)
        falling = jnp.maximum(-jnp.diag(change), 0.0)                         # (k,)
        active = near & (slack < ACTIVE_GAP * c + 2 * falling)                # (k,)
        if (
            not self.sharpness_reduction
        ):  # U'U alone drives A: B has rank one, so X is not unique; take the smallest
            B = B + 1e-9 * jnp.max(jnp.abs(jnp.diag(B))) * jnp.eye(B.shape[0], dtype=B.dtype)
        X, info = solve_sdcp(A, B, Q.T @ X0 @ Q, active)
        known = jnp.all(jnp.isfinite(change)) & jnp.all(jnp.isfinite(B))  # nan makes every direction look inactive
        info = info._replace(residual=jnp.where(known, info.residual, jnp.inf))
        return Q @ X.reshape(Q.shape) @ Q.T, info                             # (k, k)

    def free(
        self, tangent: Tangent, change: Float[Array, " m"], B: Float[Array, "m m"], relief: Float[Array, ""] | float
    ) -> Bool[Array, " k"]:
        """Return which directions may oscillate: all, or where the onset is delayed those whose oscillation is there.

        It is once it has grown to a share of what complementarity would ask for in that direction alone.
        """
        l = tangent.frame.log_amplitude
        if l is None:
            return jnp.ones_like(tangent.frame.near)
        i = diagonal_entries(len(l))                                          # (k,)
        A = jnp.maximum(jnp.diag(tangent.slack), -relief) + change[i]         # (k,)
        return jnp.exp(2 * l) * B[i, i] >= OPENING * jnp.maximum(-A, 0)


def relieved(flow: CentralFlow, c: Float[Array, ""], dt: Float[Array, ""]) -> Float[Array, ""]:
    """Return how much of an infeasible point is corrected within dt; states at rest get to the edge at once."""
    return jnp.asarray(jnp.inf, c.dtype) if flow.at_rest else RELIEF_RATE * c * dt


def scaled_sum(a: FlowState, b: FlowState, weight: Float[Array, ""]) -> FlowState:
    """Return a + weight * b."""
    return jax.tree.map(lambda x, y: x + weight * y, a, b)

"""diffrax solvers for the constrained flow: complementarity is solved inside every stage of the step.

The central flow is a differential-algebraic system of index two, with the covariance X as multiplier of the
constraint A(w) = U'(cP - H)U >= 0. A half-explicit Runge-Kutta method (Hairer, Lubich, Roche, Lecture Notes in
Mathematics 1409, 1989) takes explicit stages, each with the X that makes the *next* point satisfy the constraint.
Arriving eigenvalues need no root finding: complementarity captures them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow, Tangent, relieved
from ..flows.frame import Frame
from ..flows.stationary import StationaryFlow
from ..linalg.eigenpairs import Eigenpairs, leading_eigenpairs
from ..linalg.precision import product
from ..linalg.symmetric import symmetric_part
from ..loss.polarization import directions_evaluated


class Log(NamedTuple):
    """What a step leaves behind, riding in the solution so that it can be saved; none of it feeds back.

    Of the last step, which may be shorter than one optimizer step:

    - `sigma_eigenvalues (k,)`: x in Sigma = V diag(x) V', averaged over the step, V'PV = I, falling;
    - `sigma_covectors (n, k)`: P V, so that (P V)' delta are the oscillation's coordinates;
    - `oscillation_energy ()`: <Sigma, H>; `squared_gradient (n,)`: predicted time average of the squared gradient.

    Of all steps since flow time was last a whole number:

    - `residual ()`: largest relative residual of the complementarity problems;
    - `untracked ()`: largest first eigenvalue beyond the capacity, relative to c;
    - `eigen_residual ()`: largest residual of a critical pair, relative to the largest eigenvalue, at least c;
    - `estimate ()`: largest error estimate of a step relative to its length (nan where the method has none).

    Since the start: `n_gradients`, `n_hessian_vectors`, `n_curvature_gradients ()`.
    """

    sigma_eigenvalues: Float[Array, " k"]
    sigma_covectors: Float[Array, "n k"]
    oscillation_energy: Float[Array, ""]
    squared_gradient: Float[Array, " n"]
    residual: Float[Array, ""]
    untracked: Float[Array, ""]
    eigen_residual: Float[Array, ""]
    estimate: Float[Array, ""]
    n_gradients: Float[Array, ""]
    n_hessian_vectors: Float[Array, ""]
    n_curvature_gradients: Float[Array, ""]


class LoggedState(NamedTuple):
    """A flow's state and the log of its last step: the `y` of the diffrax solution."""

    state: FlowState
    log: Log


class ConstrainedTerm(dfx.ODETerm):
    """A diffrax term whose `args` are the central flow itself; `vector_field` is the flow without oscillation."""

    def __init__(self):
        super().__init__(
            lambda t, y, flow: LoggedState(flow.stable_drift(y.state), jax.tree.map(jnp.zeros_like, y.log))
        )


class SolverState(NamedTuple):
    """What warm-starts the next step: the tracked block `V (n, K)` and the covariance `X (k, k)` in its basis."""

    V: Float[Array, "n K"]
    X: Float[Array, "k k"]


class _Stage(NamedTuple):
    """What the scan over stages carries."""

    point: FlowState
    rates: FlowState  # leading axis: stages
    V: Float[Array, "n K"]
    X: Float[Array, "k k"]
    mean_X: Float[Array, "k k"]
    log: Log


class AbstractHalfExplicit(dfx.AbstractSolver):
    """Half-explicit Runge-Kutta method for `CentralFlow`: data in the subclass, mechanism here.

    `weights[i]` holds the coefficients of the point after stage i; the last row are the weights of the step.
    """

    weights: ClassVar[tuple[tuple[float, ...], ...]]
    relieved: ClassVar[bool] = True  # whether an infeasible start is corrected at a bounded rate
    all_pairs: ClassVar[bool] = (
        False  # whether every curvature gradient is evaluated, near the threshold or not
    )
    eigenpairs: ClassVar[Callable[..., Eigenpairs]] = staticmethod(leading_eigenpairs)
    term_structure: ClassVar = ConstrainedTerm
    interpolation_cls: ClassVar = dfx.LocalLinearInterpolation

    def init(self, terms, t0, t1, y0: LoggedState, args: CentralFlow) -> SolverState:
        """Not used: `solver_state` is always passed, since the eigenvectors come from an observation."""
        raise NotImplementedError("pass solver_state=SolverState(V, X) to diffeqsolve")

    def func(self, terms, t0, y0, args):
        """Return the rates without oscillation."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0: LoggedState, args: CentralFlow, solver_state: SolverState, made_jump):
        """Take one step; the log of the new state describes it."""
        flow, h = args, jnp.asarray(t1 - t0, y0.state.w.dtype)
        rows = np.array(self.weights)                                         # (s, s) lower triangular
        n_stages = len(rows)
        start = _Stage(
            y0.state,
            jax.tree.map(lambda x: jnp.zeros((n_stages, *jnp.shape(x)), jnp.result_type(x)), y0.state),
            solver_state.V,
            solver_state.X,
            jnp.zeros_like(solver_state.X),
            fresh(y0.log, jnp.asarray(t0) == jnp.floor(t0)),
        )

        def stage(carry: _Stage, row: tuple[Array, Array, Array]) -> tuple[_Stage, None]:
            i, a, b = row  # stage, coefficients (s,), weight of X
            tangent = flow.linearize(carry.point, carry.V, type(self).eigenpairs, self.all_pairs)
            Q = turning(flow, tangent.frame.U, carry.V[:, : len(carry.X)], tangent.frame.y)  # (k, k)
            offset = jax.tree.map(
                lambda y, f, p: y + h * jnp.tensordot(a.at[i].set(0), f, axes=1) - p,
                y0.state,
                carry.rates,
                carry.point,
            )
            relief = relieved(flow, tangent.c, h / n_stages) if self.relieved else jnp.inf
            rates, X, info = flow.equilibrium(tangent, offset, h * a[i], Q @ carry.X @ Q.T, relief)
            all_rates = jax.tree.map(lambda f, r: f.at[i].set(r), carry.rates, rates)
            point = jax.tree.map(lambda y, f: y + h * jnp.tensordot(a, f, axes=1), y0.state, all_rates)
            mean_X = Q @ carry.mean_X @ Q.T + b * X
            log = logged(flow, carry.log, tangent, mean_X, info.residual)
            return _Stage(point, all_rates, tangent.frame.pairs.U, X, mean_X, log), None

        rows_and_weights = (jnp.arange(n_stages), jnp.asarray(rows, h.dtype), jnp.asarray(rows[-1], h.dtype))
        end, _ = jax.lax.scan(stage, start, rows_and_weights)
        y1 = LoggedState(end.point, end.log)
        error = self._error(y0, y1, end.rates, h)
        return y1, error, dict(y0=y0, y1=y1), SolverState(end.V, end.X), dfx.RESULTS.successful

    def _error(self, y0: LoggedState, y1: LoggedState, rates: FlowState, h: Array) -> Any:
        """Difference to the Euler step in the flow's state; the log counts nothing."""
        error = jax.tree.map(lambda y, z, f: z - y - h * f[0], y0.state, y1.state, rates)
        return LoggedState(error, jax.tree.map(jnp.zeros_like, y1.log))


class HalfExplicitHeun(AbstractHalfExplicit):
    """Half-explicit Heun: second order between events."""

    weights: ClassVar = ((1.0, 0.0), (0.5, 0.5))

    def order(self, terms):
        """Return 2."""
        return 2


class HalfExplicitEuler(AbstractHalfExplicit):
    """Half-explicit Euler: first order."""

    weights: ClassVar = ((1.0,),)

    def order(self, terms):
        """Return 1."""
        return 1


def turning(flow: CentralFlow, U: Float[Array, "n j"], V: Float[Array, "n k"], y: FlowState) -> Float[Array, "j k"]:
    """Return U'PV, which takes coordinates in the basis V to those in U, both P-orthonormal near y."""
    P = jnp.asarray(flow.optimizer.preconditioner(y.slow, flow.hp), V.dtype)  # () or (n,)
    return (U.T @ (jnp.broadcast_to(P, (len(V),))[:, None] * V)).astype(y.w.dtype)


def turn(flow: CentralFlow, frame: Frame, memory: SolverState) -> Float[Array, "k k"]:
    """Return the last X in the frame's basis."""
    Q = turning(flow, frame.U, memory.V[:, : len(memory.X)], frame.y)         # (k, k)
    return Q @ memory.X @ Q.T


def empty_log(flow: CentralFlow | StationaryFlow, y: FlowState) -> Log:
    """Return the log of a flow that has not moved yet."""
    k, zero = min(flow.capacity, y.w.size), jnp.zeros((), y.w.dtype)
    vector, matrix = jnp.zeros((k,), y.w.dtype), jnp.zeros((y.w.size, k), y.w.dtype)
    unknown = jnp.full_like(zero, jnp.nan)
    return Log(vector, matrix, zero, jnp.zeros_like(y.w), zero, zero, zero, unknown, zero, zero, zero)


def fresh(log: Log, whole: Array) -> Log:
    """Forget the largest residuals where a new unit of flow time begins."""
    names = ("residual", "untracked", "eigen_residual")
    estimate = jnp.where(whole, jnp.nan, log.estimate)
    return log._replace(**{name: jnp.where(whole, 0, getattr(log, name)) for name in names}, estimate=estimate)


def logged(flow: CentralFlow, log: Log, tangent: Tangent, X: Float[Array, "k k"], residual: Array) -> Log:
    """Return the log after a stage, with X (k, k) the mean covariance so far in the stage's basis."""
    log = counted(log, tangent.frame, tangent.c, 1, residual)
    return described(flow, log, tangent.frame, tangent.y, X, tangent.g)


def counted(log: Log, frame: Frame, c: Float[Array, ""], gradients: Array | int, residual: Array) -> Log:
    """Return the log with the cost and the residuals of one frame and of gradients taken in it."""
    pairs, k = frame.pairs, frame.near.size
    lam = pairs.eigenvalues                                                   # (K,)
    eigen_residual = jnp.max(jnp.where(frame.near, pairs.residuals[:k], 0)) / jnp.maximum(c, lam[0])
    return log._replace(
        residual=jnp.maximum(log.residual, residual),
        untracked=jnp.maximum(log.untracked, lam[k] / c) if lam.size > k else log.untracked,
        eigen_residual=jnp.maximum(log.eigen_residual, eigen_residual),
        n_gradients=log.n_gradients + jnp.asarray(gradients, c.dtype),
        n_hessian_vectors=log.n_hessian_vectors + jnp.asarray(pairs.n_hessian_vectors, c.dtype),
        n_curvature_gradients=log.n_curvature_gradients
        + directions_evaluated(k, jnp.sum(frame.near), jnp.sum(frame.coupled)).astype(c.dtype),
    )


def described(
    flow: CentralFlow, log: Log, frame: Frame, y: FlowState, X: Float[Array, "k k"], g: Float[Array, " n"]
) -> Log:
    """Return the log with the oscillation at y: X in the frame's basis, g the gradient there."""
    P = flow.optimizer.preconditioner(y.slow, flow.hp)                        # () or (n,)
    # eigenvectors in the metric of P at y: with U'PU = R'R, R X R' has the eigenvalues and U R^{-1} Y the vectors
    R = jnp.linalg.cholesky(frame.inner(P)).T                                 # (k, k)
    x, Y = jnp.linalg.eigh(symmetric_part(R @ X @ R.T))
    x, Y = x[::-1], Y[:, ::-1]                                                # falling
    V = product(frame.U, solve_triangular(R, Y))                              # (n, k)
    H = jnp.diag(frame.pairs.eigenvalues[: len(X)]) + frame.turned(y)         # (k, k) U'H(y)U
    return log._replace(
        sigma_eigenvalues=x,
        sigma_covectors=jnp.broadcast_to(P, (len(V),))[:, None] * V,
        oscillation_energy=jnp.sum(X * H),
        squared_gradient=flow.optimizer.averaged_squared_gradient(g, frame.moments_of(X)),
    )

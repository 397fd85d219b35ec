"""What a step leaves behind: its Sigma, residuals, and what it has cost, by unit of time."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow, Tangent
from ..flows.frame import Frame
from ..flows.stationary import StationaryFlow
from ..linalg.precision import product
from ..linalg.symmetric import symmetric_part
from ..loss.polarization import directions_evaluated


class Log(NamedTuple):
    """What a step leaves behind, riding in the solution so that it can be saved; none of it feeds back.

    Of the last step, which may be shorter than one optimizer step:

    - `sigma_eigenvalues (k,)`: x in Sigma = V diag(x) V', averaged over the step, V'PV = I, falling;
    - `sigma_covectors (n, k)`: P V, so that (P V)' delta are the oscillation's coordinates; `metric (n,)`: that P;
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
    metric: Float[Array, " n"]
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


def empty_log(flow: CentralFlow | StationaryFlow, y: FlowState) -> Log:
    """Return the log of a flow that has not moved yet."""
    k, zero = min(flow.capacity, y.w.size), jnp.zeros((), y.w.dtype)
    vector, matrix = jnp.zeros((k,), y.w.dtype), jnp.zeros((y.w.size, k), y.w.dtype)
    unknown = jnp.full_like(zero, jnp.nan)
    metric = jnp.ones_like(y.w)  # of no oscillation: any
    return Log(vector, matrix, metric, zero, jnp.zeros_like(y.w), zero, zero, zero, unknown, zero, zero, zero)


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
    metric = jnp.broadcast_to(P, (len(V),)).astype(V.dtype)                   # (n,)
    H = jnp.diag(frame.pairs.eigenvalues[: len(X)]) + frame.turned(y)         # (k, k) U'H(y)U
    return log._replace(
        sigma_eigenvalues=x,
        sigma_covectors=metric[:, None] * V,
        metric=metric,
        oscillation_energy=jnp.sum(X * H),
        squared_gradient=flow.optimizer.averaged_squared_gradient(g, frame.moments_of(X)),
    )

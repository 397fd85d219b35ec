"""What a flow evaluates in a frame, against dense matrices: on a cubic loss the Hessian really is linear from there on.

Every quantity is recomputed from the dense Hessian, the dense third derivative and the differentiated optimizer; from
the package come only the eigenvectors that its covariance refers to.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_sym.interface import Moments

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..stepping.log import Log, described, empty_log
from .witnesses import Edge, N, at_least, close, solve

MOVED = 0.05  # how far from the frame's point its tangent is taken
RELIEF = 0.05  # of the threshold
EXCESS = 1.2  # of the threshold, where a start is infeasible
WEIGHT = 0.5  # of a step


def plain_central(e: Edge, **changes: Any) -> CentralFlow:
    """Return the central flow without momentum's averages, with options changed."""
    flow = e.flow
    return CentralFlow(flow.problem, flow.hp, flow.optimizer, flow.capacity, at_rest=flow.at_rest, **changes)


def moved_from(e: Edge, seed: int) -> FlowState:
    """Return a state a little off the edge's, all slow states but the counter changed in proportion."""
    rng = np.random.default_rng(seed)
    slow = {
        name: x if name == "t" else x * (1 + MOVED * jnp.asarray(rng.uniform(-1, 1, x.shape)))
        for name, x in e.y.slow.items()
    }
    return e.y._replace(w=e.y.w + MOVED * jnp.asarray(rng.normal(size=N)), slow=slow)


@eqx.filter_jit
def _in_frame(flow: CentralFlow, y: FlowState, there: FlowState, V: Array, X: Array) -> tuple:
    frame = flow.frame(y, V)
    tangent = flow.tangent(frame, there)
    log: Log = described(flow, empty_log(flow, y), frame, there, X, tangent.g)
    return frame.U, tangent.slack, tangent.metric, frame.moments_of(X), log, tangent.g


def frame_is_dense(e: Edge, seed: int) -> None:
    """Away from the frame's point slack, metric, moments and the log of an oscillation are those of dense matrices."""
    flow, there, k = plain_central(e), moved_from(e, seed), e.k
    factor = np.random.default_rng(seed).normal(size=(k, k))
    X = np.zeros((flow.capacity, flow.capacity))
    X[:k, :k] = factor @ factor.T
    U, slack, metric, moments, log, g = _in_frame(flow, e.y, there, e.V, jnp.asarray(X))
    opt, hp, step = flow.optimizer, flow.hp, np.asarray(there.w - e.y.w)
    P = np.broadcast_to(opt.preconditioner(there.slow, hp), (N,))
    c, U, H = float(opt.threshold(there.slow, hp)), np.asarray(U)[:, :k], e.H + e.T @ step
    Sigma = U @ X[:k, :k] @ U.T
    close("the slack away from the frame", np.asarray(slack)[:k, :k], U.T @ (c * np.diag(P) - H) @ U, 1e-7)
    close("U'PU away from the frame", np.asarray(metric)[:k, :k], U.T @ (P[:, None] * U), 1e-8)
    close("T[Sigma]/2", moments.gradient_shift, np.einsum("ijk,ij->k", e.T, Sigma) / 2, 1e-7)
    variance = np.diag(e.H @ Sigma @ e.H)
    close("diag(H Sigma H)", moments.gradient_variance, variance, 1e-7)
    root = np.sqrt(P)[:, None]
    x = np.linalg.eigvalsh(root * Sigma * root.T)[::-1]
    close("the eigenvalues of Sigma in P", log.sigma_eigenvalues[:k], x[:k], 1e-7)
    covectors = np.asarray(log.sigma_covectors)[:, :k]
    close("the oscillation in its covectors", covectors.T @ Sigma @ covectors, np.diag(x[:k]), 1e-6)
    close("the predicted rise of the loss", log.oscillation_energy / 2, np.sum(Sigma * H) / 2, 1e-7)
    close("the predicted squared gradient", log.squared_gradient, np.asarray(g) ** 2 + variance, 1e-7)


def _slack_rate(e: Edge, rates: FlowState, U: np.ndarray) -> np.ndarray:
    opt, hp = e.flow.optimizer, e.flow.hp
    edge = lambda s: jnp.broadcast_to(opt.threshold(s, hp) * opt.preconditioner(s, hp), (N,))  # noqa: E731
    edge_dot = np.asarray(jax.jvp(edge, (e.y.slow,), (rates.slow,))[1])
    return U.T @ (np.diag(edge_dot) - np.einsum("ijk,k->ij", e.T, np.asarray(rates.w))) @ U


def an_infeasible_start_is_relieved(e: Edge) -> None:
    """Above the threshold only as much is taken back as the relief allows, and complementarity holds with that."""
    relief = RELIEF * e.c
    rates, X, _, U = solve(e.flow, e.y, e.V, WEIGHT, relief)
    U, X = np.asarray(U)[:, : e.k], np.asarray(X)[: e.k, : e.k]
    _complementary(e, X, -relief * np.eye(e.k) + WEIGHT * _slack_rate(e, rates, U))


def the_ablated_flow_keeps_the_edge_alone(e: Edge) -> None:
    """Without the shift of the gradient an oscillation moves the states, as ever, and not the weights."""
    shift, variance = jnp.asarray(e.b)[None], jnp.asarray(e.b)[None] ** 2
    with_shift, without = (
        plain_central(e, sharpness_reduction=on).affine(e.y, jnp.asarray(e.b), Moments(shift, variance))[1]
        for on in (True, False)
    )
    speed = float(e.flow.speed(e.y))
    close("what a shift adds to dw/dt", with_shift.w[0], -speed * e.b / e.P, 1e-9)
    close("what it adds to dw/dt of the ablated flow", without.w, jnp.zeros_like(without.w))
    for name, value in with_shift.slow.items():
        close(f"what it adds to d{name}/dt of the ablated flow", without.slow[name], value)


def _complementary(e: Edge, X: np.ndarray, A: np.ndarray) -> None:
    size = float(np.linalg.norm(X) * np.linalg.norm(e.T) + np.linalg.norm(A) + e.c)
    at_least("the smallest eigenvalue of X", np.linalg.eigvalsh(X)[0], -1e-12 * np.abs(X).max())
    at_least("the smallest eigenvalue of A", np.linalg.eigvalsh(A)[0], -1e-6 * size)
    at_least("minus |<X, A>|", -abs(float(np.trace(X @ A))), -1e-6 * (float(np.linalg.norm(X)) + 1e-12) * size)

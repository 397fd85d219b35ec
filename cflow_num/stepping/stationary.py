"""A diffrax solver for the stationary flow, whose states are at rest instead of having dynamics of their own."""

from __future__ import annotations

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..flows.base import FlowState
from ..flows.stationary import Rest, StationaryFlow
from .base import AbstractConstrained, SolverState
from .log import Log, LoggedState, fresh


class StationaryHeun(AbstractConstrained):
    """Explicit Heun for `StationaryFlow`: the states are brought to rest at both ends of the step.

    H <= c P at rest bounds the curvature that the step sees, so that steps of at most 2/c are stable.
    """


    def step(self, terms, t0, t1, y0: LoggedState, args: StationaryFlow, solver_state: SolverState, made_jump):
        """Take one step; the log of the new state describes it."""
        flow, h = args, jnp.asarray(t1 - t0, y0.state.w.dtype)
        begun = fresh(y0.log, jnp.asarray(t0) == jnp.floor(t0))

        def stage(carry, weight):  # both stages in one program
            w, V, first, log = carry
            y = FlowState(w, y0.state.slow | {"t": y0.state.slow["t"] + (1 - weight) * 2 * h})
            rest = flow.rest(y, V)
            w_dot, squared = flow.drift(y, rest)  # (n,), (n,)
            w = jnp.where(weight == 1, w + h * w_dot, y0.state.w + h * (first + w_dot) / 2)
            return (w, rest.V, w_dot, _logged_rest(flow, log, rest, squared)), None

        start = (y0.state.w, solver_state.V, jnp.zeros_like(y0.state.w), begun)
        (w, V, _, log), _ = jax.lax.scan(stage, start, jnp.asarray([1.0, 0.5], h.dtype))
        slow = y0.state.slow | {"t": y0.state.slow["t"] + h}
        rest = flow.rest(FlowState(w, slow), V, max_iterations=2)
        y1 = LoggedState(FlowState(w, rest.slow), log)
        error = jax.tree.map(jnp.zeros_like, y1)
        return y1, error, dict(y0=y0, y1=y1), SolverState(rest.V, solver_state.X), dfx.RESULTS.successful


def _logged_rest(flow: StationaryFlow, log: Log, rest: Rest, squared_gradient: Array) -> Log:
    """Return the log after a stage: eigenvalues of Sigma = V V' in the P metric are those of V' P V."""
    k = log.sigma_eigenvalues.shape[0]
    PV = rest.P[:, None] * rest.V  # (n, K)
    x, Y = jnp.linalg.eigh(rest.V.T @ PV)
    x, Y = x[::-1], Y[:, ::-1]  # falling
    unit = Y / jnp.sqrt(jnp.maximum(x, jnp.finfo(x.dtype).tiny))  # (K, K)
    hvp = rest.V.shape[1] * (rest.iterations + 1)
    return log._replace(
        sigma_eigenvalues=x[:k],
        sigma_covectors=(PV @ unit)[:, :k],
        metric=jnp.broadcast_to(rest.P, log.metric.shape),
        oscillation_energy=jnp.sum(rest.V * rest.HV),
        squared_gradient=squared_gradient,
        residual=jnp.maximum(log.residual, rest.change),
        n_gradients=log.n_gradients + 2,
        n_hessian_vectors=log.n_hessian_vectors + hvp,
        n_curvature_gradients=log.n_curvature_gradients + rest.V.shape[1],
    )

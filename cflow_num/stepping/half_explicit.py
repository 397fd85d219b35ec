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
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow, relieved
from ..linalg.eigenpairs import Eigenpairs, leading_eigenpairs
from .base import AbstractConstrained, SolverState, turning
from .log import Log, LoggedState, fresh, logged


class _Stage(NamedTuple):
    """What the scan over stages carries."""

    point: FlowState
    rates: FlowState  # leading axis: stages
    V: Float[Array, "n K"]
    X: Float[Array, "k k"]
    mean_X: Float[Array, "k k"]
    log: Log


class AbstractHalfExplicit(AbstractConstrained):
    """Half-explicit Runge-Kutta method for `CentralFlow`: data in the subclass, mechanism here.

    `weights[i]` holds the coefficients of the point after stage i; the last row are the weights of the step.
    """

    weights: ClassVar[tuple[tuple[float, ...], ...]]
    relieved: ClassVar[bool] = True  # whether an infeasible start is corrected at a bounded rate
    all_pairs: ClassVar[bool] = False  # whether every curvature gradient is evaluated, near the threshold or not
    eigenpairs: ClassVar[Callable[..., Eigenpairs]] = staticmethod(leading_eigenpairs)

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


class HalfExplicitEuler(AbstractHalfExplicit):
    """Half-explicit Euler: first order."""

    weights: ClassVar = ((1.0,),)

    def order(self, terms):
        """Return 1."""
        return 1

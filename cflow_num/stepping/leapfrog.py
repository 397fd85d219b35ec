"""A diffrax solver for the central flow in phase space: one complementarity problem for each leapfrog step."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import diffrax as dfx
import jax
import jax.numpy as jnp

from ..flows.central import relieved
from ..flows.leapfrog import LeapfrogFlow
from ..linalg.eigenpairs import Eigenpairs, leading_eigenpairs
from .base import AbstractConstrained, SolverState, turn
from .log import LoggedState, fresh, logged


class Leapfrog(AbstractConstrained):
    """The leapfrog: one evaluation of gradient, eigenpairs and curvature gradients a step."""

    all_pairs: ClassVar[bool] = False  # whether every curvature gradient is evaluated, near the threshold or not
    eigenpairs: ClassVar[Callable[..., Eigenpairs]] = staticmethod(leading_eigenpairs)

    def step(self, terms, t0, t1, y0: LoggedState, args: LeapfrogFlow, solver_state: SolverState, made_jump):
        """Take one step; the log of the new state describes it."""
        flow, y, dt = args, y0.state, jnp.asarray(t1 - t0, y0.state.w.dtype)
        tangent = flow.linearize(y, solver_state.V, type(self).eigenpairs, self.all_pairs)
        X0 = turn(flow, tangent.frame, solver_state)
        end, X, info = flow.step(y, tangent, X0, dt, relieved(flow, tangent.c, dt))
        log = fresh(y0.log, jnp.asarray(t0) == jnp.floor(t0))
        y1 = LoggedState(end, logged(flow, log, tangent, X, info.residual))
        error = jax.tree.map(jnp.zeros_like, y1)
        return y1, error, dict(y0=y0, y1=y1), SolverState(tangent.frame.pairs.U, X), dfx.RESULTS.successful

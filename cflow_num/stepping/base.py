"""What methods for constrained flows share: the term, the memory of eigenvectors and multipliers, and how they turn."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import ACTIVE_GAP, CentralFlow
from ..flows.frame import Frame
from .log import LoggedState


class ConstrainedTerm(dfx.ODETerm):
    """A diffrax term whose `args` are the central flow itself; `vector_field` is the flow without oscillation."""

    def __init__(self):
        super().__init__(
            lambda t, y, flow: LoggedState(flow.stable_drift(y.state), jax.tree.map(jnp.zeros_like, y.log))
        )


class AbstractConstrained(dfx.AbstractSolver):
    """What the solvers of constrained flows share. Their memory is always passed: it comes from an observation."""

    crowded: ClassVar[float] = 1.5 * ACTIVE_GAP  # relative to c: eigenvalues that near beyond the capacity make it grow
    term_structure: ClassVar = ConstrainedTerm
    interpolation_cls: ClassVar = dfx.LocalLinearInterpolation

    @staticmethod
    def fits(n: int, capacity: int) -> bool:
        """Return whether it can track so many eigenvalues of n weights."""
        return True

    def init(self, terms, t0, t1, y0: LoggedState, args: Any) -> Any:
        """Not used: `solver_state` is always passed."""
        raise NotImplementedError("pass solver_state= to diffeqsolve")

    def func(self, terms, t0, y0, args):
        """Return the rates without oscillation."""
        return terms.vf(t0, y0, args)

    def order(self, terms):
        """Return 2."""
        return 2


class SolverState(NamedTuple):
    """What warm-starts the next step: the tracked block `V (n, K)` and the covariance `X (k, k)` in its basis."""

    V: Float[Array, "n K"]
    X: Float[Array, "k k"]

    def grown(self, new: Float[Array, "n j"], more: int) -> SolverState:
        """Return the state with `new` directions in its block and `more` critical ones, which do not oscillate yet."""
        return SolverState(jnp.concatenate([self.V, new], 1), jnp.pad(self.X, (0, more)))


def turning(flow: CentralFlow, U: Float[Array, "n j"], V: Float[Array, "n k"], y: FlowState) -> Float[Array, "j k"]:
    """Return U'PV, which takes coordinates in the basis V to those in U, both P-orthonormal near y."""
    P = jnp.asarray(flow.optimizer.preconditioner(y.slow, flow.hp), V.dtype)  # () or (n,)
    return (U.T @ (jnp.broadcast_to(P, (len(V),))[:, None] * V)).astype(y.w.dtype)


def turn(flow: CentralFlow, frame: Frame, memory: SolverState) -> Float[Array, "k k"]:
    """Return the last X in the frame's basis."""
    Q = turning(flow, frame.U, memory.V[:, : len(memory.X)], frame.y)         # (k, k)
    return Q @ memory.X @ Q.T

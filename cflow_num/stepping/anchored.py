"""The anchored solver: what turns slowly is evaluated once in the middle of a long step, cheap sub-steps do the rest.

Eigenvectors, eigenvalues and curvature gradients change over tens of units of flow time, the gradient over half a
unit. One step of length H therefore (1) extrapolates the path to its middle, (2) evaluates a `Frame` there, (3) takes
sub-steps with fresh gradients in that frame, in which the Hessian is linear. Anchoring at the middle makes it second
order. The frame's change from step to step is the error estimate; it does not depend on the choice of eigenvectors.
Lengths are in the metric of P, in which every array of the parameters counts alike, whatever its unit.
Where the path bends within a short step, what its second stage corrects counts as well. Frames are evaluated in single
precision, which changes the path by less than their eigenvectors' tolerance does.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow, ShortStep, share
from ..flows.frame import Frame
from ..linalg.eigenpairs import leading_eigenpairs
from ..linalg.precision import product
from . import amplitudes
from .base import ConstrainedTerm, turning
from .log import Log, LoggedState, counted, described, fresh
from .pace import FEW, LONGEST

CURVED = 30.0  # weight in the estimate of the square of what a second stage corrects, relative to the short step
FRAMES = "float32"  # precision of frames; the flow's own is that of the weights
FEW_WEIGHTS = 500  # fewer gain nothing by it: single operations cost more than numbers
SEVERITY = 20  # weight in the estimate of an eigenvalue's relative excess over the threshold
SPLIT = 8  # from that capacity on, short steps with at most half as many near eigenvalues are compiled apart
EXCESS = 0.005  # relative to c: that much further above the threshold than at the last frame is no surprise
GAP = 0.03  # relative to c: eigenvalues that near, or due within the step, have curvature gradients
COUPLING = 0.03  # relative to c: that near also between different ones; half of it where there are more than a few
WANTED = 0.1  # relative to c: eigenpairs that near must converge
CROWDED = 0.02  # relative to c: eigenvalues that near beyond the capacity make it grow
TOLERANCE = 2e-3  # of eigenpairs; 3e-3 with half as long steps (with that a path with few is off by 2.1e-4, not 1.7e-4)


class AnchoredState(NamedTuple):
    """What the next step starts from.

    The tracked block `V (n, K)`, in whose precision frames are evaluated, the covariance `X (k, k)` in its basis, the
    last `rates` of weights and slow states, the oscillation's last `shift` of the gradient and its last `pull` on
    log P, `(n,)`, the effective `eigenvalues (K,)` in the middle of the last step, how fast they were rising there,
    `rise (K,)`, and how long ago that was, `age ()`, and how fast the block was turning out of its own span,
    `turning (n, K)`. Where the onset is delayed, `log_amplitude (K,)` along the block.
    """

    V: Float[Array, "n K"]
    X: Float[Array, "k k"]
    rates: FlowState
    shift: Float[Array, " n"]
    pull: Float[Array, " n"]
    eigenvalues: Float[Array, " K"]
    rise: Float[Array, " K"]
    age: Float[Array, ""]
    turning: Float[Array, "n K"]
    log_amplitude: Float[Array, " K"] | None = None

    @classmethod
    def start(
        cls, y: FlowState, V: Float[Array, "n K"], k: int, log_amplitude: Float[Array, " K"] | None = None
    ) -> AnchoredState:
        """Return the memory of a flow that has not moved."""
        still = jax.tree.map(jnp.zeros_like, y._replace(filtered=None))
        nothing, unknown = jnp.zeros_like(y.w), jnp.zeros(V.shape[1], y.w.dtype)
        age = jnp.asarray(jnp.inf, y.w.dtype)
        X, turning = jnp.zeros((k, k), y.w.dtype), jnp.zeros_like(V)
        return cls(V, X, still, nothing, nothing, unknown, unknown, age, turning, log_amplitude)


class _Nodes(NamedTuple):
    """Where the flow is at whole units: state, mean X of the short step that ends there, gradient; leading axis."""

    y: FlowState
    X: Float[Array, "u k k"]
    g: Float[Array, "u n"]


class AtUnits(dfx.AbstractLocalInterpolation):
    """Reads off a step at whole units of flow time: nothing is interpolated."""

    t0: Any
    t1: Any
    nodes: _Nodes
    start: LoggedState
    log: Log
    flow: CentralFlow
    frame: Frame

    def evaluate(self, t0, t1=None, left=True):
        """Return the logged state at the whole unit `t0`, or the difference between that at `t1` and it."""
        if t1 is not None:
            return jax.tree.map(lambda a, b: b - a, self.evaluate(t0), self.evaluate(t1))
        ahead = jnp.asarray(t0 - self.t0)

        def inside() -> LoggedState:
            y, X, g = jax.tree.map(lambda x: x[_unit(ahead)], self.nodes)
            return LoggedState(y, described(self.flow, self.log, self.frame, y, X, g))

        return jax.lax.cond(ahead <= 0, lambda: self.start, inside)


def _padded(X: Float[Array, "... s s"], size: int) -> Float[Array, "... k k"]:
    """Return matrices with zeros appended up to `size` rows and columns."""
    more = size - X.shape[-1]
    return jnp.pad(X, [(0, 0)] * (X.ndim - 2) + [(0, more), (0, more)])


def _unit(ahead: Array) -> Array:
    """Return the place among the nodes of what lies `ahead` of the start of a step: the unit that it ends."""
    return jnp.clip(jnp.ceil(ahead - 1e-4).astype(jnp.int32) - 1, 0, LONGEST - 1)


class Anchored(dfx.AbstractSolver):
    """Frames at the middle of steps, short steps in between (Heun; with momentum the leapfrog)."""

    h: Any  # longest short step
    term_structure: ClassVar = ConstrainedTerm
    interpolation_cls: ClassVar = AtUnits

    def init(self, terms, t0, t1, y0: LoggedState, args: CentralFlow) -> AnchoredState:
        """Not used: `solver_state` is always passed, since the eigenvectors come from an observation."""
        raise NotImplementedError("pass solver_state=AnchoredState.start(...) to diffeqsolve")

    def func(self, terms, t0, y0, args):
        """Return the rates without oscillation."""
        return terms.vf(t0, y0, args)

    def order(self, terms):
        """Return 2."""
        return 2

    def error_order(self, terms):
        """Return 2, the order of the estimate: that of a step anchored at its start."""
        return 2

    def step(self, terms, t0, t1, y0: LoggedState, args: CentralFlow, solver_state: AnchoredState, made_jump):
        """Take one step; the log of the new state describes it."""
        flow, memory, y = args, solver_state, y0.state
        H = jnp.asarray(t1 - t0, y.w.dtype)
        arriving = jnp.maximum(memory.rise, 0) * H                            # (K,) twice that from middle to end
        middle = extrapolated(flow, y, memory.rates, H / 2)
        known = jnp.isfinite(memory.age)
        apart = jnp.where(known, memory.age + H / 2, 1)                       # () from the last frame to this one
        V = memory.V + apart.astype(memory.V.dtype) * memory.turning          # (n, K)
        frame = _frame(flow, middle, V, arriving)
        Q = turning(flow, frame.U, memory.V[:, : len(memory.X)], middle)      # (k, k)
        X = Q @ memory.X @ Q.T                                                # (k, k)
        l = memory.log_amplitude if memory.log_amplitude is None else amplitudes.transported(
            flow, frame, memory.V, memory.log_amplitude
        )                                                                     # (K,)
        end, nodes, l = self._short_steps(flow, frame, y, X, memory.rates, H, l)

        c = jnp.asarray(flow.optimizer.threshold(end.y.slow, flow.hp), y.w.dtype)
        log = fresh(y0.log, jnp.asarray(t0) == jnp.floor(t0))
        log = counted(log, frame, c, self._count(H) * flow.GRADIENTS, end.residual)
        y1 = LoggedState(end.y, described(flow, log, frame, end.y, end.mean_X, end.g))
        shift, pull = influence(flow, frame, end)                             # (n,), (n,)
        lam = frame.pairs.eigenvalues                                         # (K,)
        rise = jnp.where(known, (lam - memory.eigenvalues) / apart, 0)
        U = frame.pairs.U                                                     # (n, K)
        inside = product(memory.V, turning(flow, U, memory.V, middle).T)      # (n, K)
        out = jnp.where(known, (U - inside) / apart, 0).astype(U.dtype)       # (n, K)
        after = AnchoredState(U, end.X, end.rates, shift, pull, lam, rise, H / 2, out, l)
        above = 1 + SEVERITY * jnp.maximum(lam[0] / c - 1, 0)                 # () infeasible: X changes fast
        turned, pulled = above * (shift - memory.shift), above * (pull - memory.pull) * end.rates.w
        foreseen = known if l is None else False  # before a delayed onset eigenvalues pass
        last = jnp.where(foreseen, memory.eigenvalues[0] / c, jnp.inf)
        surprise = jnp.maximum(lam[0] / c - jnp.maximum(last, 1) - EXCESS, 0) # () more above than at the last frame
        other = jnp.hypot(4 * SEVERITY * surprise, CURVED * end.correction**2)            # ()
        error = self._error(flow, y0, y1, H, turned, pulled, other)
        log = log._replace(estimate=jnp.fmax(log.estimate, jnp.linalg.norm(error.state.w)))
        y1 = y1._replace(log=y1.log._replace(estimate=log.estimate))
        return y1, error, dict(nodes=nodes, start=y0, log=log, flow=flow, frame=frame), after, dfx.RESULTS.successful

    def _count(self, H: Array) -> Array:
        """Return the number of short steps in a step of length H."""
        return jnp.ceil(H / self.h - 1e-4).astype(jnp.int32)

    def _short_steps(
        self,
        flow: CentralFlow,
        frame: Frame,
        y: FlowState,
        X: Float[Array, "k k"],
        rates: FlowState,
        H: Array,
        l: Float[Array, " K"] | None,
    ) -> tuple[ShortStep, _Nodes, Float[Array, " K"] | None]:
        """Return the last of the short steps, all nodes and the log-amplitudes after them.

        Where half of the capacity does, only that is computed.
        """
        count, k = self._count(H), len(X)
        h = H / count.astype(H.dtype)

        def taken(size: int) -> tuple[ShortStep, _Nodes, Float[Array, " K"] | None]:
            some, X0 = frame.leading(size), X[:size, :size]
            responses = flow.responses(some, h)                               # (2, m, m)

            def advance(i: Array, carry: tuple) -> tuple:
                last, nodes, l = carry
                here = some if l is None else some._replace(log_amplitude=l[:size])
                now = flow.short_step(here, last.y, last.X, h, responses)
                l = l if l is None else amplitudes.grown(flow, some, now.y, now.X, l, h)
                now = now._replace(
                    residual=jnp.maximum(last.residual, now.residual),
                    correction=jnp.maximum(last.correction, now.correction),
                )
                unit, node = _unit((i + 1).astype(H.dtype) * h), _Nodes(now.y, now.mean_X, now.g)
                return now, jax.tree.map(lambda units, x: units.at[unit].set(x), nodes, node), l

            nothing = jnp.zeros((), y.w.dtype)
            start = ShortStep(y, X0, X0, rates, jnp.zeros_like(y.w), nothing, nothing)
            node = _Nodes(y, X0, start.g)
            nowhere = jax.tree.map(lambda x: jnp.zeros((LONGEST, *jnp.shape(x)), jnp.result_type(x)), node)
            end, nodes, after = jax.lax.fori_loop(0, count, advance, (start, nowhere, l))
            whole = partial(_padded, size=k)
            return end._replace(X=whole(end.X), mean_X=whole(end.mean_X)), nodes._replace(X=whole(nodes.X)), after

        if k < SPLIT:
            return taken(k)
        return jax.lax.cond(jnp.sum(frame.near) <= k // 2, lambda: taken(k // 2), lambda: taken(k))

    def _error(
        self,
        flow: CentralFlow,
        y0: LoggedState,
        y1: LoggedState,
        H: Array,
        turned: Float[Array, " n"],
        pulled: Float[Array, " n"],
        other: Float[Array, ""],
    ) -> LoggedState:
        """Return what the oscillation's change since the last frame moves in half a step, relative to the step.

        Added is `other`: what the leading eigenvalue was off, and what a short step needed to be corrected by. Only
        the size of the error counts.
        """
        P = flow.optimizer.preconditioner(y1.state.slow, flow.hp)             # () or (n,)
        moved = H / 2 * (flow.speed(y1.state) * turned / P + H / 2 * pulled)  # (n,)
        size = share(moved, y1.state.w - y0.state.w, P)                       # ()
        nothing, n = jax.tree.map(jnp.zeros_like, y1), moved.size
        w = jnp.full_like(moved, jnp.hypot(size, other) / np.sqrt(n).item())
        return nothing._replace(state=nothing.state._replace(w=w))


def _frame(flow: CentralFlow, y: FlowState, V: Float[Array, "n K"], arriving: Float[Array, " K"]) -> Frame:
    """Evaluate a frame at y from the block V, for eigenvalues that rise by `arriving` within the step."""
    few = flow.capacity <= FEW
    return flow.frame(
        y,
        V,
        arriving=arriving,
        gap=GAP,
        coupling=COUPLING if few else COUPLING / 2,
        wanted=WANTED,
        eigenpairs=partial(leading_eigenpairs, tolerance=TOLERANCE if few else 1.5 * TOLERANCE),
    )


def influence(flow: CentralFlow, frame: Frame, end: ShortStep) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return what the oscillation does: its shift of the gradient, and its part of d(log P)/dt."""
    moments = frame.moments_of(end.mean_X)
    slow = end.y.slow
    drift = flow.optimizer.slow_drift_moments(slow, end.g, moments, flow.hp)
    P = flow.optimizer.preconditioner(slow, flow.hp)                          # () or (n,)
    pull = flow.optimizer.preconditioner_drift(slow, drift, flow.hp) / P      # () or (n,)
    return moments.gradient_shift, jnp.broadcast_to(pull, end.g.shape)


def extrapolated(flow: CentralFlow, y: FlowState, rates: FlowState, ahead: Array) -> FlowState:
    """Return the state so far ahead at constant rates; where that has no preconditioner, the state itself."""
    there = jax.tree.map(lambda x, f: x + ahead * f, y._replace(filtered=None), rates)
    P = flow.optimizer.preconditioner(there.slow, flow.hp)                    # () or (n,)
    good = jnp.all(jnp.isfinite(P) & (P > 0))
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), there, y._replace(filtered=None))













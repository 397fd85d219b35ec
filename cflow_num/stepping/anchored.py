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
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..flows.frame import Frame
from ..linalg.eigenpairs import leading_eigenpairs
from ..linalg.precision import product
from . import amplitudes
from .base import AbstractConstrained, turning
from .log import Log, LoggedState, counted, described, fresh
from .pace import LONGEST
from .short_steps import ShortStep, gradients_of, share, short_steps
from .tuning import TUNING


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
        return cls(
            V=V,
            X=jnp.zeros((k, k), y.w.dtype),
            rates=still,
            shift=nothing,
            pull=nothing,
            eigenvalues=unknown,
            rise=unknown,
            age=jnp.asarray(jnp.inf, y.w.dtype),
            turning=jnp.zeros_like(V),
            log_amplitude=log_amplitude,
        )

    def grown(self, new: Float[Array, "n j"], more: int) -> AnchoredState:
        """Return the memory with `new` directions in its block and `more` critical ones, of which nothing is known."""
        extra, l = (0, new.shape[1]), self.log_amplitude
        return self._replace(
            V=jnp.concatenate([self.V, new.astype(self.V.dtype)], 1),
            X=jnp.pad(self.X, (0, more)),
            eigenvalues=jnp.pad(self.eigenvalues, extra),
            rise=jnp.pad(self.rise, extra),
            turning=jnp.pad(self.turning, ((0, 0), extra)),
            log_amplitude=l if l is None else jnp.pad(l, extra, constant_values=amplitudes.NOTHING),
        )

    @property
    def known(self) -> Array:
        """Whether there was a frame before, from which changes can be told."""
        return jnp.isfinite(self.age)


class Middle(NamedTuple):
    """The middle of a step: its frame, what is remembered in the frame's basis, the time since the last frame."""

    y: FlowState
    frame: Frame
    X: Float[Array, "k k"]
    log_amplitude: Float[Array, " K"] | None
    apart: Float[Array, ""]


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


class Anchored(AbstractConstrained):
    """Frames at the middle of steps, short steps in between (Heun; with momentum the leapfrog)."""

    h: Any  # longest short step
    crowded: ClassVar = TUNING.crowded
    interpolation_cls: ClassVar = AtUnits

    def error_order(self, terms):
        """Return 2, the order of the estimate: that of a step anchored at its start."""
        return 2

    def step(self, terms, t0, t1, y0: LoggedState, args: CentralFlow, solver_state: AnchoredState, made_jump):
        """Take one step; the log of the new state describes it."""
        return *self._step(t0, t1, y0, args, solver_state), dfx.RESULTS.successful

    @eqx.filter_jit
    def _step(
        self, t0: Any, t1: Any, y0: LoggedState, flow: CentralFlow, memory: AnchoredState
    ) -> tuple[LoggedState, LoggedState, dict[str, Any], AnchoredState]:
        """Return state, error, what the units are read off and the memory; compiled, so that it is traced once."""
        y = y0.state
        H = jnp.asarray(t1 - t0, y.w.dtype)
        middle = _middle(flow, y, memory, H)
        end, nodes, l = self._short_steps(flow, middle, y, memory.rates, H)

        frame, c = middle.frame, jnp.asarray(flow.optimizer.threshold(end.y.slow, flow.hp), y.w.dtype)
        log = fresh(y0.log, jnp.asarray(t0) == jnp.floor(t0))
        log = counted(log, frame, c, self._count(H) * gradients_of(flow), end.residual)
        y1 = LoggedState(end.y, described(flow, log, frame, end.y, end.mean_X, end.g))
        after = _remembered(flow, memory, middle, end, l, H)
        error = _error(flow, memory, after, y0, y1, end, c, H)
        log = log._replace(estimate=jnp.fmax(log.estimate, jnp.linalg.norm(error.state.w)))
        y1 = y1._replace(log=y1.log._replace(estimate=log.estimate))
        return y1, error, dict(nodes=nodes, start=y0, log=log, flow=flow, frame=frame), after

    def _count(self, H: Array) -> Array:
        """Return the number of short steps in a step of length H."""
        return jnp.ceil(H / self.h - 1e-4).astype(jnp.int32)

    def _short_steps(
        self,
        flow: CentralFlow,
        middle: Middle,
        y: FlowState,
        rates: FlowState,
        H: Array,
    ) -> tuple[ShortStep, _Nodes, Float[Array, " K"] | None]:
        """Return the last of the short steps, all nodes and the log-amplitudes after them.

        Where half of the capacity does, only that is computed.
        """
        frame, X, l = middle.frame, middle.X, middle.log_amplitude
        count, k = self._count(H), len(X)
        h = H / count.astype(H.dtype)

        def taken(size: int) -> tuple[ShortStep, _Nodes, Float[Array, " K"] | None]:
            some, X0 = frame.leading(size), X[:size, :size]
            steps = short_steps(flow, some, h)

            def advance(i: Array, carry: tuple) -> tuple:
                last, nodes, l = carry
                here = some if l is None else some._replace(log_amplitude=l[:size])
                now = steps._replace(frame=here).step(last.y, last.X)
                l = l if l is None else amplitudes.grown(flow, some, now.y, now.X, l, h)
                now = now._replace(
                    residual=jnp.maximum(last.residual, now.residual),
                    correction=jnp.maximum(last.correction, now.correction),
                )
                unit, node = _unit((i + 1).astype(H.dtype) * h), _Nodes(now.y, now.mean_X, now.g)
                return now, jax.tree.map(lambda units, x: units.at[unit].set(x), nodes, node), l

            start = ShortStep.none(y, X0, rates)
            node = _Nodes(y, X0, start.g)
            nowhere = jax.tree.map(lambda x: jnp.zeros((LONGEST, *jnp.shape(x)), jnp.result_type(x)), node)
            end, nodes, after = jax.lax.fori_loop(0, count, advance, (start, nowhere, l))
            whole = partial(_padded, size=k)
            return end._replace(X=whole(end.X), mean_X=whole(end.mean_X)), nodes._replace(X=whole(nodes.X)), after

        if k < TUNING.split:
            return taken(k)
        return jax.lax.cond(jnp.sum(frame.near) <= k // 2, lambda: taken(k // 2), lambda: taken(k))


def _middle(flow: CentralFlow, y: FlowState, memory: AnchoredState, H: Float[Array, ""]) -> Middle:
    """Extrapolate to the middle of a step, evaluate the frame there and turn what is remembered into its basis."""
    arriving = jnp.maximum(memory.rise, 0) * H                                # (K,) twice that from middle to end
    there = extrapolated(flow, y, memory.rates, H / 2)
    apart = jnp.where(memory.known, memory.age + H / 2, 1)                    # () from the last frame to this one
    V = memory.V + apart.astype(memory.V.dtype) * memory.turning              # (n, K)
    frame = _frame(flow, there, V, arriving)
    Q = turning(flow, frame.U, memory.V[:, : len(memory.X)], there)           # (k, k)
    l = memory.log_amplitude                                                  # (K,)
    l = l if l is None else amplitudes.transported(flow, frame, memory.V, l)
    return Middle(there, frame, Q @ memory.X @ Q.T, l, apart)


def _remembered(
    flow: CentralFlow,
    memory: AnchoredState,
    middle: Middle,
    end: ShortStep,
    l: Float[Array, " K"] | None,
    H: Float[Array, ""],
) -> AnchoredState:
    """Return what the next step starts from."""
    pairs, apart = middle.frame.pairs, middle.apart
    shift, pull = influence(flow, middle.frame, end)                          # (n,), (n,)
    lam, U = pairs.eigenvalues, pairs.U                                       # (K,), (n, K)
    rise = jnp.where(memory.known, (lam - memory.eigenvalues) / apart, 0)     # (K,)
    inside = product(memory.V, turning(flow, U, memory.V, middle.y).T)        # (n, K)
    out = jnp.where(memory.known, (U - inside) / apart, 0)                    # (n, K)
    return AnchoredState(
        V=U,
        X=end.X,
        rates=end.rates,
        shift=shift,
        pull=pull,
        eigenvalues=lam,
        rise=rise,
        age=H / 2,
        turning=out.astype(U.dtype),
        log_amplitude=l,
    )


def _error(
    flow: CentralFlow,
    memory: AnchoredState,
    after: AnchoredState,
    y0: LoggedState,
    y1: LoggedState,
    end: ShortStep,
    c: Float[Array, ""],
    H: Float[Array, ""],
) -> LoggedState:
    """Return what the oscillation's change since the last frame moves in half a step, relative to the step.

    Added is what the leading eigenvalue was off, and what a short step needed to be corrected by. Only the size of the
    error counts.
    """
    first, foreseen = after.eigenvalues[0], memory.known if after.log_amplitude is None else False
    above = 1 + TUNING.severity * jnp.maximum(first / c - 1, 0)               # () infeasible: X changes fast
    turned, pulled = above * (after.shift - memory.shift), above * (after.pull - memory.pull) * end.rates.w
    last = jnp.where(foreseen, memory.eigenvalues[0] / c, jnp.inf)            # () before a delayed onset they pass
    surprise = jnp.maximum(first / c - jnp.maximum(last, 1) - TUNING.excess, 0)           # () above the last frame's
    other = jnp.hypot(4 * TUNING.severity * surprise, TUNING.curved * end.correction**2)  # ()
    P = flow.optimizer.preconditioner(y1.state.slow, flow.hp)                 # () or (n,)
    moved = H / 2 * (flow.speed(y1.state) * turned / P + H / 2 * pulled)      # (n,)
    size = share(moved, y1.state.w - y0.state.w, P)                           # ()
    nothing, n = jax.tree.map(jnp.zeros_like, y1), moved.size
    w = jnp.full_like(moved, jnp.hypot(size, other) / np.sqrt(n).item())
    return nothing._replace(state=nothing.state._replace(w=w))


def _frame(flow: CentralFlow, y: FlowState, V: Float[Array, "n K"], arriving: Float[Array, " K"]) -> Frame:
    """Evaluate a frame at y from the block V, for eigenvalues that rise by `arriving` within the step."""
    return flow.frame(
        y,
        V,
        arriving=arriving,
        gap=TUNING.gap,
        coupling=TUNING.coupling_for(flow.capacity),
        wanted=TUNING.wanted,
        eigenpairs=partial(leading_eigenpairs, tolerance=TUNING.tolerance_for(flow.capacity)),
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

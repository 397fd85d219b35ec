"""Short steps within a frame: exponential Heun for the central flow, the leapfrog in phase space.

In a frame the Hessian is linear, so a short step costs its gradients and small matrices.
"""

from __future__ import annotations

from functools import partial, singledispatch
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow, Tangent, relieved, scaled_sum
from ..flows.frame import Frame
from ..flows.leapfrog import LeapfrogFlow
from ..linalg.exponential import LinearPart, phi1, phi2
from ..linalg.symmetric import svec


class ShortStep(NamedTuple):
    """Where a short step in a frame ends: state, X at its end and its mean, rates at the end, gradient, residual.

    `correction` is by what part of its length the second stage moved the end of the step: 0 where there is none.
    """

    y: FlowState
    X: Float[Array, "k k"]
    mean_X: Float[Array, "k k"]
    rates: FlowState
    g: Float[Array, " n"]
    residual: Float[Array, ""]
    correction: Float[Array, ""]

    @classmethod
    def none(cls, y: FlowState, X: Float[Array, "k k"], rates: FlowState) -> ShortStep:
        """Return what stands before the first one."""
        nothing = jnp.zeros((), y.w.dtype)
        return cls(y, X, X, rates, jnp.zeros_like(y.w), nothing, nothing)


class ExponentialHeun(NamedTuple):
    """Short steps of length h: exponential Heun, half-explicit, two gradients each.

    With Z the linear part and f the rate of the weights: w1 = w0 + h phi1(Z) f(w0), then
    w1 + phi2(Z) (h f(w1) - h f(w0) + Z (w1 - w0)), with complementarity at both ends. Without Z the method of Heun.
    `B (2, m, m)` are the responses of both stages at the frame's point (see `CentralFlow.equilibrium`).
    """

    flow: CentralFlow
    frame: Frame
    h: Float[Array, ""]
    Z: LinearPart
    B: Float[Array, "2 m m"]

    gradients = 2

    @classmethod
    def within(cls, flow: CentralFlow, frame: Frame, h: Float[Array, ""]) -> ExponentialHeun:
        """Return the steps in a frame."""
        Z, tangent = linear_part(flow, frame, h), flow.tangent(frame, frame.y)
        B = [_response(flow, tangent, Z, _part(h, second), partial(_phi, second)) for second in (False, True)]
        return cls(flow, frame, h, Z, jnp.stack(B))

    def step(self, y: FlowState, X: Float[Array, "k k"]) -> ShortStep:
        """Advance by h from y, with the last X."""
        flow, h, Z = self.flow, self.h, self.Z

        def stage(carry: tuple[FlowState, FlowState, ShortStep], now: tuple[Array, Float[Array, "m m"]]):
            (point, first, last), (second, B) = carry, now
            part, phi = _part(h, second), partial(_phi, second)
            tangent = flow.with_signs(flow.tangent(self.frame, point), last.X)
            if flow.optimizer.PIECEWISE:  # signs as they are by now, so not the responses of the frame
                B = _response(flow, tangent, Z, part, phi)
            offset = jax.tree.map(lambda a, f, p: a + (h - part) * f - p, y, first, point)
            offset = offset._replace(w=jnp.zeros_like(y.w))
            still, _ = flow.rates(tangent, offset, part)
            back = jnp.where(second, Z.rates(point.w - y.w) / h, 0)           # (K,)
            still = still._replace(w=Z.function(phi, tangent.still.w - jnp.where(second, first.w, 0), back))
            change = flow.slack_change(tangent, scaled_sum(offset, still, part))          # (m,)
            X, info = flow.covariance(tangent, change, B, last.X, relieved(flow, tangent.c, h / 2))
            moved = _moved(flow, tangent, X, part)
            rates = jax.tree.map(jnp.add, still, moved._replace(w=Z.function(phi, moved.w)))
            end = jax.tree.map(lambda p, d, f: p + d + part * f, point, offset, rates)
            rates = rates._replace(w=tangent.still.w + moved.w)
            mean_X = jnp.where(second, (last.X + X) / 2, X)
            residual = jnp.maximum(last.residual, info.residual)
            P = flow.optimizer.preconditioner(y.slow, flow.hp)                # () or (n,)
            off = share(end.w - point.w, end.w - y.w, P)                      # ()
            correction = jnp.where(second, off, last.correction)
            return (end, rates, ShortStep(end, X, mean_X, rates, tangent.g, residual, correction)), None

        still = jax.tree.map(jnp.zeros_like, y)
        start = ShortStep.none(y, X, still)
        (_, _, end), _ = jax.lax.scan(stage, (y, still, start), (jnp.array([False, True]), self.B))
        return end


class Leaps(NamedTuple):
    """Short steps of length h in phase space: leapfrogs, one gradient each."""

    flow: LeapfrogFlow
    frame: Frame
    h: Float[Array, ""]

    gradients = 1

    def step(self, y: FlowState, X: Float[Array, "k k"]) -> ShortStep:
        """Advance by h from y, with the last X."""
        flow, h = self.flow, self.h
        tangent = flow.tangent(self.frame, y)
        end, X, info = flow.step(y, tangent, X, h, relieved(flow, tangent.c, h))
        rates = jax.tree.map(lambda a, b: (b - a) / h, y._replace(filtered=None), end._replace(filtered=None))
        return ShortStep(end, X, X, rates, tangent.g, info.residual, jnp.zeros_like(info.residual))


@singledispatch
def short_steps(flow: CentralFlow, frame: Frame, h: Float[Array, ""]) -> ExponentialHeun | Leaps:
    """Return short steps of length h in a frame, by the class of the flow."""
    return ExponentialHeun.within(flow, frame, h)


@short_steps.register
def _leaps(flow: LeapfrogFlow, frame: Frame, h: Float[Array, ""]) -> Leaps:
    return Leaps(flow, frame, h)


def gradients_of(flow: CentralFlow) -> int:
    """Return how many gradients a short step takes."""
    return (Leaps if isinstance(flow, LeapfrogFlow) else ExponentialHeun).gradients


def linear_part(flow: CentralFlow, frame: Frame, h: Float[Array, ""]) -> LinearPart:
    """Return Z = h speed P^{-1}H on the tracked eigenvectors of a frame."""
    P = flow.optimizer.preconditioner(frame.y.slow, flow.hp)                  # () or (n,)
    U, lam = frame.pairs.U, frame.pairs.eigenvalues                           # (n, K), (K,)
    PU = jnp.broadcast_to(P, (len(U),)).astype(U.dtype)[:, None] * U          # (n, K)
    return LinearPart(U, PU, h * flow.speed(frame.y) * lam)


def share(v: Float[Array, " n"], of: Float[Array, " n"], P: Float[Array, " n"] | Float[Array, ""]) -> Float[Array, ""]:
    """Return |v| / |of| in the metric of P, 0 where `of` is zero.

    >>> float(share(jnp.array([3.0, 4.0]), jnp.array([0.0, 10.0]), jnp.ones(())))
    0.5
    """
    root = jnp.sqrt(P)                                                        # () or (n,)
    length = jnp.linalg.norm(root * of)                                       # ()
    return jnp.where(length > 0, jnp.linalg.norm(root * v) / jnp.where(length > 0, length, 1), 0)


def _response(flow: CentralFlow, tangent: Tangent, Z: LinearPart, part: Float[Array, ""], phi) -> Float[Array, "m m"]:
    """Return B of one stage, see `CentralFlow.response`."""
    D, nothing = tangent.frame.D, jax.tree.map(jnp.zeros_like, tangent.y)
    _, moved = flow.rates(tangent, nothing, part)
    D_moved = Z.between(phi, D, moved.w.astype(D.dtype)).astype(part.dtype)   # (m, m)
    return flow.response(tangent, moved, part, D_moved)


def _moved(flow: CentralFlow, tangent: Tangent, X: Float[Array, "k k"], weight: Float[Array, ""]) -> FlowState:
    """Return what X adds to the rates: their linear parts, for the moments of this X alone."""
    nothing = jax.tree.map(jnp.zeros_like, tangent.y)
    if flow.optimizer.PIECEWISE:
        moved = flow.rates(tangent, nothing, weight)[1]
        return jax.tree.map(lambda f: jnp.tensordot(svec(X), f, axes=1), moved)
    moments = jax.tree.map(lambda q: q[None], tangent.frame.moments_of(X))
    moved = flow.affine(tangent.y, tangent.g, moments)[1]
    return jax.tree.map(lambda f: f[0], flow.rates(tangent._replace(moved=moved), nothing, weight)[1])


def _part(h: Float[Array, ""], second: Array | bool) -> Float[Array, ""]:
    """Return the weight of a stage's rates in the next point."""
    return jnp.where(second, h / 2, h)


def _phi(second: Array | bool, z: Array) -> Array:
    return jnp.where(second, 2 * phi2(z), phi1(z))

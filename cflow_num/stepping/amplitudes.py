"""Log-amplitudes of the oscillation carried along a central flow whose onset is delayed.

In X's coordinates: the amplitude along the tracked eigenvector u is |u'P delta|, and its square the entry of X. Below
the threshold it decays by |mu(lambda)| a step, down to what rounding adds in one; above it grows, and the direction
takes part in the complementarity once it is large (`CentralFlow.free`). Where eigenvectors turn or change places,
amplitudes follow by overlap: the square along the new vector is the sum of those along the old ones, weighted by the
squared overlaps. Derived.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..flows.frame import Frame
from ..optimizer.multiplier import growth, multipliers, rounding
from .base import turning

NOTHING = -100.0  # log-amplitude of what is below any rounding


def initial(flow: CentralFlow, y: FlowState, U: Float[Array, "n K"], lam: Float[Array, " K"]) -> Float[Array, " K"]:
    """Return the log-amplitudes at the start: the distance to where the gradient vanishes along each eigenvector."""
    far = jnp.abs(U.T @ flow.gradient(y.w)) / jnp.where(lam > 0, lam, jnp.inf)            # (K,)
    l = jnp.log(jnp.maximum(far, jnp.finfo(far.dtype).tiny))                  # (K,)
    mu = multipliers(flow.optimizer, y.slow, lam, flow.hp)                    # (K,)
    return jnp.maximum(_alternating(mu, l), floor(flow, y, U))


def transported(
    flow: CentralFlow, frame: Frame, V: Float[Array, "n K"], l: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Return the log-amplitudes along a frame's eigenvectors from those along the last ones, V."""
    overlap = turning(flow, frame.pairs.U, V, frame.y) ** 2                   # (K, K)
    top = jnp.max(l)                                                          # ()
    squares = overlap @ jnp.exp(2 * (l - top))                                # (K,)
    return top + jnp.log(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny)) / 2


def grown(
    flow: CentralFlow,
    frame: Frame,
    y: FlowState,
    X: Float[Array, "k k"],
    l: Float[Array, " K"],
    h: Float[Array, ""],
) -> Float[Array, " K"]:
    """Return the log-amplitudes after a short step of length h that ends at y with the covariance X.

    Where complementarity holds an oscillation, that is the amplitude; one that it lets go decays from there.
    """
    size, U = frame.near.size, frame.pairs.U                                  # U (n, K)
    P = flow.optimizer.preconditioner(y.slow, flow.hp)                        # () or (n,)
    metric = jnp.sum(U * jnp.broadcast_to(P, (len(U),))[:, None] * U, axis=0) # (K,)
    turned = jnp.diag(frame.turned(y))                                        # (k,)
    lam = frame.pairs.eigenvalues.at[:size].add(turned) / metric              # (K,)
    mu = multipliers(flow.optimizer, y.slow, lam, flow.hp)                    # (K,)
    rate = growth(mu)                                                         # (K,)
    x = jnp.zeros_like(l).at[:size].set(jnp.diag(X))                          # (K,)
    held = x > jnp.finfo(x.dtype).eps * jnp.max(x)                            # (K,) not by rounding alone
    kept = jnp.maximum(jnp.log(jnp.where(held, x, 1)) / 2, l + h * jnp.minimum(rate, 0))
    l = _alternating(mu, jnp.where(held, kept, l + h * rate))                 # (K,)
    return jnp.maximum(l, floor(flow, y, U))


def floor(flow: CentralFlow, y: FlowState, U: Float[Array, "n K"]) -> Float[Array, " K"]:
    """Return the logarithm of what rounding adds to each amplitude in a step."""
    P = flow.optimizer.preconditioner(y.slow, flow.hp)                        # () or (n,)
    return jnp.log(rounding(y.w) * jnp.linalg.norm(jnp.broadcast_to(P, (len(U),))[:, None] * U, axis=0))


def _alternating(mu: Complex[Array, " K"], l: Float[Array, " K"]) -> Float[Array, " K"]:
    """Return nothing where the multiplier is positive: what is left there does not oscillate."""
    return jnp.where((jnp.imag(mu) == 0) & (jnp.real(mu) > 0), NOTHING, l)

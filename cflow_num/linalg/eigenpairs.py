"""Leading generalized eigenpairs H U = P U Lambda, U' P U = I, warm-started, with a residual certificate.

A block method is not a choice but a need: at the edge of stability the critical eigenvalues are *equal*, so that
single-vector methods lose copies and individual eigenvectors are arbitrary. Guard vectors beyond the wanted ones
keep the convergence rate independent of the gap inside the cluster.

Method: locally optimal block Rayleigh-Ritz (Knyazev, SIAM J. Sci. Comput. 23, 2001) in the whitened coordinates
y = P^{1/2} v, recombining the products with the matrix, so that an iteration costs K Hessian-vector products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..support.compiler import normal
from ..support.typed import eigh, finfo, norm, switch

GUARD_VECTORS = 4  # tracked beyond the capacity: without them a cut cluster costs three times more


class Eigenpairs(NamedTuple):
    """Leading generalized eigenpairs, in falling order of the eigenvalue.

    - `U (n, K)`: H U = P U diag(eigenvalues), U' P U = I.
    - `HU (n, K)`: the products, recombined (not evaluated again).
    - `eigenvalues (K,)`: effective eigenvalues, those of P^{-1} H.
    - `residuals (K,)`: |P^{-1/2} (H u - eigenvalue P u)|: an eigenvalue of P^{-1} H lies within that distance.
    - `iterations ()`, `n_hessian_vectors ()`: the cost.
    - `converged ()`: whether every wanted pair has reached the tolerance.
    """

    U: Float[Array, "n K"]
    HU: Float[Array, "n K"]
    eigenvalues: Float[Array, " K"]
    residuals: Float[Array, " K"]
    iterations: Int[Array, ""]
    n_hessian_vectors: Int[Array, ""]
    converged: Bool[Array, ""]


def block_size(capacity: int, n: int) -> int:
    """Return K: the number of tracked vectors for `capacity` critical eigenvalues of an n x n Hessian.

    >>> block_size(4, 1000), block_size(4, 3)
    (8, 3)
    """
    return min(capacity + GUARD_VECTORS, n)


def start_block(n: int, K: int, dtype: Any, seed: int = 0) -> Float[Array, "n K"]:
    """Return a random block (n, K) to start from; the same for the same seed.

    >>> start_block(5, 2, jnp.float32).shape
    (5, 2)
    """
    return normal(jax.random.key(seed), (n, K), dtype)


def leading_eigenpairs(
    hessian_vectors: Callable[[Float[Array, "n K"]], Float[Array, "n K"]],
    P: Float[Array, " n"] | Float[Array, ""],
    V: Float[Array, "n K"],
    *,
    wanted_above: Float[Array, "*K"] | float = 0.0,
    capacity: int | None = None,
    tolerance: float = 1e-3,
    others: float = float("inf"),
    max_iterations: int = 10,
) -> Eigenpairs:
    """Return the K algebraically largest generalized eigenpairs of (H, diag P), starting from the block V.

    **Arguments:**

    - `hessian_vectors`: the map V -> H V, (n, K) -> (n, K).
    - `P`: positive, `(n,)` or `()`.
    - `V`: the start, of full rank; typically the last step's `U`.
    - `wanted_above`: pairs whose eigenvalue exceeds it, `()` or for each pair `(K,)`, and the first one, must converge.
    - `capacity`: how many pairs may be wanted at most; the others are guard vectors (default: all of V).
    - `tolerance`: residual relative to the largest eigenvalue; the eigenvalue's error is of its square.
    - `others`: the same for those of the first `capacity` pairs that are not wanted.
    - `max_iterations`: cap on the iterations after the first Rayleigh-Ritz step.

    >>> H = jnp.diag(jnp.arange(1.0, 31.0))
    >>> pairs = leading_eigenpairs(lambda V: H @ V, jnp.array(2.0), start_block(30, 6, H.dtype),
    ...                            capacity=2, tolerance=1e-5, max_iterations=100)
    >>> [round(float(x), 3) for x in pairs.eigenvalues[:2]], bool(pairs.converged)
    ([15.0, 14.5], True)
    """
    n, K = V.shape
    root = jnp.broadcast_to(jnp.sqrt(P), (n,))[:, None]                       # (n, 1)
    eps = finfo(V.dtype).eps
    may_want = jnp.arange(K) < (K if capacity is None else capacity)

    def apply(Y: Array) -> Array:
        return hessian_vectors(Y / root) / root

    def unfinished(theta: Array, norms: Array) -> Array:
        scale = jnp.maximum(jnp.max(jnp.abs(theta)), finfo(V.dtype).tiny)
        wanted = (theta > wanted_above) | (jnp.arange(K) == 0)
        allowed = jnp.where(wanted, tolerance, others)                        # (K,)
        return jnp.any(may_want & (norms > jnp.maximum(allowed, 50 * eps) * scale))

    def begun(D: Array, MD: Array, Y: Array, MY: Array, S: Array, MS: Array) -> tuple[Array, ...]:
        """Return the Ritz pairs in the span of D alone."""
        theta, C = _sorted_eigh(D.T @ MD)
        return D @ C, MD @ C, S, MS, theta

    def improved(D: Array, MD: Array, Y: Array, MY: Array, S: Array, MS: Array) -> tuple[Array, ...]:
        """Return the Ritz pairs in the span of Y and of D: new directions and, after the first time, the last step."""
        C = _ritz(jnp.concatenate([Y, D], axis=1), jnp.concatenate([MY, MD], axis=1), K)  # (2K or 3K, K)
        S1, MS1 = D @ C[K:], MD @ C[K:]                                       # (n, K) the step
        Y1, MY1 = Y @ C[:K] + S1, MY @ C[:K] + MS1                            # (n, K)
        return Y1, MY1, S1, MS1, jnp.sum(Y1 * MY1, axis=0) / jnp.sum(Y1 * Y1, axis=0)

    def improved_again(D: Array, MD: Array, Y: Array, MY: Array, S: Array, MS: Array) -> tuple[Array, ...]:
        DS, MDS = (jnp.concatenate(x, axis=1) for x in ((D, S), (MD, MS)))    # (n, 2K)
        return improved(DS, MDS, Y, MY, S, MS)

    def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        Y, MY, S, MS, _, R, _, products = carry
        W = _orthonormalize(R - Y @ (Y.T @ R))                                # (n, K)
        D = W - Y @ (Y.T @ W)                                                 # (n, K) new directions
        now = jnp.minimum(products, 2)
        Y1, MY1, S1, MS1, theta = switch(now, (begun, improved, improved_again), D, apply(D), Y, MY, S, MS)
        R1 = MY1 - Y1 * theta                                                 # (n, K)
        return Y1, MY1, S1, MS1, theta, R1, norm(R1, axis=0), products + 1

    def goes_on(carry: tuple[Any, ...]) -> Array:
        *_, theta, _, norms, products = carry
        return (products == 0) | (unfinished(theta, norms) & (products <= max_iterations))

    # one place for the product with the matrix, most of what is compiled: the block itself is the first residual
    zero, unknown = jnp.zeros_like(V), jnp.zeros(K, V.dtype)
    start = (zero, zero, zero, zero, unknown, V * root, unknown, jnp.zeros((), jnp.int32))
    Y, MY, _, _, theta, _, norms, products = jax.lax.while_loop(goes_on, iterate, start)
    finished = ~unfinished(theta, norms) & jnp.all(jnp.isfinite(theta))
    return Eigenpairs(Y / root, MY * root, theta, norms, products - 1, products * K, finished)


def _sorted_eigh(M: Float[Array, "k k"]) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    theta, C = eigh((M + M.T) / 2)
    return theta[::-1], C[:, ::-1]


def _inverse_root(G: Float[Array, "k k"]) -> tuple[Float[Array, "k k"], Bool[Array, " k"]]:
    """Return W with W' G W = I on the numerical range of the Gram matrix G, and which columns of W count."""
    scale = 1 / jnp.sqrt(jnp.maximum(jnp.diag(G), finfo(G.dtype).tiny))
    gamma, Q = eigh(G * scale[:, None] * scale[None, :])
    keep = gamma > 100 * G.shape[0] * finfo(G.dtype).eps
    inverse = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, gamma, 1)), 0)
    return scale[:, None] * Q * inverse, keep


def _orthonormalize(V: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Orthonormalize through the k x k Gram matrix, twice; directions without length come out as zero."""
    once = V @ _inverse_root(V.T @ V)[0]                                      # (n, k)
    return once @ _inverse_root(once.T @ once)[0]


def _ritz(B: Float[Array, "n b"], MB: Float[Array, "n b"], K: int) -> Float[Array, "b K"]:
    """Return the coefficients of the K leading Ritz vectors in the span of B (columns may be dependent)."""
    W, keep = _inverse_root(B.T @ B)
    A = W.T @ (B.T @ MB) @ W
    lowest = -2 * jnp.max(jnp.abs(A)) - 1
    _, C = _sorted_eigh((A + A.T) / 2 + jnp.diag(jnp.where(keep, 0.0, lowest).astype(A.dtype)))
    return W @ C[:, :K]

"""Symmetric matrices as vectors: the isometry ``svec`` and what follows from it.

``svec`` lists the upper triangle row by row and multiplies the off-diagonal entries by the square root of
two, so that ``<svec A, svec B> = tr(A B)``. The factor belongs on *every* vector: scaling a vector of
unknowns but not the vectors it is paired with changes the problem.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = [
    "congruence",
    "diagonal_entries",
    "leading_entries",
    "matrix_size",
    "outer_products",
    "smat",
    "svec",
    "svec_basis",
    "svec_size",
    "symmetric_part",
]


def svec_size(k: int) -> int:
    """Return m = k(k+1)/2, the dimension of the symmetric k x k matrices.

    >>> svec_size(3)
    6
    """
    return k * (k + 1) // 2


def matrix_size(m: int) -> int:
    """Return k from m = k(k+1)/2, the inverse of `svec_size`.

    >>> matrix_size(6)
    3
    """
    k = (math.isqrt(8 * m + 1) - 1) // 2
    if svec_size(k) != m:
        raise ValueError(f"{m} is not k(k+1)/2 for any k, so no symmetric matrix has {m} free entries")
    return k


def _upper(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and weights (1 on the diagonal, sqrt 2 off it) of the upper triangle, (m,) each."""
    i, j = np.triu_indices(k)
    return i, j, np.where(i == j, 1.0, math.sqrt(2))


def symmetric_part(M: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """Return (M + M^T)/2.

    >>> symmetric_part(jnp.array([[1.0, 4.0], [0.0, 2.0]])).tolist()
    [[1.0, 2.0], [2.0, 2.0]]
    """
    return (M + jnp.swapaxes(M, -1, -2)) / 2


def svec(M: Float[Array, "*batch k k"]) -> Float[Array, "*batch m"]:
    """Return the vector of a symmetric matrix, off-diagonal entries times sqrt 2.

    Of an asymmetric M the symmetric part is taken.

    >>> M = jnp.array([[1.0, 2.0], [2.0, 3.0]])
    >>> v = svec(M)
    >>> bool(jnp.allclose(v @ v, jnp.trace(M @ M)))
    True
    """
    i, j, weight = _upper(M.shape[-1])
    return jnp.asarray(weight, M.dtype) * symmetric_part(M)[..., i, j]


def smat(v: Float[Array, "*batch m"]) -> Float[Array, "*batch k k"]:
    """Return the symmetric matrix of a vector, the inverse of `svec`.

    >>> smat(jnp.array([1.0, 0.0, 3.0])).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    k = matrix_size(v.shape[-1])
    i, j, weight = _upper(k)
    entry, scale = np.zeros((k, k), int), np.ones((k, k))
    entry[i, j] = entry[j, i] = np.arange(len(i))
    scale[i, j] = scale[j, i] = 1 / weight
    return jnp.asarray(scale, v.dtype) * v[..., entry]


def svec_basis(k: int) -> Float[Array, "m k k"]:
    """Return the m orthonormal symmetric matrices E_a, ``smat(e_a) = E_a``.

    >>> E = svec_basis(2)
    >>> E.shape, bool(jnp.allclose(jnp.einsum("aij,bji->ab", E, E), jnp.eye(3)))
    ((3, 2, 2), True)
    """
    return smat(jnp.eye(svec_size(k)))


def leading_entries(k: int, size: int) -> np.ndarray:
    """Return the places in svec of a k x k matrix of the entries of its leading size x size block, in svec's order.

    >>> leading_entries(3, 2).tolist()
    [0, 1, 3]
    """
    i, j, _ = _upper(k)
    return np.flatnonzero((i < size) & (j < size))


def diagonal_entries(k: int) -> np.ndarray:
    """Return the places in svec of a k x k matrix of the entries of its diagonal.

    >>> diagonal_entries(3).tolist()
    [0, 3, 5]
    """
    i, j, _ = _upper(k)
    return np.flatnonzero(i == j)


def outer_products(V: Float[Array, "n k"]) -> Float[Array, "m n"]:
    """Return svec of the outer product of each row of V with itself: ``outer_products(V) @ p = svec(V^T diag(p) V)``.

    >>> outer_products(jnp.array([[1.0, 2.0]])).round(3).tolist()
    [[1.0], [2.828], [4.0]]
    """
    i, j, weight = _upper(V.shape[1])
    return jnp.asarray(weight, V.dtype)[:, None] * (V.T[i] * V.T[j])


def congruence(Q: Float[Array, "k l"]) -> Float[Array, "p m"]:
    """Return the matrix of ``svec(M) -> svec(Q^T M Q)``, m = k(k+1)/2, p = l(l+1)/2; orthogonal if Q is.

    Its transpose maps ``svec(N) -> svec(Q N Q^T)``.

    >>> Q = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> M = jnp.array([[1.0, 2.0], [2.0, 3.0]])
    >>> bool(jnp.allclose(congruence(Q) @ svec(M), svec(Q.T @ M @ Q)))
    True
    """
    k, l = Q.shape
    i, j, out_weight = _upper(l)
    p, q, in_weight = _upper(k)
    half = jnp.asarray(np.outer(out_weight, in_weight) / 2, Q.dtype)  #            (p, m)
    Qi, Qj = Q.T[i], Q.T[j]  #                                                      (p, k)
    return half * (Qi[:, p] * Qj[:, q] + Qi[:, q] * Qj[:, p])  #                    (p, m)

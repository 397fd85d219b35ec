"""A symmetric bilinear form from its quadratic one: curvature gradients d_ij from third derivatives T(v) = d_vv.

d_ij = [T(u_i + u_j) - T(u_i) - T(u_j)] / 2, so that a pair costs one evaluation of T beside the diagonal ones.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..linalg.symmetric import diagonal_entries
from ..support.typed import fori_loop, pad

DIRECTIONS_AT_ONCE = 3  # those of two eigenvectors, half of those of three


def polarized(
    T: Callable[[Float[Array, "b n"]], Float[Array, "b n"]],
    U: Float[Array, "n k"],
    n_active: Int[Array, ""] | int | None = None,
    n_coupled: Int[Array, ""] | int | None = None,
) -> Float[Array, "m n"]:
    """Return d_ij of the columns of U, times sqrt 2 off the diagonal, in the order of `symmetric.svec`.

    `T` is evaluated on the rows of a block. Rows of the result other than those of the first `n_active` columns are
    zero, and so are those of different columns beyond the first `n_coupled` (default: all active ones).

    >>> polarized(lambda Z: Z**2, jnp.array([[1.0, 2.0]]))[:, 0].round(3).tolist()
    [1.0, 2.828, 4.0]
    """
    n, k = U.shape
    I, J = np.triu_indices(k)                                                 # (m,), (m,)
    m, size = len(I), _directions_at_once(k)
    active = jnp.asarray(k if n_active is None else n_active)                 # ()
    coupled = active if n_coupled is None else jnp.minimum(jnp.asarray(n_coupled), active)      # ()
    needed = jnp.asarray(J) < jnp.where(I == J, active, coupled)              # (m,)
    first = pad(jnp.argsort(~needed, stable=True), (0, -m % size))            # (padded,) those that are needed

    def block(b: Array, TZ: Array) -> Array:
        which = jax.lax.dynamic_slice_in_dim(first, b * size, size)           # (size,)
        i, j = jnp.asarray(I)[which], jnp.asarray(J)[which]                   # (size,), (size,)
        Z = U.T[j] + jnp.where((i == j)[:, None], 0, U.T[i])                  # (size, n)
        return TZ.at[which].set(T(Z))

    blocks = directions_evaluated(k, active, coupled) // size
    TZ = fori_loop(0, blocks, block, jnp.zeros((m, n), U.dtype))              # (m, n)
    own = TZ[np.asarray(diagonal_entries(k))]                                 # (k, n)
    mixed = np.sqrt(2.0).item() * (TZ - own[I] - own[J]) / 2                  # (m, n)
    return jnp.where(needed[:, None], jnp.where((I == J)[:, None], TZ, mixed), 0)


def directions_evaluated(k: int, n_active: Int[Array, ""], n_coupled: Int[Array, ""]) -> Int[Array, ""]:
    """Return how many directions `polarized` evaluates: whole blocks of them.

    >>> [int(directions_evaluated(4, jnp.asarray(a), jnp.asarray(c))) for a, c in [(1, 1), (3, 3), (4, 2)]]
    [3, 6, 6]
    """
    size = _directions_at_once(k)
    wanted = n_coupled * (n_coupled + 1) // 2 + n_active - n_coupled
    return -(-wanted // size) * size


def _directions_at_once(k: int) -> int:
    return min(DIRECTIONS_AT_ONCE, k * (k + 1) // 2)

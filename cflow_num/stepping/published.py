"""The published scheme, kept faithfully as baseline and oracle: explicit Euler with a quarter step.

Per sub-step: LOBPCG to 1e-5 without guard vectors, all curvature gradients pair by pair, complementarity at the end
of the sub-step, no relief for infeasible starts. Source: the description of the released codes of arXiv 2410.24206.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jax.experimental.sparse.linalg import lobpcg_standard
from jaxtyping import Array, Float

from ..linalg.eigenpairs import Eigenpairs
from .half_explicit import HalfExplicitEuler
from .leapfrog import Leapfrog


def lobpcg_eigenpairs(
    hessian_vectors, P, V: Float[Array, "n K"], *, wanted_above=0.0, capacity: int, tolerance: float = 1e-5
) -> Eigenpairs:
    """Return the leading generalized eigenpairs by `lobpcg_standard` on the first `capacity` columns of V.

    The remaining columns of V are passed through, so that the block keeps its shape; they are not used.
    """
    n, K = V.shape
    root = jnp.broadcast_to(jnp.sqrt(P), (n,))[:, None]  # (n, 1)

    def apply(Y: Array) -> Array:
        return hessian_vectors(Y / root) / root

    theta, Y, iterations = lobpcg_standard(apply, V[:, :capacity] * root, m=100, tol=tolerance)
    MY = apply(Y)
    residuals = jnp.linalg.norm(MY - Y * theta, axis=0)
    rest = K - capacity
    return Eigenpairs(
        jnp.concatenate([Y / root, V[:, capacity:]], 1),
        jnp.concatenate([MY * root, jnp.zeros((n, rest), V.dtype)], 1),
        jnp.concatenate([theta, jnp.full((rest,), -jnp.inf, V.dtype)]),
        jnp.concatenate([residuals, jnp.zeros((rest,), V.dtype)]),
        iterations,
        4 * capacity * iterations + capacity,
        jnp.all(residuals < 1e-2 * jnp.abs(theta[0])),
    )


class BruteForceLeapfrog(Leapfrog):
    """The published way of evaluating, around the leapfrog: what momentum costs without frames that are kept."""

    all_pairs: ClassVar = True
    eigenpairs: ClassVar = staticmethod(lobpcg_eigenpairs)


class Published(HalfExplicitEuler):
    """Explicit Euler, sub-step 1/4, as the published codes take it."""

    relieved: ClassVar = False
    all_pairs: ClassVar = True
    eigenpairs: ClassVar = staticmethod(lobpcg_eigenpairs)

    @staticmethod
    def fits(n: int, capacity: int) -> bool:
        """Return whether LOBPCG can run: it needs more than five weights for each eigenvalue."""
        return n > 5 * capacity

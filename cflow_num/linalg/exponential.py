"""Functions of a linear part that is known on a few eigenvectors, for exponential short steps.

Near the edge the weights relax within half a unit of flow time along the leading eigenvectors, and slower elsewhere.
Where those eigenvectors are known, an exponential method takes that motion exactly and steps become longer.
Source of the phi functions and of the second-order scheme (ETD2RK): Cox and Matthews, J. Comput. Phys. 176, 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from .precision import product

Phi: TypeAlias = Callable[[Array], Array]


class LinearPart(NamedTuple):
    """The operator Z = U diag(z) U'P with U'PU = I: eigenvectors `U (n, K)`, `PU (n, K)`, eigenvalues `z (K,)`.

    >>> U = jnp.eye(3)[:, :2]
    >>> Z = LinearPart(U, U, jnp.array([2.0, 1.0]))
    >>> Z.rates(jnp.array([1.0, 1.0, 1.0])).tolist()
    [2.0, 1.0]
    >>> Z.function(lambda z: 1 - z, jnp.array([1.0, 1.0, 1.0])).tolist()
    [-1.0, 0.0, 1.0]
    """

    U: Float[Array, "n K"]
    PU: Float[Array, "n K"]
    z: Float[Array, " K"]

    def rates(self, v: Float[Array, " n"]) -> Float[Array, " K"]:
        """Return Z v as coordinates along U."""
        return self.z * product(self.PU.T, v)

    def function(self, phi: Phi, v: Float[Array, " n"], a: Float[Array, " K"] | float = 0.0) -> Float[Array, " n"]:
        """Return phi(Z) (v + U a); where Z is unknown it counts as zero."""
        elsewhere = phi(jnp.zeros((), self.z.dtype))  # ()
        return elsewhere * v + product(self.U, (phi(self.z) - elsewhere) * product(self.PU.T, v) + phi(self.z) * a)

    def between(self, phi: Phi, D: Float[Array, "p n"], V: Float[Array, "m n"]) -> Float[Array, "p m"]:
        """Return D phi(Z) V'; the products do not depend on phi, so that several phi cost little more than one."""
        elsewhere = phi(jnp.zeros((), self.z.dtype))  # ()
        along = (phi(self.z) - elsewhere)[:, None] * (self.PU.T @ V.T)  # (K, m)
        return elsewhere * (D @ V.T) + (D @ self.U) @ along


def phi1(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return (1 - exp(-z))/z, the mean over a step of exp(-z s).

    >>> phi1(jnp.array([0.0, 1e-8])).round(6).tolist()
    [1.0, 1.0]
    """
    small = jnp.abs(z) < 1e-4
    safe = jnp.where(small, 1, z)
    return jnp.where(small, 1 - z / 2 + z**2 / 6, -jnp.expm1(-safe) / safe)


def phi2(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return (exp(-z) - 1 + z)/z^2, the same of a forcing that rises linearly from zero to one.

    >>> phi2(jnp.array([0.0, 1e-8])).round(6).tolist()
    [0.5, 0.5]
    """
    small = jnp.abs(z) < 0.1
    safe = jnp.where(small, 1, z)
    series = 1 / 2 - z / 6 + z**2 / 24 - z**3 / 120 + z**4 / 720 - z**5 / 5040 + z**6 / 40320
    return jnp.where(small, series, (jnp.expm1(-safe) + safe) / safe**2)

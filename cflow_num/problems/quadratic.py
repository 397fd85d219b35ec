"""A convex quadratic: below the threshold nothing oscillates, and every flow is known exactly."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..loss.problem import Problem
from ..support.errors import InputError


def quadratic(*, n: int = 20, sharpness: float = 1.0, condition: float = 100.0, seed: int = 0) -> Problem:
    """Return L(w) = sum_i lambda_i w_i^2 / 2 in n dimensions, lambda spaced geometrically up to `sharpness`.

    >>> quadratic(n=3, sharpness=4.0, condition=4.0).value(jnp.ones(3)).item()
    3.5
    """
    if n < 1:
        raise InputError(f"n is {n}, it must be at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}, it must be at least 0")
    if not (0 < sharpness < np.inf and 1 <= condition < np.inf):
        raise InputError(
            f"sharpness is {sharpness:g} and condition {condition:g}: they must be finite, positive and at least 1"
        )
    eigenvalues = jnp.asarray(sharpness * np.geomspace(1, 1 / condition, n))
    w = np.random.default_rng(seed).normal(size=n)
    return Problem(
        _loss,
        jnp.asarray(w),
        data=eigenvalues,
        name="quadratic",
        description=f"quadratic in {n} dimensions, eigenvalues {sharpness:g} down to {sharpness / condition:g}",
    )


def _loss(w, eigenvalues):
    return jnp.sum(eigenvalues * w**2) / 2

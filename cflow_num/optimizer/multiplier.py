"""How fast an oscillation of period two decays below the threshold and grows beyond it, at any curvature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from cflow_sym.interface import CompiledFlow


def multiplier(
    optimizer: CompiledFlow, slow: Mapping[str, Array], lam: Float[Array, ""], hp: Mapping[str, Any]
) -> Complex[Array, ""]:
    """Return mu, by which one step multiplies the oscillation along an eigenvector of effective eigenvalue lam.

    Of the roots of the generated characteristic polynomial the leftmost one, or one of a pair of equal modulus: real
    and -1 at the threshold, where no other is on the unit circle, and to the left of it beyond. Slow states are frozen.
    Derived, with momentum and without.

    >>> from cflow_sym import generated
    >>> hp = {"learning_rate": jnp.array(0.1), "beta1": jnp.array(0.5), "weight_decay": jnp.array(0.0)}
    >>> mu = multiplier(generated.load("heavy_ball"), {"t": jnp.array(1.0)}, jnp.array(3.0), hp)
    >>> abs(complex(mu) + 1) < 1e-6
    True
    """
    p = optimizer.characteristic_polynomial(dict(slow), lam, hp)              # (F + 2,) falling powers
    roots = _roots(p[1:] / p[0])                                              # (F + 1,)
    return roots[jnp.argmin(jnp.real(roots))]


def multipliers(
    optimizer: CompiledFlow, slow: Mapping[str, Array], lam: Float[Array, " K"], hp: Mapping[str, Any]
) -> Complex[Array, " K"]:
    """Return mu for every effective eigenvalue: see `multiplier`."""
    return jax.vmap(lambda x: multiplier(optimizer, slow, x, hp))(lam)


def growth(mu: Complex[Array, " K"]) -> Float[Array, " K"]:
    """Return log|mu| of every multiplier: the rate at which the amplitude of its oscillation grows.

    >>> from cflow_sym import generated
    >>> hp = {"learning_rate": jnp.array(0.1), "weight_decay": jnp.array(0.0)}
    >>> lam = jnp.array([1.5, 2.0, 3.0])
    >>> growth(multipliers(generated.load("gradient_descent"), {"t": jnp.array(1.0)}, lam, hp)).round(4).tolist()
    [-0.6931, 0.0, 0.6931]
    """
    modulus = jnp.abs(mu)                                                     # (K,)
    return jnp.log(jnp.maximum(modulus, jnp.finfo(modulus.dtype).tiny))


def _roots(q: Float[Array, " d"]) -> Complex[Array, " d"]:
    """Return the roots of z^d + q_1 z^(d-1) + ... + q_d.

    In closed form up to the second degree, that of optimizers with one average of the gradient; beyond it by the
    companion matrix, whose eigenvalues JAX computes on the host.

    >>> _roots(jnp.array([-3.0, 2.0])).real.tolist(), _roots(jnp.array([0.0, 4.0])).imag.tolist()
    ([1.0, 2.0], [-2.0, 2.0])
    """
    if q.size > 2:
        return jnp.linalg.eigvals(jnp.eye(q.size, k=-1, dtype=q.dtype).at[0].set(-q))
    if q.size == 1:
        return jax.lax.complex(-q, jnp.zeros_like(q))
    half, inside = -q[0] / 2, (q[0] / 2) ** 2 - q[1]
    apart = jnp.sqrt(jnp.abs(inside))
    far = half + jnp.where(half < 0, -apart, apart)  # the larger one of two real roots: nothing cancels
    near = jnp.where(far != 0, q[1] / jnp.where(far != 0, far, 1), 0)
    real = jnp.where(inside < 0, half, jnp.sort(jnp.stack([near, far])))
    return jax.lax.complex(real, jnp.where(inside < 0, jnp.stack([-apart, apart]), 0))


def rounding(w: Float[Array, " n"]) -> Float[Array, ""]:
    """Return what rounding adds to the oscillation along a direction in one step: eps |w| / sqrt(n).

    >>> bool(rounding(jnp.ones(4)) == jnp.finfo(jnp.ones(4).dtype).eps)
    True
    """
    return jnp.finfo(w.dtype).eps * jnp.linalg.norm(w) / jnp.sqrt(jnp.asarray(w.size, w.dtype))

"""Layers that networks are made of: pure functions of one example, exact in all derivatives.

Convolutions are written as products of patches with matrices: mapped over weights, as in products with many vectors at
once, they stay matrix products. Norms use no clipped variance, so that they are smooth for a constant input, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EPSILON = 1e-5  # added to the variance that a norm divides by
QUIET = (
    0.5  # scale of the last norm at the start: gradient descent at learning rates up to about 0.4 then starts stable
)


class Linear(eqx.Module):
    """x W + b on the last axis; weights normal with variance scale^2 / inputs, biases zero.

    >>> Linear(3, 2, rng=np.random.default_rng(0))(jnp.zeros((5, 3))).shape
    (5, 2)
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(self, inputs: int, outputs: int, *, rng: np.random.Generator, scale: float = 1.0, bias: bool = True):
        self.weight = jnp.asarray(scale / math.sqrt(inputs) * rng.normal(size=(inputs, outputs)))
        self.bias = jnp.zeros(outputs) if bias else None

    def __call__(self, x: Float[Array, "*n inputs"]) -> Float[Array, "*n outputs"]:
        """Return the outputs."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


def normalized(x: Float[Array, ...], axes: tuple[int, ...]) -> Float[Array, ...]:
    """Return x with mean 0 and variance 1 along these axes.

    >>> normalized(jnp.array([1.0, 3.0]), (0,)).round(3).tolist()
    [-1.0, 1.0]
    """
    x = x - jnp.mean(x, axis=axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=axes, keepdims=True) + EPSILON)


class LayerNorm(eqx.Module):
    """Normalizes the last axis, then scales and shifts.

    >>> LayerNorm(4)(jnp.ones((2, 4))).tolist()[0]
    [0.0, 0.0, 0.0, 0.0]
    """

    scale: Float[Array, " dim"]
    shift: Float[Array, " dim"]

    def __init__(self, dim: int, *, scale: float = 1.0):
        self.scale, self.shift = jnp.full(dim, scale), jnp.zeros(dim)

    def __call__(self, x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
        """Return the normalized x."""
        return normalized(x, (-1,)) * self.scale + self.shift


class GroupNorm(eqx.Module):
    """Normalizes each group of channels over all pixels, then scales and shifts each channel.

    >>> GroupNorm(4, groups=2)(jnp.ones((3, 3, 4))).shape
    (3, 3, 4)
    """

    scale: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, *, groups: int, scale: float = 1.0):
        self.scale, self.shift, self.groups = jnp.full(channels, scale), jnp.zeros(channels), groups

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        """Return the normalized x."""
        grouped = x.reshape(*x.shape[:2], self.groups, -1)
        return normalized(grouped, (0, 1, 3)).reshape(x.shape) * self.scale + self.shift


class Conv(eqx.Module):
    """A convolution with 3 x 3 pixels and zeros beyond the border.

    >>> Conv(1, 4, rng=np.random.default_rng(0))(jnp.ones((8, 8, 1))).shape
    (8, 8, 4)
    """

    linear: Linear

    def __init__(self, inputs: int, outputs: int, *, rng: np.random.Generator, scale: float = 1.0):
        self.linear = Linear(9 * inputs, outputs, rng=rng, scale=scale, bias=False)

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "height width outputs"]:
        """Return the convolved image."""
        height, width, _ = x.shape
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        rows = jnp.concatenate([padded[:, j : j + width] for j in range(3)], axis=-1)
        return self.linear(jnp.concatenate([rows[i : i + height] for i in range(3)], axis=-1))


def average_pool(x: Float[Array, "height width channels"], grid: int) -> Float[Array, "rows columns channels"]:
    """Return averages over windows, about grid x grid of them; pixels beyond the last whole window are left out.

    >>> average_pool(jnp.arange(16.0).reshape(4, 4, 1), 2)[..., 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    return _windows(x, max(x.shape[0] // grid, 1), max(x.shape[1] // grid, 1)).mean(axis=(1, 3))


def halved(x: Float[Array, "height width channels"]) -> Float[Array, "rows columns channels"]:
    """Return averages over 2 x 2 pixels, or x itself where it has less than 4 rows or columns.

    >>> halved(jnp.ones((8, 8, 3))).shape, halved(jnp.ones((2, 2, 3))).shape
    ((4, 4, 3), (2, 2, 3))
    """
    return x if min(x.shape[:2]) < 4 else _windows(x, 2, 2).mean(axis=(1, 3))


def patches(x: Float[Array, "height width channels"], size: int) -> Float[Array, "patches values"]:
    """Return the pixels of each square patch; those beyond the last whole patch are left out.

    >>> patches(jnp.ones((8, 8, 3)), 4).shape
    (4, 48)
    """
    tiles = _windows(x, size, size).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(tiles.shape[0] * tiles.shape[1], -1)


def _windows(x: Array, rows: int, columns: int) -> Array:
    """Return x as (windows down, rows, windows across, columns, channels)."""
    down, across = x.shape[0] // rows, x.shape[1] // columns
    return x[: down * rows, : across * columns].reshape(down, rows, across, columns, x.shape[2])


class Attention(eqx.Module):
    """Self-attention with several heads; a causal one looks at earlier positions and itself only.

    >>> Attention(8, heads=2, causal=True, rng=np.random.default_rng(0))(jnp.ones((5, 8))).shape
    (5, 8)
    """

    into: Linear
    out: Linear
    heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, heads: int, causal: bool, rng: np.random.Generator):
        self.into, self.out = Linear(dim, 3 * dim, rng=rng), Linear(dim, dim, rng=rng)
        self.heads, self.causal = heads, causal

    def __call__(self, x: Float[Array, "length dim"]) -> Float[Array, "length dim"]:
        """Return what each position gathers from those it looks at."""
        length, dim = x.shape
        q, k, v = jnp.moveaxis(self.into(x).reshape(length, 3, self.heads, -1), 1, 0)  # each (length, heads, dim/heads)
        scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(dim // self.heads)
        if self.causal:
            scores = jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf)
        return self.out(jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v).reshape(length, dim))


class TransformerBlock(eqx.Module):
    """Attention and a perceptron with one hidden layer, each on normalized inputs and added to them.

    >>> TransformerBlock(8, heads=2, hidden=16, causal=False, rng=np.random.default_rng(0))(jnp.ones((5, 8))).shape
    (5, 8)
    """

    norms: tuple[LayerNorm, LayerNorm]
    attention: Attention
    into: Linear
    out: Linear

    def __init__(self, dim: int, *, heads: int, hidden: int, causal: bool, rng: np.random.Generator):
        self.norms = LayerNorm(dim), LayerNorm(dim)
        self.attention = Attention(dim, heads=heads, causal=causal, rng=rng)
        self.into, self.out = Linear(dim, hidden, rng=rng), Linear(hidden, dim, rng=rng)

    def __call__(self, x: Float[Array, "length dim"]) -> Float[Array, "length dim"]:
        """Return the outputs."""
        x = x + self.attention(self.norms[0](x))
        return x + self.out(jax.nn.gelu(self.into(self.norms[1](x))))


def count(fn: Callable[[Array], Array], *shape: int) -> int:
    """Return how many numbers `fn` makes of an input of that shape.

    >>> count(lambda x: x[:, 0], 3, 2)
    3
    """
    return jax.eval_shape(lambda: fn(jnp.zeros(shape))).size


def one_hot(tokens: Array, like: Linear) -> Float[Array, "length vocabulary"]:
    """Return tokens as the one-hot rows that a layer takes.

    >>> one_hot(jnp.array([1, 0]), Linear(2, 3, rng=np.random.default_rng(0))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return jax.nn.one_hot(tokens, like.weight.shape[0], dtype=like.weight.dtype)

"""A selective state-space model, after Mamba (Gu and Dao, arXiv 2312.00752), with GELU."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..datasets.base import Tokens
from .layers import EPSILON, QUIET, Linear, one_hot

INPUTS = (Tokens,)
SIZES = {
    "small": {"dim": 16, "depth": 1, "state": 4, "taps": 4},
    "paper": {"dim": 64, "depth": 2, "state": 16, "taps": 4},
}
_STEPS = (0.01, 1.0)  # time steps at the start lie between these: sequences are short
_EXPANSION = 2


class RmsNorm(eqx.Module):
    """Divides the last axis by its root mean square, then scales."""

    scale: Float[Array, " dim"]

    def __init__(self, dim: int, *, scale: float = 1.0):
        self.scale = jnp.full(dim, scale)

    def __call__(self, x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
        """Return the normalized x."""
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON) * self.scale


class Block(eqx.Module):
    """A short convolution in time, then a linear system whose coefficients depend on its input, and a gate.

    The system has `state` modes h for each of the inner channels u, which decay at rates a:

        h' = exp(-a dt) h + dt B u,   y = C h + d u,   dt, B and C linear in the channels, dt through softplus.
    """

    norm: RmsNorm
    into: Linear
    taps: Float[Array, "taps inner"]
    bias: Float[Array, " inner"]
    coefficients: Linear
    steps: Linear
    log_rates: Float[Array, "inner state"]
    direct: Float[Array, " inner"]
    out: Linear
    rank: int = eqx.field(static=True)

    def __init__(self, dim: int, *, state: int, taps: int, rng: np.random.Generator):
        inner, self.rank = _EXPANSION * dim, math.ceil(dim / 16)
        self.norm = RmsNorm(dim)
        self.into = Linear(dim, 2 * inner, rng=rng, bias=False)
        self.taps = jnp.asarray(rng.normal(size=(taps, inner)) / math.sqrt(taps))
        self.bias = jnp.zeros(inner)
        self.coefficients = Linear(inner, self.rank + 2 * state, rng=rng, bias=False)
        steps = np.exp(rng.uniform(*np.log(_STEPS), size=inner))
        bias = jnp.asarray(np.log(np.expm1(steps)))  # softplus undone
        self.steps = eqx.tree_at(lambda linear: linear.bias, Linear(self.rank, inner, rng=rng), bias)
        self.log_rates = jnp.asarray(np.tile(np.log(np.arange(1, state + 1)), (inner, 1)))
        self.direct = jnp.ones(inner)
        self.out = Linear(inner, dim, rng=rng, bias=False)

    def __call__(self, x: Float[Array, "length dim"]) -> Float[Array, "length dim"]:
        """Return x with what the system makes of it added."""
        u, gate = jnp.split(self.into(self.norm(x)), 2, axis=-1)  # (length, inner)
        n, length = len(self.taps), len(u)
        padded = jnp.pad(u, ((n - 1, 0), (0, 0)))
        u = jax.nn.gelu(sum(self.taps[i] * padded[i : i + length] for i in range(n)) + self.bias)
        return x + self.out(self.system(u) * jax.nn.gelu(gate))

    def system(self, u: Float[Array, "length inner"]) -> Float[Array, "length inner"]:
        """Return the output y of the linear system."""
        rank, rates = self.rank, jnp.exp(self.log_rates)  # (inner, state)
        steps, B, C = jnp.split(self.coefficients(u), [rank, rank + rates.shape[1]], axis=-1)
        dt = jax.nn.softplus(self.steps(steps))  # (length, inner)

        def step(h: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            dt, u, b, c = now
            h = jnp.exp(-dt[:, None] * rates) * h + (dt * u)[:, None] * b  # (inner, state)
            return h, jnp.sum(h * c, axis=1) + self.direct * u

        return jax.lax.scan(step, jnp.zeros_like(rates), (dt, u, B, C))[1]


class Mamba(eqx.Module):
    """Tokens become vectors and go through blocks, from left to right.

    >>> model = Mamba(Tokens(5, 4, 2), 4, dim=8, depth=1, state=2, taps=2, rng=np.random.default_rng(0))
    >>> model(jnp.arange(5) % 4).shape
    (2, 4)
    """

    embedding: Linear
    blocks: list[Block]
    norm: RmsNorm
    head: Linear
    answers: int = eqx.field(static=True)

    def __init__(
        self, inputs: Tokens, outputs: int, *, dim: int, depth: int, state: int, taps: int, rng: np.random.Generator
    ):
        self.embedding = Linear(inputs.vocabulary, dim, rng=rng, bias=False)
        self.blocks = [Block(dim, state=state, taps=taps, rng=rng) for _ in range(depth)]
        self.norm, self.head = RmsNorm(dim, scale=QUIET), Linear(dim, outputs, rng=rng, scale=0.1)
        self.answers = inputs.answers

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "answers outputs"]:
        """Return the outputs at the last positions of one sequence."""
        x = self.embedding(one_hot(tokens, self.embedding))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[-self.answers :]))

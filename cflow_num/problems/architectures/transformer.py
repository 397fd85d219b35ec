"""A causal transformer."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..datasets.base import Tokens
from .layers import QUIET, LayerNorm, Linear, TransformerBlock, one_hot

INPUTS = (Tokens,)
SIZES = {
    "small": {"dim": 16, "depth": 1, "heads": 2, "hidden": 32},
    "paper": {"dim": 32, "depth": 4, "heads": 4, "hidden": 128},
}


class Transformer(eqx.Module):
    """Tokens become vectors, to which learned positions are added, and go through causal transformer blocks.

    >>> model = Transformer(Tokens(5, 4, 2), 4, dim=8, depth=1, heads=2, hidden=16, rng=np.random.default_rng(0))
    >>> model(jnp.arange(5) % 4).shape
    (2, 4)
    """

    embedding: Linear
    positions: Float[Array, "length dim"]
    blocks: list[TransformerBlock]
    norm: LayerNorm
    head: Linear
    answers: int = eqx.field(static=True)

    def __init__(
        self, inputs: Tokens, outputs: int, *, dim: int, depth: int, heads: int, hidden: int, rng: np.random.Generator
    ):
        self.embedding = Linear(inputs.vocabulary, dim, rng=rng, bias=False)
        self.positions = jnp.asarray(rng.normal(size=(inputs.length, dim))) / 2
        self.blocks = [TransformerBlock(dim, heads=heads, hidden=hidden, causal=True, rng=rng) for _ in range(depth)]
        self.norm, self.head = LayerNorm(dim, scale=QUIET), Linear(dim, outputs, rng=rng, scale=0.1)
        self.answers = inputs.answers

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "answers outputs"]:
        """Return the outputs at the last positions of one sequence."""
        x = self.embedding(one_hot(tokens, self.embedding)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[-self.answers :]))

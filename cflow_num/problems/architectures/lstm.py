"""A recurrent network of long short-term memory cells (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..datasets.base import Tokens
from .layers import Linear, one_hot

INPUTS = (Tokens,)
SIZES = {"small": {"dim": 14, "depth": 1}, "paper": {"dim": 48, "depth": 2}}


class Lstm(eqx.Module):
    """Tokens become vectors and go through layers of cells, from left to right.

    >>> model = Lstm(Tokens(5, 4, 2), 4, dim=8, depth=1, rng=np.random.default_rng(0))
    >>> model(jnp.arange(5) % 4).shape
    (2, 4)
    """

    embedding: Linear
    cells: list[eqx.nn.LSTMCell]
    head: Linear
    answers: int = eqx.field(static=True)

    def __init__(self, inputs: Tokens, outputs: int, *, dim: int, depth: int, rng: np.random.Generator):
        self.embedding = Linear(inputs.vocabulary, dim, rng=rng, scale=inputs.vocabulary**0.5, bias=False)
        self.cells = [eqx.nn.LSTMCell(dim, dim, key=jax.random.key(int(rng.integers(2**31)))) for _ in range(depth)]
        self.head, self.answers = Linear(dim, outputs, rng=rng), inputs.answers

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "answers outputs"]:
        """Return the outputs at the last positions of one sequence."""
        x = self.embedding(one_hot(tokens, self.embedding))
        for cell in self.cells:
            x = _through(cell, x)
        return self.head(x[-self.answers :])


def _through(cell: eqx.nn.LSTMCell, x: Float[Array, "length dim"]) -> Float[Array, "length dim"]:
    def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        state = cell(x, state)
        return state, state[0]

    zeros = jnp.zeros_like(x[0])
    return jax.lax.scan(step, (zeros, zeros), x)[1]

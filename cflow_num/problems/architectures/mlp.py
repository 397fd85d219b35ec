"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ..datasets.base import Images, Tokens, Vectors
from .layers import Linear

INPUTS = (Images, Tokens, Vectors)
SIZES = {"small": {"width": 20, "depth": 1}, "paper": {"width": 256, "depth": 2}}


class Mlp(eqx.Module):
    """Layers of `width` units, GELU between them.

    Of sequences it is given the tokens, one-hot, up to the first that is asked for: the later ones are answers.

    >>> Mlp(Vectors(3), 2, width=5, depth=1, rng=np.random.default_rng(0))(jax.numpy.ones(3)).shape
    (2,)
    """

    layers: list[Linear]
    inputs: Images | Tokens | Vectors = eqx.field(static=True)

    def __init__(
        self, inputs: Images | Tokens | Vectors, outputs: int, *, width: int, depth: int, rng: np.random.Generator
    ):
        if isinstance(inputs, Tokens):
            features, outputs = _seen(inputs) * inputs.vocabulary, inputs.answers * outputs
        elif isinstance(inputs, Images):
            features = inputs.height * inputs.width * inputs.channels
        else:
            features = inputs.features
        sizes = [features] + [width] * depth
        self.layers = [Linear(a, b, rng=rng, scale=math.sqrt(2)) for a, b in itertools.pairwise(sizes)]
        self.layers.append(Linear(sizes[-1], outputs, rng=rng))
        self.inputs = inputs

    def __call__(self, x: Float[Array, ...] | Int[Array, " length"]) -> Float[Array, "*answers outputs"]:
        """Return the outputs for one example."""
        inputs = self.inputs
        if isinstance(inputs, Tokens):
            x = jax.nn.one_hot(x[: _seen(inputs)], inputs.vocabulary, dtype=self.layers[0].weight.dtype)
        x = x.reshape(-1)
        for layer in self.layers[:-1]:
            x = jax.nn.gelu(layer(x))
        x = self.layers[-1](x)
        return x.reshape(inputs.answers, -1) if isinstance(inputs, Tokens) else x


def _seen(inputs: Tokens) -> int:
    return inputs.length - inputs.answers + 1

"""A convolutional network."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..datasets.base import Images
from .layers import Conv, Linear, average_pool, count, halved

INPUTS = (Images,)
SIZES = {"small": {"width": 6, "grid": 2}, "paper": {"width": 32, "grid": 8}}
_DOUBLE = math.sqrt(2)


class Cnn(eqx.Module):
    """Two convolutions of `width` and twice as many channels, each with GELU and halving, then two dense layers.

    Between convolutions and dense layers the image is averaged to grid x grid pixels where it has more.

    >>> Cnn(Images(8, 8, 1), 10, width=4, grid=2, rng=np.random.default_rng(0))(jax.numpy.ones((8, 8, 1))).shape
    (10,)
    """

    convolutions: list[Conv]
    hidden: Linear
    head: Linear
    grid: int = eqx.field(static=True)

    def __init__(self, inputs: Images, outputs: int, *, width: int, grid: int, rng: np.random.Generator):
        self.grid = grid
        self.convolutions = [
            Conv(inputs.channels, width, rng=rng, scale=_DOUBLE),
            Conv(width, 2 * width, rng=rng, scale=_DOUBLE),
        ]
        features = count(self.features, inputs.height, inputs.width, inputs.channels)
        self.hidden = Linear(features, 4 * width, rng=rng, scale=_DOUBLE)
        self.head = Linear(4 * width, outputs, rng=rng)

    def features(self, x: Float[Array, "height width channels"]) -> Float[Array, " features"]:
        """Return what the dense layers are given."""
        for convolution in self.convolutions:
            x = halved(jax.nn.gelu(convolution(x)))
        return average_pool(x, self.grid).reshape(-1)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, " outputs"]:
        """Return the outputs for one image."""
        return self.head(jax.nn.gelu(self.hidden(self.features(x))))

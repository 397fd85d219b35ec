"""A residual network with group norm."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..datasets.base import Images
from .layers import QUIET, Conv, GroupNorm, Linear, average_pool, count, halved

INPUTS = (Images,)
SIZES = {"small": {"width": 6, "stages": (1, 1)}, "paper": {"width": 16, "stages": (3, 3, 3)}}


class Block(eqx.Module):
    """x + scale f(x), f two convolutions, each with group norm, GELU between them; one with more outputs halves x."""

    convolutions: tuple[Conv, Conv]
    norms: tuple[GroupNorm, GroupNorm]
    shortcut: tuple[Linear, GroupNorm] | None
    scale: float = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, groups: int, scale: float, rng: np.random.Generator):
        self.convolutions = Conv(inputs, outputs, rng=rng), Conv(outputs, outputs, rng=rng)
        self.norms = GroupNorm(outputs, groups=groups), GroupNorm(outputs, groups=groups, scale=QUIET)
        further = (Linear(inputs, outputs, rng=rng, bias=False), GroupNorm(outputs, groups=groups, scale=QUIET))
        self.shortcut = further if outputs != inputs else None
        self.scale = scale

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "rows columns outputs"]:
        """Return the outputs."""
        if self.shortcut is None:
            y = x
        else:
            x = halved(x)
            y = self.shortcut[1](self.shortcut[0](x))
        x = jax.nn.gelu(self.norms[0](self.convolutions[0](x)))
        return y + self.scale * self.norms[1](self.convolutions[1](x))


class ResNet(eqx.Module):
    """Stages of residual blocks; each stage after the first halves the image and doubles the channels.

    As many groups as the first stage has channels. Residual branches are divided by the square root of their number.
    Where it would be common to stride, averages are taken.

    >>> model = ResNet(Images(8, 8, 1), 10, width=4, stages=(1, 1), rng=np.random.default_rng(0))
    >>> model(jax.numpy.ones((8, 8, 1))).shape
    (10,)
    """

    stem: Conv
    blocks: list[Block]
    head: Linear

    def __init__(self, inputs: Images, outputs: int, *, width: int, stages: tuple[int, ...], rng: np.random.Generator):
        self.stem = Conv(inputs.channels, width, rng=rng)
        scale, channels, self.blocks = 1 / math.sqrt(sum(stages)), width, []
        for i, blocks in enumerate(stages):
            for j in range(blocks):
                wider = 2 * channels if i and not j else channels
                self.blocks.append(Block(channels, wider, groups=width, scale=scale, rng=rng))
                channels = wider
        features = count(self.features, inputs.height, inputs.width, inputs.channels)
        self.head = Linear(features, outputs, rng=rng, scale=0.1)

    def features(self, x: Float[Array, "height width channels"]) -> Float[Array, " features"]:
        """Return what the last layer is given: the image of the last block, averaged to 2 x 2 pixels."""
        x = jax.nn.gelu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return average_pool(x, 2).reshape(-1)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, " outputs"]:
        """Return the outputs for one image."""
        return self.head(self.features(x))

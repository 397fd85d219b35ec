"""A vision transformer."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..datasets.base import Images
from .layers import QUIET, LayerNorm, Linear, TransformerBlock, patches

INPUTS = (Images,)
SIZES = {
    "small": {"dim": 16, "depth": 1, "heads": 2, "hidden": 32, "patch": 4},
    "paper": {"dim": 64, "depth": 4, "heads": 8, "hidden": 256, "patch": 4},
}


class ViT(eqx.Module):
    """Patches become vectors, to which learned positions are added, go through transformer blocks and are averaged.

    Patches have `patch` pixels a side, or a quarter of the image's side where that is less.

    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "hidden": 16, "patch": 4}
    >>> ViT(Images(8, 8, 1), 10, rng=np.random.default_rng(0), **sizes)(jnp.ones((8, 8, 1))).shape
    (10,)
    """

    embedding: Linear
    positions: Float[Array, "patches dim"]
    blocks: list[TransformerBlock]
    norm: LayerNorm
    head: Linear
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: Images,
        outputs: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        patch: int,
        rng: np.random.Generator,
    ):
        self.patch = max(1, min(patch, min(inputs.height, inputs.width) // 4))
        number = (inputs.height // self.patch) * (inputs.width // self.patch)
        self.embedding = Linear(self.patch**2 * inputs.channels, dim, rng=rng)
        self.positions = jnp.asarray(rng.normal(size=(number, dim))) / 2
        self.blocks = [TransformerBlock(dim, heads=heads, hidden=hidden, causal=False, rng=rng) for _ in range(depth)]
        self.norm, self.head = LayerNorm(dim, scale=QUIET), Linear(dim, outputs, rng=rng, scale=0.1)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, " outputs"]:
        """Return the outputs for one image."""
        x = self.embedding(patches(x, self.patch)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(jnp.mean(x, axis=0)))

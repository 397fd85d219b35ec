"""Networks on data: `problem("cnn", data="digits", loss="cross-entropy")`, from `architectures` and `datasets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss.problem import Problem
from ..support.errors import InputError
from .architectures import architecture
from .datasets import dataset
from .datasets.base import noisy
from .losses import find_loss, targets_of


def network(
    name: str,
    /,
    *,
    data: str = "digits",
    loss: str = "mse",
    size: str = "small",
    n: int = 0,
    classes: int = 0,
    noise: float = 0.0,
    seed: int = 0,
    folder: str = "",
    path: str = "",
    download: bool = False,
) -> Problem:
    """Return a network on data; the problems of this module are this function with the name filled in.

    **Arguments:**

    - `name`: of the network, one of `architectures.ARCHITECTURES`.
    - `data`: one of `datasets.DATASETS`; `folder` is for `cifar10`, `fashion-mnist` and `mnist`, `download` for
      `cifar10`, `path` for `npz`.
    - `loss`: `mse` (to one-hot targets), `cross-entropy`, or `binary` (whether the label is odd, logistic loss).
    - `size`: `small` or `paper`.
    - `n`: how many examples; 0 for the data's own number.
    - `classes`: of how many classes, for data with a `folder`; 0 for the data's own number.
    - `noise`: the share of labels, at random, that are replaced by random ones: training sharpens for longer.
    - `seed`: of the weights.

    **Raises:** `InputError` for unknown names, data that cannot be had, and data that the network does not take.

    >>> problem = cnn(n=20)
    >>> problem.n_weights, problem.outputs(problem.w0).shape
    (2128, (20, 10))
    """
    loss_of, error = find_loss(loss)
    options = {"n": n, "classes": classes, "folder": folder, "path": path, "download": download}
    found = dataset(data, **{option: value for option, value in options.items() if value})
    if not 0 <= noise <= 1:
        raise InputError(f"noise is {noise}, the share of random labels must be between 0 and 1")
    y = noisy(found.y, noise, found.classes) if noise else found.y
    targets = targets_of(loss, y, found.classes)
    model = architecture(name, found.inputs, targets.shape[-1], size=size, seed=seed)
    weights = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    chance = f", {noise:.0%} of the labels random" if noise else ""
    objective = Objective(loss_of)
    return Problem(
        objective.loss,
        model,
        data=(jnp.asarray(found.x), jnp.asarray(targets)),
        examples=True,
        outputs=objective.outputs,
        name=name,
        description=f"{name} ({size}, {weights:,} weights) on {found.description}{chance}, {error}, seed {seed}",
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss of a network as a value: equal ones compare equal, so that equal problems share compiled code."""

    of: Callable

    def outputs(self, model: Callable, data: tuple[Array, Array]) -> Float[Array, "n *answers K"]:
        """Return the outputs for data = (inputs (n, ...), targets)."""
        return jax.vmap(model)(data[0])

    def loss(self, model: Callable, data: tuple[Array, Array]) -> Float[Array, ""]:
        """Return the mean loss."""
        return self.of(self.outputs(model, data), data[1])


mlp, cnn, resnet, vit = (partial(network, name) for name in ("mlp", "cnn", "resnet", "vit"))
lstm, transformer, mamba = (partial(network, name, data="sorting") for name in ("lstm", "transformer", "mamba"))

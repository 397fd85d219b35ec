"""The main test problem: a small MLP on scikit-learn's handwritten digits, squared error on one-hot targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..loss.problem import Problem
from ..support.compiler import normal
from ..support.errors import InputError, check_one_of
from .datasets.base import noisy
from .datasets.digits import bundled

ACTIVATIONS = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "softplus": jax.nn.softplus}


def digits_mlp(
    *,
    width: int = 26,
    depth: int = 1,
    n: int = 500,
    activation: str = "tanh",
    scale: float = 0.7,
    components: int = 0,
    parity: bool = False,
    noise: float = 0.0,
    seed: int = 0,
) -> Problem:
    """Return an MLP 64 - width (depth times) - 10 on the first n digits, loss 1/2 mean |output - one-hot|^2.

    Inputs are divided by 16 and centred; weights are normal with variance scale^2 / fan-in, biases zero. The
    default has 1,960 weights. With `components` the inputs are that many principal components, each of variance 1:
    a smaller network, and one in which every weight has a gradient (some pixels are always white). With `parity` the
    one target is +1 for an odd digit and -1 for an even one: fewer eigenvalues become critical at once. With `noise`
    that share of the labels, at random, is replaced by random ones: training sharpens for longer.

    >>> digits_mlp(n=50).n_weights
    1960
    """
    check_one_of("activation", activation, ACTIVATIONS)
    for option, value in (("width", width), ("depth", depth), ("n", n)):
        if value < 1:
            raise InputError(f"{option} is {value}, it must be at least 1")
    if n > 1797:
        raise InputError(f"n is {n}, the bundled digits have 1797 images: pass at most that")
    X, labels = bundled()
    if not 0 <= noise <= 1:
        raise InputError(f"noise is {noise}, the share of random labels must be between 0 and 1")
    labels = noisy(labels[:n], noise)
    X = X[:n] / 16
    X = X - X.mean(axis=0)
    if components:
        rank = int(np.linalg.matrix_rank(X))
        if not 0 < components <= rank:
            raise InputError(
                f"components is {components}, it must be 0 or between 1 and the rank of the images, {rank}"
            )
        U, *_ = np.linalg.svd(X, full_matrices=False)
        X = np.sqrt(n) * U[:, :components]
    targets = 2.0 * (labels[:, None] % 2) - 1 if parity else np.eye(10)[labels]
    shape = [X.shape[1]] + [width] * depth + [targets.shape[1]]
    data = (jnp.asarray(X), jnp.asarray(targets))
    params = mlp_params(shape, scale=scale, seed=seed)
    model = Mlp(ACTIVATIONS[activation])
    sizes = "-".join(str(s) for s in shape)
    goal = "odd or even" if parity else "one-hot targets"
    goal += f", {noise:.0%} of the labels random" if noise else ""
    source = f"{components} principal components of {n}" if components else f"{n}"
    return Problem(
        model.loss,
        params,
        data=data,
        examples=True,
        outputs=model.outputs,
        name="digits-mlp",
        description=f"{activation} MLP {sizes} on {source} handwritten digits, {goal}, squared error, seed {seed}",
    )


def mlp_params(sizes: list[int], *, scale: float, seed: int) -> list[dict]:
    """Return weights of an MLP: normal with variance scale^2 / fan-in, biases zero."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        {"weight": scale * normal(key, (a, b), float) / np.sqrt(a).item(), "bias": jnp.zeros(b)}
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Mlp:
    """The network as a value: equal activations compare equal, so that equal problems share compiled code."""

    activation: Callable

    def outputs(self, params, data):
        """Return the outputs (n, classes) for data = (inputs (n, features), targets)."""
        x = data[0]
        for layer in params[:-1]:
            x = self.activation(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    def loss(self, params, data):
        """Return half the mean squared distance of the outputs from the targets."""
        return jnp.mean(jnp.sum((self.outputs(params, data) - data[1]) ** 2, axis=1)) / 2

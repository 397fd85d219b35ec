"""What a network's outputs are compared with, and how: each loss a mean over examples, smooth to all orders."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..support.errors import InputError, check_one_of


def mse(outputs: Float[Array, "*n K"], targets: Float[Array, "*n K"]) -> Float[Array, ""]:
    """Return half the mean squared distance of the outputs from the targets.

    >>> mse(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])).item()
    1.0
    """
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1)) / 2


def cross_entropy(outputs: Float[Array, "*n K"], targets: Float[Array, "*n K"]) -> Float[Array, ""]:
    """Return the mean cross-entropy of softmax(outputs) relative to the targets, whose rows are probabilities.

    >>> round(cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).item(), 4)
    0.6931
    """
    return jnp.mean(jax.nn.logsumexp(outputs, axis=-1) - jnp.sum(targets * outputs, axis=-1))


def logistic(outputs: Float[Array, "*n 1"], targets: Float[Array, "*n 1"]) -> Float[Array, ""]:
    """Return the mean of log(1 + exp(-target output)) for targets +1 and -1.

    >>> round(logistic(jnp.zeros((1, 1)), jnp.ones((1, 1))).item(), 4)
    0.6931
    """
    return jnp.mean(jax.nn.softplus(-targets * outputs))


# name: (function, in words)
LOSSES: dict[str, tuple[Callable, str]] = {
    "mse": (mse, "squared error"),
    "cross-entropy": (cross_entropy, "cross-entropy"),
    "binary": (logistic, "logistic loss"),
}


def find_loss(name: str) -> tuple[Callable, str]:
    """Return the loss of that name and what it is called in reports; raises `InputError` for an unknown one.

    >>> find_loss("mse")[1]
    'squared error'
    """
    check_one_of("loss", name, LOSSES)
    return LOSSES[name]


def targets_of(name: str, y: np.ndarray, classes: int) -> np.ndarray:
    """Return what the loss of that name compares outputs with.

    **Arguments:**

    - `name`: of the loss.
    - `y`: labels (...) from 0 to `classes` - 1; or, for squared error, real targets (..., K), which stay as they are.
    - `classes`: how many labels there are.

    **Returns:** one-hot rows (..., classes); for `"binary"` +1 for odd labels and -1 for even ones (..., 1).

    **Raises:** `InputError` for real targets of a loss that needs labels.

    >>> targets_of("mse", np.array([1, 0]), 2).tolist(), targets_of("binary", np.array([1, 0]), 2).tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [[1.0], [-1.0]])
    """
    if not np.issubdtype(y.dtype, np.integer):
        if name != "mse":
            raise InputError(f"y holds real numbers, but loss {name} needs whole numbers as labels: use loss mse")
        return y
    return 2.0 * (y[..., None] % 2) - 1 if name == "binary" else np.eye(classes)[y]

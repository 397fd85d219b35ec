"""Products with what is known in single precision.

A frame is evaluated where the path is expected to be, its eigenvectors to 2e-3 or 3e-3: more digits cost only time.
"""

from __future__ import annotations

from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..support.typed import tree_map

Tree = TypeVar("Tree")


def astype(tree: Tree, dtype: str) -> Tree:
    """Return the tree with its floating-point arrays in another precision.

    >>> astype({"a": jnp.ones(2), "b": 1}, "float32")["a"].dtype.name
    'float32'
    """
    return tree_map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def product(M: Float[Array, "p n"], v: Float[Array, "*n"]) -> Float[Array, "*p"]:
    """Return M v in the precision of v, multiplied in that of M; v is a vector or a matrix (n, k).

    What is cast is scaled to a largest entry of one: in any unit of the weights or the loss the same digits are kept.

    >>> product(jnp.ones((2, 3), "float32"), jnp.ones(3)).tolist()
    [3.0, 3.0]
    """
    if M.dtype == v.dtype:
        return M @ v
    largest = jnp.max(jnp.abs(v), initial=0)  # ()
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * (M @ (v / unit).astype(M.dtype)).astype(v.dtype)

"""What a loss is called with: the arrays of the weights in a list, and all or some of the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ..support.typed import PyTree, tree_map
from . import parts as chunks
from .weights import Fixed, Raveler, Structure


def of_arrays(loss: Callable[..., Any], fixed: Fixed, structure: Structure) -> Callable[..., Any]:
    """Return a loss of parameters as a function of the weights' arrays, in a list or any tree, and of data."""
    return partial(_of_leaves, loss, fixed, structure)


def _of_leaves(loss: Callable[..., Any], fixed: Fixed, structure: Structure, weights: PyTree, *data: PyTree) -> Any:
    return loss(fixed.joined(structure.unflatten(jax.tree.leaves(weights))), *data)


def shapes(raveler: Raveler, data: PyTree, size: int | None) -> tuple[Any, ...]:
    """Return shapes and types of weights and of data, these with so many examples; None for as they are."""

    def part(x: Array) -> jax.ShapeDtypeStruct:
        shape = x.shape if size is None else (size, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=getattr(x, "weak_type", False))

    weights = list(map(jax.ShapeDtypeStruct, raveler.shapes, map(np.dtype, raveler.dtypes)))
    return (weights,) if data is None else (weights, tree_map(part, data))


def sizes(data: PyTree, others: PyTree, at_once: int | None, mesh: Mesh | None) -> tuple[int, ...]:
    """Return on how many examples a loss is evaluated at a time by `chunks.mean`."""
    here = chunks.lengths(chunks.count(data) // (mesh.size if mesh else 1), at_once)
    return tuple(sorted(here if others is None else here | chunks.lengths(chunks.count(others), at_once)))

"""What a loss is called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from . import parts as chunks
from .traced import Traced, traced
from .weights import Fixed, Structure


def function(problem: Any) -> Callable:
    """Return the loss of a problem as a Python function of the weights' arrays, in a list or any tree, and of data."""
    if problem._source is not None:
        return problem._source.function
    return partial(_of_leaves, problem._loss, problem._fixed, problem._raveler.treedef)


def _of_leaves(loss: Callable, fixed: Fixed, structure: Structure, weights: PyTree, *data: PyTree) -> Any:
    return loss(fixed.joined(structure.unflatten(jax.tree.leaves(weights))), *data)


def shapes(problem: Any, size: int | None) -> tuple:
    """Return shapes and types of weights and of data, these with so many examples; None for as they are."""

    def part(x: Array) -> jax.ShapeDtypeStruct:
        shape = x.shape if size is None else (size, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=getattr(x, "weak_type", False))

    raveler = problem._raveler
    weights = list(map(jax.ShapeDtypeStruct, raveler.shapes, map(np.dtype, raveler.dtypes)))
    return (weights,) if problem._data is None else (weights, jax.tree.map(part, problem._data))


def sizes(problem: Any) -> tuple[int | None, ...]:
    """Return on how many examples a loss is evaluated at a time (see `chunks.mean`), None for data as they are."""
    if not problem.examples:
        return (None,)
    devices, at_once = problem.mesh.size if problem.mesh else 1, problem.chunks.examples
    here = chunks.lengths(chunks.count(problem._data) // devices, at_once)
    others = problem._others
    return tuple(sorted(here if others is None else here | chunks.lengths(chunks.count(others), at_once)))


def whole(problem: Any) -> Traced:
    """Return the program of a loss on all data, as it is now, whatever precision products have at the moment."""
    n = chunks.count(problem.data) if problem.examples else None
    with jax.default_matmul_precision("highest"):
        return traced(function(problem), shapes(problem, n), derivatives=True)

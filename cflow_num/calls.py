"""What a loss is called with, and what it must return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import chunks
from .errors import InputError
from .traced import Traced, traced


def function(problem: Any) -> Callable:
    """Return the loss of a problem as a Python function of weights and data."""
    return partial(_of_params, problem._loss, problem._static) if problem._source is None else problem._source.function


def _of_params(loss: Callable, static: PyTree, weights: PyTree, *data: PyTree) -> Any:
    return loss(eqx.combine(weights, static), *data)


def of_leaves(problem: Any) -> Callable:
    """Return the same as a function of the weights' arrays in a list, whatever tree they came from."""
    return partial(_of_leaves, function(problem), problem._raveler.treedef)


def _of_leaves(fn: Callable, treedef: Any, weights: PyTree, *data: PyTree) -> Any:
    return fn(jax.tree.unflatten(treedef, jax.tree.leaves(weights)), *data)


def own(x: Any) -> Array:
    """Return an array as JAX's own: a NumPy array may be changed in place later.

    >>> x = np.ones(2)
    >>> kept, x[:] = own(x), 3.0
    >>> kept.tolist()
    [1.0, 1.0]
    """
    return x if isinstance(x, jax.Array) else jnp.array(x)


def shapes(problem: Any, size: int | None) -> tuple:
    """Return shapes and types of weights and of data, these with so many examples; None for as they are."""

    def part(x: Array) -> jax.ShapeDtypeStruct:
        shape = x.shape if size is None else (size, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=x.weak_type)

    raveler = problem._raveler
    leaves = map(jax.ShapeDtypeStruct, raveler.shapes, map(np.dtype, raveler.dtypes))
    weights = jax.tree.unflatten(raveler.treedef, list(leaves))
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


def check_scalar(loss: Callable, args: tuple) -> None:
    """Raise `InputError` unless the loss can be evaluated and returns one real number."""
    try:
        out = jax.eval_shape(loss, *args)
    except InputError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"loss cannot be evaluated on params: {type(error).__name__}: {first}") from error
    leaves = jax.tree.leaves(out)
    shape = getattr(leaves[0], "shape", None) if len(leaves) == 1 else None
    if shape != ():
        found = f"shape {shape}" if shape is not None else f"{len(leaves)} values"
        raise InputError(f"loss returns {found}, it must return one number: take the mean or the sum")
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise InputError(f"loss returns {leaves[0].dtype}, it must return a real floating-point number")

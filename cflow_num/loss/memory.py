"""How many bytes the derivatives of a loss take, and the parts in which it fits a budget or the caches."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array

from ..support.typed import PyTree, combine, grad, partition
from . import parts as chunks
from .function import Function
from .parts import Chunks
from .polarization import DIRECTIONS_AT_ONCE


def needed(function: Function) -> int:
    """Return the bytes, on each device, of eight Hessian-vector products or a block of third derivatives."""
    arrays, static = partition(function, eqx.is_array)
    V, Z = (
        jax.ShapeDtypeStruct((k, function.n_weights), function.w0.dtype)
        for k in (min(chunks.VECTORS, function.n_weights), DIRECTIONS_AT_ONCE)
    )

    def products(arrays: PyTree, V: Array) -> Array:
        whole = combine(arrays, static)
        return whole.hessian_vectors(whole.w0, V.T)

    def third(arrays: PyTree, Z: Array) -> Array:
        whole = combine(arrays, static)
        return whole.third_derivatives(whole.w0, Z)

    return max(chunks.memory_of(products, arrays, V), chunks.memory_of(third, arrays, Z))


def fitting(function: Function, budget: int) -> Chunks:
    """Return the largest parts in which data and derivatives fit a budget; `InputError` where none do."""
    n = None
    if function.examples:
        n = chunks.count(function.shares) // (function.mesh.size if function.mesh else 1)
    return chunks.choose(budget, n, lambda parts: needed(function.replaced(chunks=parts)))[0]


def fastest(function: Function) -> Chunks:
    """Return the parts that are chosen where none are asked for."""
    n = chunks.count(function.shares) if function.examples else None
    return chunks.fastest(grad(function.value_on), (function.w0, function.shares), n)

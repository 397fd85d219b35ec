"""Where and in which precision a loss is computed: on one device, on many, in `float32` or `float64`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import Array, Float

from ..support import devices
from ..support.errors import InputError
from ..support.typed import PyTree, device_put, setting, tree_map
from . import parts as chunks
from .function import Function
from .weights import is_weight

F = TypeVar("F", bound=Function)


def together(function: F) -> F:
    """Return the function with all data in one place."""
    return function.replaced(shares=function.data, others=None, mesh=None)


def on(function: F, device: Any) -> F:
    """Return the function on one device."""
    place = devices.find(device)
    return tree_map(lambda x: device_put(x, place) if eqx.is_array(x) else x, together(function))


def sharded(function: F, over: Any) -> F:
    """Return the function with its examples split over devices and all else on each of them."""
    mesh = devices.mesh_of(over)
    function.require_examples("split over devices")
    n = chunks.count(function.data)
    if n < mesh.size:
        raise InputError(f"{n} examples cannot be split over {mesh.size} devices: use at most {n} of them")
    shares, others = devices.split(function.data, mesh)
    rest = devices.everywhere(function.replaced(shares=None, others=None), mesh)
    return rest.replaced(shares=shares, others=others, mesh=mesh)


def with_numbers(function: F, w0: Float[Array, " n"], data: PyTree) -> F:
    """Return the function with other weights to start from and other data, where the old ones are."""
    if function.mesh is None:
        return function.replaced(w0=w0, shares=data)
    shares, others = devices.split(data, function.mesh)
    return function.replaced(w0=devices.everywhere(w0, function.mesh), shares=shares, others=others)


def astype(function: F, dtype: Any) -> F:
    """Return the function with weights and data of another floating-point type; itself where it has that type."""
    name = devices.chosen_dtype(dtype)
    if name == function.w0.dtype.name and all(d == name for d in function.raveler.dtypes):
        return function
    if name == "float64" and not setting("jax_enable_x64"):
        raise InputError('dtype is float64, which JAX has switched off: call jax.config.update("jax_enable_x64", True)')
    if not function.castable:
        raise InputError(f"the loss of {function.name} captured arrays, whose type is fixed: pass them as data")
    raveler = dataclasses.replace(function.raveler, dtypes=(name,) * len(function.raveler.dtypes))
    return tree_map(lambda x: x.astype(name) if is_weight(x) else x, function).replaced(raveler=raveler)

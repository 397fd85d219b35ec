"""Whether a loss that is summed in parts is the mean that it is said to be: loss and gradient, whole against parts.

A ratio of sums, such as sum(m e) / sum(m), looks like a mean and is none: its parts have denominators of their own. So
is compared what will be used, on all examples, at the start and next to it, to the rounding of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..support.devices import available_memory
from ..support.errors import InputError
from ..support.typed import PyTree, jit, make_jaxpr, norm, tree_map, value_and_grad
from . import parts as chunks
from .function import Function

_NUDGES = 1e-2, 1e-4, 1e-6  # of the weights: a start may be too special for a difference to show, far off infinite


class _Sums(NamedTuple):
    """Loss and gradient, and the means of their absolute values over parts: what rounding is relative to."""

    loss: Float[Array, ""]
    gradient: Float[Array, " n"]
    loss_size: Float[Array, ""]
    gradient_size: Float[Array, " n"]


def check_mean(problem: Function, whole: Function, budget: int | None = None) -> None:
    """Raise `InputError` unless the mean over the parts of a problem is its loss on all examples.

    **Arguments:**

    - `problem`: in the parts that will be used.
    - `whole`: the same with all examples at once, on one device.
    - `budget`: bytes that may be used; by default half of what is free. Where the whole does not fit, each part is
      compared with its neighbour.
    """
    problem, whole = problem.traced(), whole.traced()
    limit = budget or (available_memory() or 2**62) // 2
    n = chunks.count(whole.shares)
    size = problem.chunks.examples or n
    fits = n <= 2 * size or _needed(whole) <= limit
    spread = norm(whole.w0) / math.sqrt(whole.n_weights)
    spread = jnp.where(spread > 0, spread, 1)  # from zero, where weights have no size: the rule holds at any point
    direction = spread * jnp.cos(1 + jnp.arange(whole.n_weights, dtype=whole.w0.dtype))
    for nudge in (0.0, *_NUDGES):
        moved = nudge * direction
        if fits:
            together = _quickly(_together, whole, whole.w0 + moved)
            parts = _quickly(_in_parts, problem, problem.w0 + np.asarray(moved))
        else:
            together, parts = _quickly(_neighbours, whole.traced(size, 2 * size), size, whole.w0 + moved)
        _compare(problem.name, together, parts)
        if nudge and all(np.isfinite(x).all() for x in together):
            break


def _needed(whole: Function) -> int:
    return chunks.traced_memory(make_jaxpr(partial(_sums, whole))(whole.w0, whole.shares))


def _sums(problem: Function, w: Array, data: PyTree) -> _Sums:
    loss, g = value_and_grad(problem.value_on)(w, data)
    return _Sums(loss, g, jnp.abs(loss), jnp.abs(g))


def _quickly(fn: Callable[..., Any], *args: Any) -> Any:
    """Return `fn(*args)`, compiled once and in little time: it is used once or twice."""
    leaves, structure = jax.tree.flatten(args)
    others = tuple(None if eqx.is_array(x) else x for x in leaves)
    arrays = [x if eqx.is_array(x) else None for x in leaves]
    return tree_map(np.asarray, _called(fn, structure, others, arrays))


@partial(jit, static_argnums=(0, 1, 2), compiler_options=chunks.QUICKLY)
def _called(fn: Callable[..., Any], structure: Any, others: tuple[Any, ...], arrays: list[Any]) -> Any:
    leaves = [x if y is None else y for x, y in zip(others, arrays, strict=True)]
    return fn(*jax.tree.unflatten(structure, leaves))


def _together(whole: Function, w: Array) -> _Sums:
    return _sums(whole, w, whole.shares)


def _in_parts(problem: Function, w: Array) -> _Sums:
    return problem.mean(partial(_sums, problem), w)


def _neighbours(whole: Function, size: int, w: Array) -> tuple[_Sums, _Sums]:
    """Return what two neighbouring parts together and their mean say, for the pair that differs most."""
    n = chunks.count(whole.shares)

    def at(first: Array, length: int) -> _Sums:
        part = tree_map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, length), whole.shares)
        return _sums(whole, w, part)

    def look(first: Array) -> tuple[_Sums, _Sums]:
        halves = at(first, size), at(first + size, size)
        return at(first, 2 * size), tree_map(lambda x, y: (x + y) / 2, *halves)

    def worse(worst: tuple[Any, ...], first: Array) -> tuple[tuple[Any, ...], None]:
        found = look(first)
        off, so_far = (jnp.nan_to_num(sum(_deviations(*x)), nan=jnp.inf) for x in (found, worst))
        return tree_map(lambda x, y: jnp.where(off > so_far, x, y), found, worst), None

    starts = jnp.append(jnp.arange(0, n - 2 * size, size), n - 2 * size)
    return jax.lax.scan(worse, look(starts[0]), starts[1:])[0]


def _deviations(together: _Sums, parts: _Sums) -> tuple[Array, Array]:
    """Return how far loss and gradient are apart, relative to their sizes in the parts."""
    size = tree_map(jnp.maximum, together, parts)
    apart = norm(together.gradient - parts.gradient)
    gradient = _relative(apart, norm(size.gradient_size))
    return _relative(jnp.abs(together.loss - parts.loss), size.loss_size), gradient


def _relative(x: Array, size: Array) -> Array:
    return jnp.where(x == 0, 0.0, x / size)


def _compare(name: str, together: _Sums, parts: _Sums) -> None:
    if not all(np.isfinite(x).all() for x in together):
        return  # there it says nothing
    loss, gradient = (float(x) for x in _deviations(together, parts))
    limit = float(np.sqrt(np.finfo(together.loss.dtype).eps))
    if loss <= limit and gradient <= limit:
        return
    seen = f"{together.loss:.6g} on examples together and {parts.loss:.6g} as the mean over their parts"
    if loss <= limit:
        seen += f", and their gradients differ by {gradient:.2g} of their size"
    raise InputError(
        f"the loss of {name} is {seen}: it must be a mean over examples; leave examples=True out, or, for a ratio of "
        "sums, divide its weights by their mean before they become data"
    )

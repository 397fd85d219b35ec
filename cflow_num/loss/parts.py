"""Sums over examples and blocks of vectors a part at a time, and the parts that a memory budget allows.

A loss that is a mean over N examples, and every derivative of it, is the mean of those over c examples: working memory
grows with c and with the number b of vectors that are multiplied at once, while data and results stay what they are.
On a processor the parts are, unless others are asked for, those that stay in its caches; small problems are not cut.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from ..support.devices import AXIS
from ..support.errors import InputError
from ..support.typed import PyTree, eval_shape, jit, make_jaxpr, pmean, several, tree_map

VECTORS = 8  # at once at most under a budget: the block of four critical eigenvalues with its guard vectors
_FEW_EXAMPLES = 16  # fewer at once waste the processor: rather fewer vectors
_ONE_VECTOR, _ONE_PART = 4_000_000, 16_000_000  # bytes a gradient writes: beyond, one vector at a time, fewer examples
_TRIALS = 6  # compilations to find the number of examples in
_ENOUGH = 0.75  # share of what is left of the budget at which no more is looked for
QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 0}  # the same memory, compiled in half the time
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclasses.dataclass(frozen=True)
class Chunks:
    """How many examples (on each device) and how many vectors are worked on at a time; None for all.

    >>> Chunks(examples=100)
    Chunks(examples=100, vectors=None)
    """

    examples: int | None = None
    vectors: int | None = None

    def __post_init__(self):
        for name in ("examples", "vectors"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} at a time is {value!r}, it must be a whole number of at least 1, or None")


def count(data: PyTree) -> int:
    """Return the number of examples: the length of the first axis of each leaf.

    **Raises:** `InputError` where there are no data, or leaves of different lengths.

    >>> count({"x": jnp.ones((3, 2)), "y": jnp.ones(3)})
    3
    """
    lengths = [np.shape(x)[0] if np.ndim(x) else None for x in jax.tree.leaves(data)]
    if not lengths or None in lengths or len(set(lengths)) > 1 or not lengths[0]:
        shapes = ", ".join(str(np.shape(x)) for x in jax.tree.leaves(data)) or "none"
        raise InputError(f"examples=True needs data whose first axes all have the number of examples: found {shapes}")
    return lengths[0]


def lengths(n: int, size: int | None) -> set[int]:
    """Return how many examples the parts of n have, `size` of them at a time.

    >>> lengths(7, 3), lengths(6, 3), lengths(7, None)
    ({1, 3}, {3}, {7})
    """
    return {n} if size is None or size >= n else {size, n % size} - {0}


def mean(
    fn: Callable[..., PyTree],
    args: tuple[Any, ...],
    data: PyTree,
    others: PyTree | None = None,
    size: int | None = None,
    mesh: Mesh | None = None,
) -> PyTree:
    """Return the mean over all examples of `fn(*args, data)`, which returns the mean over those it is given.

    **Arguments:**

    - `data`: a tree of arrays, examples along their first axis; with `mesh` split over its devices.
    - `others`: further examples, on every device.
    - `size`: how many examples, on each device, at a time; None for all.

    >>> float(mean(lambda a, x: a * jnp.mean(x), (2.0,), jnp.arange(7.0), size=3))
    6.0
    """
    if mesh is None:
        return _mean(fn, args, data, size)

    def share(args: tuple[Any, ...], data: PyTree) -> PyTree:
        return tree_map(lambda x: pmean(x, AXIS), _mean(fn, args, data, size))

    here, split = PartitionSpec(), PartitionSpec(AXIS)
    shared = jax.shard_map(share, mesh=mesh, in_specs=(here, split), out_specs=here, check_vma=False)
    if others is None:
        return shared(args, data)
    n, more = count(data), count(others)
    return _weighted(shared(args, data), n / (n + more), _mean(fn, args, others, size), more / (n + more))


def _mean(fn: Callable[..., PyTree], args: tuple[Any, ...], data: PyTree, size: int | None) -> PyTree:
    if size is None or size >= (n := count(data)):
        return fn(*args, data)
    whole, rest = divmod(n, size)

    def part(first: Array | int, length: int) -> PyTree:
        return fn(*args, tree_map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, length), data))

    def add(total: PyTree, i: Array) -> tuple[PyTree, None]:
        return tree_map(jnp.add, total, part(i * size, size)), None

    zeros = tree_map(lambda x: jnp.zeros(x.shape, x.dtype), eval_shape(lambda: part(0, size)))
    total, _ = jax.lax.scan(add, zeros, jnp.arange(whole))
    if not rest:
        return tree_map(lambda x: x / whole, total)
    return _weighted(total, size / n, part(whole * size, rest), rest / n)


def _weighted(x: PyTree, a: float, y: PyTree, b: float) -> PyTree:
    return tree_map(lambda x, y: a * x + b * y, x, y)


def over_vectors(fn: Callable[[Array], Array], V: Array, size: int | None, axis: int = 0) -> Array:
    """Return `fn(V)`, where `fn` works on each vector of a block alone, for `size` of them at a time.

    Vectors lie along `axis`; the last block overlaps the one before, so that all are of the same size.

    >>> over_vectors(lambda V: 2 * V, jnp.arange(5.0), 3).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    K = V.shape[axis]
    if size is None or size >= K:
        return fn(V)

    def block(done: Array, i: Array) -> tuple[Array, None]:
        first = jnp.minimum(i * size, K - size)
        part = fn(jax.lax.dynamic_slice_in_dim(V, first, size, axis))
        return jax.lax.dynamic_update_slice_in_dim(done, part, first, axis), None

    return jax.lax.scan(block, jnp.zeros_like(V), jnp.arange(-(-K // size)))[0]


def parse_memory(memory: Any) -> int:
    """Return a size in bytes, from a number of bytes or a text with a unit: 1 kB is 1000 bytes, 1 KiB 1024.

    **Raises:** `InputError` for what is no size, or not positive.

    >>> parse_memory("2GB"), parse_memory("1.5 MiB"), parse_memory(4096)
    (2000000000, 1572864, 4096)
    """
    found = re.fullmatch(r"\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(memory), re.IGNORECASE)
    try:
        number = float(found[1] if found else "no size")
    except ValueError:
        number = None
    if found is None or number is None:
        raise InputError(f'memory is "{memory}", it must be a size such as 500MB or 2GiB')
    size = number * (1024 if found[3] else 1000) ** _UNITS[found[2].lower()]
    if isinstance(memory, bool) or not (math.isfinite(size) and size >= 1):
        raise InputError(f"memory is {memory}, it must be positive: pass a size such as 500MB or 2GiB")
    return int(size)


def show_memory(size: int) -> str:
    """Return a size in words, rounded up so that what is shown is enough.

    >>> show_memory(1_234_567), show_memory(999)
    ('1.24MB', '999B')
    """
    power = max(p for p in range(5) if p == 0 or size >= 1000**p)
    unit = ["B", "kB", "MB", "GB", "TB"][power]
    digits = max(0, 3 - len(str(int(size / 1000**power))))
    return f"{math.ceil(size / 1000**power * 10**digits) / 10**digits:g}{unit}"


def memory_of(fn: Callable[..., Any], *args: Any) -> int:
    """Return the bytes that a compiled `fn(*args)` holds on each device: arguments, results and between them.

    As the compiler reports it; where it does not, an upper bound: all intermediate values of the traced program, as if
    none were ever fused or freed. Arguments may be `jax.ShapeDtypeStruct`s: nothing is computed.

    >>> memory_of(lambda x: x + 1, jax.ShapeDtypeStruct((100,), jnp.float32))
    800
    """
    try:
        found = jit(fn).lower(*args).compile(dict(QUICKLY)).memory_analysis()
    except (NotImplementedError, RuntimeError):
        found = None
    if found is not None:
        return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return traced_memory(make_jaxpr(fn)(*args))


def traced_memory(closed: Any) -> int:
    """Return the bytes of all values of a traced program, as if none were freed; of a loop those of one turn.

    >>> traced_memory(jax.make_jaxpr(lambda x: x + 1)(jnp.ones(100, jnp.float32)))
    800
    """

    def size(variables: Any) -> int:
        return sum(v.aval.size * v.aval.dtype.itemsize for v in variables if hasattr(v.aval, "dtype"))

    jaxpr = getattr(closed, "jaxpr", closed)
    total = size(jaxpr.invars) + size(jaxpr.constvars)
    for equation in jaxpr.eqns:
        inner = [
            x
            for p in equation.params.values()
            for x in several(p)
            if isinstance(getattr(x, "jaxpr", x), jex.core.Jaxpr)
        ]
        total += size(equation.outvars) + sum(traced_memory(x) for x in inner)
    return total


def fastest(gradient: Callable[..., Any], args: tuple[Any, ...], n: int | None) -> Chunks:
    """Return the parts in which the derivatives of a gradient are fastest here: on accelerators all at once.

    >>> fastest(jax.grad(lambda w: w @ w), (jnp.ones(3),), None)
    Chunks(examples=None, vectors=None)
    """
    if jax.default_backend() != "cpu":
        return Chunks()
    return for_caches(traced_memory(make_jaxpr(gradient)(*args)), n)


def for_caches(written: int, n: int | None) -> Chunks:
    """Return the parts in which a processor is fastest, for a gradient that writes so many bytes on n examples.

    Blocks of vectors multiply what lies between; where that leaves the caches, one vector at a time is two to three
    times faster, and so are parts of the examples.

    >>> for_caches(1_000_000, 500), for_caches(100_000_000, 500)
    (Chunks(examples=None, vectors=None), Chunks(examples=72, vectors=1))
    """
    parts = math.ceil(written / _ONE_PART)
    examples = None if n is None or parts <= 1 else max(-(-n // parts), min(n, _FEW_EXAMPLES))
    return Chunks(examples, 1 if written > _ONE_VECTOR else None)


def choose(budget: int, n: int | None, needed: Callable[[Chunks], int]) -> tuple[Chunks, int]:
    """Return the largest parts that fit a budget, with what they need.

    All examples at once if that fits; else as many as possible, and fewer vectors where these would be very few.

    **Arguments:**

    - `budget`: bytes.
    - `n`: the number of examples on a device; None if the loss is not a mean over examples.
    - `needed`: bytes for given parts; costs a compilation, so that few are asked for.

    **Raises:** `InputError` with the least that is needed.

    >>> choose(1000, 50, lambda c: 100 + 10 * (c.examples or 50) * c.vectors)
    (Chunks(examples=22, vectors=4), 980)
    """
    used, vectors = needed(whole := Chunks(None, VECTORS)), VECTORS
    if used <= budget:
        return whole, used
    least = needed(Chunks(None if n is None else 1, 1))
    if least > budget:
        part = "one vector" if n is None else "one example and one vector"
        remedy = ", or examples=True to Problem if its loss is a mean over examples" if n is None else ""
        raise InputError(
            f"memory is {show_memory(budget)}, data and derivatives with {part} at a time need {show_memory(least)}: "
            f"pass at least that{remedy}"
        )
    while n is not None:
        one = least if vectors == 1 else needed(Chunks(1, vectors))
        if one <= budget:
            parts, used = _most_examples(budget, n, vectors, (1, one), (n, used), needed)
            if (parts.examples or n) >= min(n, _FEW_EXAMPLES) or vectors == 1:
                return parts, used
        vectors //= 2
        if (used := needed(whole := Chunks(None, vectors))) <= budget:
            return whole, used
    while used > budget:
        vectors //= 2
        used = needed(Chunks(None, vectors))
    return Chunks(None, vectors), used


def _most_examples(
    budget: int, n: int, vectors: int, low: tuple[int, int], high: tuple[int, int], needed: Callable[[Chunks], int]
) -> tuple[Chunks, int]:
    """Return the most examples that fit, between `low`, which do, and `high`, which do not: secants, then halves."""
    least = low[1]
    for trial in range(_TRIALS):
        if high[0] - low[0] <= 1 or low[1] - least >= _ENOUGH * (budget - least):
            break
        share = (budget - low[1]) / max(high[1] - low[1], 1) if trial < _TRIALS // 2 else 0.5
        middle = min(max(low[0] + int(share * (high[0] - low[0])), low[0] + 1), high[0] - 1)
        middle = _evenly(n, middle) if _evenly(n, middle) > low[0] else middle
        used = needed(Chunks(middle, vectors))
        low, high = ((middle, used), high) if used <= budget else (low, (middle, used))
    return Chunks(low[0], vectors), low[1]


def _evenly(n: int, size: int) -> int:
    """Return a slightly smaller size that divides n, if there is one: then no part is left over."""
    return next((d for d in range(size, size * 3 // 4, -1) if n % d == 0), size)

"""How the parameters of a loss become one vector of weights, and what a loss captured becomes an argument."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Raveler:
    """How a pytree of arrays became one vector; hashable, so that equal problems share compiled code."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, params: PyTree) -> Raveler:
        """Describe the pytree `params` of arrays."""
        leaves, treedef = jax.tree.flatten(params)
        return cls(treedef, tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves))

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return all entries of `params` in one vector, in the order of its leaves."""
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])

    def unravel(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree whose entries are `w`; the inverse of `ravel`."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = jnp.split(w, list(np.cumsum(sizes)[:-1]))
        leaves = [x.reshape(s).astype(d) for x, s, d in zip(parts, self.shapes, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


class Blocks(eqx.Module):
    """The blocks that the weights fall into: one for each array of the parameters, in order.

    >>> blocks = Blocks((2, 1))
    >>> blocks.total(jnp.array([1.0, 2.0, 3.0])).tolist(), blocks.spread(jnp.array([5.0, 6.0])).tolist()
    ([3.0, 3.0], [5.0, 5.0, 6.0])
    """

    sizes: tuple[int, ...] = eqx.field(static=True)

    def total(self, v: Float[Array, " n"]) -> Float[Array, " B"]:
        """Return the sums over the blocks."""
        return jnp.stack([jnp.sum(part) for part in jnp.split(v, np.cumsum(self.sizes)[:-1].tolist())])

    def spread(self, x: Float[Array, " B"]) -> Float[Array, " n"]:
        """Return each block's value at each of its weights."""
        return jnp.repeat(x, np.array(self.sizes), total_repeat_length=sum(self.sizes))


class Hoisted(eqx.Module):
    """A function whose captured arrays have become arguments, through its jaxpr."""

    consts: list[Array]
    jaxpr: Any = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> PyTree:
        """Return what the function returns."""
        closed = jex.core.ClosedJaxpr(self.jaxpr, self.consts)
        return jax.tree.unflatten(self.treedef, jex.core.jaxpr_as_fun(closed)(*jax.tree.leaves(args)))


def hoist(fn: Callable, *args: PyTree) -> Callable:
    """Return `fn` itself if it captures no array, else an equivalent with the captured arrays as data."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    if not any(np.size(c) > 1 for c in closed.consts):
        return fn
    return Hoisted([jnp.asarray(c) for c in closed.consts], closed.jaxpr, jax.tree.structure(shape))


def is_weight(x: Any) -> bool:
    """Say whether a leaf of the parameters is a floating-point array."""
    return isinstance(x, (jax.Array, np.ndarray)) and jnp.issubdtype(x.dtype, jnp.floating)


def without(tree: PyTree, held: PyTree) -> PyTree:
    """Return the tree with None in the place of every leaf that `held` has; their structures are the same.

    >>> without({"a": 1, "b": 2}, {"a": None, "b": 3})
    {'a': 1, 'b': None}
    """
    return jax.tree.map(lambda x, h: x if h is None else None, tree, held, is_leaf=lambda x: x is None)


@dataclasses.dataclass(frozen=True)
class Method:
    """A bound method that equals that of an equal object: Python compares the objects of bound methods by identity."""

    function: Callable
    owner: Any

    def __call__(self, *args: PyTree) -> PyTree:
        """Call the method."""
        return self.function(self.owner, *args)


def comparable(fn: Callable) -> Callable:
    """Return `fn`, a bound method as one that equals that of an equal object, so that they share compiled code."""
    bound = inspect.ismethod(fn) and isinstance(fn.__self__, Hashable) and not isinstance(fn.__self__, eqx.Module)
    return Method(fn.__func__, fn.__self__) if bound else fn


@dataclasses.dataclass(frozen=True, eq=False)
class Label:
    """Texts for reports; all are equal, so that compiled programs do not depend on them."""

    name: str
    description: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Label)

    def __hash__(self) -> int:
        return hash(Label)

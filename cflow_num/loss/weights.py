"""How the parameters of a loss become one vector of weights, and how losses and labels compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from types import MethodType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..support.errors import InputError
from ..support.typed import AnyArray, PyTree, tree_map


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The structure of a pytree, which may hold what cannot be compared, as a NumPy array that is a static field.

    Two structures that cannot be compared are different: programs are then compiled once more.
    """

    treedef: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return False
        try:
            return self is other or bool(self.treedef == other.treedef)
        except ValueError:
            return False

    def __hash__(self) -> int:
        return hash(self.treedef.num_leaves)

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        """Return the pytree of such leaves."""
        return jax.tree.unflatten(self.treedef, leaves)


@dataclasses.dataclass(frozen=True)
class Raveler:
    """How a pytree of arrays became one vector; hashable, so that equal problems share compiled code."""

    treedef: Structure
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, params: PyTree) -> Raveler:
        """Describe the pytree `params` of arrays."""
        leaves, treedef = jax.tree.flatten(params)
        return cls(Structure(treedef), tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves))

    def flat(self) -> Raveler:
        """Return how the same arrays in a list become one vector."""
        return dataclasses.replace(self, treedef=Structure(jax.tree.structure([0] * len(self.shapes))))

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return all entries of `params` in one vector, in the order of its leaves."""
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])

    def unravel(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree whose entries are `w`; the inverse of `ravel`."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = jnp.split(w, list(np.cumsum(sizes)[:-1]))
        leaves = [x.reshape(s).astype(d) for x, s, d in zip(parts, self.shapes, self.dtypes, strict=True)]
        return self.treedef.unflatten(leaves)


class Fixed(eqx.Module):
    """What of a pytree is not trained: its leaves, with `None` for each weight."""

    leaves: list[Any]
    structure: Structure = eqx.field(static=True)

    @classmethod
    def of(cls, tree: PyTree) -> Fixed:
        """Take a pytree with `None` where the weights belong."""
        leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        return cls(leaves, Structure(structure))

    def holding(self, held: PyTree) -> Fixed:
        """Return the same with further leaves fixed, given in a pytree with `None` for all others."""
        more = jax.tree.leaves(held, is_leaf=lambda x: x is None)
        return Fixed([f if h is None else h for f, h in zip(self.leaves, more, strict=True)], self.structure)

    def joined(self, weights: PyTree) -> PyTree:
        """Return the whole pytree, given one with the weights alone."""
        leaves = jax.tree.leaves(weights, is_leaf=lambda x: x is None)
        return self.structure.unflatten(f if w is None else w for w, f in zip(leaves, self.leaves, strict=True))


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


def is_weight(x: Any) -> bool:
    """Say whether a leaf of the parameters is a floating-point array (or a NumPy number, which is one)."""
    return isinstance(x, AnyArray) and jnp.issubdtype(x.dtype, jnp.floating)


def without(tree: PyTree, held: PyTree) -> PyTree:
    """Return the tree with None in the place of every leaf that `held` has; their structures are the same.

    >>> without({"a": 1, "b": 2}, {"a": None, "b": 3})
    {'a': 1, 'b': None}
    """
    return tree_map(lambda x, h: x if h is None else None, tree, held, is_leaf=lambda x: x is None)


@dataclasses.dataclass(frozen=True)
class Method:
    """A bound method that equals that of an equal object: Python compares the objects of bound methods by identity."""

    function: Callable[..., Any]
    owner: Any

    def __call__(self, *args: PyTree) -> PyTree:
        """Call the method."""
        return self.function(self.owner, *args)


def comparable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, a bound method as one that equals that of an equal object, so that they share compiled code."""
    if not isinstance(fn, MethodType) or not isinstance(fn.__self__, Hashable) or isinstance(fn.__self__, eqx.Module):
        return fn
    return Method(fn.__func__, fn.__self__)


def storable(text: str) -> str:
    """Return a text with escapes for what no file can hold: bytes that are not UTF-8, and zeros.

    >>> storable("a\\udcffb")
    'a\\\\udcffb'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


@dataclasses.dataclass(frozen=True, eq=False)
class Label:
    """Texts for reports; all are equal, so that compiled programs do not depend on them.

    `origin` is a checksum of the file that a problem comes from, empty for others.
    """

    name: str
    description: str
    origin: str = ""

    @classmethod
    def of(cls, name: Any, description: Any, origin: str = "") -> Label:
        """Return the texts as they can be stored; raises `InputError` for what is no text."""
        for what, text in (("name", name), ("description", description)):
            if not isinstance(text, str):
                raise InputError(f"{what} is {text!r}, it must be a text")
        return cls(storable(name), storable(description), origin)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Label)

    def __hash__(self) -> int:
        return hash(Label)

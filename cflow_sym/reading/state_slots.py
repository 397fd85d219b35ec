"""Which of the arrays that a program keeps are one state: those of the same place for every array of the parameters.

The place of an array of the state is its path in the state without the path of the array of the parameters that it
belongs to. With `optax.multi_transform` and masks a place may hold arrays for some of the parameters only; places of
the same name that belong to different ones are one state.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cflow_sym.notation import NEW, OLD
from cflow_sym.reading.jaxpr_symbols import REMEDY
from cflow_sym.reading.traced_states import Slot

Fail = Callable[[str], Any]
SHAPES = {"array_1": (3,), "array_2": (129, 130)}  # sizes that no other axis has, too large to be factored


@dataclass(frozen=True)
class _Place:
    """What is kept in one place: numbers of leaves and the arrays by number of the array of the parameters.

    A place is `shared` unless its path names arrays of the parameters.
    """

    keys: tuple[str, ...]
    leaves: dict[int, tuple[int, Any]]
    shared: bool

    @property
    def where(self) -> str:
        return ".".join(self.keys) or "state"


def slots_of(state: Any, params: Any, used: set[str], fail: Fail) -> tuple[Slot, ...]:
    """Return the states of a program on `params`, under names that are not `used`; calls `fail` with a sentence."""
    paths = [_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    used, slots = set(used), []
    for place in _merged(_places(state, paths, shapes), shapes):
        kind = _kind(place, shapes, fail)
        words = [k for k in place.keys if k.isidentifier() and not keyword.iskeyword(k)]
        name = free_name(words[-1] if words else "nu", used)
        used |= {name}
        found = {k: i for k, (i, _) in place.leaves.items()}
        places = (found[min(found)],) if kind == "scalar" else tuple(found.get(k) for k in range(len(shapes)))
        integer = np.issubdtype(next(iter(place.leaves.values()))[1].dtype, np.integer)
        boolean = next(iter(place.leaves.values()))[1].dtype == bool
        slots.append(Slot(name, places, kind, bool(integer), place.where, boolean))
    return tuple(slots)


def _places(state: Any, paths: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]]) -> list[_Place]:
    found: dict[tuple[str, ...], _Place] = {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        k, rest = _array_of(_keys(path), leaf.shape, paths, shapes)
        shared = rest == _keys(path)
        while (known := found.get(rest)) and k in known.leaves:
            rest = (*rest, str(i))  # several arrays of one place: each is a state of its own
        place = found.setdefault(rest, _Place(rest, {}, shared))
        place.leaves[k] = (i, leaf)
    return list(found.values())


def _array_of(
    keys: tuple[str, ...], shape: tuple[int, ...], paths: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]]
) -> tuple[int, tuple[str, ...]]:
    """Return the number of the array of the parameters that a leaf belongs to (0 for none) and the rest of its path."""
    best: tuple[int, int, int] | None = None  # the longest path, as late as possible
    for k, own in enumerate(paths):
        for start in range(len(keys) - len(own) + 1):
            if keys[start : start + len(own)] == own and shape in ((), shapes[k]):
                best = max(best or (-1, 0, 0), (len(own), start, k))
    if best is None:
        return 0, keys
    length, start, k = best
    return k, keys[:start] + keys[start + length :]


def _merged(places: Sequence[_Place], shapes: Sequence[tuple[int, ...]]) -> list[_Place]:
    """Put places of the same name together that belong to different arrays."""
    merged: list[_Place] = []
    for place in places:
        full = len(place.leaves) == len(shapes) or _is_number(place, shapes)
        partner = None if full else next(
            (p for p in merged if p.keys[-1:] == place.keys[-1:] and not _is_number(p, shapes)
             and not p.leaves.keys() & place.leaves.keys() and _kinds(p, shapes) & _kinds(place, shapes)), None,
        )  # fmt: skip
        if partner is None:
            merged.append(_Place(place.keys, dict(place.leaves), place.shared))
        else:
            partner.leaves.update(place.leaves)
    return merged


def _is_number(place: _Place, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Say whether a place holds one number, and not that of an array of the parameters that is itself a number."""
    ((k, (_, leaf)), *others) = place.leaves.items()
    return not others and leaf.shape == () and (place.shared or shapes[k] != ())


def _kinds(place: _Place, shapes: Sequence[tuple[int, ...]]) -> set[str]:
    """Return what the arrays of a place can be: one number for each weight, or for each array of the parameters."""
    leaves = {k: leaf.shape for k, (_, leaf) in place.leaves.items()}
    return {kind for kind, shape in (("elementwise", shapes.__getitem__), ("blockwise", lambda _: ()))
            if all(own == shape(k) for k, own in leaves.items())}  # fmt: skip


def _kind(place: _Place, shapes: Sequence[tuple[int, ...]], fail: Fail) -> str:
    leaves = {k: leaf for k, (_, leaf) in place.leaves.items()}
    known = all(isinstance(leaf.dtype, np.dtype) for leaf in leaves.values())  # no random keys
    if not known or not all(leaf.shape == () or leaf.dtype.kind == "f" for leaf in leaves.values()):
        dtype = next(iter(leaves.values())).dtype
        fail(f"the state {place.where} holds arrays of {dtype}, which no flow knows: {REMEDY}.")
    if _is_number(place, shapes):
        return "scalar"
    if kinds := _kinds(place, shapes):
        return max(kinds)  # "elementwise" where both
    shown = ", ".join(str(leaf.shape) for leaf in leaves.values())
    return fail(
        f"the state {place.where} has arrays of shape {shown}: supported are one number, one for each array of the "
        f"parameters, or one for each weight; {REMEDY}."
    )


def free_name(name: str, used: set[str]) -> str:
    """Return the name, or one like it that is free.

    >>> free_name("nu", {"nu"}), free_name("_m", set()), free_name("z_new", set())
    ('nu_state', 'm', 'z_new_state')
    """
    name = name.strip("_") or "nu"
    name = name + "_state" if name.endswith((NEW, OLD)) or name in used else name
    return next(n for n in itertools.chain([name], (f"{name}_{k}" for k in itertools.count(2))) if n not in used)


def _keys(path: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(next(getattr(e, a) for a in ("name", "key", "idx") if hasattr(e, a))) for e in path)


def stand_ins() -> dict[str, Any]:
    """Return the parameters that are traced on where none are given: a vector and a matrix."""
    return {key: jax.ShapeDtypeStruct(shape, jax.numpy.dtype("float64")) for key, shape in SHAPES.items()}


def arrays_of(params: Any) -> Any:
    """Return the shapes of the floating-point arrays among parameters; a single number counts as an array of one."""
    single = len(jax.tree.leaves(params)) == 1

    def shape_of(leaf: Any) -> Any:
        if not (
            hasattr(leaf, "dtype") and hasattr(leaf, "shape") and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
        ):
            return None
        return jax.ShapeDtypeStruct(leaf.shape or ((1,) if single else ()), jax.numpy.dtype("float64"))

    return jax.tree.map(shape_of, params)

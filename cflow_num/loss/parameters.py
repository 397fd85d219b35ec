"""What of the user's parameters is trained, and the user's data as arrays.

Frameworks have a notion of a parameter: in flax's nnx it is `nnx.Param`, in equinox every floating-point array that is
not part of a state. It is followed; everything else stays fixed at its value. What could be meant either way is
refused with the way to say which.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..support.errors import InputError, PrecisionWarning
from ..support.typed import (
    AnyArray,
    AnyMapping,
    NumpyArray,
    PyTree,
    Tracer,
    keystr,
    leaves_with_path,
    map_with_path,
    partition,
    setting,
    tree_map,
)
from .weights import is_weight

_PRECISIONS = ("float32", "float64")


def split(params: PyTree) -> tuple[PyTree, PyTree]:
    """Return the weights, copied, and everything else, which stays fixed; each has `None` where the other has leaves.

    **Raises:** `InputError` where nothing is trained, or where a leaf cannot be a weight but may be meant as one.

    >>> weights, fixed = split({"a": jnp.ones(2), "n": 3})
    >>> weights["a"].tolist(), weights["n"], fixed["a"], fixed["n"]
    ([1.0, 1.0], None, None, 3)
    """
    _check_tree("params", params)
    _refuse_unsplit(params)
    _refuse_ambiguous(params)
    trained = tree_map(lambda x: not _is_state(x) and is_weight(x), params, is_leaf=_is_state)
    weights, fixed = partition(params, trained)
    weights = map_with_path(_as_weight, weights)
    if not sum(x.size for x in jax.tree.leaves(weights)):
        empty = " that is not empty" if jax.tree.leaves(weights) else ""
        raise InputError(
            f"params holds no floating-point array{empty}, so there is nothing to train: pass the weights as arrays"
        )
    return weights, tree_map(lambda x: x.copy() if isinstance(x, NumpyArray) else x, fixed)


def warn_of_precision(params: PyTree, weights: PyTree) -> None:
    """Warn where the weights are of lower precision than they could be, or than they were given in."""
    named = leaves_with_path(weights)
    single = [_name("params", path) for path, x in named if x.dtype == jnp.float32]
    if single and setting("jax_enable_x64"):
        which = "params" if len(single) == len(named) else _listed(single)
        _warn(
            f"float32 weights ({which}) although JAX has 64-bit floats switched on: the run has single precision; "
            'pass float64 arrays, or use problem.astype("float64")'
        )
    elif single and any(isinstance(x, NumpyArray) and x.dtype.itemsize == 8 for x in jax.tree.leaves(params)):
        _warn(
            "params are float64, but JAX has 64-bit floats switched off, so the run has single precision: call "
            'jax.config.update("jax_enable_x64", True) first, or pass float32 arrays'
        )


def as_data(data: PyTree) -> PyTree:
    """Return the data as JAX arrays, those of NumPy copied; `InputError` names a leaf that holds no numbers.

    >>> as_data({"x": np.ones(2)})["x"].tolist()
    [1.0, 1.0]
    """
    _check_tree("data", data)
    return map_with_path(_as_array, data)


def nonfinite(what: str, tree: PyTree) -> str:
    """Return the names of arrays that hold nan or infinity, as in ` (params['a'] holds nan)`; empty if none does."""
    for path, x in leaves_with_path(tree):
        if not jnp.issubdtype(x.dtype, jnp.inexact) or isinstance(x, Tracer):
            continue
        if not bool(jnp.all(jnp.isfinite(x))):
            kind = "nan" if bool(jnp.any(jnp.isnan(x))) else "infinity"
            return f" ({_name(what, path)} holds {kind})"
    return ""


def deleted(x: Any) -> bool:
    """Say whether the numbers of an array are gone, as those of donated arrays are."""
    return isinstance(x, jax.Array) and not isinstance(x, Tracer) and x.is_deleted()


def _check_tree(what: str, tree: PyTree) -> None:
    """Raise `InputError` where JAX cannot take a tree apart, as with keys of different kinds in one dictionary."""
    try:
        jax.tree.leaves(tree)
    except (TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{what} is no tree that JAX can take apart ({reason.rstrip('.')}): use dictionaries whose keys can be "
            "sorted, for instance texts only"
        ) from error


def _as_weight(path: Any, x: Any) -> jax.Array:
    name = _name("params", path)
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array: pass its filled values")
    if deleted(x):
        raise InputError(f"{name} was deleted, as donated arrays are: pass a copy")
    if x.dtype.name not in _PRECISIONS:
        raise InputError(
            f"{name} is {x.dtype.name}, but flows need weights in float32 or float64, or third derivatives are mostly "
            'rounding: convert it, for instance with .astype("float32")'
        )
    return x if isinstance(x, jax.Array) else jnp.array(np.asarray(x, x.dtype.newbyteorder("=")))


def _as_array(path: Any, x: Any) -> jax.Array:
    name = _name("data", path)
    if isinstance(x, jax.Array):
        if deleted(x):
            raise InputError(f"{name} was deleted, as donated arrays are: pass a copy")
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array: pass its filled values and the mask as two arrays")
    try:
        array = np.asarray(x)
        array = jnp.array(array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind in "iufc" else x)
    except OverflowError:
        raise InputError(f"{name} is {x}, which has too many digits for JAX: pass it as a float") from None
    except (TypeError, ValueError):
        kind = f"an array of {x.dtype}" if isinstance(x, NumpyArray) else f"a {type(x).__name__}"
        raise InputError(
            f"{name} is {kind}, and data are arrays of numbers: encode it as numbers, or let the loss capture it"
        ) from None
    return array


def _is_state(x: Any) -> bool:
    """Whether a node of the tree belongs to a framework and is not a parameter there."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(x, nnx.Variable):
        return not isinstance(x, nnx.Param)
    return isinstance(x, (eqx.nn.State, eqx.nn.StateIndex))


def _refuse_unsplit(params: PyTree) -> None:
    """Refuse flax's dictionaries of variables and training states: only a part of these are parameters."""
    if "flax" not in sys.modules:
        return
    if isinstance(params, AnyMapping) and isinstance(params.get("params"), AnyMapping):
        for name, collection in params.items():
            if (
                name != "params"
                and isinstance(collection, AnyMapping)
                and any(map(is_weight, jax.tree.leaves(collection)))
            ):
                raise InputError(
                    f'params is a dictionary of flax variables, of which only "params" is trained and not "{name}": '
                    'pass variables["params"] and let the loss put the rest back, as in lambda p: loss({**variables, '
                    '"params": p})'
                )
    state = sys.modules.get("flax.training.train_state")
    if state is not None and isinstance(params, state.TrainState):
        raise InputError("params is a flax TrainState, which holds the optimizer's state too: pass state.params")


def _refuse_ambiguous(params: PyTree) -> None:
    """Refuse numbers that are no real arrays where weights are expected: outside modules, which have fixed numbers."""

    def is_module(x: Any) -> bool:
        return isinstance(x, eqx.Module) or _is_state(x)

    for path, x in leaves_with_path(params, is_leaf=is_module):
        if isinstance(x, (float, complex)) and not isinstance(x, np.generic):
            kind = type(x).__name__
            raise InputError(
                f"{_name('params', path)} is the Python {kind} {x!r}, which may be meant as a weight or as a constant: "
                "pass an array, as in jnp.asarray(...), to train it, or let the loss capture it to keep it fixed"
            )
    for path, x in leaves_with_path(params, is_leaf=_is_state):
        if isinstance(x, AnyArray) and jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise InputError(
                f"{_name('params', path)} is {x.dtype.name}, but weights are real: pass its real and imaginary parts "
                "as two arrays and combine them in the loss, or let the loss capture it to keep it fixed"
            )


def _name(what: str, path: Any) -> str:
    return what + keystr(path)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _warn(text: str) -> None:
    warnings.warn(text, PrecisionWarning, stacklevel=5)

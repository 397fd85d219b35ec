"""What JAX, Equinox and jaxtyping leave untyped: the same objects, with types that a checker knows.

Where a lambda is expected its number of arguments is said, or their types would not be known. `typings/` has what JAX's
annotations name of the compiled part of jaxlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import equinox as eqx
import jax
import jax.core
import jax.extend as jex
import jax.numpy as jnp
import numpy as np

PyTree: TypeAlias = Any  # that of jaxtyping is no type on purpose
_Function: TypeAlias = Callable[..., Any]
_Few: TypeAlias = Callable[[Any], Any] | Callable[[Any, Any], Any] | Callable[[Any, Any, Any], Any]


class _Map(Protocol):
    def __call__(
        self, f: _Few, tree: PyTree, /, *rest: PyTree, is_leaf: Callable[[Any], bool] | None = None
    ) -> PyTree: ...


class _Leaves(Protocol):
    def __call__(self, tree: PyTree, *, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[Any, Any]]: ...


tree_map: _Map = jax.tree.map
map_with_path: _Map = jax.tree.map_with_path
leaves_with_path: _Leaves = jax.tree.leaves_with_path

jit: _Function = jax.jit
grad: Callable[[_Few], _Function] = jax.grad
value_and_grad: Callable[[_Few], _Function] = jax.value_and_grad
jvp: Callable[[Callable[[Any], Any], tuple[Any, ...], tuple[Any, ...]], tuple[Any, Any]] = jax.jvp
eval_shape: _Function = jax.eval_shape
make_jaxpr: _Function = jax.make_jaxpr
jaxpr_as_fun: Callable[[Any], Callable[..., list[Any]]] = jex.core.jaxpr_as_fun
jaxprs_in_params: Callable[[Any], Iterator[Any]] = jex.core.jaxprs_in_params
keystr: Callable[[Any], str] = jax.tree_util.keystr
device_put: _Function = jax.device_put
cond: _Function = jax.lax.cond
switch: _Function = jax.lax.switch
fori_loop: _Function = jax.lax.fori_loop
pmean: _Function = jax.lax.pmean
partition: Callable[[Any, Any], tuple[Any, Any]] = eqx.partition
combine: _Function = eqx.combine
finfo: _Function = jnp.finfo
norm: Callable[..., jax.Array] = jnp.linalg.norm
eigh: Callable[..., tuple[jax.Array, jax.Array]] = jnp.linalg.eigh
cholesky: Callable[..., jax.Array] = jnp.linalg.cholesky
pad: Callable[..., jax.Array] = jnp.pad
setting: Callable[[str], Any] = jax.config.read

# classes to ask for, whatever their parameters are
Tracer: type[Any] = jax.core.Tracer
NumpyArray: type[Any] = np.ndarray
AnyArray: tuple[type[Any], ...] = (jax.Array, np.ndarray, np.generic)
AnyMapping: type[Any] = Mapping
AnyTuple: type[Any] = tuple
AnyDict: type[Any] = dict


def is_several(x: Any) -> bool:
    """Say whether something is a tuple or a list."""
    return isinstance(x, (tuple, list))


def several(x: Any) -> Sequence[Any]:
    """Return a tuple or a list as it is, anything else as a tuple of one.

    >>> several([1, 2]), several(3)
    ([1, 2], (3,))
    """
    return x if is_several(x) else (x,)

"""How much the compiler optimizes a program: time to compile against time to run.

A chunk of a run is a thousand small kernels around a few products of matrices, which come from a library. On a
processor the compiler's newer emitters and its optimizations are four fifths of what compiling takes; what they win is
a factor of 1.4 to 2 in a step.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.core
from jaxtyping import Array

from .typed import jit, setting

_OLDER = {"xla_cpu_use_fusion_emitters": False}
OPTIONS: dict[str, dict[str, str | bool]] = {  # of the compiler, for processors
    "quick": _OLDER | {"xla_backend_optimization_level": "0"},
    "moderate": _OLDER | {"xla_backend_optimization_level": "1"},
    "full": {},
}


def compiled(lowered: Any, effort: str, platforms: frozenset[str]) -> Any:
    """Compile a lowered program; a compiler that does not know an option, or is not for processors, does without."""
    options = OPTIONS["quick" if setting("jax_disable_most_optimizations") else effort]
    if not options or platforms != {"cpu"}:
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=options)
    except Exception as error:
        if "option" not in str(error):
            raise
        return lowered.compile()


def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return standard normal numbers, as `jax.random.normal` does, whose program takes seconds to compile.

    >>> import jax.numpy as jnp
    >>> normal(jax.random.key(0), (2, 3), jnp.float32).shape
    (2, 3)
    """
    if isinstance(key, jax.core.Tracer):
        return jax.random.normal(key, shape, dtype)
    settings = tuple(getattr(jax.config, name, None) for name in ("jax_enable_x64", "jax_threefry_partitionable"))
    return _normal(tuple(shape), jax.dtypes.canonicalize_dtype(dtype), key.dtype, frozenset(key.devices()), settings)(
        key
    )


@functools.lru_cache(maxsize=256)
def _normal(shape: tuple[int, ...], dtype: Any, key: Any, devices: frozenset[Any], settings: tuple[Any, ...]) -> Any:
    del settings  # of JAX: with others it is another program
    one = jax.ShapeDtypeStruct((), key)
    platforms = frozenset(device.platform for device in devices)
    return compiled(jit(lambda key: jax.random.normal(key, shape, dtype)).lower(one), "quick", platforms)


forget_normal = _normal.cache_clear

"""JAX's settings that a user may have made stricter: the package's own code runs under JAX's defaults.

Under `jax_numpy_rank_promotion="raise"` or `jax_numpy_dtype_promotion="strict"` a user's own code is checked, not the
formulas here; under `jax_debug_nans` the nan that marks a value nobody has computed is none to stop at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_DEFAULTS = {
    "jax_numpy_rank_promotion": ("allow", jax.numpy_rank_promotion),
    "jax_numpy_dtype_promotion": ("standard", jax.numpy_dtype_promotion),
    "jax_debug_nans": (False, jax.debug_nans),
    "jax_debug_infs": (False, jax.debug_infs),
    "jax_disable_jit": (False, jax.disable_jit),
    "jax_transfer_guard": ("allow", jax.transfer_guard),
}


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Work under JAX's defaults where the user has chosen otherwise; as it was afterwards.

    >>> with jax.numpy_rank_promotion("raise"), default_settings():
    ...     (jax.numpy.ones((2, 2)) + jax.numpy.ones(2)).shape
    (2, 2)
    """
    with contextlib.ExitStack() as changed:
        for name, (value, setting) in _DEFAULTS.items():
            if getattr(jax.config, name, None) not in (value, None):
                changed.enter_context(setting(value))
        yield

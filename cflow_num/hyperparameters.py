"""From what a user passes for an optimizer to generated code and checked values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from cflow_sym import generated
from cflow_sym.interface import CompiledFlow

from .errors import InputError, nearest


def resolve(optimizer: Any, values: Mapping[str, Any]) -> tuple[CompiledFlow, dict[str, float]]:
    """Return the generated code and the checked hyperparameters, defaults filled in.

    **Arguments:**

    - `optimizer`: the name of a built-in optimizer, anything with `.compile()` (a spec, a derivation), or a
      compiled flow.
    - `values`: hyperparameters by name; for a built-in optimizer also its switches, which are true or false.

    **Raises:** `InputError` naming the value, its range and the remedy.

    >>> flow, hp = resolve("gradient_descent", {"learning_rate": 0.1})
    >>> flow.NAME, hp
    ('gradient_descent', {'learning_rate': 0.1})
    """
    values = dict(values)
    if isinstance(optimizer, str):
        switches = tuple(sorted(name for name, value in values.items() if value is True))
        for name in [name for name, value in values.items() if value is False]:
            generated.load(optimizer, (name,))  # refuses a switch that the optimizer does not have
        values = {name: value for name, value in values.items() if not isinstance(value, bool)}
        flow = generated.load(optimizer, switches)
    elif hasattr(optimizer, "compile"):
        flow = optimizer.compile()
    else:
        flow = optimizer
    if not hasattr(flow, "HYPERPARAMETERS"):
        raise InputError(
            f"optimizer is a {type(optimizer).__name__}, it must be a name, a spec, a derivation or a compiled flow"
        )
    return flow, _checked(flow, values)


def as_arrays(hp: Mapping[str, float], dtype: Any) -> dict[str, Array]:
    """Return the hyperparameters as arrays `()`, so that one compiled program serves all values."""
    return {name: jnp.asarray(value, dtype) for name, value in hp.items()}


def _checked(flow: CompiledFlow, values: Mapping[str, Any]) -> dict[str, float]:
    known = {h.name: h for h in flow.HYPERPARAMETERS}
    for name in values:
        if name not in known:
            names = ", ".join(known)
            raise InputError(f'{flow.NAME} has no hyperparameter "{name}", it has {names}{nearest(name, known)}')
    out = {}
    for name, h in known.items():
        value = values.get(name, h.default)
        if value is None:
            raise InputError(f"{flow.NAME} needs {name} ({h.meaning}): pass {name}=VALUE, {_range(h)}")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InputError(f"{name} is {value!r}, it must be a number {_range(h)}")
        value = float(value)
        inside = h.lower <= value if h.closed_below else h.lower < value
        if not (math.isfinite(value) and inside and value < h.upper):
            raise InputError(f"{name} is {value:g}, it must be {_range(h)}")
        out[name] = value
    return out


def _range(h: Any) -> str:
    if math.isinf(h.upper):
        return f"at least {h.lower:g}" if h.closed_below else f"greater than {h.lower:g}"
    return f"between {h.lower:g} {'(included) ' if h.closed_below else ''}and {h.upper:g}"

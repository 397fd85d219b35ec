"""From what a user passes for an optimizer to generated code and checked values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cflow_sym import generated
from cflow_sym.interface import CompiledFlow

from .errors import InputError, nearest
from .loss import Problem
from .own_constants import with_own_constants

ALIASES = {
    "lr": "learning_rate", "eta": "learning_rate", "b1": "beta1", "b2": "beta2", "momentum": "beta1", "eps": "epsilon",
    "wd": "weight_decay", "decay": "beta2", "rho": "beta2", "alpha": "beta2",
}  # fmt: skip


class Schedule(eqx.Module):
    """A hyperparameter that depends on time, from a function of the number of steps already taken (as optax has it).

    >>> halving = Schedule(lambda count: 0.5**count)
    >>> float(halving(jnp.asarray(1.0))), float(halving(jnp.asarray(3.0)))
    (1.0, 0.25)
    """

    function: Callable[[Any], Any]

    def __call__(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """Return the value at the update with count t = 1, 2, ...; t need not be a whole number along a flow."""
        return jnp.asarray(self.function(t - 1), t.dtype)

    def rate(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """Return the derivative by t."""
        return jax.jvp(self, (t,), (jnp.ones_like(t),))[1]


def resolve(
    optimizer: Any, values: Mapping[str, Any], problem: Problem | None = None
) -> tuple[CompiledFlow, dict[str, Any]]:
    """Return the generated code and the checked hyperparameters (numbers or functions of the step), defaults filled in.

    **Arguments:**

    - `optimizer`: the name of a built-in optimizer, anything with `.compile()` (a spec, a derivation), or a
      compiled flow.
    - `values`: hyperparameters by name; for a built-in optimizer also its switches, which are true or false. One that
      may be scheduled can be a function of the number of steps taken, such as an optax schedule.
    - `problem`: on whose parameters an optimizer that was traced is traced again.

    **Raises:** `InputError` naming the value, its range and the remedy.

    >>> flow, hp = resolve("gradient_descent", {"learning_rate": 0.1})
    >>> flow.NAME, hp
    ('gradient_descent', {'learning_rate': 0.1, 'weight_decay': 0.0})
    """
    values = dict(values)
    if isinstance(optimizer, str):
        switches = tuple(sorted(name for name, value in values.items() if value is True))
        for name in [name for name, value in values.items() if value is False]:
            generated.load(optimizer, (name,))  # refuses a switch that the optimizer does not have
        values = {name: value for name, value in values.items() if not isinstance(value, bool)}
        flow = generated.load(optimizer, switches)
    elif hasattr(optimizer, "compile"):
        if hasattr(optimizer, "on") and problem is not None:
            optimizer = optimizer.on(problem.weights)
        flow = optimizer.compile()
    else:
        flow = optimizer
    if not hasattr(flow, "HYPERPARAMETERS"):
        raise InputError(f"optimizer is {_what(optimizer)}, it must be a name, a spec, a derivation or a compiled flow")
    return with_own_constants(flow), _checked(flow, values)


def as_arrays(flow: CompiledFlow, hp: Mapping[str, Any], problem: Problem) -> dict[str, Any]:
    """Return the hyperparameters as arrays `()` (one compiled program serves all values), schedules and blocks."""
    dtype, blocks = problem.w0.dtype, problem.blocks
    out = {name: Schedule(x) if callable(x) else jnp.asarray(x, dtype) for name, x in hp.items()}
    own = [h for h in flow.HYPERPARAMETERS if h.values]
    if any(len(h.values) != len(blocks.sizes) for h in own):
        raise InputError(
            f"{flow.NAME} was traced on {len(own[0].values)} arrays that move and {problem.name} has "
            f"{len(blocks.sizes)}: pass the spec, which is traced again, instead of its compiled flow"
        )
    out |= {h.name: blocks.spread(jnp.asarray(h.values, dtype)) for h in own}
    return out | {"blocks": problem.blocks} if "blockwise" in flow.SLOW_STATES.values() else out


def check_schedules(flow: CompiledFlow, hp: Mapping[str, Any], last: int) -> None:
    """Raise `InputError` for a schedule that leaves the range of its hyperparameter within `last` steps."""
    for h in flow.HYPERPARAMETERS:
        if not callable(hp[h.name]):
            continue
        values = np.asarray(jax.vmap(lambda t, x=hp[h.name]: jnp.asarray(x(t)))(jnp.arange(0.0, last + 1)))
        bad = ~(np.isfinite(values) & (values > h.lower) & (values < h.upper))
        if bad.any():
            step = int(np.argmax(bad))
            raise InputError(
                f"the schedule of {h.name} is {values[step]:g} at step {step}, it must be {_range(h)}: change it or "
                "take fewer steps"
            )


def describe(hp: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters as they are stored with a run: numbers, and schedules by name and first value.

    >>> describe({"learning_rate": 0.1})
    {'learning_rate': 0.1}
    """
    return {name: _name(x) if callable(x) else x for name, x in hp.items()}


def _name(schedule: Callable) -> str:
    text = getattr(schedule, "text", None) or getattr(schedule, "__qualname__", type(schedule).__name__)
    return f"schedule {text}, {float(schedule(jnp.zeros(()))):g} at first"


def _checked(flow: CompiledFlow, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {h.name: h for h in flow.HYPERPARAMETERS}
    for name in values:
        if name not in known:
            names = ", ".join(known) or "none"
            near = _near(name, known) if isinstance(name, str) else ""
            raise InputError(f'{flow.NAME} has no hyperparameter "{name}", it has {names}{near}')
    out: dict[str, Any] = {}
    for name, h in known.items():
        if h.values:
            if name in values:
                raise InputError(f"{name} is part of {flow.NAME}, with one value for each array: leave it out")
            out[name] = h.values
            continue
        value = values.get(name, h.default)
        if value is None:
            raise InputError(f"{flow.NAME} needs {name} ({h.meaning}): pass {name}=VALUE, {_range(h)}")
        out[name] = _checked_schedule(h, value) if callable(value) else _checked_number(h, value, name)
    return out


def _what(optimizer: Any) -> str:
    name = getattr(optimizer, "__name__", None)
    if str(getattr(optimizer, "__module__", "")).startswith("optax") and name:
        return f"optax.{name} itself (pass cflow_sym.from_optax(optax.{name}))"
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return "an optax transformation with its numbers built in (pass cflow_sym.from_optax(function that makes it))"
    return f"a {type(optimizer).__name__}"


def _near(name: str, known: Mapping[str, Any]) -> str:
    """Return what may have been meant: the name that the theory has for another library's, or one like it."""
    return f' (did you mean "{ALIASES[name]}"?)' if ALIASES.get(name) in known else nearest(name, known)


def _checked_schedule(h: Any, schedule: Callable) -> Callable:
    if not h.schedulable:
        raise InputError(f"{h.name} is a function, it must be a number {_range(h)}: only a learning rate has schedules")
    try:
        first = jnp.asarray(schedule(jnp.zeros(())))
        value = float(first) if jnp.ndim(first) == 0 else math.nan
    except Exception as error:
        raise InputError(
            f"the schedule of {h.name} fails at step 0 ({type(error).__name__}: {str(error).splitlines()[0]}): pass a "
            "JAX function of the number of steps taken"
        ) from error
    _checked_number(h, value, f"the schedule of {h.name} at step 0")
    return schedule


def _checked_number(h: Any, value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} is {value!r}, it must be a number {_range(h)}")
    value = float(value)
    inside = h.lower <= value if h.closed_below else h.lower < value
    if not (math.isfinite(value) and inside and value < h.upper):
        raise InputError(f"{name} is {value:g}, it must be {_range(h)}")
    return value


def _range(h: Any) -> str:
    if math.isinf(h.lower):
        return f"less than {h.upper:g}" if math.isfinite(h.upper) else "finite"
    if math.isinf(h.upper):
        return f"at least {h.lower:g}" if h.closed_below else f"greater than {h.lower:g}"
    return f"between {h.lower:g} {'(included) ' if h.closed_below else ''}and {h.upper:g}"

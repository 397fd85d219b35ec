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

from ..loss.problem import Problem
from ..loss.traced import traced
from ..support.errors import InputError, nearest
from .own_constants import with_own_constants
from .words import value_of

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
    floor: float | None = eqx.field(static=True, default=None)  # where it is zero at steps that are not taken
    dtype: str | None = eqx.field(static=True, default=None)  # which a traced function takes

    def __call__(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """Return the value at the update with count t = 1, 2, ...; t need not be a whole number along a flow."""
        value = jnp.asarray(self.function((t - 1).astype(self.dtype or t.dtype))).astype(t.dtype)
        return value if self.floor is None else jnp.maximum(value, self.floor)

    def rate(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """Return the derivative by t."""
        return jax.jvp(self, (t,), (jnp.ones_like(t),))[1]

    def traced(self, dtype: Any) -> Schedule:
        """Return the schedule as the program that is traced of it now: what it reads from outside is then fixed."""
        count = jax.ShapeDtypeStruct((), dtype)
        return Schedule(traced(self.function, (count,), derivatives=True), self.floor, np.dtype(dtype).name)


def resolve(
    optimizer: Any, values: Mapping[str, Any], problem: Problem | None = None
) -> tuple[CompiledFlow, dict[str, Any]]:
    """Return the generated code and the checked hyperparameters (numbers or functions of the step), defaults filled in.

    **Arguments:**

    - `optimizer`: the name of a built-in optimizer, anything with `.compile()` (a spec, a derivation), or a
      compiled flow.
    - `values`: hyperparameters by name; for a built-in optimizer also its switches, which are true or false. One that
      may be scheduled can be a function of the number of steps taken, such as an optax schedule, or a text: an
      expression in t, that number.
    - `problem`: on whose parameters an optimizer that was traced is traced again.

    **Raises:** `InputError` naming the value, its range and the remedy.

    >>> flow, hp = resolve("gradient_descent", {"learning_rate": 0.1})
    >>> flow.NAME, hp
    ('gradient_descent', {'learning_rate': 0.1, 'weight_decay': 0.0})
    >>> resolve("gradient_descent", {"learning_rate": "0.5 + 0.6*tanh(t/300)"})[1]["learning_rate"].text
    '0.5 + 0.6*tanh(t/300)'
    """
    if not isinstance(values, Mapping):
        raise InputError(f"hyperparameters is {values!r}, it must be a dictionary such as dict(learning_rate=0.1)")
    values = {name: _plain(name, value) for name, value in values.items()}
    if isinstance(optimizer, str):
        _check_switches(optimizer, values)
        switches = tuple(sorted(name for name, value in values.items() if value is True))
        for name in [name for name, value in values.items() if value is False]:
            generated.load(optimizer, (name,))  # refuses a switch that the optimizer does not have
        values = {name: value for name, value in values.items() if not isinstance(value, bool)}
        flow = generated.load(optimizer, switches)
    elif hasattr(optimizer, "compile"):
        if hasattr(optimizer, "on") and problem is not None:
            optimizer = optimizer.on(problem.weights(problem.w0))
        flow = optimizer.compile()
    else:
        flow = optimizer
    if not hasattr(flow, "HYPERPARAMETERS"):
        raise InputError(f"optimizer is {_what(optimizer)}, it must be a name, a spec, a derivation or a compiled flow")
    return with_own_constants(flow), _checked(flow, values)


def _plain(name: Any, value: Any) -> Any:
    """Return an array with one number, or a NumPy truth value, as Python's own, a text as what it says."""
    if isinstance(value, str):
        return value_of(name, value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and np.shape(value) == ():
        return value.item()
    return value


def _check_switches(optimizer: str, values: Mapping[str, Any]) -> None:
    """Refuse truth values where the plain optimizer has a number."""
    if any(isinstance(value, bool) for value in values.values()) and optimizer in generated.optimizer_names():
        for h in generated.load(optimizer).HYPERPARAMETERS:
            if isinstance(values.get(h.name), bool):
                raise InputError(f"{h.name} is {values[h.name]}, it must be a number {_range(h)}")


def as_arrays(
    flow: CompiledFlow, hp: Mapping[str, Any], problem: Problem, floors: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the hyperparameters as arrays `()` (one compiled program serves all values), schedules and blocks.

    `floors` are what `check_schedules` returns.

    **Raises:** `InputError` for a number that the precision of the weights rounds out of its range.
    """
    dtype, blocks, floors = problem.w0.dtype, problem.blocks, floors or {}
    known = {h.name: h for h in flow.HYPERPARAMETERS}
    out = {
        name: _traced(name, x, dtype, floors.get(name)) if callable(x) else _rounded(known[name], x, dtype)
        for name, x in hp.items()
        if not known[name].values
    }
    own = [h for h in flow.HYPERPARAMETERS if h.values]
    if any(len(h.values) != len(blocks.sizes) for h in own):
        raise InputError(
            f"{flow.NAME} was traced on {len(own[0].values)} arrays that move and {problem.name} has "
            f"{len(blocks.sizes)}: pass the spec, which is traced again, instead of its compiled flow"
        )
    out |= {h.name: blocks.spread(jnp.asarray(h.values, dtype)) for h in own}
    return out | {"blocks": problem.blocks} if "blockwise" in flow.SLOW_STATES.values() else out


def _rounded(h: Any, value: Any, dtype: Any) -> Array:
    """Return the number in the precision of the weights, which may move it out of its range."""
    with np.errstate(over="ignore"):
        near = float(np.asarray(value).astype(dtype))
    if not _inside(h, near):
        raise InputError(
            f"{h.name} is {value:.12g}, which {np.dtype(dtype).name} rounds to {near:g}, it must be {_finite(near)}"
            f"{_range(h)}: take another value, or weights in double precision"
        )
    return jnp.asarray(value, dtype)


def _traced(name: str, schedule: Callable, dtype: Any, floor: float | None = None) -> Schedule:
    try:
        return Schedule(schedule, floor).traced(dtype)
    except Exception as error:  # whatever the user's function raises
        raise InputError(
            f"the schedule of {name} cannot be traced ({type(error).__name__}: {str(error).splitlines()[0]}): write it "
            "with jax.numpy, jnp.where in the place of a branch"
        ) from error


def check_schedules(
    flow: CompiledFlow, hp: Mapping[str, Any], first: int, last: int, eps: float = 1e-16
) -> dict[str, float]:
    """Raise `InputError` for a schedule that leaves the range of its hyperparameter between two steps.

    At steps before `first`, which the optimizer takes alone, and at `last`, which is not taken, the value may be the
    lower end of the range, as in warm-ups from zero and decays to it.

    **Returns:** by name what to put in the place of such a value, so small that it changes nothing but can be divided
    by.
    """
    floors = {}
    for h in flow.HYPERPARAMETERS:
        if not callable(hp[h.name]):
            continue
        t = jnp.arange(0.0, 2 * last + 1) / 2  # flows need what lies between the steps too
        values = np.asarray(jax.vmap(lambda t, x=hp[h.name]: jnp.asarray(x(t)).astype(t.dtype))(t))
        ends = (t < first) | (t == last)
        low = (values >= h.lower) if h.closed_below else np.where(ends, values >= h.lower, values > h.lower)
        bad = ~(np.isfinite(values) & low & (values < h.upper))
        if bad.any():
            where = 2 * int(np.argmax(bad[::2])) if bad[::2].any() else int(np.argmax(bad))
            raise InputError(
                f"the schedule of {h.name} is {values[where]:g} at step {float(t[where]):g}, it must be "
                f"{_finite(values[where])}{_range(h)}: change it or take fewer steps"
            )
        if not h.closed_below and bool((values == h.lower).any()):
            floors[h.name] = float(h.lower + eps**2 * (values.max() - h.lower))
    return floors


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
    t = jnp.zeros(())
    try:
        out = jax.eval_shape(lambda t: jax.jvp(lambda t: jnp.asarray(schedule(t)), (t,), (jnp.ones_like(t),))[0], t)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"the schedule of {h.name} cannot be traced ({type(error).__name__}: {reason}): write it as a JAX function "
            "of the number of steps taken, which need not be whole, with jnp.where in place of if and jax.numpy in "
            "place of NumPy"
        ) from error
    if out.shape != () or not (jnp.issubdtype(out.dtype, jnp.floating) or jnp.issubdtype(out.dtype, jnp.integer)):
        raise InputError(f"the schedule of {h.name} returns {out.dtype} of shape {out.shape}, it must return a number")
    return schedule


def _checked_number(h: Any, value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} is {value!r}, it must be a number {_range(h)}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not _inside(h, value):
        raise InputError(f"{name} is {value:g}, it must be {_finite(value)}{_range(h)}")
    return value


def _inside(h: Any, value: float) -> bool:
    low = h.lower <= value if h.closed_below else h.lower < value
    return math.isfinite(value) and low and value < h.upper


def _finite(value: float) -> str:
    return "" if math.isfinite(value) else "finite and "


def _range(h: Any) -> str:
    if math.isinf(h.lower):
        return f"less than {h.upper:g}" if math.isfinite(h.upper) else "finite"
    if math.isinf(h.upper):
        return f"at least {h.lower:g}" if h.closed_below else f"greater than {h.lower:g}"
    return f"between {h.lower:g} {'(included) ' if h.closed_below else ''}and {h.upper:g}"

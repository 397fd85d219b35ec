"""Where a loss is not smooth: read off its traced program, with the place in the user's code.

Flows need third derivatives. Derivatives of a program with `max`, `abs` or a comparison of weights exist almost
everywhere and automatic differentiation returns them, but what happens at the kinks they miss. Each value of the
program is followed from the weights to the loss: whether it depends on them, through which kinks, and whether it is
known to be nonnegative, since `max(0, variance)` or `abs` of a sum of exponentials have no kink to cross. What passes
through `stop_gradient` has none either, as far as derivatives can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.extend as jex
import jax.numpy as jnp
import numpy as np

from ..support.typed import finfo
from .places import RULES, in_normalization, is_jax_own, is_trusted_rule, place

_TINY = 1e-5  # a floor up to here, under something nonnegative, guards a division
_COMPARISONS = ("gt", "lt", "ge", "le")
_JUMPS = ("floor", "ceil", "round", "argmax", "argmin")  # steps: their derivative is zero where it exists
_KINKS = (
    *("reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin"),
    *("sort", "top_k", "rem", "clamp", "scatter-max", "scatter-min", "eigh", "svd"),
)
_NONNEGATIVE = ("exp", "exp2", "logistic", "square", "abs", "sqrt", "rsqrt")
_PASSED_ON = (  # nonnegative where their operands are
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "add", "mul", "div", "min", "select_n"),
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "convert_element_type", "slice", "dynamic_slice", "copy"),
    *("concatenate", "rev", "stop_gradient", "dot_general", "pow", "gather", "reduce_window_sum", "log1p", "expm1"),
)
SHIFT = "max over an axis"  # which may be subtracted to keep exponentials finite, see `shifts.py`
_WORDS = {
    "reduce_max": SHIFT,
    "reduce_min": "min",
    "reduce_window_max": "max-pooling",
    "reduce_window_min": "min-pooling",
    "clamp": "clip",
    "convert_element_type": "rounding to whole numbers",
    "eigh": "eigenvalues, which may cross",
    "svd": "singular values, which may cross or vanish",
}
_OWN_SMOOTH = ("standardize", "expm", "hypot", "pinv")  # JAX's functions that branch but are smooth
_CONSTANT = ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "copy")
_MOVED = (*_CONSTANT, "transpose", "slice", "gather", "rev", "concatenate", "dynamic_slice")


class Kink(NamedTuple):
    """A function without a third derivative somewhere, and the place in the code that calls it."""

    what: str
    where: str


class Value(NamedTuple):
    """What is known of a value: whether it has a derivative by the weights, and what lies between them and it.

    Kinks, and the places where the user sets derivatives (`ruled`) or rounds to fewer digits (`rounded`). A `square` is
    that of one number, whose root is the number's absolute value; the root of a sum of squares has no kink to cross.
    """

    active: bool = False
    kinks: frozenset[Kink] = frozenset()
    ruled: frozenset[str] = frozenset()
    rounded: frozenset[str] = frozenset()
    nonnegative: bool = False
    constant: float | None = None
    square: bool = False


def followed(closed: Any, n_weights: int) -> Value:
    """Return what is known of the one result of a traced program whose first `n_weights` arguments are weights.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> followed(jax.make_jaxpr(lambda w: jnp.sum(jax.nn.softmax(w) ** 2))(jnp.ones(3)), 1).kinks
    frozenset()
    >>> [kink.what for kink in followed(jax.make_jaxpr(lambda w: jnp.sum(jax.nn.relu(w)))(jnp.ones(3)), 1).kinks]
    ['relu']
    """
    inputs = [Value(active=i < n_weights) for i in range(len(closed.jaxpr.invars))]
    return _run(closed.jaxpr, [_constant(c) for c in closed.consts], inputs, _Caller("", ""))[0]


class _Caller(NamedTuple):
    """The name and the place of the call that a part of the program belongs to."""

    name: str
    where: str


def _run(jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value], caller: _Caller) -> list[Value]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))
    consumers: dict[Any, list[Any]] = {}
    for equation in jaxpr.eqns:
        for x in equation.invars:
            if not isinstance(x, jex.core.Literal):
                consumers.setdefault(x, []).append(equation)

    def read(x: Any) -> Value:
        return _constant(x.val) if isinstance(x, jex.core.Literal) else known[x]

    def even(x: Any) -> bool:
        """Whether only even powers of a value are used."""
        return x not in jaxpr.outvars and all(_is_even_power(e) for e in consumers.get(x, ()))

    for equation in jaxpr.eqns:
        values = [read(x) for x in equation.invars]
        known.update(zip(equation.outvars, _applied(equation, values, caller, even), strict=True))
    return [read(x) for x in jaxpr.outvars]


def _applied(equation: Any, values: list[Value], caller: _Caller, even: Callable[[Any], bool]) -> list[Value]:
    """Return what is known of the results of one operation."""
    name, outs = equation.primitive.name, len(equation.outvars)
    here = place(equation) or caller.where
    if name == "stop_gradient":
        stopped = any(v.active for v in values) and not is_trusted_rule(equation)
        plain = values[0]._replace(active=False, kinks=frozenset())
        return [plain._replace(ruled=plain.ruled | ({here} if stopped else set()))]
    if name == "custom_jvp_call" and is_trusted_rule(equation):
        return [_union(values)] * outs
    if name in RULES and not is_jax_own(equation):
        values = [v._replace(ruled=v.ruled | {here}) if v.active else v for v in values]
    if (inner := _inner(equation)) is not None:
        called = getattr(equation.params.get("call_jaxpr"), "jaxpr", None)
        label = equation.params.get("name") or getattr(getattr(called, "debug_info", None), "func_name", "")
        own = place(equation)
        within = _Caller(str(label), own) if own else _Caller(caller.name or str(label), caller.where)
        return inner(values, within)
    out = _union(values)
    guarded = in_normalization(equation) or caller.name in _OWN_SMOOTH
    if (what := _kink(equation, values, even)) is not None and not guarded:
        word = what if place(equation) or not caller.name else caller.name
        out = out._replace(kinks=out.kinks | {Kink(word, here)})
    if name == "convert_element_type" and _rounds(equation):
        out = out._replace(rounded=out.rounded | ({here} if out.active else set()))
    step = name in (*_COMPARISONS, *_JUMPS, "eq", "ne", "sign", "is_finite")
    nonnegative = name in _NONNEGATIVE or _is_even_power(equation)
    nonnegative |= name in _PASSED_ON and all(v.nonnegative for v in values)
    nonnegative |= name == "max" and any(v.nonnegative for v in values)
    constant = values[0].constant if name in _CONSTANT else None
    square = values[0].square if name in _MOVED else _is_even_power(equation) and not values[0].square
    square &= equation.params.get("y", 2) % 4 == 2
    out = out._replace(active=out.active and not step)
    return [out._replace(nonnegative=nonnegative, constant=constant, square=square)] * outs


def _kink(equation: Any, values: list[Value], even: Callable[[Any], bool]) -> str | None:
    """Return the word for the kink that an operation has on values that depend on weights."""
    name, active = equation.primitive.name, [v for v in values if v.active]
    if not active:
        return None
    constants = [v.constant for v in values if v.constant is not None]
    guard = all(v.nonnegative for v in active) and any(c <= _TINY for c in constants)
    if name in ("max", "min") or name in _COMPARISONS:
        infinite = any(np.isinf(c) for c in constants)
        return None if guard or infinite else "where" if name in _COMPARISONS else name
    if name in ("abs", "sign"):
        (x,) = active
        return None if x.nonnegative or (name == "abs" and even(equation.outvars[0])) else name
    if name in ("sqrt", "pow") and values[0].square and not even(equation.outvars[0]):
        return "the root of a square" if name == "sqrt" or _has_no_third_derivative(constants) else None
    if name == "convert_element_type":
        return _WORDS[name] if np.dtype(equation.params["new_dtype"]).kind in "iub" else None
    if name in ("reduce_window", "reduce"):
        inner = equation.params.get("jaxpr")
        found = {e.primitive.name for e in getattr(inner, "jaxpr", inner).eqns} & {"max", "min"}
        return next(iter(found), None)
    return _WORDS.get(name, name) if name in _KINKS or name in _JUMPS else None


def _rounds(equation: Any) -> bool:
    """Whether floating-point numbers are converted to some with fewer digits."""
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    both = jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating)
    return bool(both and finfo(new).eps > finfo(old).eps)


def _is_even_power(equation: Any) -> bool:
    name, inputs = equation.primitive.name, equation.invars
    if name == "integer_pow":
        return equation.params["y"] % 2 == 0
    return name == "square" or (name == "mul" and inputs[0] is inputs[1])


def _has_no_third_derivative(exponents: Sequence[float]) -> bool:
    """Whether a square to this power is |x|^q with q at most 3 and not even: its third derivative jumps."""
    return any(not float(p).is_integer() and 2 * p <= 3 for p in exponents)


def _inner(equation: Any) -> Callable[[list[Value], _Caller], list[Value]] | None:
    """Return how what is known passes through an operation that holds a program: a call, a loop, a branch."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return lambda values, caller: _branches(params["branches"], values, caller)
    if name == "while":
        return lambda values, caller: _while(params, values, caller)
    if name == "scan":
        fixed, carried = params["num_consts"], params["num_carry"]
        return lambda values, caller: _loop(params["jaxpr"], values, caller, fixed, carried)
    if name in ("reduce_window", "reduce"):
        return None
    for inner in (p for p in params.values() if hasattr(getattr(p, "jaxpr", p), "eqns")):
        if len(getattr(inner, "jaxpr", inner).invars) == len(equation.invars):
            return lambda values, caller: _call(inner, values, caller)
    return None


def _call(closed: Any, values: Sequence[Value], caller: _Caller) -> list[Value]:
    return _run(getattr(closed, "jaxpr", closed), [_constant(c) for c in getattr(closed, "consts", ())], values, caller)


def _branches(branches: Sequence[Any], values: Sequence[Value], caller: _Caller) -> list[Value]:
    index, *operands = values
    columns = zip(*(_call(branch, operands, caller) for branch in branches), strict=True)
    chosen = index._replace(active=False)
    return [_joined((*column, chosen), [v.nonnegative for v in column]) for column in columns]


def _while(params: Any, values: list[Value], caller: _Caller) -> list[Value]:
    n, m = params["cond_nconsts"], params["body_nconsts"]
    carry = values[n + m :]
    after = _loop(params["body_jaxpr"], values[n:], caller, m, len(carry))
    (again,) = _call(params["cond_jaxpr"], [*values[:n], *after], caller)
    return [_joined((v, again._replace(active=False)), [v.nonnegative]) for v in after]


def _loop(body: Any, values: list[Value], caller: _Caller, fixed: int, carried: int) -> list[Value]:
    """Return what is known after any number of turns: carried values until nothing more is learned of them."""
    constants, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    carry = [v._replace(constant=None) for v in carry]
    while True:
        out = _call(body, [*constants, *carry, *xs], caller)
        pairs = zip(carry, out[:carried], strict=True)
        wider = [_joined(pair, [v.nonnegative for v in pair]) for pair in pairs]
        if wider == carry:
            return [*carry, *out[carried:]]
        carry = wider


def _union(values: Iterable[Value]) -> Value:
    return _joined(tuple(values), [False])


def _joined(values: Sequence[Value], nonnegative: Iterable[bool]) -> Value:
    return Value(
        any(v.active for v in values),
        frozenset().union(*(v.kinks for v in values)),
        frozenset().union(*(v.ruled for v in values)),
        frozenset().union(*(v.rounded for v in values)),
        all(nonnegative),
    )


def _constant(x: Any) -> Value:
    """Return what is known of a number in the program."""
    try:
        array = np.asarray(x)
    except TypeError:  # a random key
        return Value()
    if array.dtype.kind not in "fiub" or not 0 < array.size < 10_000:
        return Value()
    same = float(array.flat[0]) if bool((array == array.flat[0]).all()) else None
    return Value(nonnegative=bool((array >= 0).all()), constant=same)

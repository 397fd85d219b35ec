"""Whether a loss can be used: one real number that depends on the weights, with third derivatives, and smooth.

All is read off traced programs: nothing is computed, and nothing is compiled unless a doubt has to be settled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..support.errors import InputError, KinkWarning, PrecisionWarning
from ..support.typed import (
    AnyTuple,
    PyTree,
    Tracer,
    eval_shape,
    finfo,
    grad,
    jaxpr_as_fun,
    jit,
    jvp,
    make_jaxpr,
    several,
    value_and_grad,
)
from .places import is_jax_own, place
from .shifts import without_shifts
from .smoothness import Value, followed

_SHOWN = 3  # kinks in one warning
_USER = 6  # calls between a warning and the line that makes the problem
_DIRECTIONS, _WRONG = 3, 1e-2  # how many derivatives are compared with differences, and from which relative error on
_ADVICE = {  # words of JAX's own errors: what it means
    "custom_vjp": "has a function with a custom_vjp, which has no forward mode{at}: give it a jax.custom_jvp instead, "
    "or leave its rule out",
    "custom_lin": "has a function with a custom_vjp whose backward rule has one itself{at}, which has no forward mode: "
    "give it a jax.custom_jvp instead, or leave its rule out",
    "while_loop": "has a loop whose length is not known beforehand{at}, which has no reverse mode: use jax.lax.scan, "
    "or jax.lax.fori_loop between fixed numbers",
    "callback": "calls Python with its weights (a callback){at}, which has no derivative: write it with jax.numpy, or "
    "call it on the data beforehand",
}
_PRIMITIVES = {
    "custom_vjp": ("custom_vjp_call",),
    "custom_lin": ("custom_vjp_call",),
    "while_loop": ("while",),
    "callback": ("pure_callback", "io_callback"),
}

_NAMES = (  # of operations that JAX differentiates as often as one likes: with these alone nothing is tried
    "add sub mul div neg exp exp2 log log1p expm1 sin cos tan tanh sinh cosh asin acos atan atan2 asinh acosh atanh "
    "logistic integer_pow pow sqrt rsqrt cbrt square erf erfc erf_inv max min abs sign floor ceil round rem clamp "
    "gt lt ge le eq ne and or not xor is_finite select_n reduce_sum reduce_prod reduce_max reduce_min reduce_and "
    "reduce_or argmax argmin sort cumsum cumprod cummax cummin cumlogsumexp reduce_window_sum "
    "broadcast_in_dim reshape transpose squeeze concatenate split pad slice dynamic_slice dynamic_update_slice gather "
    "scatter scatter-add iota rev copy convert_element_type reduce_precision stop_gradient dot_general "
    "conv_general_dilated jit pjit scan cond remat2 checkpoint shift_left shift_right_logical random_bits random_wrap "
    "random_unwrap random_fold_in random_split random_seed threefry2x32"
)
_ORDINARY = frozenset(_NAMES.split())


def check_loss(loss: Callable[..., Any], weights: list[Array], data: tuple[Any, ...]) -> None:
    """Raise `InputError` unless flows can be computed for `loss(weights, *data)`; warn where it is not smooth.

    **Warns:** `KinkWarning` for kinks, with their places; `PrecisionWarning` where the loss rounds.
    """
    closed = _traced(loss, weights, data)
    known = followed(closed, len(weights))
    if not known.active:
        steps = f" but through {_listed(known)}, whose derivative is zero" if known.kinks else ""
        raise InputError(f"the loss does not depend on params{steps}: its gradient is zero everywhere")
    numbers = jax.tree.leaves(data)
    if not all(map(_is_ordinary, _operations(closed.jaxpr))):
        _check_derivatives(closed, weights, numbers)
    if known.kinks:
        known = without_shifts(closed, known, weights, numbers)
    if known.ruled and not any(isinstance(x, Tracer) for x in (*weights, *numbers)):
        _check_rules(closed, known, weights, numbers)
    if known.kinks:
        warnings.warn(
            f"the loss has kinks in its weights, {_listed(known)}: third derivatives miss what happens there, and "
            "flows need not follow the optimizer; use smooth functions, for instance jax.nn.gelu or softplus, or "
            "averages in place of maxima",
            KinkWarning,
            stacklevel=_USER,
        )
    out, given = closed.out_avals[0].dtype, jnp.result_type(*weights)
    if known.rounded or finfo(out).eps > finfo(given).eps:
        at = f" at {min(known.rounded)}" if any(known.rounded) else ""
        warnings.warn(
            f"the loss rounds its {given} weights, or what it makes of them, to fewer digits{at}, and derivatives with "
            "it: leave casts out of it",
            PrecisionWarning,
            stacklevel=_USER,
        )


def kinks_of(function: Callable[..., Any], w: Array, data: tuple[Any, ...]) -> str:
    """Return the kinks and jumps of `function(w, *data)`, one number, with their places; empty where it is smooth.

    >>> kinks_of(lambda w: jnp.sum(w**2), jnp.ones(2), ()), kinks_of(lambda w: jnp.argmax(w) + 0.0, jnp.ones(2), ())[:6]
    ('', 'argmax')
    """
    closed = make_jaxpr(function)(w, *data)
    known = followed(closed, 1)
    if known.kinks and known.active:
        known = without_shifts(closed, known, [w], jax.tree.leaves(data))
    return _listed(known)


def _traced(loss: Callable[..., Any], weights: list[Array], data: tuple[Any, ...]) -> Any:
    """Return the program of the loss; raises `InputError` where it has none or does not return one real number."""

    def checked(weights: list[Array], *data: PyTree) -> Array:
        out = loss(weights, *data)
        if isinstance(out, AnyTuple):
            raise InputError(
                f"loss returns a tuple of {len(out)} values, it must return one number: pass a loss that returns the "
                "first of them, as in lambda params: loss(params)[0]"
            )
        leaves = jax.tree.leaves(out)
        if len(leaves) != 1:
            raise InputError(f"loss returns {len(leaves)} values, it must return one number: take the mean or the sum")
        if not isinstance(leaves[0], (jax.Array, float, int, complex)) and not hasattr(leaves[0], "dtype"):
            raise InputError(f"loss returns a {type(leaves[0]).__name__}, it must return one number")
        value = jnp.asarray(leaves[0])
        if value.shape != ():
            raise InputError(f"loss returns shape {value.shape}, it must return one number: take the mean or the sum")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(f"loss returns {value.dtype}, it must return a real floating-point number")
        return value

    try:
        closed = make_jaxpr(checked)(weights, *data)
        for x in closed.consts:
            if isinstance(x, Tracer):
                jax.lax.stop_gradient(x)  # raises for one whose transformation has ended
        return closed
    except InputError:
        raise
    except Exception as error:
        advice = ""
        if isinstance(error, _CONCRETE):
            advice = "; write it with jax.numpy, jnp.where and jax.lax.cond in place of NumPy, float() and if"
        raise InputError(
            f"loss cannot be evaluated on params: {type(error).__name__}: {_first(error)}{advice}"
        ) from error


_CONCRETE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,  # of which the one of `if` is a kind
    jax.errors.TracerIntegerConversionError,
)


def _is_ordinary(equation: Any) -> bool:
    own_rule = equation.primitive.name == "custom_jvp_call" and is_jax_own(equation)
    return own_rule or equation.primitive.name in _ORDINARY


def _operations(jaxpr: Any) -> Iterator[Any]:
    """Return the operations of a program and of all programs within them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in several(value):
                if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                    yield from _operations(inner)


def _check_derivatives(closed: Any, weights: list[Array], data: list[Any]) -> None:
    """Raise `InputError` where JAX cannot differentiate the program three times: twice forward over reverse."""

    def loss(weights: list[Array]) -> Array:
        return jaxpr_as_fun(closed)(*weights, *data)[0]

    def third(along: list[Array]) -> list[Array]:
        def first(w: list[Array]) -> list[Array]:
            return jvp(grad(loss), (w,), (along,))[1]

        return jvp(first, (weights,), (along,))[1]

    try:
        eval_shape(jax.vmap(third), [jnp.stack([x, x]) for x in weights])
    except Exception as error:
        text = str(error)
        for word, advice in _ADVICE.items():
            if word in text:
                found = (place(e) for e in _operations(closed.jaxpr) if e.primitive.name in _PRIMITIVES[word])
                where = next(filter(None, found), "")
                raise InputError(f"the loss {advice.format(at=f' at {where}' if where else '')}") from error
        raise InputError(
            f"the loss cannot be differentiated three times, which flows need ({type(error).__name__}: {_first(error)})"
        ) from error


def _check_rules(closed: Any, known: Value, weights: list[Array], data: list[Any]) -> None:
    """Raise `InputError` where the derivative that rules in the user's code give is not that of the loss."""

    @jit
    def value(w: list[Array], data: list[Array]) -> Array:
        return jaxpr_as_fun(closed)(*w, *data)[0]

    L, gradient = jit(value_and_grad(value))(weights, data)
    eps = float(finfo(L.dtype).eps)
    h = eps ** (1 / 3)
    for key in jax.random.split(jax.random.key(0), _DIRECTIONS):
        keys = jax.random.split(key, len(weights))
        scales = [jnp.sqrt(jnp.mean(w**2)) if w.size else 0.0 for w in weights]
        along = [
            jnp.where(s > 0, s, 1) * jax.random.normal(k, w.shape, w.dtype)
            for s, k, w in zip(scales, keys, weights, strict=True)
        ]
        ends = [value([w + sign * h * v for w, v in zip(weights, along, strict=True)], data) for sign in (1, -1)]
        difference = float(ends[0] - ends[1]) / (2 * h)
        derivative = sum(float(jnp.vdot(g, v)) for g, v in zip(gradient, along, strict=True))
        noise = 100 * eps * float(jnp.abs(L)) / h
        if abs(difference - derivative) > _WRONG * max(abs(difference), abs(derivative)) + noise:
            at = f" at {min(known.ruled)}" if any(known.ruled) else ""
            raise InputError(
                f"the gradient that JAX computes is not that of the loss ({derivative:.3g} in a direction in which the "
                f"loss changes by {difference:.3g}): the stop_gradient or custom rule{at} makes the difference, and "
                "flows are defined for true gradients only"
            )


def _listed(known: Value) -> str:
    found = sorted(f"{kink.what} at {kink.where}" if kink.where else kink.what for kink in known.kinks)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _first(error: Exception) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Maxima that are subtracted only to keep exponentials finite: the loss does not change with them, so has no kink.

`exp(x - max(x)) / sum(exp(x - max(x)))` is a smooth function of x. That a maximum cancels is a property of the whole
program; it is tried by computing the gradient with and without the derivative of all maxima over an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..support.typed import AnyTuple, Tracer, finfo, grad, jaxpr_as_fun, jaxprs_in_params, jit, norm
from .smoothness import SHIFT, Value

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
_ASIDE = 0.1  # of the weights: at one point two different gradients may be equal
_EQUAL = 1e3  # relative difference of gradients, in units of rounding, that is none


def without_shifts(closed: Any, known: Value, weights: Sequence[Array], data: Sequence[Array]) -> Value:
    """Return what is known of a loss without those maxima that do not change its gradient.

    >>> from .smoothness import followed
    >>> def mine(w):
    ...     p = jnp.exp(w - jnp.max(w))
    ...     return (p / jnp.sum(p))[0] ** 2
    >>> w = jnp.array([1.0, 2.0, 0.5])
    >>> closed = jax.make_jaxpr(mine)(w)
    >>> len(followed(closed, 1).kinks), len(without_shifts(closed, followed(closed, 1), [w], []).kinks)
    (1, 0)
    """
    shifts = {kink for kink in known.kinks if kink.what == SHIFT}
    if not shifts or any(isinstance(x, Tracer) for x in (*weights, *data)) or _out_of_reach(closed.jaxpr):
        return known

    @partial(jit, static_argnums=0)
    def gradient(run: Callable[..., Any], w: list[Array]) -> list[Array]:
        return grad(lambda w: run(closed.jaxpr, closed.consts, (*w, *data))[0])(w)

    aside = [w + _ASIDE * jnp.cos(1.0 + jnp.arange(w.size).reshape(w.shape)) * _size(w) for w in weights]
    same = (_same(gradient(_plain, w), gradient(_cut, w)) for w in (list(weights), aside))
    return known._replace(kinks=known.kinks - shifts) if all(same) else known


def _size(w: Array) -> Array:
    size = norm(w.ravel()) / max(w.size, 1) ** 0.5
    return jnp.where(size > 0, size, 1).astype(w.dtype)


def _same(full: Sequence[Array], cut: Sequence[Array]) -> bool:
    """Say whether two gradients differ by rounding only; what is not finite says nothing, and is no reason to."""
    size = np.max([jnp.max(jnp.abs(g), initial=0) for g in full])
    apart = np.max([jnp.max(jnp.abs(g - c), initial=0) for g, c in zip(full, cut, strict=True)])  # nan stays
    return bool(apart <= _EQUAL * max(float(finfo(g.dtype).eps) for g in full) * size < np.inf)


def _out_of_reach(jaxpr: Any, inside: bool = False) -> bool:
    """Say whether there is a maximum in a loop or a branch, where it is not cut."""
    for equation in jaxpr.eqns:
        if inside and equation.primitive.name == "reduce_max":
            return True
        deeper = inside or equation.primitive.name not in _CALLS
        if any(_out_of_reach(inner, deeper) for inner in jaxprs_in_params(equation.params)):
            return True
    return False


def _plain(jaxpr: Any, consts: Sequence[Array], args: Sequence[Array]) -> list[Array]:
    return jaxpr_as_fun(jex.core.ClosedJaxpr(jaxpr, consts))(*args)


def _cut(jaxpr: Any, consts: Sequence[Array], args: Sequence[Array]) -> list[Array]:
    """Evaluate a program in which maxima over an axis count as constants."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, jex.core.Literal) else known[x]

    for equation in jaxpr.eqns:
        values = [read(x) for x in equation.invars]
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in _CALLS and inner is not None:
            out = _cut(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        else:
            found = equation.primitive.get_bind_params(equation.params)
            functions, params = found if isinstance(found, AnyTuple) else ((), found)  # as older JAX has it
            out = equation.primitive.bind(*functions, *values, **params)
            out = list(out) if equation.primitive.multiple_results else [out]
        if equation.primitive.name == "reduce_max":
            out = [jax.lax.stop_gradient(x) for x in out]
        known.update(zip(equation.outvars, out, strict=True))
    return [read(x) for x in jaxpr.outvars]

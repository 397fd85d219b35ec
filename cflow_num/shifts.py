"""Maxima that are subtracted only to keep exponentials finite: the loss does not change with them, so has no kink.

`exp(x - max(x)) / sum(exp(x - max(x)))` is a smooth function of x. That a maximum cancels is a property of the whole
program; it is tried by computing the gradient with and without the derivative of all maxima over an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from .smoothness import Value

_SHIFT = "max"
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
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
    shifts = {kink for kink in known.kinks if kink.what == _SHIFT}
    if not shifts or any(isinstance(x, Tracer) for x in (*weights, *data)):
        return known

    def gradient(run: Callable) -> list[Array]:
        return jax.jit(jax.grad(lambda w, data: run(closed.jaxpr, closed.consts, (*w, *data))[0]))(weights, data)

    full, cut = gradient(_plain), gradient(_cut)
    size = max(float(jnp.max(jnp.abs(g), initial=0)) for g in full)
    apart = max(float(jnp.max(jnp.abs(g - c), initial=0)) for g, c in zip(full, cut, strict=True))
    eps = max(float(jnp.finfo(g.dtype).eps) for g in full)
    return known._replace(kinks=known.kinks - shifts) if apart <= _EQUAL * eps * size else known


def _plain(jaxpr: Any, consts: Sequence[Array], args: Sequence[Array]) -> list[Array]:
    return jex.core.jaxpr_as_fun(jex.core.ClosedJaxpr(jaxpr, consts))(*args)


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
            functions, params = found if isinstance(found, tuple) else ((), found)  # as older versions of JAX have it
            out = equation.primitive.bind(*functions, *values, **params)
            out = list(out) if equation.primitive.multiple_results else [out]
        if equation.primitive.name == "reduce_max":
            out = [jax.lax.stop_gradient(x) for x in out]
        known.update(zip(equation.outvars, out, strict=True))
    return [read(x) for x in jaxpr.outvars]

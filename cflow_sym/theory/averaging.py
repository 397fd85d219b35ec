"""The time average over the oscillation: two points in turn, w + delta and w - delta.

Displacements enter as the sign `x` (+1, -1 in turn), so the average is exact: odd powers vanish, even powers
are 1. Averages that are linear in the covariance get their names: E[(H delta)^2] and E[D^2 g[delta, delta]] /
2.
"""

from __future__ import annotations

from functools import lru_cache, reduce

import sympy as sp

from cflow_sym.derivation.derivation import DerivationError
from cflow_sym.notation import Total, contract, expand_names, symbols

_s = symbols
AMPLITUDE = sp.Symbol("amplitude", positive=True)  # orders the terms; never appears in a result
_TERMS = 5
_NOTHING = [sp.Integer(0)] * (_TERMS - 1)


def displaced_gradient(order: int = 4) -> sp.Expr:
    """Return the Taylor polynomial of the gradient at w + x delta, up to an order between 1 and 4.

    >>> displaced_gradient(1)
    D1*x + g
    """
    derivatives = (_s.D1, _s.D2, _s.D3, _s.D4)[:order]
    return _s.g + sp.Add(*(_s.x**k * d / sp.factorial(k) for k, d in enumerate(derivatives, start=1)))


def sign_average(expr: sp.Expr) -> sp.Expr:
    """Average over x = +1 and x = -1.

    >>> sign_average((symbols.g + symbols.x * symbols.D1) ** 2)
    D1**2 + g**2
    """
    return sp.expand((expr.xreplace({_s.x: sp.Integer(1)}) + expr.xreplace({_s.x: sp.Integer(-1)})) / 2)


@lru_cache(maxsize=256)
def orders_of_average(f: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Return the terms of E[f(gradient)] of order 0, 2 and 4 in the amplitude, in D1, ..., D4.

    Where f reads `g_mean`, that is the average of the gradient itself.

    >>> orders_of_average(symbols.g**2)[1]
    D1**2 + D2*g
    >>> orders_of_average((symbols.g - symbols.g_mean) ** 2)
    (0, D1**2, D1*D3/3)
    """
    displaced = displaced_gradient().xreplace(
        {d: AMPLITUDE**k * d for k, d in enumerate((_s.D1, _s.D2, _s.D3, _s.D4), 1)}
    )
    path = expand_names(f).xreplace({_s.g: displaced, _s.g_mean: sign_average(displaced)})
    coefficients = _taylor(path)
    at_zero = [contract(coefficients[k].doit()) for k in (0, 2, 4)]
    value, second, fourth = (contract(sign_average(term)) for term in at_zero)
    return value, second, fourth


def _taylor(expr: sp.Expr) -> list[sp.Expr]:
    """Return the coefficients of the amplitude's powers 0 to 4: by products of series, much faster than derivatives.

    >>> a = AMPLITUDE
    >>> _taylor(sp.sqrt(1 + a))
    [1, 1/2, -1/8, 1/16, -5/128]
    """
    if not expr.has(AMPLITUDE):
        return [expr, *_NOTHING]
    if expr == AMPLITUDE:
        return [sp.Integer(0), sp.Integer(1), *_NOTHING[1:]]
    if expr.is_Add:
        return [sp.Add(*terms) for terms in zip(*map(_taylor, expr.args), strict=True)]
    if expr.is_Mul:
        return reduce(_product, map(_taylor, expr.args))
    if isinstance(expr, Total):
        return [Total(c) if c != 0 else c for c in _taylor(expr.args[0])]
    if expr.is_Pow and not expr.exp.has(AMPLITUDE):
        base = _taylor(expr.base)
        if expr.exp.is_Integer and expr.exp > 0:
            return reduce(_product, [base] * int(expr.exp))
        if base[0] != 0:
            return _power(base, expr.exp)
    return [expr.diff(AMPLITUDE, k).subs(AMPLITUDE, 0) / sp.factorial(k) for k in range(_TERMS)]


def _product(a: list[sp.Expr], b: list[sp.Expr]) -> list[sp.Expr]:
    return [sp.Add(*(a[k] * b[n - k] for k in range(n + 1) if a[k] != 0 and b[n - k] != 0)) for n in range(_TERMS)]


def _power(a: list[sp.Expr], p: sp.Expr) -> list[sp.Expr]:
    """Return the series of a^p, from a (a^p)' = p a' a^p."""
    power = [a[0] ** p]
    for n in range(1, _TERMS):
        known = ((k * p - n + k) * a[k] * power[n - k] for k in range(1, n + 1) if a[k] != 0)
        power.append(sp.Add(*known) / (n * a[0]))
    return power


def name_moments(second: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Split a second-order term into its `gradient_variance` part and its `gradient_shift` part.

    >>> name_moments(symbols.D1**2 + symbols.g * symbols.D2)
    (gradient_variance, 2*g*gradient_shift)
    """
    expanded = contract(sp.expand(second))
    squares = contract(expanded.xreplace({_s.D2: sp.Integer(0)}))
    shifts = contract(expanded.xreplace({_s.D1: sp.Integer(0), _s.D2: 2 * _s.gradient_shift}))
    squares = contract(squares.subs(_s.D1**2, _s.gradient_variance))
    if squares.has(_s.D1):
        raise DerivationError(
            f"the average {squares} needs more than the diagonal of H Sigma H: a state depends on a "
            f"nonlinear function "
            "of norm2(g); make norm2(g) a state of its own first."
        )
    return squares, shifts

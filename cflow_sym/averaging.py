"""The time average over the oscillation: two points in turn, w + delta and w - delta.

Displacements enter as the sign `x` (+1, -1 in turn), so the average is exact: odd powers vanish, even powers
are 1. Averages that are linear in the covariance get their names: E[(H delta)^2] and E[D^2 g[delta, delta]] /
2.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from cflow_sym.derivation import DerivationError
from cflow_sym.notation import contract, expand_names, symbols

_s = symbols
AMPLITUDE = sp.Symbol("amplitude", positive=True)  # orders the terms; never appears in a result


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
    terms = []
    for k in (0, 2, 4):
        coefficient = path.diff(AMPLITUDE, k) / sp.factorial(k) if k else path
        at_zero = coefficient.subs(AMPLITUDE, 0).doit()
        terms.append(contract(sign_average(contract(at_zero))))
    return terms[0], terms[1], terms[2]


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

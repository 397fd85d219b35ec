"""Small algebra on expressions that has nothing to do with optimizers."""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import sympy as sp


def before_update(x: sp.Symbol, new: sp.Expr) -> sp.Expr | None:
    """Return the old value of x in terms of the new one, which takes its name; None where the update forgets it.

    For updates affine in x.

    >>> b, m, g = sp.symbols("b m g")
    >>> before_update(m, b * m + g)
    (-g + m)/b
    """
    slope = new.diff(x)
    return None if slope == 0 else (x - new.xreplace({x: sp.Integer(0)})) / slope


def exact_numbers(expr: sp.Expr) -> sp.Expr:
    """Write floating-point numbers as the rationals that their shortest decimals stand for.

    >>> exact_numbers(sp.Symbol("nu") ** 0.25)
    nu**(1/4)
    """
    return expr.xreplace({x: sp.Rational(repr(float(x))) for x in expr.atoms(sp.Float)})

"""Small algebra on expressions that has nothing to do with optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sympy as sp
import sympy.core.random

from cflow_sym.constants import stands_for


def before_update(x: sp.Symbol, new: sp.Expr) -> sp.Expr | None:
    """Return the old value of x in terms of the new one, which takes its name; None where the update forgets it.

    For updates affine in x.

    >>> b, m, g = sp.symbols("b m g")
    >>> before_update(m, b * m + g)
    (-g + m)/b
    """
    slope = new.diff(x)
    return None if slope == 0 else (x - new.xreplace({x: sp.Integer(0)})) / slope


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Draw SymPy's random numbers from one seed inside, and leave its generator as it was.

    Factoring a polynomial in several variables tries random points, and an unlucky one can take hours instead of
    milliseconds: what took how long must not depend on what was drawn before.
    """
    before = sympy.core.random.rng.getstate()
    sympy.core.random.rng.seed(0)
    try:
        yield
    finally:
        sympy.core.random.rng.setstate(before)


def in_factors(expr: sp.Expr) -> sp.Expr:
    """Return the expression factored, in the same way and time whenever it is asked for.

    >>> x, y = sp.symbols("x y")
    >>> in_factors(x * y + y**2)
    y*(x + y)
    """
    with repeatable():
        return sp.factor(expr)


def simplified(expr: sp.Expr) -> sp.Expr:
    """Return the expression simplified, in the same way and time whenever it is asked for."""
    with repeatable():
        return sp.simplify(expr)


def exact_numbers(expr: sp.Expr) -> sp.Expr:
    """Write floating-point numbers as the rationals that they stand for (`constants.py`).

    >>> exact_numbers(sp.Symbol("nu") ** 0.25)
    nu**(1/4)
    """
    return expr.xreplace({x: stands_for(float(x)) for x in expr.atoms(sp.Float)})

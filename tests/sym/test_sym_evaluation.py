"""Values at exact points are SymPy's own: fractions exactly, roots and logarithms to a hundred digits."""

from fractions import Fraction

import mpmath
import pytest
import sympy as sp

from cflow_sym.derivation.evaluation import DIGITS, Unknown, as_sympy, evaluate
from cflow_sym.derivation.exact import Point
from cflow_sym.notation import BlockTotal, Coordinate, Total

x, t = sp.symbols("x t", positive=True)
y = sp.Symbol("y", real=True)
AT = {x: sp.Rational(49, 36), y: sp.Rational(-7, 5), t: sp.Integer(3)}
EXACT = [
    x / 3 + y**2, sp.sqrt(x) * y, x ** sp.Rational(-3, 2), 1 / (1 - sp.Rational(9, 10) ** t),
    sp.Max(x, y) - sp.Min(x, y),
]  # fmt: skip
ROUNDED = [
    sp.sqrt(x + 1), (x + 2) ** sp.Rational(2, 3) / y, sp.log(x) * y**t, sp.Abs(y) ** x, sp.sqrt(1 + sp.sqrt(x + t)) - t,
]  # fmt: skip


def value(expr):
    with mpmath.workdps(DIGITS):
        return evaluate(expr, lambda e: AT[e], {})


@pytest.mark.parametrize("expr", EXACT)
def test_fractions_stay_exact(expr):
    assert isinstance(value(expr), Fraction)
    assert as_sympy(value(expr)) == expr.subs(AT)


@pytest.mark.parametrize("expr", ROUNDED)
def test_roots_and_logarithms_have_a_hundred_digits(expr):
    expected = sp.N(expr.subs(AT), DIGITS + 20)
    assert abs(as_sympy(value(expr)) / expected - 1) < sp.Float(10, 30) ** -100


def test_what_cancels_is_zero_and_what_nearly_does_is_not():
    root = sp.sqrt(x + 1)
    assert value(root * sp.sqrt(y**2 + 1) - sp.sqrt((x + 1) * (y**2 + 1))) == 0
    small = sp.Rational(1, 10**60)  # three orders of the finite differences
    assert abs(value(root - root * (1 - small)) / value(root) * 10**60 - 1) < 1e-30


@pytest.mark.parametrize("expr", [sp.sqrt(y), sp.log(y), 1 / (y + sp.Rational(7, 5)), sp.gamma(x)])
def test_what_has_no_real_value_is_left_to_sympy(expr):
    with pytest.raises((Unknown, KeyError)):
        value(expr)


def test_sums_over_coordinates_and_blocks():
    g, h = Coordinate("g_one", real=True), Coordinate("h_one", real=True)
    point = Point({g: (1, 2, 3), h: (4, 5, 6)}, 3, (0, 0, 1))
    assert point(Total(g * h) + BlockTotal(g)) == (32 + 3, 32 + 3, 32 + 3)
    assert point(x * Total(g)) == 6 * x  # a symbol without a value stays

"""The value of an expression where its symbols have exact values: fractions, and roots to many digits.

SymPy builds a new expression to evaluate one, which takes longer than everything else a check does. Here every
subexpression is evaluated once; what this does not know is left to SymPy.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from typing import Any

import mpmath
import sympy as sp

DIGITS = 120
Number = Fraction | mpmath.mpf
LONG = 20_000  # bits of an exact power, beyond which it is rounded
CANCELS = mpmath.mpf(10) ** -100  # of its largest term: a sum of rounded terms below this is 0


class Unknown(Exception):
    """The expression holds something without a real value here: SymPy must say what it is."""


def evaluate(expr: sp.Expr, leaf: Callable[[sp.Expr], Any], known: dict[sp.Expr, Number]) -> Number:
    """Return the value of `expr`; `leaf` gives those of symbols and functions, `known` keeps what was found.

    Raises `Unknown`.

    >>> x = sp.Symbol("x", positive=True)
    >>> evaluate(sp.sqrt(x) / 3 + 1, lambda e: sp.Rational(4, 9), {})
    Fraction(11, 9)
    """
    if expr in known:
        return known[expr]
    if isinstance(expr, sp.Rational):
        value: Number = Fraction(expr.p, expr.q)
    elif isinstance(expr, sp.Float):
        value = _float(expr)
    elif expr.is_Add:
        value = _sum([evaluate(e, leaf, known) for e in expr.args])
    elif expr.is_Mul:
        value = Fraction(1)
        for e in expr.args:
            value = value * evaluate(e, leaf, known)
    elif isinstance(expr, sp.Pow):
        value = _power(evaluate(expr.base, leaf, known), evaluate(expr.exp, leaf, known))
    elif isinstance(expr, sp.log):
        value = _log(evaluate(expr.args[0], leaf, known))
    elif isinstance(expr, sp.Abs):
        value = abs(evaluate(expr.args[0], leaf, known))
    elif isinstance(expr, sp.sign):
        value = Fraction(int(mpmath.sign(evaluate(expr.args[0], leaf, known))))
    elif isinstance(expr, sp.Max | sp.Min):
        value = (max if isinstance(expr, sp.Max) else min)(evaluate(e, leaf, known) for e in expr.args)
    else:
        value = number(leaf(expr))
    known[expr] = value
    return value


def number(value: Any) -> Number:
    """Return a SymPy number as one of ours; raises `Unknown`.

    >>> number(sp.Rational(1, 3))
    Fraction(1, 3)
    """
    if isinstance(value, Fraction | mpmath.mpf):
        return value
    value = sp.sympify(value)
    if isinstance(value, sp.Rational):
        return Fraction(value.p, value.q)
    if isinstance(value, sp.Float):
        return _float(value)
    raise Unknown(value)


def as_sympy(value: Number) -> sp.Expr:
    """Return one of our numbers as a number of SymPy.

    >>> as_sympy(Fraction(1, 3))
    1/3
    """
    if isinstance(value, Fraction):
        return sp.Rational(value.numerator, value.denominator)
    return sp.Float(value, DIGITS)


def _float(value: sp.Float) -> Number:
    return mpmath.mpmathify(value) if value else Fraction(0)


def _sum(terms: list[Number]) -> Number:
    total = sum(terms, start=Fraction(0))
    if isinstance(total, mpmath.mpf) and abs(total) <= CANCELS * max(abs(mpmath.mpf(1) * t) for t in terms):
        return Fraction(0)
    return total


def _power(base: Number, exponent: Number) -> Number:
    if not isinstance(exponent, Fraction):
        if base <= 0:
            raise Unknown
        return mpmath.power(base, exponent)
    if base == 0 and exponent < 0:
        raise Unknown
    if exponent.denominator == 1:
        n = exponent.numerator
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(n) <= LONG:
                return base**n
            base = mpmath.mpf(base.numerator) / base.denominator
        return base**n
    if base < 0:
        raise Unknown
    if isinstance(base, Fraction):
        root = _root(base, exponent.denominator)
        if root is not None:
            return _power(root, Fraction(exponent.numerator))
        base = mpmath.mpf(base.numerator) / base.denominator
    if base == 0:
        return Fraction(0)
    if exponent.denominator == 2:
        return mpmath.sqrt(base) ** exponent.numerator
    return mpmath.power(base, mpmath.mpf(exponent.numerator) / exponent.denominator)


def _root(base: Fraction, n: int) -> Fraction | None:
    """Return the exact root, where there is one."""
    roots: list[int] = []
    for part in (base.numerator, base.denominator):
        root = isqrt(part) if n == 2 else sp.integer_nthroot(part, n)[0]
        if root**n != part:
            return None
        roots.append(root)
    return Fraction(*roots)


def _log(value: Number) -> Number:
    if value <= 0:
        raise Unknown
    if value == 1:
        return Fraction(0)
    return mpmath.log(mpmath.mpf(1) * value)

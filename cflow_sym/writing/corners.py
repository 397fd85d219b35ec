"""Where a denominator of generated code can vanish, and the limit of the quotient there.

States are 0 for weights without gradient, some hyperparameters may be 0, and a leapfrog step may have length 1. The
limit is looked for along several curves into the corner, with many digits; it counts where all of them agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator

import sympy as sp

from cflow_sym.notation import Frozen, drop_sums, expand_names, symbols

DIGITS = 200
SMALL = (sp.Float("1e-30", DIGITS), sp.Float("1e-60", DIGITS))  # how near the corner
SPEEDS = (1, sp.Rational(1, 2), 3)  # a quantity comes down like a power of the distance
LIMITS = (0, 1)
WHOLE_STEP = {symbols.dt: sp.Integer(1)}


def vanishes(expr: sp.Expr, zero: Collection[sp.Symbol]) -> bool:
    """Say whether an expression is 0 where symbols are 0 that may be, in a step of any length or in one of length 1.

    >>> s = symbols
    >>> vanishes(s.epsilon + sp.sqrt(s.nu), {s.epsilon, s.nu}), vanishes(s.eta * s.nu + 1, {s.epsilon, s.nu})
    (True, False)
    """
    at = sp.sympify(expr).xreplace(dict.fromkeys(zero, sp.Integer(0)))
    return at == 0 or at.xreplace(WHOLE_STEP) == 0


def limit_at_zero(numerator: sp.Expr, denominator: sp.Expr, zero: Collection[sp.Symbol]) -> int | None:
    """Return the limit of a quotient wherever its denominator vanishes, None where it has none or no fixed one.

    >>> s = symbols
    >>> limit_at_zero(s.nu, sp.sqrt(s.nu + s.epsilon), {s.epsilon, s.nu})
    0
    >>> limit_at_zero(s.g, s.epsilon + sp.sqrt(s.nu), {s.epsilon, s.nu, s.g}) is None
    True
    """
    quotient = drop_sums(expand_names(numerator / denominator))
    found = set()
    for factor in sp.Mul.make_args(denominator):
        if vanishes(factor, zero):
            whole = factor.xreplace(dict.fromkeys(zero, sp.Integer(0))) != 0
            corner = _corner(factor.xreplace(WHOLE_STEP) if whole else factor, zero)
            found |= set(_along_curves(quotient.xreplace(WHOLE_STEP) if whole else quotient, corner))
    return found.pop() if len(found) == 1 else None


def _corner(factor: sp.Expr, zero: Collection[sp.Symbol]) -> list[sp.Symbol]:
    """Return the symbols that must be 0 for a factor to vanish: no fewer of them are enough."""
    needed = sorted(factor.free_symbols & set(zero), key=str)
    for x in list(needed):
        others = [y for y in needed if y != x]
        if vanishes(factor, others):
            needed = others
    return needed


def _along_curves(quotient: sp.Expr, corner: Iterable[sp.Symbol]) -> Iterator[int | None]:
    """Yield what the quotient tends to, along each curve: one of `LIMITS`, or None."""
    corner = [x for x in corner if x in quotient.free_symbols]
    others = sorted(quotient.free_symbols - set(corner), key=str)
    inside = {x: sp.Rational(2 * k + 3, 2 * k + 7) for k, x in enumerate(others)}
    for speeds in itertools.product(SPEEDS, repeat=len(corner)):
        ends = []
        for h in SMALL:
            at = {x: (k + 1) * h**speed for k, (x, speed) in enumerate(zip(corner, speeds, strict=True))}
            value = quotient.subs(inside).subs(at)
            value = sp.N(value.replace(Frozen, sp.sign), DIGITS)
            ends.append(value if value.is_number and value.is_finite and value.is_real else None)
        yield None if None in ends else next((x for x in LIMITS if _tends(ends, x)), None)


def _tends(ends: list[sp.Expr], limit: int) -> bool:
    near, nearer = (abs(value - limit) for value in ends)
    return bool(nearer < sp.Float("1e-10") and (nearer < near or nearer == 0))

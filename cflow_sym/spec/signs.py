"""Signs that stay: sign, abs, max, min and case distinctions of an update, as the derivation reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NoReturn

import sympy as sp

from cflow_sym.algebra import simplified
from cflow_sym.notation import Frozen, drop_sums, expand_names


def freeze_signs(expr: sp.Expr, passing: Mapping[sp.Symbol, sp.Expr], fail: Callable[[str], NoReturn]) -> sp.Expr:
    """Write sign, abs, max, min and case distinctions with signs that stay while `passing` goes through zero.

    `fail` is called with a sentence where such a sign changes there.

    >>> from cflow_sym.notation import symbols
    >>> x, nu = symbols.g, symbols.nu
    >>> freeze_signs(sp.sign(nu - x**2), {x: sp.Integer(0)}, print)
    Frozen(-g**2 + nu)
    """

    def sign_of(argument: sp.Expr, what: sp.Expr) -> sp.Expr:
        at_zero = simplified(drop_sums(expand_names(argument)).xreplace(dict(passing)))
        if at_zero == 0 or at_zero.has(sp.nan, sp.zoo):
            fail(
                f"{what} is not smooth where the gradient passes through 0. At the edge of stability the gradient "
                "along a critical direction changes sign at every step, so the average of the step is no expansion "
                "around its mean and no central flow exists; use a smooth function of g."
            )
        if argument.has(*passing):
            return Frozen(argument)
        return sp.Integer(1) if at_zero.is_positive else sp.Integer(-1) if at_zero.is_negative else Frozen(argument)

    def larger(a: sp.Expr, b: sp.Expr, what: sp.Expr, direction: int) -> sp.Expr:
        return (a + b + direction * sign_of(a - b, what) * (a - b)) / 2

    def largest(*a: sp.Expr) -> sp.Expr:
        return reduce(lambda x, y: larger(x, y, sp.Max(*a), 1), a)

    def smallest(*a: sp.Expr) -> sp.Expr:
        return reduce(lambda x, y: larger(x, y, sp.Min(*a), -1), a)

    def step(a: sp.Expr, *_: sp.Expr) -> sp.Expr:
        return (1 + sign_of(a, sp.Heaviside(a))) / 2

    def cases(*a: Any) -> sp.Expr:
        e: Any = sp.Piecewise(*a, evaluate=False)
        result: sp.Expr = e.args[-1].expr
        for value, condition in reversed(e.args[:-1]):
            if not isinstance(condition, sp.core.relational.Relational):
                fail(f"the condition {condition} is not a comparison; write it as one.")
            sign = sign_of(condition.gts - condition.lts, e) if hasattr(condition, "gts") else None
            if sign is None:
                fail(f"{e} depends on an equality, which no smooth step does; write it as a comparison.")
            result = value * (1 + sign) / 2 + result * (1 - sign) / 2
        return result

    for product in sorted(expr.atoms(sp.Mul), key=str):
        for inside in (f.args[0] for f in product.args if isinstance(f, sp.Abs)):
            powers = [f.exp for f in product.args if isinstance(f, sp.Pow) and f.base == inside]
            at_zero = drop_sums(expand_names(inside)).xreplace(dict(passing))
            if powers and powers[0].is_number and powers[0] >= 2 and simplified(at_zero) == 0:
                fail(
                    f"|{inside}|**{powers[0] + 1} is twice differentiable where the gradient passes through 0, but "
                    "formulas are derived for even powers of the gradient only: use an even power."
                )
    for kind, written in ((sp.Piecewise, cases), (sp.Max, largest), (sp.Min, smallest), (sp.Heaviside, step)):
        expr = expr.replace(kind, written)
    expr = expr.replace(sp.Abs, lambda a: sign_of(a, sp.Abs(a)) * a)
    return expr.replace(sp.sign, lambda a: sign_of(a, sp.sign(a)))

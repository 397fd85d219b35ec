"""One formula for arrays that a program treats alike but for constants: the constants become symbols.

The step of each array of the parameters is an expression of its own. Where they differ in a number, or in constant
terms such as a decay that only some arrays have, a symbol takes its place, with one value for each array. What differs
otherwise (sgd for some arrays, adam for others) has no common form.

>>> from cflow_sym.notation import symbols as s
>>> groups = Groups(frozenset([s.eta, s.gamma]))
>>> groups.unify([-s.eta * s.g - s.eta * s.gamma * s.w, -10 * s.eta * s.g])
-g*eta*group_1 - w*eta*gamma*group_2
>>> groups.values
{group_1: (1, 10), group_2: (1, 0)}
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp


class DifferentForm(ValueError):
    """Expressions that differ in more than constants."""


class Groups:
    """The constants that groups of arrays have of their own; `constants` are the symbols that all arrays share."""

    def __init__(self, constants: frozenset[sp.Symbol]) -> None:
        self.constants = constants
        self.values: dict[sp.Symbol, tuple[sp.Expr, ...]] = {}

    def unify(self, exprs: Sequence[sp.Expr]) -> sp.Expr:
        """Return one expression for all arrays; raises `DifferentForm`."""
        first = exprs[0]
        if all(e == first for e in exprs):
            return first
        if all(map(self.constant, exprs)):
            return self.of_constants(exprs)
        if any(e.is_Add for e in exprs):
            return self.of_sums(exprs)
        if any(e.is_Mul for e in exprs):
            return self.of_products(exprs)
        if len({(e.func, len(e.args)) for e in exprs}) == 1 and first.args:
            if first.is_Pow and all(map(self.constant, (e.base for e in exprs))):
                return self.of_constants([e.base for e in exprs], linked=False) ** self.unify([e.exp for e in exprs])
            parts = [self.unify(column) for column in zip(*(e.args for e in exprs), strict=True)]
            return first.func(*parts)
        raise DifferentForm(f"{first} and {next(e for e in exprs if e != first)}")

    def constant(self, expr: sp.Expr) -> bool:
        """Say whether an expression consists of numbers and hyperparameters."""
        return expr.free_symbols <= self.constants | set(self.values)

    def of_constants(self, exprs: Sequence[sp.Expr], linked: bool = True) -> sp.Expr:
        """Return one constant: a multiple of a common one where there is one, else one of several by indicators."""
        unit = next(e for e in exprs if e != 0)
        ratios = [sp.cancel(e / unit) for e in exprs]
        if all(r.is_Rational for r in ratios):
            number, rest = unit.as_coeff_Mul()
            return self.symbol([number * r for r in ratios], linked) * rest
        distinct = list(dict.fromkeys(exprs))
        return sp.Add(*(self.symbol([sp.Integer(e == x) for e in exprs]) * x for x in distinct))

    def symbol(self, values: Sequence[sp.Expr], linked: bool = True) -> sp.Expr:
        """Return the symbol with these values; a number where they are the same, minus a symbol where all are negative.

        If `linked`, one minus a known symbol: of a decay, say.
        """
        values = tuple(values)
        if len(set(values)) == 1:
            return values[0]
        if max(values) <= 0:
            return -self.symbol([-v for v in values], linked)
        for symbol, known in self.values.items():
            if known == values:
                return symbol
        for symbol, known in self.values.items():
            if linked and tuple(1 - v for v in known) == values:
                return 1 - symbol
        sign = {"positive": True} if min(values) > 0 else {"nonnegative": True} if min(values) >= 0 else {"real": True}
        symbol = sp.Symbol(f"group_{len(self.values) + 1}", **sign)
        self.values[symbol] = values
        return symbol

    def of_sums(self, exprs: Sequence[sp.Expr]) -> sp.Expr:
        """Match the terms of sums by their form; one that some arrays lack has the factor 0 there."""
        columns: dict[sp.Basic, list[list[sp.Expr]]] = {}
        for i, e in enumerate(exprs):
            for term in sp.Add.make_args(e):
                if term != 0:
                    form = self.form(term)
                    columns.setdefault(form, [[] for _ in exprs])[i].append(term)
        shared = [column for column in columns.values() if all(len(terms) == 1 for terms in column)]
        others = [column for column in columns.values() if column not in shared]
        result = sp.Add(*(self.of_terms([terms[0] for terms in column]) for column in shared))
        return result + self.of_others([[t for column in others for t in column[i]] for i in range(len(exprs))], others)

    def of_others(self, terms: list[list[sp.Expr]], columns: list[list[list[sp.Expr]]]) -> sp.Expr:
        """Return the terms of different forms: matched in order where they can be, else each with its own factor."""
        known = dict(self.values)
        if len({len(own) for own in terms}) == 1:
            ordered = [sorted(own, key=self._key) for own in terms]
            try:
                return sp.Add(*(self.of_terms(column) for column in zip(*ordered, strict=True)))
            except DifferentForm:
                self.values = known
        result = sp.Integer(0)
        for column in columns:
            most = max(map(len, column))
            if any(len(own) not in (0, most) for own in column):
                raise DifferentForm(f"{sp.Add(*terms[0])} and {sp.Add(*terms[-1])}")
            result += sp.Add(*(self.of_terms([own[k] if own else None for own in column]) for k in range(most)))
        return result

    def of_terms(self, terms: Sequence[sp.Expr | None]) -> sp.Expr:
        """Return one term: the constant factors and the rest by themselves; None stands for a missing term."""
        parts = [(sp.Integer(0), None) if t is None else self.parted(t) for t in terms]
        present = next(rest for _, rest in parts if rest is not None)
        if any(t is None for t in terms) and not present.is_polynomial(*present.free_symbols):
            raise DifferentForm(f"some arrays have the term {next(t for t in terms if t is not None)}, others do not")
        rests = [present if rest is None else rest for _, rest in parts]
        return self.unify([factor for factor, _ in parts]) * self.unify(rests)

    def of_products(self, exprs: Sequence[sp.Expr]) -> sp.Expr:
        """Match the factors of products by their form."""
        parts = [self.parted(e) for e in exprs]
        factors = [list(sp.Mul.make_args(rest)) for _, rest in parts]
        if len({len(f) for f in factors}) > 1:
            sums = [rest.is_Add for _, rest in parts]
            if not any(sums):
                raise DifferentForm(f"{exprs[0]} and {next(e for e in exprs if e != exprs[0])}")
            opened = (sp.Add(*(c * term for term in rest.args)) if s else e
                      for e, s, (c, rest) in zip(exprs, sums, parts, strict=True))  # fmt: skip
            return self.of_sums(list(opened))
        result = self.unify([factor for factor, _ in parts])
        shared = [f for f in factors[0] if all(f in others for others in factors)]
        left = [sorted((f for f in own if f not in shared), key=self._key) for own in factors]
        return sp.Mul(result, *shared, *(self.unify(column) for column in zip(*left, strict=True)))

    def parted(self, term: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        """Return the constant factors of a term and the others."""
        factors = sp.Mul.make_args(term)
        own = [f for f in factors if self.constant(f)]
        return sp.Mul(*own), sp.Mul(*(f for f in factors if not self.constant(f)))

    def form(self, expr: sp.Expr) -> sp.Basic:
        """Return an expression with all constants taken out: equal for terms that differ in constants only."""
        if self.constant(expr):
            return sp.Symbol("constant")
        if expr.is_Mul:
            factors = sp.Mul.make_args(self.parted(expr)[1])
            return sp.Tuple(sp.Symbol("product"), *sorted(map(self.form, factors), key=str))
        if expr.is_Add:
            return sp.Tuple(sp.Symbol("sum"), *sorted(map(self.form, expr.args), key=str))
        if not expr.args:
            return expr
        return sp.Tuple(sp.Symbol(expr.func.__name__), *map(self.form, expr.args))

    def _key(self, expr: sp.Expr) -> str:
        return str(self.form(expr))

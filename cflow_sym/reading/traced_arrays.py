"""The arrays that parameters consist of: each is its representative coordinate, in symbols of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from cflow_sym.notation import BlockTotal, Total


class OtherBlockTotal(BlockTotal):
    """The sum over the coordinates of another array than the first, written in its own symbols."""


@dataclass(frozen=True)
class Arrays:
    """Shapes of the arrays that the parameters consist of, and the symbols of coordinates of the first one.

    Every further array has symbols of its own for the same coordinates.
    """

    shapes: tuple[tuple[int, ...], ...]
    coordinates: tuple[sp.Symbol, ...] = ()

    @cached_property
    def twins(self) -> tuple[dict[sp.Symbol, sp.Symbol], ...]:
        """For every array, the symbols of its coordinates by those of the first array."""
        further = [{x: _twin(x, k) for x in self.coordinates} for k in range(1, len(self.shapes))]
        return ({x: x for x in self.coordinates}, *further)

    @cached_property
    def owner(self) -> dict[sp.Symbol, int]:
        """The number of the array that a symbol belongs to."""
        return {twin: k for k, own in enumerate(self.twins) for twin in own.values()}

    @cached_property
    def back(self) -> dict[sp.Symbol, sp.Symbol]:
        """The symbol of the first array for every symbol of another."""
        return {twin: symbol for own in self.twins[1:] for symbol, twin in own.items()}

    def to_first(self, expr: sp.Basic) -> sp.Basic:
        """Write an expression of one array in the symbols of the first."""
        return expr.xreplace(self.back).replace(OtherBlockTotal, BlockTotal) if self.back else expr

    def of(self, k: int, expr: sp.Basic) -> sp.Basic:
        """Write an expression of the first array in the symbols of the k-th."""
        if not k:
            return expr
        swapped = expr.replace(lambda e: type(e) is BlockTotal, lambda e: OtherBlockTotal(e.args[0]))
        return swapped.xreplace(self.twins[k])

    def owners(self, expr: sp.Basic) -> set[int]:
        """Return the numbers of the arrays whose coordinates stand in an expression, sums over all weights apart."""
        plain = expr.replace(lambda e: type(e) is Total, lambda e: sp.Integer(1))
        return {self.owner[x] for x in plain.free_symbols if x in self.owner}

    def total(self, expr: sp.Expr, size: int) -> sp.Expr | None:
        """Return the sum over an array of the given size, or None where no parameter has that size."""
        sizes = [math.prod(shape) for shape in self.shapes]
        outside = expr.replace(lambda e: isinstance(e, Total | BlockTotal), lambda e: sp.Integer(1)).free_symbols
        owners = {self.owner[x] for x in outside if x in self.owner}
        if not owners and size == 1:
            return expr
        owners = owners or {k for k, own in enumerate(sizes) if own == size}
        if len(owners) != 1 or sizes[min(owners)] != size:
            return None
        if len(sizes) == 1:
            return Total(expr)
        return OtherBlockTotal(expr) if max(owners) else BlockTotal(expr)

    def join(self, expr: sp.Expr) -> sp.Expr:
        """Write the same sum over every array as one sum over all weights."""
        if not (isinstance(expr, sp.Add) and expr.has(OtherBlockTotal)):
            return expr
        terms = list(expr.args)
        for term in expr.args:
            factor, sums = _split(term, BlockTotal)
            twins = [factor * self.of(k, sums) for k in range(len(self.shapes))]
            if sums != 1 and all(twin in terms for twin in twins):
                for twin in twins:
                    terms.remove(twin)
                terms.append(factor * Total(sums.args[0]))
        return sp.Add(*terms)


def _twin(symbol: sp.Symbol, k: int) -> sp.Symbol:
    return type(symbol)(f"{symbol.name}@{k + 1}", **symbol.assumptions0)


def _split(term: sp.Expr, kind: type) -> tuple[sp.Expr, sp.Expr]:
    """Return the factors beside a sum and the sum itself, 1 where there is none."""
    sums = [f for f in sp.Mul.make_args(term) if type(f) is kind]
    return (term / sums[0], sums[0]) if len(sums) == 1 else (term, sp.Integer(1))

"""Whether two expressions are the same, told by their values at random values of all their symbols."""

from __future__ import annotations

import sympy as sp

from cflow_sym.derivation.exact import Point, Value, agree, draw, source, unit_vector
from cflow_sym.notation import BlockCoordinate, Coordinate, expand_names, symbols

POINTS = 2
BLOCKS = (0, 0, 1)  # of three coordinates


def same_value(a: sp.Expr, b: sp.Expr) -> bool:
    """Say whether two expressions have the same value wherever their symbols have one; u is a unit vector.

    >>> s = symbols
    >>> same_value(s.grad_sq_norm * (1 + s.eta), expand_names(s.grad_sq_norm) + s.eta * s.grad_sq_norm)
    True
    >>> same_value(s.g, s.g_mean)
    False
    """
    if a == b:
        return True
    points = (_values(seed, a, b) for seed in range(POINTS))
    return all(agree(point.vector(a), point.vector(b)) for point in points)


def _values(seed: int, *expressions: sp.Expr) -> Point:
    """Draw a value for every symbol: squares, so that roots of states stay rational."""
    rng = source(f"values-{seed}")
    names = {a for e in expressions for a in expand_names(e).atoms(sp.Symbol)}
    values: dict[sp.Expr, Value] = {}
    for i, symbol in enumerate(sorted(names, key=str)):
        apart = sp.Rational(i, 997)  # no two symbols are equal, which could be a pole
        draws = tuple((draw(rng, 0.2, 0.9) + apart / 10) ** 2 for _ in BLOCKS)
        if isinstance(symbol, BlockCoordinate):
            values[symbol] = tuple(draws[block] for block in BLOCKS)
        else:
            values[symbol] = draws if isinstance(symbol, Coordinate) else draws[0]
    fixed = {symbols.t: sp.Integer(rng.randint(2, 9)), symbols.u: unit_vector(rng, len(BLOCKS))}
    return Point(values | fixed, len(BLOCKS), BLOCKS)

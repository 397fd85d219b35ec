"""Random exact points and random polynomial losses: the ground on which derivation steps are checked.

Everything is rational, so that "equal" means equal; square roots and logarithms are evaluated to `DIGITS`
digits. A `LocalModel` is a polynomial loss around w = 0 with chosen critical directions: H V = S P V. Its
gradient at a displaced point is computed from the polynomial, never from an expansion, so it can refute one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement
from typing import Any

import mpmath
import sympy as sp

from cflow_sym.derivation.evaluation import DIGITS, Number, Unknown, as_sympy, evaluate
from cflow_sym.notation import (
    BlockCoordinate,
    BlockTotal,
    Coordinate,
    Frozen,
    Total,
    expand_names,
    is_elementwise,
    rate_symbol,
    symbols,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter

STEP = sp.Rational(1, 10**20)  # of the finite differences below: exact arithmetic allows it
Vector = tuple[sp.Expr, ...]
Value = sp.Expr | Vector
Known = dict[int, dict[sp.Expr, Number]]  # values found at each coordinate


_SALT: ContextVar[str] = ContextVar("salt", default="")


@contextmanager
def other_points(salt: int) -> Generator[None, None, None]:
    """Within the block all checks draw other random points and losses than they usually do.

    >>> with other_points(1):
    ...     once = source("x").random()
    >>> once == source("x").random()
    False
    """
    token = _SALT.set(f"+{salt}")
    try:
        yield
    finally:
        _SALT.reset(token)


def source(label: str) -> random.Random:
    """Return the random numbers of one check."""
    return random.Random(label + _SALT.get())


def draw(rng: random.Random, low: float = -2, high: float = 2) -> sp.Rational:
    """Draw a rational strictly between two numbers."""
    low_q, high_q = (sp.Rational(bound).limit_denominator(1000) for bound in (low, high))
    return low_q + (high_q - low_q) * sp.Rational(rng.randint(1, 30), 31)


def draw_vector(rng: random.Random, n: int) -> Vector:
    """Draw a vector of rationals without zeros."""
    return tuple(draw(rng, 0.25, 2) * rng.choice((-1, 1)) for _ in range(n))


def unit_vector(rng: random.Random, n: int) -> Vector:
    """Draw a rational vector of length exactly 1 (stereographic projection)."""
    y = [draw(rng) for _ in range(n - 1)]
    square = sp.Add(*(a * a for a in y))  # 0, exactly, for n = 1
    return (*(2 * a / (1 + square) for a in y), (1 - square) / (1 + square))


def is_zero(value: Value, scale: sp.Expr | float = 1) -> bool:
    """Say whether a value (or every entry of a vector) vanishes, relative to `scale`."""
    if isinstance(value, tuple):
        return all(is_zero(v, scale) for v in value)
    value = sp.sympify(value)
    if value.is_Rational:
        return value == 0 or abs(value) < sp.Rational(1, 10**25) * abs(sp.sympify(scale))
    if value.free_symbols or not value.is_number:
        return False
    return bool(abs(sp.N(value, DIGITS)) < sp.Float(10, DIGITS) ** -25 * abs(sp.N(scale, DIGITS)))


def agree(a: Value, b: Value) -> bool:
    """Say whether two values or vectors agree, to rounding in `DIGITS` digits where they are not rational."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(agree(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, tuple) or isinstance(b, tuple):
        return False
    a, b = sp.sympify(a), sp.sympify(b)
    return is_zero(a - b, sp.Integer(1) if a == 0 else abs(a))


def _entry(value: Value, i: int) -> sp.Expr:
    return value[i] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Point:
    """Values for symbols: scalars and, for coordinates, vectors. Calling it evaluates an expression.

    `blocks` holds the number of the block that each coordinate belongs to (all in one by default).
    """

    values: dict[sp.Expr, Value]
    dimension: int
    blocks: tuple[int, ...] = ()
    _known: Known = field(default_factory=Known, repr=False, compare=False)

    def __call__(self, expr: sp.Expr) -> Any:
        """Return the value: a number, or a tuple where the expression is elementwise."""
        expr = expand_names(expr)
        if is_elementwise(expr):
            return tuple(self._coordinate(expr, i) for i in range(self.dimension))
        return self._coordinate(expr, 0)

    def _coordinate(self, expr: sp.Expr, i: int) -> sp.Expr:
        try:
            with mpmath.workdps(DIGITS):
                return as_sympy(self._number(expr, i))
        except Unknown:
            return self._substituted(expr, i)

    def _number(self, expr: sp.Expr, i: int) -> Number:
        return evaluate(expr, lambda e: self._leaf(e, i), self._known.setdefault(i, {}))

    def _leaf(self, e: sp.Expr, i: int) -> Any:
        """Return the value of a symbol, a sum over coordinates or a frozen sign at one coordinate."""
        if isinstance(e, Frozen):
            sign = self._frozen(e)
            return mpmath.sign(self._number(e.args[0], i)) if sign is None else _entry(sign, i)
        if isinstance(e, Total | BlockTotal):
            return sum((self._number(e.args[0], j) for j in self._members(e, i)), start=Fraction(0))
        if e in self.values:
            return _entry(self.values[e], i)
        raise Unknown(e)

    def _frozen(self, e: Frozen) -> Value | None:
        still = dict.fromkeys((symbols.gradient_variance, symbols.held_variance), sp.Integer(0))
        return self.values.get(e, self.values.get(e.xreplace(still)))  # held fixed whatever point and variance

    def _members(self, e: sp.Expr, i: int) -> list[int]:
        blocks = self.blocks or (0,) * self.dimension
        return [j for j in range(self.dimension) if isinstance(e, Total) or blocks[j] == blocks[i]]

    def _substituted(self, expr: sp.Expr, i: int) -> sp.Expr:
        """Return the value by SymPy's own substitution: what is left of symbols without a value stays."""
        for kind in (Total, BlockTotal, Frozen):  # from the outermost: replacing goes from the top down
            inner = {e: self._value(e, i) for e in expr.atoms(kind)} if expr.has(kind) else {}
            expr = expr.xreplace(inner)
        used = expr.atoms(sp.Symbol)
        values = {s: _entry(v, i) for s, v in self.values.items() if s in used}
        long = any(v.is_Float or (isinstance(v, sp.Rational) and max(abs(v.p), v.q) > 10**9) for v in values.values())
        if long and (expr.has(sp.log) or any(not p.exp.is_Integer for p in expr.atoms(sp.Pow))):
            return expr.evalf(DIGITS, subs=values)  # exact roots of long numbers would be factored
        result = expr.xreplace(values)
        return result if result.is_Rational else (sp.N(result, DIGITS) if not result.free_symbols else result)

    def _value(self, e: sp.Expr, i: int) -> sp.Expr:
        if isinstance(e, Frozen):
            sign = self._frozen(e)
            return sp.sign(self._coordinate(e.args[0], i)) if sign is None else _entry(sign, i)
        return sp.Add(*(self._coordinate(e.args[0], j) for j in self._members(e, i)))

    @property
    def ones(self) -> Vector:
        """A vector of ones."""
        return (sp.Integer(1),) * self.dimension

    def vector(self, expr: sp.Expr) -> Vector:
        """Return the value as a vector, a scalar repeated."""
        value: Value = self(expr)
        return value if isinstance(value, tuple) else (value,) * self.dimension

    def with_values(self, values: Mapping[Any, Value]) -> Point:
        """Return a point with some values replaced."""
        return replace(self, values={**self.values, **values}, _known={})


def draw_hyperparameter(h: Hyperparameter, rng: random.Random) -> sp.Rational:
    """Draw an admissible value."""
    if h.fixed is not None:
        return h.fixed
    return draw(rng, h.lower, min(h.upper, h.lower + (h.typical or 2)))


def random_point(spec: OptimizerSpec, seed: int, dimension: int = 2) -> Point:
    """Draw admissible hyperparameters, states (squares: roots stay rational), a count, weights and a gradient.

    Scheduled hyperparameters also get a rate. With blockwise states there is one dimension more and two blocks. The
    time average of the gradient differs from the gradient: see `on_average` for where it must not.
    """
    rng = source(f"{spec.name}-{seed}")
    values: dict[sp.Expr, Value] = {h.symbol: draw_hyperparameter(h, rng) for h in spec.active_hyperparameters}
    values[symbols.t] = sp.Integer(rng.randint(2, 9))
    blocks = (0,) * dimension
    if "blockwise" in spec.kinds.values():
        dimension, blocks = dimension + 1, (*blocks, 1)
    for state in spec.state_symbols.values():
        roots = [draw(rng, 1, 3) for _ in range(dimension)]
        if isinstance(state, BlockCoordinate):
            roots = [roots[block] for block in blocks]
        values[state] = tuple(r * r for r in roots) if isinstance(state, Coordinate) else roots[0] ** 2
    for name, kind in spec.kinds.items():
        if kind == "filtered":
            values[spec.all_symbols[name]] = draw_vector(rng, dimension)
    values[symbols.g] = draw_vector(rng, dimension)
    values[symbols.g_mean] = draw_vector(rng, dimension)  # not g: a formula that confuses the two must be seen
    values[symbols.c] = draw(rng, 1, 4)  # a threshold that stands for itself
    values[symbols.w] = draw_vector(rng, dimension)
    values |= {rate_symbol(s): draw(rng) for s in spec.scheduled}
    for argument in spec.frozen_signs:
        signs = tuple(sp.Integer(rng.choice((-1, 1))) for _ in range(dimension))
        values[Frozen(argument)] = signs if is_elementwise(argument) else signs[0]
    return Point(values, dimension, blocks)


def on_average(point: Point) -> Point:
    """Return the point where the gradient is its own time average: where one oscillation is averaged over.

    >>> import cflow_sym as cs
    >>> point = random_point(cs.optimizer("adam"), 0)
    >>> point(symbols.g_mean) == point(symbols.g), on_average(point)(symbols.g_mean) == point(symbols.g)
    (False, True)
    """
    return point.with_values({symbols.g_mean: point.values[symbols.g]})


@dataclass(frozen=True)
class Polynomial:
    """A polynomial as exponents and coefficients: exact differentiation and evaluation."""

    terms: tuple[tuple[tuple[int, ...], Any], ...]

    def __call__(self, point: Sequence[Any]) -> Any:
        """Return the value at a point."""
        total: Any = sp.Integer(0)
        for exponents, coefficient in self.terms:
            value = coefficient
            for base, power in zip(point, exponents, strict=True):
                value = value * base**power if power else value
            total += value
        return total

    def diff(self, i: int) -> Polynomial:
        """Return the derivative in the i-th variable."""
        if i not in self._derivatives:
            lowered = ((e, c, e[i]) for e, c in self.terms if e[i])
            self._derivatives[i] = Polynomial(tuple(((*e[:i], k - 1, *e[i + 1 :]), k * c) for e, c, k in lowered))
        return self._derivatives[i]

    @cached_property
    def _derivatives(self) -> dict[int, Polynomial]:
        """Those that have been asked for: a model is evaluated at many points."""
        return {}


@dataclass(frozen=True)
class LocalModel:
    """A polynomial loss at w = 0 with H V = S P V; `directions` are the columns of V."""

    loss: Polynomial
    directions: tuple[Vector, ...]

    @property
    def dimension(self) -> int:
        """Number of weights."""
        return len(self.directions[0])

    @property
    def value(self) -> Any:
        """The loss at w = 0, which is not 0."""
        return self.loss((0,) * self.dimension)

    def gradient(self, w: Sequence[Any]) -> Vector:
        """Return the gradient at w."""
        return tuple(self.loss.diff(i)(w) for i in range(self.dimension))

    def hessian(self, w: Sequence[Any]) -> sp.Matrix:
        """Return the Hessian at w."""
        n = self.dimension
        return sp.Matrix([[self.loss.diff(i).diff(j)(w) for j in range(n)] for i in range(n)])

    def derivative(self, *along: Vector) -> Vector:
        """Return D^m g[v_1, ..., v_m] at w = 0."""
        polynomials = [self.loss.diff(i) for i in range(self.dimension)]
        for v in along:
            polynomials = [_sum([(v[j], p.diff(j)) for j in range(self.dimension)]) for p in polynomials]
        return tuple(p((0,) * self.dimension) for p in polynomials)


def _sum(parts: Iterable[tuple[Any, Polynomial]]) -> Polynomial:
    terms: dict[tuple[int, ...], Any] = {}
    for factor, polynomial in parts:
        for exponents, coefficient in polynomial.terms:
            terms[exponents] = terms.get(exponents, sp.Integer(0)) + factor * coefficient
    return Polynomial(tuple(terms.items()))


def random_model(seed: int, metric: Vector, **options: Any) -> LocalModel:
    """Draw a loss with H V = curvature * diag(metric) V, where V is one unit vector or several vectors.

    Options: `curvature` (1), `critical` (1) the number of vectors, `degree` (5) and `gradient` at w = 0 (random).
    """
    return _random_model(_SALT.get(), seed, metric, **options)


@lru_cache(maxsize=512)
def _random_model(
    salt: str,
    seed: int,
    metric: Vector,
    curvature: Any = 1,
    critical: int = 1,
    degree: int = 5,
    gradient: Vector | None = None,
) -> LocalModel:
    """Draw the loss; cached by its arguments and the salt, which `source` reads."""
    rng, n = source(f"model-{seed}"), len(metric)
    V = sp.Matrix([unit_vector(rng, n) if i == 0 else draw_vector(rng, n) for i in range(critical)]).T
    P = sp.diag(*metric)
    rest = sp.Matrix(draw_vector(rng, n))
    rest = rest - V * (V.T * V).inv() * (V.T * rest)
    H = curvature * P * V * (V.T * P * V).inv() * V.T * P + draw(rng, -0.25, 0.25) * rest * rest.T
    g = draw_vector(rng, n) if gradient is None else gradient
    terms: dict[tuple[int, ...], Any] = {_exponents([], n): draw(source(f"loss-{seed}"), 1, 5)}  # L(0) is not 0
    for i in range(n):
        terms[_exponents([i], n)] = g[i]
    for i, j in combinations_with_replacement(range(n), 2):
        terms[_exponents([i, j], n)] = H[i, j] / (2 if i == j else 1)
    for d in range(3, degree + 1):
        for indices in combinations_with_replacement(range(n), d):
            terms[_exponents(indices, n)] = draw(rng)
    return LocalModel(Polynomial(tuple(terms.items())), tuple(tuple(V[:, k]) for k in range(critical)))


def _exponents(indices: Sequence[int], n: int) -> tuple[int, ...]:
    return tuple(list(indices).count(i) for i in range(n))


def add(*vectors: Sequence[Any]) -> Vector:
    """Add vectors."""
    return tuple(sp.Add(*entries) for entries in zip(*vectors, strict=True))


def scale(factor: Any, vector: Sequence[Any]) -> Vector:
    """Multiply a vector by a number."""
    return tuple(factor * entry for entry in vector)


def mean(values: Sequence[Any]) -> Any:
    """Average numbers or vectors."""
    weight = sp.Rational(1, len(values))
    return scale(weight, add(*values)) if isinstance(values[0], tuple) else weight * sp.Add(*values)


def two_point_average(model: LocalModel, displacements: Sequence[Vector], f: Callable[[Vector], Any]) -> Any:
    """Average f(gradient) over +delta and -delta for every displacement: the oscillation, by brute force."""
    signed = [scale(sign, delta) for delta in displacements for sign in (1, -1)]
    return mean([f(model.gradient(delta)) for delta in signed])


def second_order(model: LocalModel, displacements: Sequence[Vector], f: Callable[[Vector], Any]) -> Any:
    """Return the coefficient of the squared amplitude in the average of f(gradient), up to O(STEP**2)."""
    small = [scale(STEP, delta) for delta in displacements]
    change = two_point_average(model, small, f), f(model.gradient((0,) * model.dimension))
    if isinstance(change[0], sp.Expr):
        return (change[0] - change[1]) / STEP**2
    return scale(1 / STEP**2, add(change[0], scale(-1, change[1])))


def moments(model: LocalModel, displacements: Sequence[Vector]) -> dict[sp.Symbol, Vector]:
    """Return `gradient_shift` and `gradient_variance` of the covariance mean(delta delta')."""
    shift = mean([model.derivative(delta, delta) for delta in displacements])
    variance = mean([tuple(a * a for a in model.derivative(delta)) for delta in displacements])
    return {symbols.gradient_shift: scale(sp.Rational(1, 2), shift), symbols.gradient_variance: variance}

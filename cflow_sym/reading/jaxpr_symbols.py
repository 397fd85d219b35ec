"""A jaxpr on SymPy symbols: every array is its representative coordinate, every sum a `Total` or a `BlockTotal`.

Parameters consist of several arrays, by default of a vector and a matrix. The coordinate of the first is written in
the theory's own symbols, those of the others in symbols of their own, so that it shows what an operation mixes: a sum
over one array is the sum over a block, the same sum over all of them is the sum over all weights.

A value knows the equation it comes from. Operations that only pass it on (casts, reshapes, calls) return the same
value, so that one can ask whether a number that the step reads *is* the new value of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from cflow_sym.constants import stands_for
from cflow_sym.notation import debias, symbols
from cflow_sym.reading.traced_arrays import Arrays
from cflow_sym.spec.parts import SpecError

Origin = tuple[Any, ...]  # the equations on the way to a value, from the outermost call
REMEDY = "write the optimizer as an OptimizerSpec or as a TOML file instead"
SCHEDULED = (
    "a schedule of the learning rate is given to the run: leave it out of the optimizer and pass "
    "learning_rate=schedule among the hyperparameters of cflow_num.run"
)
OF_SCHEDULES = frozenset(("max", "min", "clamp", "cos", "sin", "floor", "ceil", "round", "tanh"))
HUGE = 2**31 - 1  # where 32-bit counters stop
FIRST_STEP = sp.Symbol("first_step", nonnegative=True)  # 1 at the first update and 0 from then on


@dataclass(frozen=True, eq=False)
class Value:
    """The representative coordinate of an array, and where it was computed (None: given)."""

    expr: sp.Basic
    origin: Origin | None = None


def exact(number: Any) -> sp.Basic:
    """Return a number as SymPy's: a boolean, an integer, or the rational that it stands for.

    >>> exact(np.float64(1e-3)), exact(np.int32(2)), exact(np.bool_(True)), exact(np.float32(0.1))
    (1/1000, 2, True, 1/10)
    """
    number = np.asarray(number)
    if number.size and (number == number.flat[0]).all():
        number = number.flat[0]
    if number.ndim:
        raise SpecError(f"the optimizer holds an array of numbers of shape {number.shape}: {REMEDY}.")
    if number.dtype == bool:
        return sp.true if number else sp.false
    if np.issubdtype(number.dtype, np.integer):
        return sp.Integer(int(number))
    return stands_for(number[()]) if np.isfinite(number) else sp.sympify(float(number))


class Interpreter:
    """Evaluates jaxprs on symbols.

    `marked` names values by their origin: where one is computed, its expression is kept in `defined` and what follows
    reads the name. `initial` holds the states' values before the first update, by symbol; `counting` are integer
    states, which may be counters. `assumed` collects in words what decided a case.
    """

    def __init__(
        self,
        arrays: Arrays,
        marked: Mapping[Origin, sp.Symbol] | None = None,
        initial: Mapping[sp.Symbol, sp.Expr] | None = None,
        constants: frozenset[sp.Symbol] = frozenset(),
        counting: frozenset[sp.Symbol] = frozenset(),
    ) -> None:
        self.arrays = arrays
        self.marked = marked or {}
        self.initial = initial or {}
        self.constants, self.counting = constants, counting | {symbols.t}
        self.defined: dict[sp.Symbol, sp.Expr] = {}
        self.assumed: dict[sp.Basic, None] = {}

    def run(self, closed: ClosedJaxpr, inputs: Sequence[Value], path: Origin = ()) -> list[Value]:
        """Return the values of the outputs."""
        jaxpr = closed.jaxpr
        known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {v: Value(exact(c)) for v, c in zip(jaxpr.constvars, closed.consts, strict=True)}

        def read(atom: Any) -> Value:
            return Value(exact(atom.val)) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            origin = (*path, id(eqn))
            results = self.apply(eqn, [read(v) for v in eqn.invars], origin)
            known |= zip(eqn.outvars, results, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def apply(self, eqn: Any, inputs: list[Value], origin: Origin) -> list[Value]:
        """Return the values of one equation."""
        name = eqn.primitive.name
        if name in CALLS:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
            return self.run(inner if isinstance(inner, ClosedJaxpr) else _closed(inner), inputs, origin)
        if name == "cond" and len(eqn.params["branches"]) == 2:
            cases = [self.run(b, inputs[1:], (*origin, i)) for i, b in enumerate(eqn.params["branches"])]
            pairs = zip(*cases, strict=True)
            return [self.select(inputs[0].expr, no, yes, (*origin, k)) for k, (no, yes) in enumerate(pairs)]
        decided = {v.expr for v in inputs} in ({sp.true}, {sp.false})
        if name in ("reduce_and", "reduce_or", "concatenate") and decided:
            return [Value(inputs[0].expr, origin)]
        if name == "optimization_barrier":
            return inputs
        if name in PASSING:
            _refuse_spreading(eqn, name)
            return [inputs[0]]
        if name == "select_n" and len(inputs) == 3:
            return [self.select(inputs[0].expr, inputs[1], inputs[2], origin)]
        if name in COMPARISONS:
            return [Value(self.compare(name, number(inputs[0].expr), number(inputs[1].expr)), origin)]
        if name in ("reduce_sum", "dot_general"):
            return [self.new(self.sum(eqn, inputs), origin)]
        if name in OF_SCHEDULES and any(self.counts(v.expr) for v in inputs):
            raise SpecError(f"it depends on the count of steps by {name}, as schedules do; {SCHEDULED}.")
        if name not in ELEMENTWISE:
            raise SpecError(
                f"it uses JAX's {name!r}, {WHY.get(name, 'which acts on more than single weights and sums over them')}:"
                f" {REMEDY}."
            )
        operands = [v.expr for v in inputs]
        if name not in LOGICAL:
            operands = [number(e) for e in operands]
        result = ELEMENTWISE[name](*operands, eqn.params)
        return [self.new(self.arrays.join(result), origin)]

    def counts(self, expr: sp.Basic) -> bool:
        """Say whether an expression is a number that depends on the count of steps only."""
        return bool(expr.free_symbols & self.counting) and expr.free_symbols <= self.constants | self.counting

    def meaning(self, expr: sp.Basic) -> sp.Basic:
        """Return an expression with the names of computed values undone."""
        return expr.xreplace(self.defined)

    def new(self, expr: sp.Basic, origin: Origin) -> Value:
        """Return a computed value, under its name where it has one."""
        symbol = self.marked.get(origin)
        if symbol is None:
            return Value(expr, origin)
        self.defined[symbol] = expr
        return Value(symbol, origin)

    def sum(self, eqn: Any, inputs: list[Value]) -> sp.Expr:
        """Return the sum over a whole array, of a product for `dot_general`."""
        summand = self.arrays.join(sp.Mul(*(number(v.expr) for v in inputs)))
        shape = eqn.invars[0].aval.shape
        total = self.arrays.total(summand, math.prod(shape)) if math.prod(eqn.outvars[0].aval.shape) == 1 else None
        if total is None:
            raise SpecError(
                f"it sums an array of shape {shape} along some of its axes, so that weights of a matrix share "
                f"values: {REMEDY}."
            )
        return total

    # Cases

    def compare(self, name: str, a: sp.Expr, b: sp.Expr) -> sp.Basic:
        """Return a comparison, decided where assumptions or a counter's limit do so."""
        if name in ("lt", "le"):
            name, a, b = COMPARISONS[name], b, a
        if a.is_number and a >= HUGE:
            return sp.true  # a counter stays below its limit
        difference = a - b
        if name in ("eq", "ne"):
            equal = self.equal(difference)
            return sp.Not(equal) if name == "ne" else equal
        positive, negative = (
            (difference.is_positive, difference.is_nonpositive)
            if name == "gt"
            else (difference.is_nonnegative, difference.is_negative)
        )
        if name == "gt" and difference - symbols.t == -1:  # counts are whole numbers from 1 on
            return sp.Not(sp.Eq(difference, 0, evaluate=False))
        if name == "ge" and difference + symbols.t == 1:
            return sp.Eq(-difference, 0, evaluate=False)
        varying, known = difference.free_symbols - self.constants - {symbols.t}, debias(difference)
        if varying and (known.is_nonnegative if name == "gt" else known.is_nonpositive):
            self.assumed[sp.Ne(difference, 0, evaluate=False)] = None  # a guard against division by zero
            return sp.true if name == "gt" else sp.false
        relation = sp.StrictGreaterThan if name == "gt" else sp.GreaterThan
        if positive or negative:
            if difference.free_symbols - self.constants - {symbols.t}:
                self.assumed[relation(a, b, evaluate=False) if positive else sp.LessThan(a, b, evaluate=False)] = None
            return sp.true if positive else sp.false
        return relation(a, b, evaluate=False)

    def equal(self, difference: sp.Expr) -> sp.Basic:
        """Return whether a difference is 0: numbers that vary with the weights are taken to differ."""
        if difference.is_zero is not None:
            return sp.true if difference.is_zero else sp.false
        if difference.free_symbols == {symbols.t}:
            return sp.Eq(difference, 0, evaluate=False)
        self.assumed[sp.Ne(difference, 0, evaluate=False)] = None
        return sp.false

    def select(self, condition: sp.Basic, no: Value, yes: Value, origin: Origin) -> Value:
        """Return one of two values where the condition is decided, else a case distinction."""
        if condition in (sp.true, sp.false):
            return yes if condition == sp.true else no
        if self.meaning(yes.expr) == self.meaning(no.expr):
            return yes
        if condition.func in (sp.Not, sp.Ne):
            return self.select(sp.Not(condition), yes, no, origin)
        if isinstance(condition, sp.Expr):
            raise SpecError(f"it selects by the number {condition}, which is not a comparison: {REMEDY}.")
        if condition.func == sp.Eq and condition.lhs - symbols.t == -1:
            return self.at_first_step(yes, no, origin)
        if symbols.t in condition.free_symbols <= self.constants | {symbols.t}:
            raise SpecError(
                f"its step has several forms in turn, told apart by the count of steps ({condition}): trace the one "
                f"that you study, with the values that decide in `static`; {SCHEDULED}."
            )
        if condition.free_symbols <= self.constants:
            raise SpecError(
                f"its step has two forms, told apart by {condition}; a flow needs one form: trace the one that you "
                "study, with the values that decide in `static`."
            )
        return self.new(self.arrays.join(sp.Piecewise((number(yes.expr), condition), (number(no.expr), True))), origin)

    def at_first_step(self, first: Value, later: Value, origin: Origin) -> Value:
        """Return a value that is special at the first update; there every state has its initial value."""
        start = {**self.initial, symbols.t: sp.Integer(1)}
        one, other = (self.meaning(v.expr).xreplace(start) for v in (first, later))
        if sp.expand(one - other) == 0:
            return later
        return self.new(self.arrays.join(later.expr + FIRST_STEP * (first.expr - later.expr)), origin)


def number(expr: sp.Basic) -> sp.Expr:
    """Return a comparison as the number 1 or 0; a number is itself.

    >>> number(sp.true), number(symbols.nu)
    (1, nu)
    """
    return expr if isinstance(expr, sp.Expr) else sp.Piecewise((1, expr), (0, True))


def _closed(jaxpr: Jaxpr) -> ClosedJaxpr:
    return ClosedJaxpr(jaxpr, ())


def _refuse_spreading(eqn: Any, name: str) -> None:
    before, after = (v.aval for v in (eqn.invars[0], eqn.outvars[0]))
    if math.prod(before.shape) not in (1, math.prod(after.shape)):
        raise SpecError(f"it spreads an array of shape {before.shape} to shape {after.shape}: {REMEDY}.")
    if name == "convert_element_type" and np.issubdtype(after.dtype, np.integer) and before.dtype.kind == "f":
        raise SpecError(f"it rounds numbers to {after.dtype}, which no smooth step does: {REMEDY}.")


def _power(base: sp.Expr, exponent: sp.Expr, params: Mapping[str, Any]) -> sp.Expr:
    return base**exponent


CALLS = frozenset(
    [
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
    ]
)
PASSING = frozenset(
    [
        "convert_element_type",
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "expand_dims",
        "copy",
        "copy_p",
        "real",
        "stop_gradient",
        "reduce_precision",
        "device_put",
        "sharding_constraint",
        "pvary",
    ]
)
COMPARISONS = {"lt": "gt", "le": "ge", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne"}
LOGICAL = frozenset(("and", "or", "not"))
WHY = {
    "reduce_max": "a maximum over weights, which is not smooth",
    "reduce_min": "a minimum over weights, which is not smooth",
    "while": "a loop, which has no closed form",
    "scan": "a loop, which has no closed form",
    "rem": "a remainder: it does not treat all steps alike",
    "random_bits": "random numbers, for which no flow is defined",
    "random_wrap": "random numbers, for which no flow is defined",
    "random_seed": "random numbers, for which no flow is defined",
    "threefry2x32": "random numbers, for which no flow is defined",
    "transpose": "which mixes the weights of a matrix",
    "concatenate": "which joins arrays",
}
ELEMENTWISE: dict[str, Callable[..., sp.Basic]] = {
    "add": lambda a, b, _: a + b,
    "add_any": lambda a, b, _: a + b,
    "sub": lambda a, b, _: a - b,
    "mul": lambda a, b, _: a * b,
    "div": lambda a, b, _: a / b,
    "neg": lambda a, _: -a,
    "square": lambda a, _: a**2,
    "sqrt": lambda a, _: sp.sqrt(a),
    "rsqrt": lambda a, _: 1 / sp.sqrt(a),
    "cbrt": lambda a, _: sp.sign(a) * sp.Abs(a) ** sp.Rational(1, 3),
    "pow": _power,
    "integer_pow": lambda a, params: a ** params["y"],
    "exp": lambda a, _: sp.exp(a),
    "exp2": lambda a, _: 2**a,
    "log": lambda a, _: sp.log(a),
    "log1p": lambda a, _: sp.log(1 + a),
    "expm1": lambda a, _: sp.exp(a) - 1,
    "sin": lambda a, _: sp.sin(a),
    "cos": lambda a, _: sp.cos(a),
    "tanh": lambda a, _: sp.tanh(a),
    "logistic": lambda a, _: 1 / (1 + sp.exp(-a)),
    "sign": lambda a, _: sp.sign(a),
    "abs": lambda a, _: sp.Abs(a),
    "max": lambda a, b, _: sp.Max(a, b),
    "min": lambda a, b, _: sp.Min(a, b),
    "clamp": lambda low, a, high, _: sp.Min(sp.Max(a, low), high),
    "is_finite": lambda a, _: sp.true,
    "and": lambda a, b, _: sp.And(a, b),
    "or": lambda a, b, _: sp.Or(a, b),
    "not": lambda a, _: sp.Not(a),
}

"""What an optimizer's states are: counters, constants, averages of the gradient, or slow states.

The update is evaluated again and again until nothing new is learned: which numbers only count steps, which never
change, which values are the new states, and which states are linear in the gradient (`filtered`: they may have
any sign, all others are positive). In the end every state has an update in terms of old values and of new ones of
states before it, and the step is written with the updated states, as a spec wants it.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy as sp
from jax.extend.core import ClosedJaxpr

from cflow_sym.jaxpr_symbols import REMEDY, Arrays, Interpreter, Origin, Value
from cflow_sym.notation import NEW, OLD, BlockTotal, Total, drop_sums, is_elementwise, symbols
from cflow_sym.spec import Hyperparameter, SpecError, State

_s = symbols
ROUNDS = 10


@dataclass(frozen=True)
class Slot:
    """A state among the traced ones: its name and the places of its arrays in the flat list of state arrays."""

    name: str
    places: tuple[int, ...]
    kind: str
    integer: bool
    where: str

    def symbol(self, end: str = "", real: bool = False) -> sp.Symbol:
        """Return the symbol of the state's value, old or (with `NEW`) updated."""
        return sp.Symbol(self.name + end, **{"real" if real else "positive": True})


@dataclass(frozen=True)
class Program:
    """An optimizer as traced: the jaxprs of `init` and `update`, and what their arguments mean."""

    init: ClosedJaxpr
    update: ClosedJaxpr
    slots: tuple[Slot, ...]
    shapes: tuple[tuple[int, ...], ...]
    hyperparameters: tuple[Hyperparameter, ...]  # in the order of the arguments

    def arrays(self, coordinates: Iterable[sp.Symbol]) -> Arrays:
        """Return the arrays of the parameters, with symbols of its own for each coordinate of the matrix."""
        return Arrays(self.shapes, {x: _twin(x) for x in coordinates} if len(self.shapes) > 1 else {})

    @cached_property
    def starts(self) -> dict[str, sp.Expr]:
        """The values of the states before the first update, by name."""
        arrays = self.arrays([_s.w])
        weights = [of_array(arrays, _s.w, k) for k in range(len(self.shapes))]
        inputs = [Value(e) for e in (*weights, *(h.symbol for h in self.hyperparameters))]
        outputs = [v.expr for v in Interpreter(arrays, constants=self.constants).run(self.init, inputs)]
        return {s.name: agreed(arrays, [outputs[i] for i in s.places], f"the state {s.where}") for s in self.slots}

    @property
    def constants(self) -> frozenset[sp.Symbol]:
        """The symbols of the hyperparameters."""
        return frozenset(h.symbol for h in self.hyperparameters)


@dataclass(frozen=True)
class Traced:
    """The step w' - w in terms of the updated states, the states, and what decided cases."""

    step: sp.Expr
    states: tuple[State, ...]
    assumed: tuple[sp.Basic, ...]


@dataclass(frozen=True)
class _Known:
    """What the rounds so far have found out, by the names of states."""

    counters: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    filtered: frozenset[str] | None = None  # None: nothing is known of any sign
    marked: tuple[tuple[Origin, tuple[str, int]], ...] = ()  # which value is which array of which new state

    def real(self, slot: Slot) -> bool:
        return self.filtered is None or slot.name in self.filtered


def read_states(program: Program) -> Traced:
    """Return step and states of a traced optimizer; raises `SpecError`."""
    known = _Known()
    for _ in range(ROUNDS):
        evaluation = _Round(program, known)
        learned = evaluation.learn()
        if learned == known:
            return evaluation.result()
        known = learned
    raise SpecError(f"its states could not be told apart in {ROUNDS} rounds: {REMEDY}.")


class _Round:
    """One evaluation of the update with what is known of the states."""

    def __init__(self, program: Program, known: _Known) -> None:
        self.program, self.known = program, known
        self.live = [s for s in program.slots if s.name not in known.counters | known.constants]
        self.old = {s.name: s.symbol(real=known.real(s)) for s in program.slots}
        self.new = {s.name: s.symbol(NEW, real=known.real(s)) for s in program.slots}
        coordinates = [_s.g, _s.w]
        for slot in program.slots:
            if len(slot.places) > 1:
                coordinates += [self.old[slot.name], self.new[slot.name]]
        self.arrays = program.arrays(coordinates)
        interpreter = Interpreter(
            self.arrays,
            {origin: of_array(self.arrays, self.new[name], k) for origin, (name, k) in known.marked},
            {self.old[s.name]: program.starts[s.name] for s in self.live},
            program.constants,
        )
        outputs = interpreter.run(program.update, self.inputs())
        n = len(program.shapes)
        self.defined, self.assumed = interpreter.defined, interpreter.assumed
        self.step = agreed(self.arrays, [v.expr for v in outputs[:n]], "the step")
        self.returned = {s.name: [outputs[n + i] for i in s.places] for s in program.slots}

    def inputs(self) -> list[Value]:
        """Return the values of the update's arguments: gradients, states, weights, hyperparameters."""
        states: dict[int, sp.Expr] = {}
        for slot in self.program.slots:
            states |= {i: of_array(self.arrays, self.given(slot), k) for k, i in enumerate(slot.places)}
        both = range(len(self.program.shapes))
        exprs = [
            *(of_array(self.arrays, _s.g, k) for k in both),
            *(states[i] for i in range(len(states))),
            *(of_array(self.arrays, _s.w, k) for k in both),
            *(h.symbol for h in self.program.hyperparameters),
        ]
        return [Value(e) for e in exprs]

    def given(self, slot: Slot) -> sp.Expr:
        """Return what the update is given for a state: a symbol, or what it is known to be."""
        start = self.program.starts[slot.name]
        if slot.name in self.known.counters:
            return _s.t - 1 + start
        return start if slot.name in self.known.constants else self.old[slot.name]

    # What the round teaches

    def learn(self) -> _Known:
        """Return what is known after this round."""
        counters, constants = set(self.known.counters), set(self.known.constants)
        marked: dict[Origin, tuple[str, int]] = {}
        for slot in self.live:
            values, old = self.returned[slot.name], self.old[slot.name]
            if slot.kind == "scalar" and self.update(slot) - old == 1 and self.program.starts[slot.name].is_Integer:
                counters.add(slot.name)
            elif values[0].expr == old and values[0].origin is None:
                self.refuse_kept_weights(slot)
                constants.add(slot.name)
            elif slot.integer:
                raise SpecError(
                    f"the integer state {slot.where} is no counter of the steps (its new value is "
                    f"{self.update(slot)}): {REMEDY}."
                )
            else:
                for k, value in enumerate(values):
                    if value.origin is not None:
                        marked.setdefault(value.origin, (slot.name, k))
        known = _Known(frozenset(counters), frozenset(constants), marked=tuple(marked.items()))
        if not self.known.counters >= counters or not self.known.constants >= constants:
            return known  # first settle what the numbers are
        return _Known(known.counters, known.constants, self.find_filtered(), known.marked)

    def refuse_kept_weights(self, slot: Slot) -> None:
        """Raise `SpecError` for a state that keeps the weights of the start."""
        if self.program.starts[slot.name].has(_s.w):
            raise SpecError(f"the state {slot.where} keeps the initial weights, which no flow knows: {REMEDY}.")

    def update(self, slot: Slot) -> sp.Expr:
        """Return a state's new value in terms of old values and of the new ones of other states."""
        exprs = []
        for k, value in enumerate(self.returned[slot.name]):
            named = of_array(self.arrays, self.new[slot.name], k)
            exprs.append(self.defined[named] if value.expr == named else value.expr)
        return agreed(self.arrays, exprs, f"the state {slot.where}", slot.kind == "scalar")

    def find_filtered(self) -> frozenset[str]:
        """Return the states that are linear in the gradient and in each other, and do depend on the gradient."""
        found = {s.name: self.update(s) for s in self.live if s.kind == "elementwise"}
        while True:
            moving = {_s.g, _s.w, *(x for n in found for x in (self.old[n], self.new[n]))}
            linear = {n: e for n, e in found.items() if _is_linear(e, moving)}
            if linear == found:
                break
            found = linear
        follows: set[sp.Symbol] = {_s.g}
        for _ in found:
            follows |= {x for n, e in found.items() if e.free_symbols & follows for x in (self.old[n], self.new[n])}
        return frozenset(n for n in found if self.new[n] in follows)

    # The result

    def result(self) -> Traced:
        """Return step and states as a spec wants them."""
        updates = {s.name: self.update(s) for s in self.in_order()}
        filtered = self.known.filtered or frozenset()
        step, updates = self.without_unread(self.step, updates, filtered)
        starts = {s.name: self.program.starts[s.name] for s in self.live}
        kinds = {s.name: "filtered" if s.name in filtered else s.kind for s in self.live}
        for slot in self.live:
            if slot.name in updates and slot.name not in filtered and self.may_be_negative(slot, updates[slot.name]):
                kinds[slot.name] = "filtered"  # momentum of something else than the gradient itself
        after = {self.new[n]: self.old[n] for n in updates}
        before = {self.old[n]: sp.Symbol(n + OLD, **self.old[n].assumptions0) for n in updates}
        assumed = dict.fromkeys(self.arrays.to_first(a).xreplace(after) for a in self.assumed)
        return Traced(
            step.xreplace({**after, **before}),
            tuple(State(n, e, starts[n], kinds[n]) for n, e in updates.items()),
            tuple(a for a in assumed if a.args and not self.arrays.mixed(a)),
        )

    def in_order(self) -> list[Slot]:
        """Return the states in the order in which they get their new values."""
        places = {symbol: i for i, symbol in enumerate(self.defined)}
        return sorted(self.live, key=lambda slot: places.get(self.new[slot.name], len(places)))

    def without_unread(
        self, step: sp.Expr, updates: Mapping[str, sp.Expr], filtered: Iterable[str]
    ) -> tuple[sp.Expr, dict[str, sp.Expr]]:
        """Drop states that nothing reads, and insert averages of which only the new value is read."""
        updates = dict(updates)
        while True:
            read = step.free_symbols.union(*(e.free_symbols for e in updates.values()))
            passing = next((n for n in updates if n in filtered and self.old[n] not in read), None)
            if passing is None:
                break
            inserted = {self.new[passing]: updates.pop(passing)}
            step = step.xreplace(inserted)
            updates = {n: e.xreplace(inserted) for n, e in updates.items()}
        read, needed = step.free_symbols, set()
        while True:
            more = {n for n in updates if {self.old[n], self.new[n]} & read} - needed
            if not more:
                return step, {n: e for n, e in updates.items() if n in needed}
            needed |= more
            read = read.union(*(updates[n].free_symbols for n in more))

    def may_be_negative(self, slot: Slot, update: sp.Expr) -> bool:
        """Say whether a state that is not linear in the gradient may still have any sign; raises for a scalar one."""
        for point in _points(update, self.program.hyperparameters):
            value = drop_sums(update).xreplace(point).evalf()
            if value.is_real and value < -1e-12:
                if slot.kind == "elementwise":
                    return True
                raise SpecError(
                    f"the state {slot.where} may become negative (its new value is {update}); supported are positive "
                    "slow states and momentum, one value for each weight."
                )
        return False


def of_array(arrays: Arrays, expr: sp.Expr, k: int) -> sp.Expr:
    """Write an expression in the symbols of the k-th array."""
    return arrays.to_second(expr) if k else expr


def agreed(arrays: Arrays, exprs: Sequence[sp.Expr], what: str, scalar: bool = False) -> sp.Expr:
    """Return the one expression that holds for every array of the parameters."""
    first = exprs[0]
    outside = first.replace(Total, lambda e: _s.grad_sq_norm)
    if arrays.mixed(outside) or (scalar and (outside.has(BlockTotal) or is_elementwise(outside))):
        raise SpecError(
            f"{what} mixes arrays of the parameters in another way than by a sum over all weights or over one "
            f"array: {REMEDY}."
        )
    for other in exprs[1:]:
        renamed = arrays.to_first(other)
        if renamed != first and sp.expand(renamed - first) != 0:
            raise SpecError(
                f"{what} depends on the shape of the parameters (for a vector it is {first}, for a matrix "
                f"{renamed}): {REMEDY}."
            )
    return first


def _twin(symbol: sp.Symbol) -> sp.Symbol:
    return type(symbol)(f"{symbol.name}@2", **symbol.assumptions0)


def _is_linear(expr: sp.Expr, moving: set[sp.Symbol]) -> bool:
    if not expr.free_symbols & moving or any(e.free_symbols & moving for e in expr.atoms(Total, BlockTotal)):
        return False
    if any(expr.diff(x).free_symbols & moving for x in expr.free_symbols & moving):
        return False
    return sp.expand(expr.xreplace(dict.fromkeys(moving, sp.Integer(0)))) == 0


def _points(expr: sp.Expr, hyperparameters: Sequence[Hyperparameter]) -> Iterator[dict[sp.Symbol, sp.Expr]]:
    """Draw admissible values for all symbols of an expression: counts from 2 on, others of order 1."""
    ranges = {h.symbol: (h.lower, min(h.upper, h.lower + 1)) for h in hyperparameters}
    for seed in range(6):
        rng = random.Random(seed)
        point = {_s.t: sp.Integer(rng.randint(2, 9))}
        for x in sorted(expr.free_symbols - {_s.t}, key=str):
            low, high = ranges.get(x, (0.1, 2.0) if x.is_nonnegative else (-2.0, 2.0))
            point[x] = sp.Float(rng.uniform(low, high))
        yield point

"""What an optimizer's states are: counters, constants, averages of the gradient, or slow states.

The update is evaluated again and again until nothing new is learned: which numbers only count steps, which never
change, which values are the new states, and which states are linear in the gradient (`filtered`: they may have
any sign, all others are positive). In the end every state has an update in terms of old values and of new ones of
states before it, and the step is written with the updated states, as a spec wants it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy as sp
from jax.extend.core import ClosedJaxpr

from cflow_sym.notation import NEW, OLD, BlockTotal, Total, drop_sums, is_elementwise, symbols
from cflow_sym.reading.groups import DifferentForm, Groups
from cflow_sym.reading.jaxpr_symbols import REMEDY, Interpreter, Origin, Value, number
from cflow_sym.reading.traced_arrays import Arrays
from cflow_sym.spec.parts import Hyperparameter, SpecError, State

_s = symbols
ROUNDS = 10


@dataclass(frozen=True)
class Slot:
    """A state among the traced ones: its name and the places of its arrays in the flat list of state arrays.

    A scalar state has one place, others one for each array of the parameters; None where an array has no such state.
    """

    name: str
    places: tuple[int | None, ...]
    kind: str
    integer: bool
    where: str
    boolean: bool = False

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

    groups: Groups | None = None  # where arrays may have constants of their own

    @cached_property
    def frozen(self) -> tuple[int, ...]:
        """The numbers of the arrays that never move: whatever the gradient is, their states stay 0 and so does a step.

        The gradient itself may be set to zero before the averages, or the step after them.
        """
        if self.groups is None:
            return ()
        still = self._zero_at_first()
        while True:
            steps, after = self._first_step(still)
            moved = {(name, k) for name, k in still if after[name][k] != 0}
            if not moved:
                return tuple(k for k, step in enumerate(steps) if step == 0)
            still -= moved

    def _zero_at_first(self) -> set[tuple[str, int]]:
        """Return the states that are zero before the first step, by name and number of the array."""
        arrays = Arrays(self.shapes, (_s.g, _s.w))
        weights = [arrays.of(k, _s.w) for k in range(len(self.shapes))]
        inputs = [Value(e) for e in (*weights, *(h.symbol for h in self.hyperparameters))]
        outputs = [v.expr for v in Interpreter(arrays, constants=self.constants).run(self.init, inputs)]
        places = ((s.name, k, i) for s in self.slots if s.kind != "scalar" for k, i in enumerate(s.places))
        return {(name, k) for name, k, i in places if i is not None and outputs[i] == 0}

    def _first_step(self, zero: set[tuple[str, int]]) -> tuple[list[sp.Expr], dict[str, list[sp.Expr | None]]]:
        """Return the step of each array and its states after it, where some of its states are zero before it."""
        first = sp.Eq(_s.t - 1, 0, evaluate=False)
        old = {s.name: first if s.boolean else s.symbol(real=True) for s in self.slots}
        kept = [s for s in self.slots if s.kind != "scalar" and not s.boolean]
        arrays = Arrays(self.shapes, (_s.g, _s.w, *(old[s.name] for s in kept)))
        inputs = self.inputs(arrays, old)
        n = len(self.shapes)
        for slot in kept:
            for k, i in enumerate(slot.places):
                if (slot.name, k) in zero and i is not None:
                    inputs[n + i] = Value(sp.Integer(0))
        counting = frozenset(old[s.name] for s in self.slots if s.integer)
        interpreter = Interpreter(arrays, constants=self.constants, counting=counting)
        exprs = [v.expr for v in interpreter.run(self.update, inputs)]
        states = {s.name: [None if i is None else exprs[n + i] for i in s.places] for s in self.slots}
        return exprs[:n], states

    def inputs(self, arrays: Arrays, given: Mapping[str, sp.Expr]) -> list[Value]:
        """Return the values of the update's arguments: gradients, the `given` states, weights, hyperparameters."""
        states: dict[int, sp.Expr] = {}
        for slot in self.slots:
            states |= {i: arrays.of(k, given[slot.name]) for k, i in enumerate(slot.places) if i is not None}
        exprs = [
            *(arrays.of(k, _s.g) for k in range(len(self.shapes))),
            *(states[i] for i in range(len(states))),
            *(arrays.of(k, _s.w) for k in range(len(self.shapes))),
            *(h.symbol for h in self.hyperparameters),
        ]
        return [Value(e) for e in exprs]

    @cached_property
    def starts(self) -> dict[str, sp.Expr]:
        """The values of the states before the first update, by name."""
        arrays = Arrays(self.shapes, (_s.g, _s.w))
        weights = [arrays.of(k, _s.w) for k in range(len(self.shapes))]
        inputs = [Value(e) for e in (*weights, *(h.symbol for h in self.hyperparameters))]
        outputs = [v.expr for v in Interpreter(arrays, constants=self.constants).run(self.init, inputs)]
        return {s.name: self.agreed(arrays, self.of_slot(s, outputs), f"the state {s.where}") for s in self.slots}

    def of_slot(self, slot: Slot, outputs: Sequence[Any]) -> list[Any]:
        """Return what belongs to each array of a state, None where an array has no such state or never moves."""
        still = self.frozen if slot.kind != "scalar" else ()
        return [None if i is None or k in still else outputs[i] for k, i in enumerate(slot.places)]

    def agreed(self, arrays: Arrays, exprs: Sequence[sp.Expr | None], what: str, scalar: bool = False) -> sp.Expr:
        """Return the one expression that holds for every array of the parameters that moves."""
        return agreed(arrays, exprs, what, scalar, self.groups, self.frozen)

    @property
    def constants(self) -> frozenset[sp.Symbol]:
        """The symbols of the hyperparameters."""
        return frozenset(h.symbol for h in self.hyperparameters)


@dataclass(frozen=True)
class Traced:
    """The step w' - w in terms of the updated states, the states, what decided cases, constants of groups of arrays."""

    step: sp.Expr
    states: tuple[State, ...]
    assumed: tuple[sp.Basic, ...]
    groups: Mapping[sp.Symbol, tuple[sp.Expr, ...]]


@dataclass(frozen=True)
class _Known:
    """What the rounds so far have found out, by the names of states."""

    counters: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()  # true before the first update, false from then on
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
        self.live = [s for s in program.slots if s.name not in known.counters | known.constants | known.flags]
        self.old = {s.name: s.symbol(real=known.real(s)) for s in program.slots}
        self.new = {s.name: s.symbol(NEW, real=known.real(s)) for s in program.slots}
        coordinates = [_s.g, _s.w]
        for slot in program.slots:
            if slot.kind != "scalar":
                coordinates += [self.old[slot.name], self.new[slot.name]]
        self.arrays = Arrays(program.shapes, tuple(coordinates))
        interpreter = Interpreter(
            self.arrays,
            {origin: self.arrays.of(k, self.new[name]) for origin, (name, k) in known.marked},
            {self.old[s.name]: program.starts[s.name] for s in self.live},
            program.constants,
            frozenset(self.old[s.name] for s in program.slots if s.integer),
        )
        given = {s.name: self.given(s) for s in program.slots}
        outputs = interpreter.run(program.update, program.inputs(self.arrays, given))
        n = len(program.shapes)
        self.defined, self.assumed = interpreter.defined, interpreter.assumed
        self.step = program.agreed(self.arrays, [v.expr for v in outputs[:n]], "the step")
        self.returned = {s.name: program.of_slot(s, outputs[n:]) for s in program.slots}

    def given(self, slot: Slot) -> sp.Expr:
        """Return what the update is given for a state: a symbol, or what it is known to be."""
        start = self.program.starts[slot.name]
        if slot.boolean and start == sp.true:  # as far as is known: true before the first update only
            return sp.Eq(_s.t - 1, 0, evaluate=False)
        if slot.name in self.known.counters:
            return _s.t - 1 + start
        return start if slot.name in self.known.constants else self.old[slot.name]

    # What the round teaches

    def learn(self) -> _Known:
        """Return what is known after this round."""
        counters, constants, flags = set(self.known.counters), set(self.known.constants), set(self.known.flags)
        marked: dict[Origin, tuple[str, int]] = {}
        for slot in self.live:
            values = {k: v for k, v in enumerate(self.returned[slot.name]) if v is not None}
            if not values:  # of arrays that never move
                constants.add(slot.name)
                continue
            k, value = next(iter(values.items()))
            old = self.arrays.of(k, self.old[slot.name])
            if slot.boolean and value.expr == sp.false:
                flags.add(slot.name)
            elif slot.boolean:
                if value.expr not in (sp.true, self.given(slot)):
                    raise SpecError(f"the state {slot.where} is true and false in turn, which no flow knows: {REMEDY}.")
                constants.add(slot.name)
            elif slot.kind == "scalar" and self.update(slot) - old == 1 and self.program.starts[slot.name].is_Integer:
                counters.add(slot.name)
            elif (value.expr == old and value.origin is None) or (
                value.expr.is_number and value.expr == self.program.starts[slot.name]
            ):
                self.refuse_kept_weights(slot)
                constants.add(slot.name)
            elif slot.integer:
                raise SpecError(
                    f"the integer state {slot.where} is no counter of the steps (its new value is "
                    f"{self.update(slot)}): {REMEDY}."
                )
            else:
                for k, value in values.items():
                    if value.origin is not None:
                        marked.setdefault(value.origin, (slot.name, k))
        known = _Known(frozenset(counters), frozenset(constants), frozenset(flags), marked=tuple(marked.items()))
        if (known.counters, known.constants, known.flags) != (
            self.known.counters,
            self.known.constants,
            self.known.flags,
        ):
            return known  # first settle what the numbers are
        return replace(known, filtered=self.find_filtered())

    def refuse_kept_weights(self, slot: Slot) -> None:
        """Raise `SpecError` for a state that keeps the weights of the start."""
        if self.program.starts[slot.name].has(_s.w):
            raise SpecError(f"the state {slot.where} keeps the initial weights, which no flow knows: {REMEDY}.")

    def update(self, slot: Slot) -> sp.Expr:
        """Return a state's new value in terms of old values and of the new ones of other states."""
        exprs: list[sp.Expr | None] = []
        for k, value in enumerate(self.returned[slot.name]):
            named = self.arrays.of(k, self.new[slot.name])
            exprs.append(None if value is None else number(self.defined[named] if value.expr == named else value.expr))
        return self.program.agreed(self.arrays, exprs, f"the state {slot.where}", slot.kind == "scalar")

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
            tuple(a for a in assumed if a.args and self.arrays.owners(a) <= {0}),
            self.own_constants([step, *updates.values(), *(starts[n] for n in updates)]),
        )

    def own_constants(self, exprs: Sequence[sp.Expr]) -> dict[sp.Symbol, tuple[sp.Expr, ...]]:
        """Return the constants of groups of arrays that are in use; there must be no sums over weights beside them."""
        groups = self.program.groups
        read = set().union(*(e.free_symbols for e in exprs))
        found = {x: values for x, values in (groups.values if groups else {}).items() if x in read}
        if found and any(e.has(Total, BlockTotal) for e in exprs):
            raise SpecError(
                f"its arrays have constants of their own ({', '.join(map(str, found))}) beside sums over many weights, "
                "for which no flow is derived: give all arrays the same constants."
            )
        return found

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


def agreed(
    arrays: Arrays,
    exprs: Sequence[sp.Expr | None],
    what: str,
    scalar: bool = False,
    groups: Groups | None = None,
    frozen: Sequence[int] = (),
) -> sp.Expr:
    """Return the one expression that holds for every array of the parameters, in the symbols of the first.

    Where there are `groups`, arrays may have constants of their own; what is `frozen` has no say.
    """
    known = {k: e for k, e in enumerate(exprs) if e is not None and (scalar or k not in frozen)}
    if not known:
        return sp.Integer(0)
    for k, e in known.items():
        outside = e.replace(lambda x: type(x) is Total, lambda x: sp.Integer(1))
        if arrays.owners(e) - {k} or (scalar and (outside.has(BlockTotal) or is_elementwise(outside))):
            raise SpecError(
                f"{what} mixes arrays of the parameters in another way than by a sum over all weights or over one "
                f"array: {REMEDY}."
            )
    written = {k: arrays.to_first(e) for k, e in known.items()}
    first, *others = written.values()
    different = next((e for e in others if e != first and sp.expand(e - first) != 0), None)
    if different is None:
        return first
    if groups is None:
        raise SpecError(
            f"{what} depends on the shape or the name of the parameters (here it is {first} or {different}): pass "
            "your own, params=, on which it is then traced."
        )
    try:
        return groups.unify([written.get(k, first) for k in range(len(exprs))])
    except DifferentForm as error:
        raise SpecError(
            f"{what} has different forms for different arrays ({error}), and one form with other constants is "
            "supported: give all arrays the same optimizer, or hold some of them fixed."
        ) from error


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

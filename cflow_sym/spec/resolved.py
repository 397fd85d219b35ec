"""What a spec says once its definitions, switches and options are applied: kinds, symbols and updates of the states.

Everything here follows from the data of a spec (`optimizer.py`) and is found when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import sympy as sp

from cflow_sym.algebra import before_update, exact_numbers
from cflow_sym.notation import (
    NEW,
    OLD,
    Frozen,
    contract,
    drop_sums,
    is_blockwise,
    is_elementwise,
    state_symbol,
    symbols,
)
from cflow_sym.spec.decay import Uncoupled, split_decay
from cflow_sym.spec.parts import SpecError, State
from cflow_sym.spec.signs import freeze_signs


@dataclass(frozen=True)
class Resolved:
    """The formulas of an optimizer, resolved from its data.

    `definitions` are those of the active switches, `off` has the values of the hyperparameters that are turned off,
    `constants` and `scheduled` are the symbols of those that do not and that do depend on time.

    >>> g, eta = symbols.g, symbols.eta
    >>> resolved = Resolved("plain", -eta * sp.Symbol("m"), (State("m", sp.Symbol("m") / 2 + g),))
    >>> resolved.kinds, resolved.uncoupled.step
    ({'m': 'filtered'}, -m*eta)
    """

    name: str
    update: sp.Expr
    states: tuple[State, ...]
    lookahead: sp.Expr | int = 0
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict[sp.Symbol, sp.Expr])
    off: Mapping[sp.Symbol, float] = field(default_factory=dict[sp.Symbol, float])
    constants: frozenset[sp.Symbol] = frozenset()
    scheduled: frozenset[sp.Symbol] = frozenset()

    def fail(self, message: str) -> NoReturn:
        """Raise a `SpecError` that names the optimizer."""
        raise SpecError(f"optimizer {self.name!r}: {message}")

    # States

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every state, by name."""
        kinds = {s.name: s.kind for s in self.states if s.kind}
        for state in self.states:
            if state.name not in kinds:
                kinds[state.name] = self._infer(state, kinds)
        return {s.name: kinds[s.name] for s in self.states}

    def _infer(self, state: State, kinds: Mapping[str, str]) -> str:
        known = {n: k for n, k in kinds.items() if n != state.name}
        update = self._written(state.update, {**known, state.name: "scalar"})
        if not is_elementwise(update):
            return "scalar"
        if is_blockwise(update):
            return "blockwise"
        variables = (symbols.g, symbols.w, state_symbol(state.name))
        if drop_sums(update) != update or not update.has(symbols.g):
            return "elementwise"
        slopes = [update.diff(x) for x in variables]
        constant = not any(is_elementwise(s) or s.has(variables[-1]) for s in slopes)
        origin = update.xreplace(dict.fromkeys(variables, sp.Integer(0)))
        return "filtered" if constant and sp.expand(origin) == 0 else "elementwise"

    @cached_property
    def all_symbols(self) -> dict[str, sp.Symbol]:
        """The symbol of every state, by name, without the counter."""
        return {n: state_symbol(n, k) for n, k in self.kinds.items()}

    @property
    def state_symbols(self) -> dict[str, sp.Symbol]:
        """The symbol of every slow state, by name, without the counter."""
        return {n: s for n, s in self.all_symbols.items() if self.kinds[n] != "filtered"}

    @property
    def slow_states(self) -> dict[str, str]:
        """Name and kind of every slow state, the counter included."""
        return {**{n: k for n, k in self.kinds.items() if k != "filtered"}, "t": "counter"}

    def new(self, name: str) -> sp.Symbol:
        """Return the symbol under which later updates read the new value of a state."""
        return state_symbol(name + NEW, self.kinds[name])

    # Expressions

    def written(self, expr: sp.Expr | float) -> sp.Expr:
        """Apply definitions, options and kinds of states; signs stay as they are written."""
        return self._written(expr, self.kinds)

    def resolve(self, expr: sp.Expr | float) -> sp.Expr:
        """Apply definitions, options, kinds of states and frozen signs to an expression of the spec."""
        return contract(self._frozen(self.written(expr)))

    def _written(self, expr: sp.Expr | float, kinds: Mapping[str, str]) -> sp.Expr:
        """Apply definitions and options; give the states the symbols of their kinds."""
        result = sp.sympify(expr)
        for name, meaning in reversed(list(self.definitions.items())):
            result = result.xreplace({name: sp.sympify(meaning)})
        off = {symbol: sp.nsimplify(value) for symbol, value in self.off.items()}
        result = exact_numbers(result.subs(off) if off else result)
        ends = ("", NEW, OLD)
        return _by_name(result, {n + end: state_symbol(n + end, k) for n, k in kinds.items() for end in ends})

    def _frozen(self, expr: sp.Expr) -> sp.Expr:
        passing = {symbols.g: sp.Integer(0)}
        for name, symbol in self.all_symbols.items():
            if self.kinds[name] == "filtered":
                zero = sp.Integer(0)
                passing |= {symbol: zero, self.new(name): zero, state_symbol(name + OLD, "filtered"): zero}
        return freeze_signs(expr, passing, self.fail)

    # Updates

    @property
    def update_at_gradient(self) -> sp.Expr:
        """The step of the point at which the gradient is evaluated: `update` itself without look-ahead."""
        ahead, updates = sp.sympify(self.lookahead), {s.name: s.update for s in self.states}
        read = {x: before_update(x, updates[x.name]) for x in ahead.atoms(sp.Symbol) if x.name in updates}
        if None in read.values():
            self.fail(f"lookahead = {ahead} reads a state that forgets its past; look ahead along an average.")
        here = sp.expand(ahead.xreplace(read))
        return sp.expand(self.update.subs(symbols.w, symbols.w - here) + ahead - here) if read else self.update

    @cached_property
    def uncoupled(self) -> Uncoupled:
        """The step and the updates without weight decay, and both decays."""
        step = self._frozen(self.written(self.update_at_gradient))
        updates = {s.name: self._frozen(self.written(s.update)) for s in self.states}
        found = split_decay(step, updates, self.constants, self.scheduled)
        if found is None:
            written = {self.update: step} | {s.update: updates[s.name] for s in self.states}
            place = next(e for e, expr in written.items() if expr.has(symbols.w))
            self.fail(
                f"{place} depends on the weights w in a way that no flow is derived for; supported are coupled "
                "decay, g + rho*w wherever the gradient stands, and decoupled decay, - d*w in the update, with "
                "constant rho and d."
            )
        return found

    @property
    def sequential_updates(self) -> dict[sp.Symbol, sp.Expr]:
        """The new value of every state, in order, in terms of old values and of new ones of states before it."""
        return {self.all_symbols[n]: e for n, e in self.uncoupled.updates.items()}

    @cached_property
    def state_updates(self) -> dict[sp.Symbol, sp.Expr]:
        """The new value of every slow state in terms of old ones; the counter (last) is new in others."""
        found: dict[sp.Symbol, sp.Expr] = {}
        updated: dict[sp.Symbol, sp.Expr] = {}
        for symbol, expr in self.sequential_updates.items():
            found[symbol] = contract(expr.xreplace(updated))
            updated[self.new(symbol.name)] = found[symbol]
        slow = {s: e for s, e in found.items() if self.kinds[s.name] != "filtered"}
        return {**slow, symbols.t: symbols.t + 1}

    @property
    def memoryless(self) -> tuple[str, ...]:
        """The slow states whose new value depends on no old one."""
        old = set(self.all_symbols.values())
        return tuple(s.name for s, e in self.state_updates.items() if s != symbols.t and not old & e.atoms(sp.Symbol))

    @property
    def frozen_signs(self) -> tuple[sp.Expr, ...]:
        """The quantities whose signs the derivation takes for constant."""
        exprs = (self.uncoupled.step, *self.state_updates.values())
        found = {a.args[0] for e in exprs for a in e.atoms(Frozen)}
        return tuple(sorted(found, key=str))


def _by_name(expr: sp.Expr, replacement: Mapping[str, sp.Symbol]) -> sp.Expr:
    """Replace symbols by name whatever their assumptions: a user's own `Symbol("nu")` is understood."""
    return expr.xreplace({s: replacement[s.name] for s in expr.atoms(sp.Symbol) if s.name in replacement})

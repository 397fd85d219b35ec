"""Decays and epsilons that a program holds as numbers: symbols while the flow is derived, numbers again in its steps.

Powers of a number with the count in the exponent have no algebra that is worth the name: 1 - (9/10)**t neither factors
nor cancels as 1 - beta1**t does, and 1/(sqrt(nu) + 1e-8) becomes 100000000/(100000000 sqrt(nu) + 1). So each such
number becomes a hyperparameter with one value, `fixed`, the derivation runs as if it had been written with symbols, and
its steps are recorded with the numbers put back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import sympy as sp

from cflow_sym.algebra import exact_numbers
from cflow_sym.notation import TABLE, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, State, Switch

_s = symbols
SMALL = sp.Rational(1, 2)  # below it a number that is added to a state is an epsilon


def with_symbols(spec: OptimizerSpec) -> OptimizerSpec:
    """Return the spec with a fixed hyperparameter for each decay and each epsilon that is a number, else itself.

    >>> import cflow_sym as cs
    >>> import optax
    >>> spec = with_symbols(cs.from_optax(lambda learning_rate: optax.adam(learning_rate, 0.9, 0.99)))
    >>> {h.name: h.fixed for h in spec.hyperparameters}
    {'learning_rate': None, 'beta1': 9/10, 'beta2': 99/100, 'epsilon': 1/100000000}
    >>> spec.states[0].update
    g*(1 - beta1) + beta1*mu
    """
    step = exact_numbers(sp.sympify(spec.update))
    names = _names(spec, _decays(spec), _epsilons(step, {s.name for s in spec.states}))
    if not names:
        return spec

    def named(expr: sp.Expr) -> sp.Expr:
        return _named(exact_numbers(sp.sympify(expr)), names, names)

    decays = [q for q, x in names.items() if x.is_positive]
    return replace(
        spec,
        update=_named(step, names, names, _with_complements(names, decays)),
        hyperparameters=(*spec.hyperparameters, *(_fixed(x, q) for q, x in names.items())),
        states=tuple(_named_state(s, names) for s in spec.states),
        definitions={x: named(e) for x, e in spec.definitions.items()},
        switches=tuple(
            Switch(w.name, {x: named(e) for x, e in w.definitions.items()}, w.meaning) for w in spec.switches
        ),
    )


def _fixed(symbol: sp.Symbol, number: sp.Rational) -> Hyperparameter:
    name, meaning = symbol.name, f"{'decay' if symbol.is_positive else 'small constant'}, a number of the program"
    upper = 1.0 if symbol.is_positive else math.inf
    return Hyperparameter(
        name, symbol, upper=upper, closed_below=not symbol.is_positive, default=float(number), fixed=number,
        meaning=meaning,
    )  # fmt: skip


def numbers_of(spec: OptimizerSpec) -> dict[sp.Symbol, sp.Rational]:
    """Return the values of the fixed hyperparameters."""
    return {h.symbol: h.fixed for h in spec.hyperparameters if h.fixed is not None}


def _definitions(spec: OptimizerSpec) -> list[sp.Expr]:
    return [*spec.definitions.values(), *(e for switch in spec.switches for e in switch.definitions.values())]


def _decays(spec: OptimizerSpec) -> list[sp.Rational]:
    """Return the numbers below 1 that are raised to a power of the count."""
    exprs = [spec.update, *(s.update for s in spec.states), *_definitions(spec)]
    found = {_decay(p) for e in exprs for p in exact_numbers(sp.sympify(e)).atoms(sp.Pow)}
    return sorted(q for q in found if q is not None)


def _decay(p: sp.Pow) -> sp.Rational | None:
    """Return the number below 1 whose power this is, None for other powers: (1/2)**t reads 2**(-t)."""
    q = p.base
    if not (isinstance(q, sp.Rational) and p.exp.has(_s.t) and q > 0 and q != 1):
        return None
    return q if q < 1 else 1 / q


def _epsilons(step: sp.Expr, states: Collection[str]) -> list[sp.Rational]:
    """Return the small numbers that the step adds to a function of a state."""
    sums = [e for e in step.atoms(sp.Add) if {x.name for x in e.atoms(sp.Symbol)} & set(states)]
    return sorted({x for e in sums for x in e.args if isinstance(x, sp.Rational) and 0 < x < SMALL})


def _names(
    spec: OptimizerSpec, decays: Iterable[sp.Rational], epsilons: Iterable[sp.Rational]
) -> dict[sp.Rational, sp.Symbol]:
    """Return a symbol for each number: beta1 for the first moment's decay, beta2 for another state's, if free."""
    taken = {x for h in spec.hyperparameters for x in (h.name, h.symbol.name)}
    taken |= {s.name for s in spec.states} | {x.name for x in _all_symbols(spec)}
    known = {row.name: row.symbol() for row in TABLE}
    found: dict[sp.Rational, sp.Symbol] = {}
    for q in (*decays, *(x for x in epsilons if x not in decays)):
        kinds = {spec.kinds[s.name] for s in spec.states if _own_decay(s) == q}
        first = "beta1" if "filtered" in kinds else "beta2" if kinds and not spec.memoryless else "decay"
        first, assumption = (first, "positive") if q in decays else ("epsilon", "nonnegative")
        name = next(n for n in itertools.chain([first], (f"{first}_{k}" for k in itertools.count(2))) if n not in taken)
        taken.add(name)
        found[q] = known.get(name, sp.Symbol(name, **{assumption: True}))
    return found


def _all_symbols(spec: OptimizerSpec) -> set[sp.Symbol]:
    exprs = [spec.update, *(s.update for s in spec.states), *_definitions(spec)]
    return {x for e in exprs for x in sp.sympify(e).atoms(sp.Symbol)}


def _own_decay(state: State) -> sp.Rational | None:
    """Return the number by which a state's update multiplies its old value, if it is one."""
    update = exact_numbers(sp.sympify(state.update))
    own = next((x for x in update.atoms(sp.Symbol) if x.name == state.name), None)
    slope = None if own is None or update.has(sp.Max, sp.Min, sp.Piecewise) else update.diff(own)
    return slope if isinstance(slope, sp.Rational) else None


def _named_state(state: State, names: Mapping[sp.Rational, sp.Symbol]) -> State:
    """Return a state whose average is written with its decay, b m + (1 - b) g."""
    update, q = exact_numbers(sp.sympify(state.update)), _own_decay(state)
    if q is None or q not in names:
        return replace(state, update=_named(update, names, names))
    old = next(x for x in update.atoms(sp.Symbol) if x.name == state.name)
    seen = update.xreplace({old: sp.Integer(0)})
    if seen.has(_s.w) and (inner := seen / (1 - q)).xreplace({_s.w: sp.Integer(0)}) in (_s.g, _s.g**2):
        return replace(state, update=names[q] * old + (1 - names[q]) * _named(inner, names, {}))  # of g + rho w
    rest = _named(seen, names, _with_complements(names, [q]))
    return replace(state, update=names[q] * old + rest)


def _with_complements(names: Mapping[sp.Rational, sp.Symbol], of: Iterable[sp.Rational]) -> dict[sp.Rational, sp.Expr]:
    return dict(names) | {1 - q: 1 - names[q] for q in of}


def _named(
    expr: sp.Expr,
    names: Mapping[sp.Rational, sp.Symbol],
    numbers: Mapping[sp.Rational, sp.Expr],
    of_gradient: Mapping[sp.Rational, sp.Expr] | None = None,
) -> sp.Expr:
    """Write decays by their names: in powers of the count, and as factors and terms; exponents stay.

    In terms with the gradient the names of numbers are those in `of_gradient`, where it is given.
    """
    if isinstance(expr, sp.Rational):
        return numbers.get(expr, -numbers[-expr] if -expr in numbers else expr)
    if isinstance(expr, sp.Pow):
        q = _decay(expr)
        if q is not None and q in names:
            return names[q] ** (expr.exp if q == expr.base else -expr.exp)
        return _named(expr.base, names, numbers, of_gradient) ** expr.exp
    if isinstance(expr, sp.Add) and of_gradient is not None:
        return sp.Add(*(_named(a, names, of_gradient if a.has(_s.g) else names, of_gradient) for a in expr.args))
    return expr.func(*(_named(a, names, numbers, of_gradient) for a in expr.args)) if expr.args else expr

"""Decays that a program holds as numbers: symbols while the flow is derived, numbers again in what is found.

Powers of a number with the count in the exponent have no algebra that is worth the name: 1 - (9/10)**t neither factors
nor cancels as 1 - beta1**t does. So each such number becomes a hyperparameter with one value, `fixed`, the derivation
runs as if it had been written with symbols, and its steps are recorded with the numbers put back.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy as sp

from cflow_sym.algebra import exact_numbers
from cflow_sym.notation import TABLE, symbols
from cflow_sym.spec import Hyperparameter, OptimizerSpec, State, Switch

_s = symbols


def with_symbols(spec: OptimizerSpec) -> OptimizerSpec:
    """Return the spec with a fixed hyperparameter for every number below 1 that is raised to a power of the count.

    >>> import cflow_sym as cs
    >>> import optax
    >>> spec = with_symbols(cs.from_optax(lambda learning_rate: optax.adam(learning_rate, 0.9, 0.99)))
    >>> {h.name: h.fixed for h in spec.hyperparameters}
    {'learning_rate': None, 'beta1': 9/10, 'beta2': 99/100}
    >>> spec.states[0].update
    g*(1 - beta1) + beta1*mu
    """
    exprs = [spec.update, *(s.update for s in spec.states), *_definitions(spec)]
    decays = sorted({_decay(p) for e in exprs for p in exact_numbers(sp.sympify(e)).atoms(sp.Pow)} - {None})
    if not decays:
        return spec
    names = _names(spec, decays)
    fixed = tuple(
        Hyperparameter(b.name, b, upper=1.0, default=float(q), fixed=q, meaning="decay, a number of the program")
        for q, b in names.items()
    )

    def named(expr: sp.Expr) -> sp.Expr:
        return _named(exact_numbers(sp.sympify(expr)), names, dict(names))

    step = exact_numbers(sp.sympify(spec.update))
    return replace(
        spec,
        update=_named(step, names, _with_complements(names, names) if step.has(_s.g) else dict(names)),
        hyperparameters=(*spec.hyperparameters, *fixed),
        states=tuple(_named_state(s, names) for s in spec.states),
        definitions={x: named(e) for x, e in spec.definitions.items()},
        switches=tuple(
            Switch(w.name, {x: named(e) for x, e in w.definitions.items()}, w.meaning) for w in spec.switches
        ),
    )


def numbers_of(spec: OptimizerSpec) -> dict[sp.Symbol, sp.Rational]:
    """Return the values of the fixed hyperparameters."""
    return {h.symbol: h.fixed for h in spec.hyperparameters if h.fixed is not None}


def _definitions(spec: OptimizerSpec) -> list[sp.Expr]:
    return [*spec.definitions.values(), *(e for switch in spec.switches for e in switch.definitions.values())]


def _decay(p: sp.Pow) -> sp.Rational | None:
    """Return the number below 1 whose power this is, None for other powers: (1/2)**t reads 2**(-t)."""
    if not (p.base.is_Rational and p.exp.has(_s.t) and p.base > 0 and p.base != 1):
        return None
    return p.base if p.base < 1 else 1 / p.base


def _names(spec: OptimizerSpec, decays: Iterable[sp.Rational]) -> dict[sp.Rational, sp.Symbol]:
    """Return a symbol for each decay: beta1 for that of the first moment, beta2 for that of another state, if free."""
    taken = {h.name for h in spec.hyperparameters} | {h.symbol.name for h in spec.hyperparameters}
    taken |= {s.name for s in spec.states} | {x.name for x in _all_symbols(spec)}
    known = {row.name: row.symbol() for row in TABLE}
    found = {}
    for q in decays:
        kinds = {spec.kinds[s.name] for s in spec.states if _own_decay(s) == q}
        first = "beta1" if "filtered" in kinds else "beta2" if kinds and not spec.memoryless else "decay"
        name = next(n for n in itertools.chain([first], (f"decay_{k}" for k in itertools.count(1))) if n not in taken)
        taken.add(name)
        found[q] = known.get(name, sp.Symbol(name, positive=True))
    return found


def _all_symbols(spec: OptimizerSpec) -> set[sp.Symbol]:
    exprs = [spec.update, *(s.update for s in spec.states), *_definitions(spec)]
    return {x for e in exprs for x in sp.sympify(e).atoms(sp.Symbol)}


def _own_decay(state: State) -> sp.Expr | None:
    """Return the number by which a state's update multiplies its old value, if it is one."""
    update = exact_numbers(sp.sympify(state.update))
    own = next((x for x in update.atoms(sp.Symbol) if x.name == state.name), None)
    slope = None if own is None or update.has(sp.Max, sp.Min, sp.Piecewise) else update.diff(own)
    return slope if slope is not None and slope.is_Rational else None


def _named_state(state: State, names: Mapping[sp.Rational, sp.Symbol]) -> State:
    """Return a state whose average is written with its decay, b m + (1 - b) g."""
    update, q = exact_numbers(sp.sympify(state.update)), _own_decay(state)
    if q not in names:
        return replace(state, update=_named(update, names, names))
    old = next(x for x in update.atoms(sp.Symbol) if x.name == state.name)
    rest = _named(update.xreplace({old: sp.Integer(0)}), names, _with_complements(names, [q]))
    return replace(state, update=names[q] * old + rest)


def _with_complements(names: Mapping[sp.Rational, sp.Symbol], of: Iterable[sp.Rational]) -> dict[sp.Rational, sp.Expr]:
    return dict(names) | {1 - q: 1 - names[q] for q in of}


def _named(expr: sp.Basic, names: Mapping[sp.Rational, sp.Symbol], numbers: Mapping[sp.Rational, sp.Expr]) -> sp.Basic:
    """Write decays by their names: in powers of the count, and as factors and terms; exponents stay."""
    if expr.is_Rational:
        return numbers.get(expr, -numbers[-expr] if -expr in numbers else expr)
    if isinstance(expr, sp.Pow):
        q = _decay(expr)
        if q in names:
            return names[q] ** (expr.exp if q == expr.base else -expr.exp)
        return _named(expr.base, names, numbers) ** expr.exp
    return expr.func(*(_named(a, names, numbers) for a in expr.args)) if expr.args else expr

"""What makes a spec unusable before any derivation, each with one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp

from cflow_sym.notation import KINDS, NEW, OLD, SCHEDULE, expand_names, symbols

if TYPE_CHECKING:
    from cflow_sym.spec.optimizer import OptimizerSpec


RESERVED = ("t", "w", "g", "g_mean", "dt", "z", "c", SCHEDULE)


def validate(spec: OptimizerSpec) -> None:
    """Raise a `SpecError` with one sentence where a spec cannot be derived."""
    resolved, fail = spec.resolved, spec.resolved.fail
    if not spec.name.isidentifier():
        fail("the name is not a Python identifier; use letters, digits and underscores, like 'scalar_rmsprop'.")
    names = [h.name for h in spec.hyperparameters] + [s.name for s in spec.states] + [s.name for s in spec.switches]
    names += [h.symbol.name for h in spec.hyperparameters if h.symbol.name != h.name]
    for name in names:
        if names.count(name) > 1 or name in RESERVED or name.endswith((NEW, OLD)):
            fail(
                f"the name {name!r} is used twice or is reserved ({', '.join(RESERVED)}, names that end in {NEW} or "
                f"{OLD}); rename one of them."
            )
    for h in spec.hyperparameters:
        if not h.lower < h.upper:
            fail(f"{h.name} has the empty range ({h.lower}, {h.upper}); give lower < upper.")
        for value in (h.default, h.off):
            if value is not None and not (h.lower < value < h.upper or (h.closed_below and value == h.lower)):
                fail(f"{h.name} = {value} lies outside its range ({h.lower}, {h.upper}); choose a value inside.")
    for state in spec.states:
        if state.kind is not None and state.kind not in KINDS:
            fail(f"state {state.name!r} has kind {state.kind!r}; allowed are {', '.join(KINDS)} or None.")
        update = sp.sympify(state.update)
        if isinstance(update, sp.Symbol) and update.name == state.name:
            fail(f"state {state.name!r} is never updated; give its new value or remove it.")
    for switch in spec.switches:
        for name in switch.definitions:
            if name not in spec.definitions:
                fail(f"switch {switch.name!r} replaces {name}, which is not in definitions; add it there.")
    declared = {"t", "g", "w", "g_mean"} | {h.symbol.name for h in spec.hyperparameters}
    seen = declared | {s.name for s in spec.states}
    places = [("the update", spec.update, seen | {s.name + OLD for s in spec.states})]
    for i, state in enumerate(spec.states):
        before = {s.name + NEW for s in spec.states[:i]}
        places.append((f"the update of {state.name}", state.update, seen | before))
    for place, expr, allowed in places:
        written = resolved.written(expr)
        unknown = sorted({s.name for s in free_symbols(written)} - allowed)
        if unknown:
            fail(
                f"{place} contains the undeclared symbols {', '.join(unknown)}; declare each as "
                f"hyperparameter or state."
            )
    ahead = sp.sympify(spec.lookahead)
    read = {s.name for s in ahead.atoms(sp.Symbol)}
    averages = {s.name for s in spec.states if resolved.kinds[s.name] == "filtered"}
    if ahead != 0 and not (read & averages and read <= averages | declared):
        fail(f"lookahead = {ahead} must be made of averages of the gradient and hyperparameters; check its names.")
    step, updates = resolved.uncoupled.step, resolved.uncoupled.updates
    follows = {"g"}
    for name, expr in updates.items():
        if {s.name for s in free_symbols(expr)} & follows and resolved.kinds[name] == "filtered":
            follows |= {name, name + NEW, name + OLD}
    read = {s.name for s in free_symbols(step)}
    through = [n for n, e in updates.items() if n in read and _odd(expand_names(e))]
    if not read & follows and through:
        fail(
            f"the update {step} follows the gradient only through {through[0]}, which is not an "
            "average of the gradient itself: what is preconditioned before it is averaged is outside the form that "
            "flows are derived for; average the gradient, then divide."
        )
    if not read & follows:
        fail(f"the update {step} does not depend on the gradient g; a step must follow the gradient.")


def _odd(expr: sp.Expr) -> bool:
    """Say whether an expression feels the gradient's sign."""
    return sp.expand(expr - expr.xreplace({symbols.g: -symbols.g})) != 0


def free_symbols(expr: sp.Expr) -> set[sp.Symbol]:
    """Return the symbols of an expression, those inside named sums included."""
    return expand_names(expr).atoms(sp.Symbol)

"""Weight decay, recognised rather than declared: coupled (in the gradient) or decoupled (beside the step)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.notation import BlockTotal, Total, contract, drop_sums, expand_names, is_elementwise, symbols


class Uncoupled(NamedTuple):
    """Coupled decay rho, decoupled decay, step and updates of the states; g is the gradient of loss + rho/2 |w|^2."""

    penalty: sp.Expr
    decay: sp.Expr
    step: sp.Expr
    updates: dict[str, sp.Expr]


def split_decay(
    step: sp.Expr, updates: Mapping[str, sp.Expr], constants: Set[sp.Symbol], scheduled: Set[sp.Symbol]
) -> Uncoupled | None:
    """Take the decay out of step and updates; None where the weights enter otherwise.

    `constants` and `scheduled` are the symbols of hyperparameters that do not and that do depend on time.

    >>> g, w, eta, rho = symbols.g, symbols.w, symbols.eta, symbols.rho
    >>> split_decay(-eta * (g + rho * w), {}, {eta, rho}, set())
    Uncoupled(penalty=0, decay=eta*rho, step=-g*eta - w*eta*rho, updates={})
    """
    g, w, zero = symbols.g, symbols.w, sp.Integer(0)
    everything = (step, *updates.values())
    if not any(e.has(w) for e in everything):
        return Uncoupled(zero, zero, contract(step), {n: contract(e) for n, e in updates.items()})

    def ratio(expr: sp.Expr) -> sp.Expr:
        plain = drop_sums(expand_names(expr))
        slope = plain.diff(g)
        return in_factors(plain.diff(w) / slope) if slope != 0 else sp.nan

    candidates = [ratio(e) for e in updates.values() if e.has(w)] or [zero, ratio(step)]
    for rho in candidates:
        if not rho.free_symbols <= constants or rho.has(sp.nan, sp.zoo):
            continue
        seen = {g: g - rho * w}
        states = {n: contract(_without(w, e.xreplace(seen))) for n, e in updates.items()}
        moved = step.xreplace(seen)
        if any(total.has(w) for total in expand_names(moved).atoms(Total, BlockTotal)):
            continue
        decay = -in_factors(moved.diff(w))
        known = constants | scheduled
        if any(e.has(w) for e in states.values()) or not decay.free_symbols <= known or is_elementwise(decay):
            continue
        slope = moved.diff(g)
        affine = not slope.has(g, w) and sp.expand(moved.xreplace({g: zero, w: zero})) == 0
        return Uncoupled(rho, decay, contract(slope * g - decay * w if affine else moved), states)
    return None


def _without(symbol: sp.Symbol, expr: sp.Expr) -> sp.Expr:
    """Expand an expression if that makes a symbol cancel, else leave it as it is written."""
    return sp.expand(expr) if expr.has(symbol) else expr

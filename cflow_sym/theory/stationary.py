"""Stationary states: the value at which a slow state stands still, and states that are there at once.

An average is stationary where it equals the averaged quantity; a sum never is. A state without memory equals it at
every time: its flow is the limit of a decaying average with decay beta2 -> 0, where the rate (1 - beta2) / beta2
becomes infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from cflow_sym.derivation.derivation import DerivationError, Step
from cflow_sym.derivation.exact import Point, agree, draw_vector, is_zero, random_point, source
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import contract, debias, is_elementwise, latex_of, orient, rebias, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.central_flow import CRITICAL, edge_point, one_direction, substitute

_s = symbols
SECTION, LIMIT = "Stationary states", "The limit without memory"
FROZEN = "Weights and covariance are held fixed while the state settles."
TINY = sp.Rational(1, 10**40)


def stationary_value(state: sp.Symbol, rate: sp.Expr) -> sp.Expr | None:
    """Return the value of a state at which its rate, affine in it, vanishes; None where there is none.

    >>> s = symbols
    >>> stationary_value(s.nu, s.kappa2 * (s.grad_sq_norm - s.nu))
    grad_sq_norm
    >>> stationary_value(s.nu, s.grad_sq_norm) is None
    True
    """
    slope = sp.cancel(rate.diff(state))
    if slope == 0 or slope.has(state) or slope.has(_s.g, _s.grad_sq_norm):
        return None
    return contract(sp.expand(sp.cancel(-rate.xreplace({state: sp.Integer(0)}) / slope)))


def stationary_steps(spec: OptimizerSpec, ansatz: Mapping[str, sp.Expr]) -> list[Step]:
    """Return the stationary value of every slow state that has one, for any covariance."""
    steps = []
    for state in spec.state_updates:
        value = None if state == _s.t else stationary_value(state, ansatz[state.name])
        if value is None:
            continue
        steps.append(Step(
            Part.STATIONARY.of(state.name), SECTION, "set the rate to zero", rf"\bar{{{latex_of(state)}}}",
            ansatz[state.name], value,
            "The value to which the state relaxes while weights and oscillation stand still.",
            _rest_check(spec, state, ansatz[state.name]), FROZEN, "arXiv:2410.24206, part III",
        ))  # fmt: skip
    return steps


def _rest_check(spec: OptimizerSpec, state: sp.Symbol, rate: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            rng = source(f"rest-{seed}")
            point = random_point(spec, seed)
            moments = {m: draw_vector(rng, point.dimension) for m in (_s.gradient_shift, _s.gradient_variance)}
            settled = point.with_values(moments)
            settled = settled.with_values({state: settled(after)})
            if not is_zero(tuple(settled.vector(rate)), settled.vector(state)[0]):
                return False
        return True

    return check


def without_memory(expr: sp.Expr) -> sp.Expr:
    """Return the limit beta2 -> 0 of an expression that is rational in beta2.

    >>> s = symbols
    >>> without_memory((s.S + (1 - s.beta2) / s.beta2 * s.eta) / (1 + (1 - s.beta2) / s.beta2))
    eta
    """
    numerator, denominator = sp.fraction(sp.together(expr.xreplace({_s.beta2: 1 / (1 + _s.kappa2)})))
    top, bottom = (sp.Poly(sp.expand(e), _s.kappa2) for e in (numerator, denominator))
    if top.degree() > bottom.degree():
        raise DerivationError(f"{expr} has no finite limit without memory: keep some memory in the optimizer.")
    if top.degree() < bottom.degree():
        return sp.Integer(0)
    return sp.cancel(top.LC() / bottom.LC())


def memoryless_steps(
    spec: OptimizerSpec, averaged: OptimizerSpec, P: sp.Expr, c: sp.Expr, found: Mapping[str, sp.Expr]
) -> list[Step]:
    """Return the results in the limit without memory; `averaged` is the spec with decaying averages instead."""
    if not spec.memoryless:
        return []
    for name in spec.memoryless:
        if spec.kinds[name] == "elementwise":
            raise DerivationError(
                f"optimizer {spec.name!r}: the state {name} has one value for each weight and no memory, so the step "
                f"is not smooth where a coordinate of the gradient passes through 0; give it some memory."
            )
    values = {averaged.all_symbols[n]: found[Part.STATIONARY.of(n).key] for n in spec.memoryless}
    still = dict.fromkeys((_s.gradient_shift, _s.gradient_variance), sp.Integer(0))
    stable = {s: substitute(e, still) for s, e in values.items()}
    moving = {s: substitute(e, one_direction(P)) for s, e in values.items()}
    flow = found["central_w"]
    limit = without_memory(found["sigma_squared"])
    shift = min((sp.expand(limit), limit), key=lambda e: e.count_ops())

    def check_flow(before: sp.Expr, after: sp.Expr) -> bool:
        inserted = moving if after.has(_s.sigma_squared) else stable
        for seed in range(3):
            point, _ = edge_point(averaged, P, c, seed)
            at = point.with_values({s: point(e) for s, e in inserted.items()})
            if not agree(at.vector(before), point.vector(after)):
                return False
        return True

    def check_limit(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point, _ = edge_point(averaged, P, c, seed)
            near: Point = point.with_values({_s.beta2: TINY})
            for a, b in zip(near.vector(before), point.vector(after), strict=True):
                if not abs(a - b) < (1 + abs(b)) * sp.Rational(1, 10**20):
                    return False
        return True

    names = ", ".join(f"${latex_of(n)}$" for n in spec.memoryless)
    steps = [
        Step(Part.STABLE.of("w"), LIMIT, "insert the state", r"\dot w\big|_{\Sigma=0}", found["stable_w"],
             _tidy(found["stable_w"].xreplace(stable)),
             f"Without memory {names} equals its stationary value at every time.", check_flow,
             "The state follows at once; what its alternating part adds is not small here (see the named remainder)."),
        Step(Part.CENTRAL.of("w"), LIMIT, "insert the state", r"\dot w", flow, _tidy(flow.xreplace(moving)),
             "The same with one critical direction.", check_flow, CRITICAL),
    ]  # fmt: skip
    for state in averaged.state_updates:
        dropped = found.get(Part.REMAINDER.of(state.name, "alternating").key)
        if dropped is None:
            continue
        steps.append(Step(
            Part.LIMIT.of(state.name, "remainder_alternating"), LIMIT, "take the limit of a dropped term",
            r"\text{dropped from }\dot w", dropped, _tidy(without_memory(dropped)),
            r"Not small here: where the oscillation dominates, $\nu\approx\sigma^2S^2$, this cancels the whole step "
            r"along $u$. So the flow without memory and its variance are *wrong at leading order*: they are the limit "
            "of flows of optimizers that remember, not the mean of this one.", check_limit,
        ))  # fmt: skip
    if not is_elementwise(P):
        steps.append(Step(
            Result("sigma_squared"), LIMIT, "take the limit of no memory", r"\lim_{\beta_2\to0}\sigma^2",
            found["sigma_squared"], _tidy(shift),
            "The averaged squared gradient norm must have the value that keeps the edge at every instant, so the "
            "oscillation fills up what the gradient lacks; how the sharpness moves no longer enters.", check_limit,
            "The published rate of the average is used, and slow states were frozen over one period, which a state "
            "without memory is not: the limit is formal.",
        ))  # fmt: skip
    return steps


def _tidy(expr: sp.Expr) -> sp.Expr:
    return orient(rebias(debias(contract(expr))))

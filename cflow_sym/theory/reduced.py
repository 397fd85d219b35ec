"""The reduced flow: momentum eliminated, long after the start."""

from __future__ import annotations

import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import DIGITS, agree, is_zero, random_point, scale
from cflow_sym.derivation.result import Part, Result
from cflow_sym.theory.canonical_form import CanonicalForm, memories, shorter
from cflow_sym.theory.momentum import SAMPLES, _s, _threshold, hyperparameter_samples

REDUCED = "The reduced flow: momentum eliminated"


def late_steps(form: CanonicalForm, c: sp.Expr) -> list[Step]:
    """Return the steps that let corrections of bias die out, where there are any."""
    steps = []
    at_edge = form.late.transfer(sp.Integer(-1))
    found = (
        ("preconditioner", "P", form.P, form.late.P),
        ("threshold", "c", c, _threshold(form.spec, form.late, at_edge)),
    )

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            here = {s: sp.Float(v[0] if isinstance(v, tuple) else v, DIGITS) for s, v in point.values.items()}
            here[_s.t] = _long_after(before.xreplace({s: v for s, v in here.items() if s != _s.t}))
            at = [sp.N(e.xreplace(here), DIGITS) for e in (before, after)]
            if not at[0].is_Float or not is_zero(at[0] - at[1], at[1]):
                return False
        return True

    for name, latex, before, after in found:
        if before != after:
            steps.append(Step(
                Part.LATE.of(name), REDUCED, "let the corrections of bias die out", rf"{latex}_{{t\to\infty}}",
                before, after,
                "The closed forms are stated for late times, when the corrections of bias have died out: "
                + memories(form) + ". What runs, and the flow at the head of this note, has them at every time.", check,
            ))  # fmt: skip
    return steps


def _long_after(expr: sp.Expr) -> sp.Float:
    """Return a count at which every decay in the expression has fallen below 1e-60; a float: no power is exact."""
    bases = [sp.Float(p.base, DIGITS) for p in expr.atoms(sp.Pow) if p.exp.has(_s.t)]
    slowest = min((abs(sp.log(b, 10)) for b in bases if b != 1), default=sp.Integer(1))
    return sp.Float(sp.ceiling(60 / slowest), DIGITS)


def reduced_speed_steps(form: CanonicalForm, c: sp.Expr) -> list[Step]:
    """Return the speed v of the reduced flow and the largest time step that it allows at the edge."""
    v, limit = form.speed, shorter(2 / (form.speed * c))

    def check_speed(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            at_rest = point.with_values({m: scale(point(s), point.vector(_s.g)) for m, s in form.steady.items()})
            still = all(
                agree(at_rest.vector(b * m + a * _s.g), at_rest.vector(m))
                for m, b, a in zip(form.states, form.b, form.a, strict=True)
            )
            if not still or not agree(at_rest.vector(before), scale(point(after), point.vector(_s.g))):
                return False
        return True

    def check_limit(before: sp.Expr, after: sp.Expr) -> bool:
        # explicit Euler on dw/dt = -v lambda w at the edge: the factor of one step is -1 at the limit
        for sample in hyperparameter_samples(form.spec):
            dt, speed = after.xreplace(sample), v.xreplace(sample)
            if not is_zero(1 - dt * speed * c.xreplace(sample) + 1):
                return False
        return True

    return [
        Step(
            Result("speed"), REDUCED, "let every average stand at its steady value", "v=G(1)", form.direction, v,
            r"Momentum multiplies the steady step: $\dot w=-vP^{-1}E[\nabla L]$. The flow over the weights alone is "
            "one without momentum, with $P/v$ in place of $P$ and $vc$ in place of $c$; it is the documented "
            "alternative to the centre flow, and it knows nothing of the filter's lag.", check_speed,
            "The gradient changes little over the memory of every average, and the run is longer than each of them: "
            + memories(form) + ".",
        ),
        Step(
            Result("step_limit"), REDUCED, "bound the time step of an explicit method",
            r"\Delta t_{\max}", v * c, limit,
            r"At the edge an explicit step of the reduced flow is stable up to $2/(vc)$ only: the price of leaving the "
            "momentum out.", check_limit,
        ),
    ]  # fmt: skip


def reduced_edge_step(form: CanonicalForm, P: sp.Expr, c: sp.Expr, edge: sp.Expr) -> Step:
    """Return the step that holds the reduced flow's edge against the optimizer's own, late: v drops out of c P.

    `P` and `c` are the optimizer's, `edge` is what the reduced flow takes for c P, with c by name where that is short.
    """

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            named = point.with_values({_s.c: point(c)})
            if not agree(named.vector(after), point.vector(before)):
                return False
        return True

    return Step(
        Result("reduced_edge"), REDUCED, "hold the edge against the optimizer's",
        r"c_{\rm red}P_{\rm red}", c * P, edge,
        r"Momentum's steady factor cancels: with $P/v$ and $vc$ the curvature at which the oscillation begins is the "
        "optimizer's own.", check,
    )  # fmt: skip

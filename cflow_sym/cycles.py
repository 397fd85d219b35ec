"""Cycles about the central flow: the oscillation grows, the sharpness falls, the oscillation dies, the sharpness rises.

The central flow is the average of these cycles. Their frequency follows from the gain; whether they grow or decay from
one to the next is a matter of how late amplitude and sharpness answer each other.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import sympy as sp

from cflow_sym.closures import GAIN, SECTION, X
from cflow_sym.derivation import Check, DerivationError, Step
from cflow_sym.exact import agree, draw, is_zero, source
from cflow_sym.filters import CanonicalForm, shorter
from cflow_sym.momentum import hyperparameter_samples
from cflow_sym.notation import OLD, expand_names, state_symbol, symbols

_s = symbols
SHARPENING = sp.Symbol("a", positive=True)
LEVER = sp.Symbol("b", positive=True)  # d lambda/dt = a - b x**2


def cycle_steps(form: CanonicalForm, gain: sp.Expr, c: sp.Expr) -> list[Step]:
    """Return the steps for frequency and growth of the cycles; growth only where P, decay and schedules do not move.

    >>> import cflow_sym as cs
    >>> d = cs.derive("heavy_ball_ema")
    >>> d["cycle"], d["cycle_growth"].subs(cs.symbols.beta1, 0)
    (2*Gamma*a/c, 1)
    """
    named = {GAIN: gain, _s.c: c}
    shown = {} if form.states else named  # with momentum both are long and have been derived: by name
    squared = shorter((2 * SHARPENING * GAIN / _s.c).xreplace(shown))
    steps = [_cycle_step(form, squared, named)]
    if set(form.slow) <= {_s.t} and form.decay == 0 and not form.spec.scheduled:
        steps.append(_growth_step(form, c))
    return steps


def _cycle_step(form: CanonicalForm, squared: sp.Expr, named: dict[sp.Symbol, sp.Expr]) -> Step:
    growth = GAIN * (_s.lam - _s.c) / _s.c

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        log_x = sp.Symbol("log_x", real=True)
        rates = sp.Matrix([growth.xreplace(named), SHARPENING - LEVER * sp.exp(2 * log_x)])
        J = rates.jacobian([log_x, _s.lam])
        for seed, sample in enumerate(hyperparameter_samples(form.spec)):
            rng = source(f"cycle-{seed}")
            values = {**sample, SHARPENING: draw(rng, 1, 3), LEVER: draw(rng, 1, 3)}
            here = sp.log(values[SHARPENING] / values[LEVER]) / 2
            rest = values | {_s.lam: named[_s.c].xreplace(sample), log_x: here}
            at_rest = J.xreplace(rest)
            still = all(is_zero(rate.xreplace(rest)) for rate in rates)
            undamped = is_zero(at_rest.trace())
            if not still or not undamped or not agree(at_rest.det(), after.xreplace(named).xreplace(values)):
                return False
        return True

    return Step(
        "cycle", SECTION, "linearize about the central flow", r"\omega^2", X * growth, squared,
        r"Without oscillation the effective eigenvalue would rise at the rate $a$, an oscillation $x$ lowers it by "
        r"$bx^2$. At rest $\lambda=c$ and $x^2=a/b$, the variance of the central flow. About it amplitude and "
        r"eigenvalue cycle with the frequency $\omega$, without damping at this order: the central flow is the average "
        "of the cycles, not where they settle.", check, "One critical eigenvalue, and slow rates of its change.",
    )  # fmt: skip


def _growth_step(form: CanonicalForm, c: sp.Expr) -> Step:
    """tau: the loop (Z - 1)(1 + Z - c G(-Z)) + 2 a G(Z) G(-Z)/G(1) = 0, with Z = exp(s), expanded at s = 0."""
    Z = _s.z
    G, Gm = form.transfer(Z), form.transfer(-Z)
    loop = (Z - 1) * (1 + Z - _s.c * Gm) + 2 * SHARPENING * G * Gm / form.speed
    lag = -(G.diff(Z) / G).subs(Z, 1)  # of the averaged path
    slope, bend = (G.diff(Z, n).subs(Z, -1) for n in (1, 2))
    A = 1 + c * slope  # 2 / Gamma
    tau = shorter(sp.Rational(1, 2) + lag + (A - c * bend / A) / 2)
    return Step(
        "cycle_growth", SECTION, "next order of the loop", r"\tau", loop, tau,
        r"Followed step by step, a small cycle is $e^{st}$ with $s=i\omega+\frac12\omega^2\tau$: amplitude and "
        r"eigenvalue answer each other late, by $\tau$ steps in all: half a step, the averaged path's lag, and that of "
        r"the amplitude. So cycles grow by the factor $e^{\pi\omega\tau}$ from one to the next, unless the "
        "loss damps them: the larger the momentum, the sooner they are bursts.", _growth_check(form, c),
        "One critical eigenvalue that changes along a straight valley, where nothing but the loop damps.",
    )  # fmt: skip


def _growth_check(form: CanonicalForm, c: sp.Expr) -> Check:
    """Linearize the optimizer's own step in a valley about its period-two orbit: exp(s) is a multiplier there.

    With q_ij the coefficient of u^i x^(2j) in det(1 + u - J), and s and x of one order, the two lowest orders are
    q20 s^2 + q01 x^2 = 0 and (q20 + q30) s^3 + q11 s x^2, which s = i omega + omega^2 tau/2 must make zero. The same
    holds for the loop, of which a takes the place of x^2.
    """

    def answers(
        loop: sp.Expr, sample: dict[sp.Symbol, sp.Expr], threshold: sp.Expr, gain: sp.Expr, tau: sp.Expr
    ) -> bool:
        here = sp.sympify(loop).xreplace(sample).xreplace({_s.c: threshold})
        still, moved = here.subs(SHARPENING, 0), here.diff(SHARPENING)
        q = [still.diff(_s.z, i).subs(_s.z, 1) / sp.factorial(i) for i in range(4)]
        q01, q11 = (moved.diff(_s.z, i).subs(_s.z, 1) for i in range(2))
        alike = agree(q01 / q[2], 2 * gain / threshold) and agree(1 + q[3] / q[2] - q11 / q01, tau)
        return is_zero(q[0]) and is_zero(q[1]) and alike

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for sample in hyperparameter_samples(form.spec):
            P, threshold, v, tau = (sp.sympify(e).xreplace(sample) for e in (form.P, c, form.speed, after))
            x, u = sp.symbols("x u")
            of_step = sp.Poly(_valley_polynomial(form, sample, P * threshold, x).subs(_s.z, 1 + u), u, x)
            q00, q10, q20, q30, q01, q11 = (
                of_step.coeff_monomial(u**i * x ** (2 * j)) for i, j in ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1))
            )
            slope = form.transfer(_s.z).diff(_s.z).xreplace(sample).subs(_s.z, -1)
            gain = 2 / (1 + threshold * slope)
            squared = gain * v / threshold / P**2  # omega^2/x^2: a = v p/P^2 and p = x^2/2
            if not is_zero(q00) or not is_zero(q10) or not agree(q01 / q20, squared):
                return False
            if not agree(1 + q30 / q20 - q11 / q01, tau) or not answers(before, sample, threshold, gain, tau):
                return False
        return True

    return check


def _valley_polynomial(form: CanonicalForm, sample: dict[sp.Symbol, sp.Expr], S: sp.Expr, x: sp.Expr) -> sp.Expr:
    """Return det(z - J) of a step on L = (S + y) x^2/2 - p y about the oscillation x at rest, p = x^2/2.

    Displacement and its averages count with the sign that they have after a step, so that the orbit is a fixed point.
    """
    place = sp.symbols("w_x w_y")
    gradient = ((S + place[1]) * place[0], (place[0] ** 2 - x**2) / 2)
    start: dict[sp.Symbol, sp.Expr] = {}
    after: list[sp.Expr] = []
    for i, (sign, at_rest) in enumerate(((-1, x), (1, sp.Integer(0)))):
        averages = {m: sp.Symbol(f"{m}_{i}") for m in form.states}
        here = {_s.g: gradient[i], _s.w: place[i], **averages, **sample}
        updated = {m: expand_names(form.spec.sequential_updates[m]).xreplace(here) for m in form.states}
        old = {state_symbol(m.name + OLD, "filtered"): averages[m] for m in form.states}
        step = expand_names(form.spec.weight_update).xreplace({**here, **old, **updated})
        start |= {place[i]: at_rest}
        start |= {averages[m]: (-f * S * at_rest).xreplace(sample) for m, f in form.alternating.items()}
        after += [sign * (place[i] + step), *(sign * updated[m] for m in form.states)]
    variables = list(start)
    if not all(is_zero(f.xreplace(start) - start[v]) for f, v in zip(after, variables, strict=True)):
        raise DerivationError(f"optimizer {form.spec.name!r}: the oscillation at the threshold is not at rest")
    return sp.Matrix(after).jacobian(variables).xreplace(start).charpoly().as_expr(_s.z)

"""Other closures of the same averages: how each lets the oscillation's amplitude move, and what they have in common.

The central flow asks at every time for the variance that keeps the edge. The closures `edge`, `envelope` and `rod`
give the oscillation +-x u a rate instead. To first order in the distance from the threshold they agree, they rest where
the central flow is, and about it they cycle without damping: the loop of sharpness and oscillation.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.derivation import Check, Step
from cflow_sym.exact import Vector, add, agree, draw, is_zero, random_point, scale, source
from cflow_sym.filters import CanonicalForm, shorter
from cflow_sym.momentum import SAMPLES, hyperparameter_samples
from cflow_sym.notation import symbols

_s = symbols
SECTION = "Other closures"
X, SHARPENING, GAIN = (sp.Symbol(name, positive=True) for name in ("x", "a", "Gamma"))


def closure_steps(form: CanonicalForm, polynomial: sp.Expr, gain: sp.Expr, c: sp.Expr) -> list[Step]:
    """Return the steps for the amplitude: of edge with momentum or without, of envelope and rod without.

    `polynomial`: of the multipliers; `gain` and threshold `c` as derived.

    >>> import cflow_sym as cs
    >>> d = cs.derive("gradient_descent")
    >>> d["edge_amplitude"], d["envelope_amplitude"], sp.factor(d["rod_variance"])
    (x*(lam - 2), x*(lam - 2), sigma_squared*(lam - 2)*(lam + 2)/2)
    """
    named = {GAIN: gain, _s.c: c}
    shown = {} if form.states else named  # with momentum both are long and have been derived: by name
    edge = (X * GAIN * (_s.lam - _s.c) / _s.c).xreplace(shown)
    squared = shorter((2 * SHARPENING * GAIN / _s.c).xreplace(shown))
    steps = [_edge_step(form, polynomial, edge, named)]
    if not form.states:
        steps += [_envelope_step(form), _rod_step(form)]
    return [*steps, _cycle_step(form, edge, squared, named)]


def _edge_step(form: CanonicalForm, polynomial: sp.Expr, edge: sp.Expr, named: dict[sp.Symbol, sp.Expr]) -> Step:
    c = named[_s.c]

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        implicit = polynomial.diff(_s.lam) / polynomial.diff(_s.z)  # the slope of log(-z) at z = -1
        slope = implicit.xreplace({_s.z: sp.Integer(-1), _s.lam: c})
        for sample in hyperparameter_samples(form.spec):
            rate = (after / X).xreplace(named).xreplace(sample)
            here = c.xreplace(sample)
            if not is_zero(rate.subs(_s.lam, here)) or not is_zero(rate.diff(_s.lam) - slope.xreplace(sample)):
                return False
        return True

    return Step(
        "edge_amplitude", SECTION, "expand the multiplier at the threshold", r"\dot x", X * sp.log(-_s.z), edge,
        r"Edge: the oscillation is $\pm xu$. It grows by the logarithm of its multiplier, which to first order in the "
        r"distance from the threshold is $\Gamma(\lambda-c)/c$. Centre and states move by the average over both ends.",
        check, "The effective eigenvalue is near its threshold.",
        "arXiv 2606.18080 for gradient descent, reconstructed from its abstract; derived for others",
    )  # fmt: skip


def _envelope_step(form: CanonicalForm) -> Step:
    decay = form.decay
    check = _by_steps(form, X, lambda x: x, lambda x, odd: add(scale(-2, x), scale(-1, odd)))
    return Step(
        "envelope_amplitude", SECTION, "odd part of one step", r"\dot x", -2 * X + X * (_s.lam + decay),
        X * shorter(_s.lam + decay - 2),
        r"Envelope: the half-difference $d=xu$ of two neighbouring iterates changes its sign at every step and moves "
        r"by the odd part of the optimizer's step, $\dot d=-2d-[F(y+d)-F(y-d)]/2$.", check,
        "The oscillation is small, and slow states are frozen over one period.",
    )  # fmt: skip


def _rod_step(form: CanonicalForm) -> Step:
    decay, half = form.decay, sp.Rational(1, 2)
    check = _by_steps(
        form, _s.sigma_squared, _square, lambda x, odd: add(scale(half, _square(odd)), scale(-2, _square(x)))
    )
    return Step(
        "rod_variance", SECTION, "covariance of two neighbouring iterates", r"\dot\Sigma",
        (_s.lam + decay) ** 2 * _s.sigma_squared / 2 - 2 * _s.sigma_squared,
        _s.sigma_squared * ((_s.lam + decay) ** 2 / 2 - 2),
        r"Rod: $\dot\Sigma=\frac14[F_+F_+^\top+F_-F_-^\top]-2\Sigma$ with $\Sigma=\sigma^2uu^\top$; at the threshold "
        "it grows twice as fast as the amplitude of the others, as a square must.", check,
        "The oscillation is small, the centre rests, and slow states are frozen over one period.",
        "arXiv 2602.01480, 2605.06821 for gradient descent",
    )  # fmt: skip


def _cycle_step(form: CanonicalForm, edge: sp.Expr, squared: sp.Expr, named: dict[sp.Symbol, sp.Expr]) -> Step:
    def check(before: sp.Expr, after: sp.Expr) -> bool:
        b, log_x = sp.Symbol("b", positive=True), sp.Symbol("log_x", real=True)  # d lambda/dt = a - b x**2
        rates = sp.Matrix([(edge / X).xreplace(named), SHARPENING - b * sp.exp(2 * log_x)])
        J = rates.jacobian([log_x, _s.lam])
        for seed, sample in enumerate(hyperparameter_samples(form.spec)):
            rng = source(f"cycle-{seed}")
            values = {**sample, SHARPENING: draw(rng, 1, 3), b: draw(rng, 1, 3)}
            rest = values | {_s.lam: named[_s.c].xreplace(sample), log_x: sp.log(values[SHARPENING] / values[b]) / 2}
            here = J.xreplace(rest)
            still = all(is_zero(rate.xreplace(rest)) for rate in rates)
            if not still or not is_zero(here.trace()) or not agree(here.det(), after.xreplace(named).xreplace(values)):
                return False
        return True

    return Step(
        "cycle", SECTION, "linearize about the central flow", r"\omega^2", edge, squared,
        r"Without oscillation the effective eigenvalue would rise at the rate $a$, an oscillation $x$ lowers it by "
        r"$bx^2$. At rest $\lambda=c$ and $x^2=a/b$, the variance of the central flow. About it amplitude and "
        r"eigenvalue cycle with the frequency $\omega$, without damping at this order: the central flow is the average "
        "of the cycles, not where they settle.", check, "One critical eigenvalue, and slow rates of its change.",
    )  # fmt: skip


def _square(x: Vector) -> Vector:
    """Return the entries of x x'."""
    return tuple(a * b for a in x for b in x)


def _by_steps(
    form: CanonicalForm, size: sp.Expr, shape: Callable[[Vector], Vector], brute: Callable[[Vector, Vector], Vector]
) -> Check:
    """Hold a rate against the optimizer's own steps from both ends x and -x of a displacement along an eigenvector.

    The rate is that of `size` times `shape(x)`; `brute(x, odd)` says what it must be for the odd part of a step.
    """

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point, lam = random_point(form.spec, seed), draw(source(f"closure-{seed}"), 1, 3)
            x, steps = point.vector(_s.w), []
            for sign in (1, -1):
                gradient = tuple(sign * lam * p * q for p, q in zip(point.vector(form.P), x, strict=True))
                there = point.with_values({_s.g: gradient, _s.w: scale(sign, x)})
                steps.append(there.vector(form.spec.weight_update))
            odd = scale(sp.Rational(1, 2), add(steps[0], scale(-1, steps[1])))
            stated = (after / size).subs(_s.lam, lam).xreplace(point.values)
            if not agree(brute(x, odd), scale(stated, shape(x))):
                return False
        return True

    return check

"""Other closures of the same averages: how each lets the oscillation's amplitude move, and what they have in common.

The central flow asks at every time for the variance that keeps the edge. The closures `edge`, `envelope` and `rod`
give the oscillation +-x u a rate instead. To first order in the distance from the threshold they agree, they rest where
the central flow is, and about it they cycle (`cycles.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.derivation.derivation import Check, Step
from cflow_sym.derivation.exact import Vector, add, agree, draw, is_zero, random_point, scale, source
from cflow_sym.derivation.result import Result
from cflow_sym.notation import symbols
from cflow_sym.theory.canonical_form import CanonicalForm, shorter
from cflow_sym.theory.momentum import SAMPLES, averages_updated, hyperparameter_samples

_s = symbols
SECTION = "Other closures"
X, GAIN = (sp.Symbol(name, positive=True) for name in ("x", "Gamma"))


def closure_steps(form: CanonicalForm, polynomial: sp.Expr, gain: sp.Expr, c: sp.Expr) -> list[Step]:
    """Return the steps for the amplitude of edge, envelope and rod.

    `polynomial`: of the multipliers; `gain` and threshold `c` as derived. With momentum envelope and rod are given in
    terms of the multiplier z, a root of the polynomial.

    >>> import cflow_sym as cs
    >>> d = cs.derive("gradient_descent")
    >>> d["edge_amplitude"], d["envelope_amplitude"], sp.factor(d["rod_variance"])
    (x*(lam - 2), x*(lam - 2), sigma_squared*(lam - 2)*(lam + 2)/2)
    >>> cs.derive("heavy_ball")["envelope_amplitude"]
    x*(-z - 1)
    """
    named = {GAIN: gain, _s.c: c}
    shown = {} if form.states else named  # with momentum both are long and have been derived: by name
    edge = (X * GAIN * (_s.lam - _s.c) / _s.c).xreplace(shown)
    z = _s.z if form.states else 1 - _s.lam - form.decay
    return [
        _edge_step(form, polynomial, edge, named),
        _envelope_step(form, z),
        _rod_step(form, z),
    ]


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
        Result("edge_amplitude"), SECTION, "expand the multiplier at the threshold", r"\dot x", X * sp.log(-_s.z), edge,
        r"Edge: the oscillation is $\pm xu$. It grows by the logarithm of its multiplier, which to first order in the "
        r"distance from the threshold is $\Gamma(\lambda-c)/c$. Centre and states move by the average over both ends.",
        check, "The effective eigenvalue is near its threshold.",
        "arXiv 2606.18080 for gradient descent, reconstructed from its abstract; derived for others",
    )  # fmt: skip


def _envelope_step(form: CanonicalForm, z: sp.Expr) -> Step:
    check = _by_steps(form, X, lambda x: x, lambda x, odd: add(scale(-2, x), scale(-1, odd)))
    where = r", of weights and averages, along the mode with the multiplier $z$," if form.states else ", $xu$,"
    return Step(
        Result("envelope_amplitude"), SECTION, "odd part of one step", r"\dot x",
        -2 * X + X * (1 - z), X * shorter(-1 - z),
        f"Envelope: the half-difference $d$ of two neighbouring iterates{where} changes its sign at every step and "
        r"moves by the odd part of the optimizer's step, $\dot d=-2d-[F(y+d)-F(y-d)]/2$.", check,
        "The oscillation is small, and slow states are frozen over one period.",
    )  # fmt: skip


def _rod_step(form: CanonicalForm, z: sp.Expr) -> Step:
    half = sp.Rational(1, 2)
    check = _by_steps(
        form, _s.sigma_squared, _square, lambda x, odd: add(scale(half, _square(odd)), scale(-2, _square(x)))
    )
    where = (
        r"$\Sigma$ the covariance of weights and averages, $\sigma^2$ its size along the mode with the multiplier $z$"
        if form.states
        else r"$\Sigma=\sigma^2uu^\top$"
    )
    growth = shorter(1 - z) ** 2
    return Step(
        Result("rod_variance"), SECTION, "covariance of two neighbouring iterates", r"\dot{\sigma^2}",
        growth * _s.sigma_squared / 2 - 2 * _s.sigma_squared, _s.sigma_squared * (growth / 2 - 2),
        rf"Rod: $\dot\Sigma=\frac14[F_+F_+^\top+F_-F_-^\top]-2\Sigma$ with {where}; at the threshold it grows twice "
        "as fast as the amplitude of the others, as a square must.", check,
        "The oscillation is small, the centre rests, and slow states are frozen over one period.",
        "arXiv 2602.01480, 2605.06821 for gradient descent; in phase space derived",
    )  # fmt: skip


def _square(x: Vector) -> Vector:
    """Return the entries of x x'."""
    return tuple(a * b for a in x for b in x)


def _by_steps(
    form: CanonicalForm, size: sp.Expr, shape: Callable[[Vector], Vector], brute: Callable[[Vector, Vector], Vector]
) -> Check:
    """Hold a rate against the optimizer's own steps from both ends y and -y of a displacement along one mode.

    The rate is that of `size` times `shape(y)`; `brute(y, odd)` says what it must be for the odd part of a step. The
    mode has a multiplier z that is drawn, and the curvature at which that is one. Its averages are those of a gradient
    that grows by z at every step.
    """

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            z = -draw(source(f"closure-{seed}"), 0.5, 1.5)
            lam = point((1 - form.decay - _s.z) / form.transfer(_s.z)).xreplace({_s.z: z})
            g = tuple(lam * p * q for p, q in zip(point.vector(form.P), point.vector(_s.w), strict=True))
            mode = {_s.w: point.vector(_s.w)}  # with the averages before their update
            mode |= {
                m: scale(point(a) / (z - point(b)), g) for m, a, b in zip(form.states, form.a, form.b, strict=True)
            }
            steps = []
            for sign in (1, -1):
                start = point.with_values({x: scale(sign, v) for x, v in (mode | {_s.g: g}).items()})
                end = averages_updated(form, start)
                moved = [add(end.values[m], scale(-1, start.values[m])) for m in form.states]
                steps.append((*end.vector(form.spec.weight_update), *(x for v in moved for x in v)))
            y = tuple(x for v in mode.values() for x in v)
            odd = scale(sp.Rational(1, 2), add(steps[0], scale(-1, steps[1])))
            stated = (after / size).subs({_s.lam: lam, _s.z: z}).xreplace(point.values)
            if not agree(brute(y, odd), scale(stated, shape(y))):
                return False
        return True

    return check

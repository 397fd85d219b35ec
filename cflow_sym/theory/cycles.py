"""Cycles about the central flow: the oscillation grows, the sharpness falls, the oscillation dies, the sharpness rises.

The central flow is their average: to first order for small cycles, and exactly, at leading order in the rates, for
closed cycles of any size. Whether cycles grow or settle is a matter of the next order (`cycle_growth.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import agree, draw, is_zero, source
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import symbols
from cflow_sym.theory.canonical_form import CanonicalForm, shorter
from cflow_sym.theory.closures import GAIN, SECTION, X
from cflow_sym.theory.momentum import hyperparameter_samples

_s = symbols
SHARPENING = sp.Symbol("a", positive=True)
LEVER = sp.Symbol("b", positive=True)  # d lambda/dt = a - b x**2
SLOW = "One critical eigenvalue, and slow rates of its change."
QUADRATURE = 30  # digits


def cycle_steps(form: CanonicalForm, gain: sp.Expr, c: sp.Expr) -> list[Step]:
    """Return the steps for the frequency of small cycles and for the averages over closed cycles of any size.

    >>> import cflow_sym as cs
    >>> d = cs.derive("heavy_ball_ema")
    >>> d["cycle"], d["theorem_mean_square"]
    (2*Gamma*a/c, a/b)
    """
    named = {GAIN: gain, _s.c: c}
    shown = {} if form.states else named  # with momentum both are long and have been derived: by name
    squared = shorter((2 * SHARPENING * GAIN / _s.c).xreplace(shown))
    return [_cycle_step(form, squared, named), *_closed_cycle_steps(form, shown, named)]


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
        Result("cycle"), SECTION, "linearize about the central flow", r"\omega^2", X * growth, squared,
        r"Without oscillation the effective eigenvalue would rise at the rate $a$; an oscillation of the size $x$ "
        r"lowers it by $bx^2$, so that $\dot\lambda=a-bx^2$. At rest $\lambda=c$ and $x^2=a/b$, the variance of the "
        r"central flow. About it amplitude and eigenvalue cycle with the frequency $\omega$, at this order without "
        r"growth or damping. This is where three scales of time must be apart: one step, a cycle of $1/\omega$ steps, "
        r"and the $1/\varepsilon$ steps in which the flow itself changes ($a$ and $b$ are of size $\varepsilon$, so "
        r"$\omega$ of size $\sqrt\varepsilon$).", check, SLOW,
    )  # fmt: skip


def _closed_cycle_steps(
    form: CanonicalForm, shown: dict[sp.Symbol, sp.Expr], named: dict[sp.Symbol, sp.Expr]
) -> list[Step]:
    growth = GAIN * (_s.lam - _s.c) / _s.c
    level = X**2 * LEVER / SHARPENING
    first_integral = GAIN * (_s.lam - _s.c) ** 2 / (2 * _s.c) + SHARPENING * (level - 1 - sp.log(level)) / 2

    def check_integral(before: sp.Expr, after: sp.Expr) -> bool:
        for values in _points(form, named):
            here = after.xreplace(named)
            slope = here.diff(X) * X * growth.xreplace(named) + here.diff(_s.lam) * (SHARPENING - LEVER * X**2)
            rest = values | {X: sp.sqrt(values[SHARPENING] / values[LEVER]), _s.lam: named[_s.c].xreplace(values)}
            stiff = here.diff(_s.lam, 2) - (GAIN / _s.c).xreplace(named)
            if not all(is_zero(sp.sympify(e).xreplace(at)) for e, at in ((slope, values), (here, rest), (stiff, rest))):
                return False
        return True

    def check_means(before: sp.Expr, after: sp.Expr) -> bool:
        # once around a large cycle, by quadrature: dt = d log x / (d log x/dt) on the level set of the first integral
        for values in _points(form, named)[:2]:
            drives = (e.xreplace(named).xreplace(values) for e in (GAIN / _s.c, SHARPENING, LEVER))
            period, squares = _once_around(*(mpmath.mpmathify(sp.N(e, QUADRATURE)) for e in drives))
            stated = after.xreplace(named).xreplace(values)
            if not stated.is_number or abs(squares / period / mpmath.mpmathify(sp.N(stated, QUADRATURE)) - 1) > 1e-12:
                return False
        return True

    return [
        Step(
            Part.THEOREM.named("first_integral"), SECTION, "find a first integral",
            "I", growth, first_integral.xreplace(shown),
            r"With $\frac{d}{dt}\log x=\Gamma(\lambda-c)/c$ and $\dot\lambda=a-bx^2$, $a$ and $b$ constant, $I$ does "
            r"not change: every motion is a closed cycle about the central flow, and $I$, zero there, says how large.",
            check_integral, SLOW,
        ),
        Step(
            Part.THEOREM.named("mean_square"), SECTION, "average around a closed cycle",
            r"\langle x^2\rangle_{\rm cycle}", SHARPENING - LEVER * X**2, SHARPENING / LEVER,
            r"Around a closed cycle $\log x$ and $\lambda$ return to where they began, so that the means of their "
            r"rates vanish: $\langle\lambda\rangle=c$ and $\langle x^2\rangle=a/b$ *exactly*, for large bursts as for "
            r"small cycles. At leading order the central flow is the exact average over the cycles, whether or not "
            "they settle.", check_means, SLOW,
        ),
    ]  # fmt: skip


def _points(form: CanonicalForm, named: dict[sp.Symbol, sp.Expr]) -> list[dict[sp.Symbol, sp.Expr]]:
    found = []
    for seed, sample in enumerate(hyperparameter_samples(form.spec)):
        rng = source(f"closed-{seed}")
        drawn = {name: draw(rng, 1, 3) for name in (SHARPENING, LEVER, X, _s.lam)}
        found.append(sample | drawn)
    return found


def _once_around(stiff: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the period of a cycle on which x^2 reaches e^2 times its mean, and the integral of x^2 over it.

    With q = log(b x^2/a): q' = 2 stiff (lambda - c), and stiff (lambda - c)^2 + a (e^q - 1 - q) keeps its value. In the
    angle of q between its ends the integrand is smooth and periodic, so that equal steps converge exponentially.
    """
    with mpmath.workdps(QUADRATURE):
        potential: Callable[[Any], Any] = lambda q: mpmath.expm1(q) - q  # noqa: E731
        top = mpmath.mpf(2)
        bottom = mpmath.findroot(lambda q: potential(q) - potential(top), (-8, -6))
        period = squares = mpmath.mpf(0)
        count = 200
        for k in range(count):  # half a cycle, the other half is its mirror image
            angle = mpmath.pi * (k + mpmath.mpf(1) / 2) / count
            q = (top + bottom) / 2 + (top - bottom) / 2 * mpmath.cos(angle)
            speed = mpmath.sqrt(4 * stiff * a * (potential(top) - potential(q)))
            share = (top - bottom) / 2 * mpmath.sin(angle) / speed * mpmath.pi / count
            period += 2 * share
            squares += 2 * share * a / b * mpmath.exp(q)
        return period, squares

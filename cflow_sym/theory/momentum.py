"""Momentum as a filter of the gradient: threshold, gain at the edge, phase-space direction, centre flow.

A filter enters a flow through its transfer function G only. At z = -1 it sets the threshold, c = 2 / G(-1), and how
sharply the oscillation grows beyond it; at z = 1 it sets speed and lag of the averaged path. The reduced flow, in
which every average stands at its steady value, is a flow without momentum with P / v in place of P and v c in place
of c; the centre flow keeps the averages as states (`leapfrog.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import DerivationError, Step
from cflow_sym.derivation.exact import Point, add, agree, draw, is_zero, random_point, scale, source
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import OLD, latex_of, orient, state_symbol, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.canonical_form import CanonicalForm, shorter
from cflow_sym.theory.stability import MU, entries_of, linearized_map, refuse_other_periods
from cflow_sym.theory.stability import SECTION as THRESHOLD
from cflow_sym.theory.stable_flow import CONVENTION, increment

_s = symbols
SECTION = "Momentum: the filter and its threshold"
SCALAR_P = sp.Symbol("P", positive=True)
SAMPLES = 3


def momentum_steps(form: CanonicalForm) -> list[Step]:
    """Return the steps from the update to threshold, gain, phase-space direction and the published first-order form."""
    spec = form.spec
    canonical = -form.direction / form.P - form.decay * _s.w
    G = form.transfer(_s.z)
    M = filter_map(form)
    equation = (_s.z - 1 + form.decay) + _s.lam * G
    at_edge = form.transfer(sp.Integer(-1))
    c = _threshold(spec, form, at_edge)
    refuse_other_periods(M, c, hyperparameter_samples(spec), spec.name)

    steps = [
        Step(
            Result("canonical_form"), SECTION, "recognise averages of the gradient",
            "w'-w", spec.weight_update, canonical,
            "Given the updated averages, the step is linear in them and in the gradient. What all terms share is the "
            "preconditioner; what is left is the filter's output.", _canonical_check(form),
            "P depends on slow states and on t only, and the filter on hyperparameters and on t.", spec.source,
        ),
        Step(
            Result("preconditioner"), SECTION, "read off the preconditioner", "P", spec.weight_update, form.P,
            "The shared factor is minus the inverse of $P$, " + entries_of(form.P),
            lambda before, after: _canonical_check(form)(before, -form.direction / after - form.decay * _s.w),
            "", spec.source,
        ),
        Step(
            Result("transfer_function"), SECTION, "feed a geometric sequence", "G(z)", form.direction, G,
            "The filter's answer to a gradient that grows by the factor $z$ with every step, relative to it.",
            _transfer_check(form),
        ),
        Step(
            Result("characteristic_equation"), SECTION, "linearize", r"\det(z-M)\ \text{vanishes with}",
            (M - MU * sp.eye(M.rows)).det().subs(MU, _s.z), equation,
            r"On a quadratic whose curvature is $\lambda$ in units of $P$, a solution $w_t\propto z^t$ needs "
            r"$z-1+d+\lambda G(z)=0$, with $d$ the decoupled decay.", _characteristic_check(spec, form, M),
            "Slow states are frozen over one period of the oscillation.",
        ),
        Step(
            Result("threshold"), SECTION, "period two: z = -1", "c", equation.subs(_s.z, -1), c,
            r"The period-two instability begins at $z=-1$, provided that every other root stays inside the unit disc "
            r"for $\lambda$ below $c$: tried exactly at samples of the hyperparameters (resultant and Sturm "
            "sequences), and proved below for all of them where no weight of the filter is negative.",
            _threshold_check(form),
            "Slow states are frozen over one period of the oscillation.",
        ),
    ]  # fmt: skip
    if len(form.b) == 1:
        steps.append(_jury_step(form, c))
    steps.append(gain_step(form, c))
    for m, factor in form.alternating.items():
        amplitude = -factor * _s.c * SCALAR_P
        steps.append(Step(
            Part.DIRECTION.of(m.name), SECTION, "take the null vector of M(c) + I", rf"{latex_of(m)}/\delta_w",
            form.spec.sequential_updates[m], amplitude,
            "At the edge the averages alternate with the weights: this much before their update per unit of the "
            "weights' displacement, the opposite after it.", _direction_check(form, c),
        ))  # fmt: skip
    return steps + published_steps(form)


def _threshold(spec: OptimizerSpec, form: CanonicalForm, at_edge: sp.Expr) -> sp.Expr:
    for sample in hyperparameter_samples(spec):
        value = sp.N(at_edge.xreplace(sample))
        if not value > 0:
            raise DerivationError(
                f"optimizer {spec.name!r}: the filter's answer to an alternating gradient is G(-1) = "
                f"{float(value):.4g}, which is not positive: a larger curvature never makes it oscillate with period "
                "two, so there is no threshold and no central flow; check the signs in the step."
            )
    inverse = shorter(1 / at_edge)
    c = (2 - form.decay) * inverse
    return in_factors(c) if inverse.is_polynomial() else c


def hyperparameter_samples(spec: OptimizerSpec) -> list[dict[sp.Symbol, sp.Expr]]:
    """Return admissible values of the hyperparameters and of t, at which conditions are tried exactly."""
    points = [random_point(spec, seed) for seed in range(SAMPLES)]
    return [
        {**{h.symbol: p.values[h.symbol] for h in spec.active_hyperparameters}, _s.t: p.values[_s.t]} for p in points
    ]


def filter_map(form: CanonicalForm) -> sp.Matrix:
    """Return M(lambda) on (w, averages before their update), P as unit of curvature.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> filter_map(canonical_form(cs.optimizer("heavy_ball_ema")))[0, 0]
    beta1*lam - lam + 1
    """
    filters = {m: b * m + a * _s.g for m, b, a in zip(form.states, form.b, form.a, strict=True)}
    return linearized_map(-form.direction / SCALAR_P - form.decay * _s.w, filters, SCALAR_P)


def gain_step(form: CanonicalForm, c: sp.Expr) -> Step:
    """Return the step for the gain: z - 1 + d + lambda G(z) = 0 differentiated at z = -1, with momentum or without."""
    G = form.transfer(_s.z)
    at_edge, slope = G.subs(_s.z, -1), G.diff(_s.z).subs(_s.z, -1)
    gain = shorter((2 - form.decay) / (1 + (2 - form.decay) * slope / at_edge))
    return Step(
        Result("gain"), SECTION if form.states else THRESHOLD, "follow the root past the edge",
        r"\Gamma=\frac{d\log|z|}{d\log\lambda}", (_s.z - 1 + form.decay) + _s.lam * G, gain,
        "How fast the oscillation grows per relative excess of the curvature: 2 for gradient descent. A high gain "
        "means bursts: the oscillation grows and overshoots before the curvature has answered.", _gain_check(form, c),
    )  # fmt: skip


def _jury_step(form: CanonicalForm, c: sp.Expr) -> Step:
    """Return Jury's condition for one average: the product of the two roots stays above -1 up to the threshold."""
    b, r, d = form.b[0], form.r, form.decay
    margin = shorter(1 + b * (1 - d) - c * r * b)

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for sample in hyperparameter_samples(form.spec):
            p = _polynomial(form, sample).subs(_s.lam, c.xreplace(sample))
            product = sp.Poly(p, MU).all_coeffs()[-1] / sp.Poly(p, MU).all_coeffs()[0]
            value = after.xreplace(sample)
            if not is_zero(value - 1 - product) or not sp.N(value) > 0:
                return False
        return True

    return Step(
        Result("other_roots"), SECTION, "Jury's conditions for two roots", r"1+z_1z_2\big|_{\lambda=c}", c, margin,
        r"With one average there are two roots. Their product is linear in $\lambda$, so up to the "
        r"threshold they are inside the unit disc if it is below 1 and above -1 at both ends: this margin is positive.",
        check,
    )  # fmt: skip


def published_steps(form: CanonicalForm) -> list[Step]:
    """Return the first-order form of the averages: time is that of the value used in the step (implicit Euler)."""
    steps = []
    for m, b, a in zip(form.states, form.b, form.a, strict=True):
        if b == 0:
            continue
        new = b * m + a * _s.g
        rate = increment(m, new)

        def check(before: sp.Expr, after: sp.Expr, m: sp.Symbol = m, new: sp.Expr = new) -> bool:
            for seed in range(SAMPLES):
                end = random_point(form.spec, seed)
                back = add(end.vector(m), scale(-1, end.vector(after)))
                if not agree(end.with_values({m: back}).vector(new), end.vector(m)):
                    return False
            return True

        steps.append(Step(
            Part.PUBLISHED.of(m.name), SECTION, "rewrite the increment in terms of the updated average",
            rf"\dot{{{latex_of(m)}}}",
            new - m, orient(rate),
            "The first-order (published) form of the averages, for comparison: implicit Euler with step 1 is the "
            "optimizer. The flows here use the symmetric form below, which is one order better.", check, CONVENTION,
        ))  # fmt: skip
    return steps


# Checks


def _canonical_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Apply the optimizer's own updates, in their order, and compare step and averages."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            start = random_point(form.spec, seed)
            end = averages_updated(form, start)
            for m, b, a in zip(form.states, form.b, form.a, strict=True):
                if not agree(start.vector(b * m + a * _s.g), end.vector(m)):
                    return False
            if not agree(end.vector(form.spec.weight_update), end.vector(after)):
                return False
        return True

    return check


def averages_updated(form: CanonicalForm, point: Point) -> Point:
    """Return the point after the optimizer's own update of its averages, slow states frozen.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> form = canonical_form(cs.optimizer("heavy_ball"))
    >>> point = random_point(form.spec, 0)
    >>> averages_updated(form, point)(form.states[0]) == point(symbols.beta1 * form.states[0] + symbols.g)
    True
    """
    new = {m: point.vector(form.spec.sequential_updates[m]) for m in form.states}
    old = {state_symbol(m.name + OLD, "filtered"): point.values[m] for m in form.states}
    return point.with_values({**new, **old})


def _transfer_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            z = draw(source(f"z-{seed}"), 1.5, 4)
            values = {}
            for m in form.states:  # m' = F(m'/z, g), F the optimizer's own update, affine
                zero, one = (
                    point.with_values({m: x}).vector(form.spec.sequential_updates[m])
                    for x in (scale(0, point.ones), point.ones)
                )
                values[m] = tuple(f0 / (1 - (f1 - f0) / z) for f0, f1 in zip(zero, one, strict=True))
            answer = point.with_values(values).vector(before)
            if not agree(answer, scale(point.with_values({_s.z: z})(after), point.vector(_s.g))):
                return False
        return True

    return check


def _characteristic_check(spec: OptimizerSpec, form: CanonicalForm, M: sp.Matrix) -> Callable[[sp.Expr, sp.Expr], bool]:
    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed, sample in enumerate(hyperparameter_samples(spec)):
            rng = source(f"characteristic-{seed}")
            values = {**sample, _s.z: draw(rng, 1.5, 4), _s.lam: draw(rng, 0, 4)}
            poles = sp.Mul(*(_s.z - b for b in form.b))
            left = before.subs(values) * (-1) ** M.rows
            if not is_zero(left - (after * poles).subs(values)):
                return False
        return True

    return check


def _polynomial(form: CanonicalForm, sample: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Return det(z - M) at a sample of the hyperparameters, a polynomial in MU and lambda."""
    return filter_map(form).xreplace(dict(sample)).charpoly(MU).as_expr()


def _threshold_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Take the optimizer's own step on the quadratic with H = c P from the phase-space direction: all signs flip."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            w, c = point.vector(_s.w), point(after)
            gradient = tuple(c * p * x for p, x in zip(point.vector(form.P), w, strict=True))
            averages = {m: scale(-point(f), gradient) for m, f in form.alternating.items()}
            end = averages_updated(form, point.with_values({_s.g: gradient, **averages}))
            moved = add(w, end.vector(form.spec.weight_update))
            flipped = [add(moved, w), *(add(end.values[m], before_it) for m, before_it in averages.items())]
            if not all(is_zero(x) for vector in flipped for x in vector):
                return False
        return True

    return check


def _direction_check(form: CanonicalForm, c: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    """The vector (1, amplitudes) must be in the null space of M(c) + I."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        M = filter_map(form)
        for sample in hyperparameter_samples(form.spec):
            at = {**sample, _s.lam: c.xreplace(sample), SCALAR_P: sp.Rational(7, 3)}
            vector = [sp.Integer(1)] + [
                (-f * c * SCALAR_P).xreplace(sample).xreplace(at) for f in form.alternating.values()
            ]
            stated = after.xreplace(sample)
            row = [m for m, f in form.alternating.items() if (-f * _s.c * SCALAR_P).xreplace(sample) == stated]
            image = (M.xreplace(at) + sp.eye(M.rows)) * sp.Matrix(vector)
            if not row or not all(is_zero(x) for x in image):
                return False
        return True

    return check


def _gain_check(form: CanonicalForm, c: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Compare with the root itself a little beyond the edge."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for sample in hyperparameter_samples(form.spec):
            excess = sp.Rational(1, 10**20)
            lam = c.xreplace(sample) * (1 + excess)
            p = sp.Poly(_polynomial(form, sample).subs(_s.lam, lam), MU)
            root = min(p.nroots(n=60, maxsteps=500), key=lambda z: abs(z + 1))
            slope = sp.log(abs(root)) / excess
            stated = sp.N(after.xreplace(sample), 30)
            if not abs(slope - stated) < sp.Float("1e-12") * (1 + abs(stated)):
                return False
        return True

    return check

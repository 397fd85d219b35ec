"""What the expansion of the gradient leaves out: its exact remainder, a bound with a constant, the edge's shift."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import (
    STEP,
    LocalModel,
    Vector,
    add,
    agree,
    is_zero,
    random_model,
    random_point,
    scale,
    two_point_average,
)
from cflow_sym.derivation.result import Part
from cflow_sym.notation import symbols
from cflow_sym.theory.averaging import displaced_gradient
from cflow_sym.theory.canonical_form import CanonicalForm
from cflow_sym.theory.expansion import CASES, DROPPED, displacements
from cflow_sym.theory.momentum import averages_updated

_s = symbols
ONES = (sp.Integer(1),) * 2


def exact_remainder_steps() -> list[Step]:
    """Return the remainder of the averaged gradient as an integral, and its bound; no order of smallness in them.

    >>> exact_remainder_steps()[1].after
    D4_sup*delta_norm**4/24
    """
    s = _s.path_place
    integral = sp.Integral((1 - s) ** 3 / 12 * (_s.D4_ahead + _s.D4_behind), (s, 0, 1))
    bound = sp.integrate((1 - s) ** 3 / 12, (s, 0, 1)) * 2 * _s.D4_sup * _s.delta_norm**4

    def check_integral(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES[:2]:
            model, delta = random_model(seed, ONES, degree=6), displacements(seed, 2)[0]
            for i, left in enumerate(_left_out(model, delta)):
                ahead, behind = (fourth_derivative(model, scale(sign, delta), i) for sign in (1, -1))
                if not agree(after.xreplace({_s.D4_ahead: ahead, _s.D4_behind: behind}).doit(), left):
                    return False
        return True

    def check_bound(before: sp.Expr, after: sp.Expr) -> bool:
        # in one dimension: no larger for any loss, and reached where the fourth derivative of g is constant
        for degree in (5, 7):
            model, delta = random_model(5, ONES[:1], degree=degree), (sp.Rational(2, 3),)
            ways = [fourth_derivative(model, scale(sign, delta), 0) / delta[0] ** 4 for sign in (1, -1)]
            turns = [(way, place) for way in ways for place in (0, 1, *sp.solve(way.diff(s), s))]  # quadratic in s
            largest = max(abs(way.subs(s, place)) for way, place in turns if 0 <= place <= 1)
            stated = after.xreplace({_s.D4_sup: largest, _s.delta_norm: delta[0]})
            size = abs(_left_out(model, delta)[0])
            if not (agree(size, stated) if degree == 5 else size <= stated):
                return False
        return True

    return [
        Step(
            Part.THEOREM.named("remainder_integral"), DROPPED, "Taylor's theorem with its integral",
            r"E[\nabla L]-g-\tfrac12T[\Sigma]", (_s.D4_ahead + _s.D4_behind) / 2, integral,
            r"For a displacement $\pm\delta$ of any size: the half-sum of both gradients is an even function of the "
            r"amplitude, so its second-order expansion leaves an integral over its fourth derivative.", check_integral,
            "The loss has five continuous derivatives.",
        ),
        Step(
            Part.THEOREM.named("remainder_bound"), DROPPED, "bound the integral",
            r"\|E[\nabla L]-g-\tfrac12T[\Sigma]\|\le", integral, bound,
            r"The weight under the integral adds up to $\tfrac1{24}$ over both sides. The supremum is over the way "
            r"between $w-\delta$ and $w+\delta$.", check_bound,
        ),
    ]  # fmt: skip


def fourth_derivative(model: LocalModel, delta: Vector, i: int) -> sp.Expr:
    """Return the i-th entry of D^4 g(w + s delta)[delta^4] as a polynomial in the place s."""
    return sp.expand(model.gradient(scale(_s.path_place, delta))[i]).diff(_s.path_place, 4)


def _left_out(model: LocalModel, delta: Vector) -> Vector:
    """Return the averaged gradient less its second-order expansion, by brute force."""
    kept = add(model.gradient((0,) * model.dimension), scale(sp.Rational(1, 2), model.derivative(delta, delta)))
    return add(two_point_average(model, [delta], lambda g: g), scale(-1, kept))


def edge_shift_step(form: CanonicalForm) -> Step:
    """Return the remainder of second power: the odd part of the gradient moves the curvature that keeps period two.

    >>> import cflow_sym as cs
    >>> cs.derive("gradient_descent").remainders["edge"]
    -quartic_along_u*sigma_squared/6
    """
    odd = sp.Add(*(displaced_gradient().coeff(_s.x, k) for k in (1, 3)))  # x is a sign
    moved = -_s.sigma_squared * (odd - _s.D1).xreplace({_s.D3: _s.quartic_along_u})

    return Step(
        Part.REMAINDER.named("edge"), DROPPED, "keep the odd part of the gradient", r"S-c\,u^\top Pu", odd, moved,
        r"The oscillation $\pm\sigma u$ keeps its size where the *odd* part of the gradient is $cP$ times it. Along "
        r"$u$ that part is $\sigma S+\sigma^3D^4L[u^4]/6$, so that the curvature at rest is not the threshold itself. "
        "Of second power in the amplitude, as the terms kept: the flow holds the eigenvalue at the threshold, the "
        "optimizer holds it this much beside it.", _edge_check(form), "One critical eigenvalue.",
    )  # fmt: skip


def _edge_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Let the optimizer itself step from +-x on S w^2/2 + q w^4/24, and from both sides of random losses."""
    x, q = sp.Rational(1, 5), sp.Rational(3, 7)

    def rests(after: sp.Expr) -> bool:
        for seed in range(2):
            point = random_point(form.spec, seed)
            c = point((2 - form.decay) / form.transfer(sp.Integer(-1)))
            shift = after.xreplace({_s.sigma_squared: x**2, _s.quartic_along_u: q})
            slope = tuple((c * p + shift) * x + q * x**3 / 6 for p in point.vector(form.P))
            averages = {m: scale(-point(f), slope) for m, f in form.alternating.items()}
            start = point.with_values({_s.w: scale(x, point.ones), _s.g: slope, **averages})
            end = averages_updated(form, start)
            flipped = add(scale(2 * x, point.ones), end.vector(form.spec.weight_update))
            if not is_zero(flipped):
                return False
        return True

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            model = random_model(seed, ONES)
            u = model.directions[0]
            ends = [model.gradient(scale(sign * STEP, u)) for sign in (1, -1)]
            odd = sp.Add(*(a * (b - c) for a, b, c in zip(u, *ends, strict=True))) / (2 * STEP)
            S, D4 = (_along(u, model.derivative(*(u,) * k)) for k in (1, 3))
            stated = after.xreplace({_s.sigma_squared: STEP**2, _s.quartic_along_u: D4})
            if not agree((odd - S) / STEP**2, -stated / STEP**2):
                return False
        return rests(after)

    return check


def _along(u: Vector, vector: Vector) -> sp.Expr:
    return sp.Add(*(a * b for a, b in zip(u, vector, strict=True)))

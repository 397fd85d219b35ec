"""Expansions of the gradient and of functions of it around the averaged weights, with their remainders.

Published order: E[f(grad)] = f(g) + <d^2 f, H Sigma H> / 2. Consistent order adds <d f, T[Sigma]> / 2, which
is of the same power of the amplitude; the published flow drops it, and so it is a named remainder here.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import (
    STEP,
    LocalModel,
    Point,
    Vector,
    add,
    agree,
    draw_vector,
    mean,
    moments,
    on_average,
    random_model,
    scale,
    source,
    two_point_average,
)
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import Frozen, contract, latex_of, orient, symbols
from cflow_sym.theory.averaging import displaced_gradient, name_moments, orders_of_average

_s = symbols
CF = "arXiv:2410.24206"
PERIOD_TWO = (
    r"The oscillation has period two, $\delta$ and $-\delta$ in neighbouring steps; its sizes along the critical "
    r"directions change slowly, and $E[\cdot]$ is the mean over these slow cycles, too: odd moments vanish, and "
    r"$\Sigma=E[\delta\delta^\top]$ may have any rank."
)
SECTION, DROPPED = "Averages over the oscillation", "What the flow drops"
CASES = (1, 2, 3)


def expand(f: sp.Expr, order: str) -> sp.Expr:
    """Return E[f(gradient)] to second order in the amplitude, linear in the moments of the oscillation.

    >>> expand(symbols.g**2, "consistent")
    g**2 + 2*g*gradient_shift + gradient_variance
    """
    value, second, _ = orders_of_average(f)
    variance, shift = name_moments(second)
    return with_signs_of_averages(value + variance + (shift if order == "consistent" else 0))


def with_signs_of_averages(expr: sp.Expr) -> sp.Expr:
    """Take signs that stay over a period of what is averaged over it: that of nu - g^2 is that of nu - E[g^2].

    >>> with_signs_of_averages(Frozen(symbols.nu - symbols.g**2))
    Frozen(-g**2 - gradient_variance + nu)
    """
    averaged = {}
    for sign in expr.atoms(Frozen):
        value, second, _ = orders_of_average(sign.args[0])
        averaged[sign] = Frozen(contract(value + name_moments(second)[0]))
    return expr.xreplace(averaged)


def hold_signs(expr: sp.Expr) -> sp.Expr:
    """Give the variance in signs a name of its own, as they stay what they are when the variance is solved for.

    >>> hold_signs(Frozen(symbols.nu - symbols.gradient_variance) * symbols.gradient_variance)
    gradient_variance*Frozen(-held_variance + nu)
    """
    held = {_s.gradient_variance: _s.held_variance}
    return expr.xreplace({sign: sign.xreplace(held) for sign in expr.atoms(Frozen)})


def displacements(seed: int, dimension: int) -> list[tuple]:
    """Draw two displacements, so that the covariance has rank two."""
    rng = source(f"delta-{seed}")
    return [draw_vector(rng, dimension) for _ in range(2)]


def _derivatives(model, delta) -> dict:
    return {d: model.derivative(*(delta,) * k) for k, d in enumerate((_s.D1, _s.D2, _s.D3, _s.D4), start=1)}


def averages_as_stated(f: sp.Expr, point: Point, before: sp.Expr, after: sp.Expr, order: str, seed: int) -> bool:
    """Compare `after` with brute-force averages on a random loss; published order is exact on quadratics."""
    model = random_model(seed, point.ones, degree=2 if order == "published" else 5, gradient=point.vector(_s.g))
    deltas = displacements(seed, point.dimension)
    zero = dict.fromkeys((_s.gradient_shift, _s.gradient_variance), scale(0, point.ones))
    brute = second_order_of(f, point, model, deltas)
    full, bare = point.with_values(moments(model, deltas))(after), point.with_values(zero)(after)
    stated = add(full, scale(-1, bare)) if isinstance(full, tuple) else full - bare
    return agree(bare, on_average(point)(f)) and agree(brute, stated)


def second_order_of(f: sp.Expr, point: Point, model: LocalModel, deltas: list[Vector]) -> Any:
    """Return the coefficient of the squared amplitude in E[f]; g_mean is E[grad L], at rest the gradient itself."""
    averaged, still = with_mean(point, model, deltas), on_average(point)(f)
    moved = two_point_average(
        model, [scale(STEP, d) for d in deltas], lambda g: averaged.with_values({_s.g: g})(f)
    )  # fmt: skip
    change = add(moved, scale(-1, still)) if isinstance(still, tuple) else moved - still
    return scale(1 / STEP**2, change) if isinstance(change, tuple) else change / STEP**2


def with_mean(point: Point, model: LocalModel, deltas: list[Vector], size: sp.Expr = STEP) -> Point:
    """Return the point with the averaged gradient of displacements that are scaled down to a size."""
    return point.with_values({_s.g_mean: two_point_average(model, [scale(size, d) for d in deltas], lambda g: g)})


def gradient_steps() -> list[Step]:
    """Return the steps that expand and average the gradient, its square and the loss."""

    def check_taylor(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            model = random_model(seed, (sp.Integer(1),) * 2)
            for sign, delta in zip((1, -1), displacements(seed, 2), strict=True):
                values = {_s.g: model.gradient((0, 0)), _s.x: sp.Integer(sign), **_derivatives(model, delta)}
                if before != _s.g or not agree(Point(values, 2).vector(after), model.gradient(scale(sign, delta))):
                    return False
        return True

    def check_average(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            model, deltas = random_model(seed, (sp.Integer(1),) * 2), displacements(seed, 2)
            fourth = mean([model.derivative(*(delta,) * 4) for delta in deltas])
            values = {_s.g: model.gradient((0, 0)), _s.D4: fourth, **moments(model, deltas)}
            if not agree(Point(values, 2).vector(after), two_point_average(model, deltas, lambda g: g)):
                return False
        return True

    def check_remainder(before: sp.Expr, after: sp.Expr) -> bool:
        model, delta = random_model(4, (sp.Integer(1),) * 2), displacements(4, 2)[0]
        brute = two_point_average(model, [delta], lambda g: g)
        stated = add(model.gradient((0, 0)), scale(sp.Rational(1, 2), model.derivative(delta, delta)))
        return agree(Point(_derivatives(model, delta), 2).vector(after), add(brute, scale(-1, stated)))

    taylor = displaced_gradient()
    averaged = _s.g + _s.gradient_shift + _s.D4 / 24
    return [
        Step(
            Result("expansion"), SECTION, "displace", r"\nabla L(w+x\delta)", _s.g, taylor,
            r"Write each iterate as the averaged weights plus a displacement whose sign $x$ changes at every "
            "step, and "
            "expand the gradient; the fifth and higher derivatives of the gradient are not written.",
            check_taylor, "The loss is smooth, and the displacement is small enough for its "
                          "expansion.", f"{CF}, part I",
        ),
        Step(
            Result("averaged_gradient"), SECTION, "average the gradient", r"E[\nabla L]", taylor, averaged,
            "Odd powers cancel between the two points. What is left of second order is half the third "
            "derivative "
            "contracted with the covariance of the oscillation: it pushes towards lower curvature.",
            check_average, PERIOD_TWO, f"{CF}, part I; arXiv:2209.15594",
        ),
        Step(
            Part.REMAINDER.named("averaged_gradient"), SECTION, "keep the remainder",
            r"E[\nabla L]-g-\tfrac12T[\Sigma]", averaged - _s.g - _s.gradient_shift, _s.D4 / 24,
            "The first term that the flow drops, of fourth power in the amplitude.", check_remainder,
        ),
    ]  # fmt: skip


def squared_gradient_step(order: str) -> Step:
    """Return the step for the averaged squared gradient, per coordinate."""
    point = Point({_s.g: (sp.Rational(3, 2), sp.Rational(-5, 7))}, 2)

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        return all(averages_as_stated(_s.g**2, point, before, after, order, seed) for seed in CASES)

    return Step(
        Result("averaged_squared_gradient"), SECTION, "average a function of the gradient", r"E[\nabla L^{\odot2}]",
        displaced_gradient(2) ** 2, expand(_s.g**2, order),
        "The square is not averaged by squaring the averaged gradient: the oscillation itself has a squared "
        r"gradient, $\mathrm{diag}(H\Sigma H)$. Summed over the coordinates this is the "
        "averaged squared gradient norm.",
        check, "" if order == "consistent" else r"The cross term $g\,T[\Sigma]$ of the same power is dropped "
                                                "(published order).",
        f"{CF}, parts II and III",
    )  # fmt: skip


def remainder_steps(name: str, f: sp.Expr, point_of, order: str) -> list[Step]:
    """Return the dropped terms of E[f(gradient)], f the rate of a state: cross term and fourth order."""
    _, second, fourth = orders_of_average(f)
    cross = sp.expand(name_moments(second)[1])
    steps: list[Step] = []

    def check_cross(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            point: Point = point_of(seed)
            deltas = displacements(seed, point.dimension)
            cubic, flat = (random_model(seed, point.ones, degree=d, gradient=point.vector(_s.g)) for d in (5, 2))
            both = [second_order_of(f, point, m, deltas) for m in (cubic, flat)]
            difference = add(both[0], scale(-1, both[1])) if isinstance(both[0], tuple) else both[0] - both[1]
            if not agree(difference, point.with_values(moments(cubic, deltas))(after)):
                return False
        return True

    def check_fourth(before: sp.Expr, after: sp.Expr) -> bool:
        point: Point = point_of(4)
        delta = displacements(4, point.dimension)[0]
        model = random_model(4, point.ones, gradient=point.vector(_s.g))

        def average(amplitude: sp.Expr) -> tuple:
            averaged = with_mean(point, model, [delta], amplitude)
            return two_point_average(
                model, [scale(amplitude, delta)], lambda g: averaged.with_values({_s.g: g}).vector(f)
            )  # fmt: skip

        # fourth difference in the amplitude: the coefficient of amplitude**4, up to O(STEP**2)
        brute = add(average(2 * STEP), scale(-4, average(STEP)), scale(3, average(sp.Integer(0))))
        stated = point.with_values(_derivatives(model, delta)).vector(after)
        return agree(scale(1 / (12 * STEP**4), brute), stated)

    if cross != 0 and order == "published":
        steps.append(Step(
            Part.REMAINDER.of(name, "cross"), DROPPED, "keep the remainder",
            rf"\text{{dropped from }}\dot{{{latex_of(name)}}}",
            contract(second.xreplace({_s.D1: sp.Integer(0)})), orient(in_factors(cross)),
            "The cross term: of the same power of the amplitude as the terms kept, dropped in the published "
            "flow and "
            "kept with order=\"consistent\".", check_cross,
        ))  # fmt: skip
    if fourth != 0:
        steps.append(Step(
            Part.REMAINDER.of(name, "fourth_order"), DROPPED, "keep the remainder",
            rf"\text{{dropped from }}\dot{{{latex_of(name)}}}", fourth, orient(in_factors(fourth)),
            "What is of fourth power in the amplitude, for one displacement; a quarter of the square "
            r"of $D^2g[\delta^2]$ is the square of the shift of the averaged gradient.", check_fourth,
        ))  # fmt: skip
    return steps

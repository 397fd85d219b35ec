"""What the central flow says of time averages, and what the alternating part of the states would add."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Check, Step
from cflow_sym.derivation.exact import STEP, Point, add, agree, is_zero, random_model, scale, second_order
from cflow_sym.derivation.result import Part
from cflow_sym.notation import Total, contract, debias, expand_names, is_elementwise, latex_of, orient, rebias, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.canonical_form import CanonicalForm
from cflow_sym.theory.central_flow import CF, CRITICAL, edge_point
from cflow_sym.theory.expansion import CASES, DROPPED, displacements

_s = symbols
FACTORED = 300  # operations: longer expressions are left as they are
SECTION = "Predictions"


def prediction_steps(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, squared_gradient: sp.Expr) -> list[Step]:
    """Return the averaged loss and the averaged squared gradient norm."""
    averaged_loss = _s.loss + _s.curvature_of_oscillation / 2
    at_edge = _s.loss + c * _s.trace_X / 2
    Hu = _s.Hu if is_elementwise(P) else _s.S * _s.u
    moments = {
        _s.gradient_variance: _s.sigma_squared * Hu**2,
        _s.gradient_shift: _s.sigma_squared * _s.grad_S / 2,
    }
    norm = contract(Total(squared_gradient.xreplace(moments)))
    # on a quadratic the published order is exact; the consistent one on any loss, to second power of the amplitude
    degrees = (2, 4) if squared_gradient.has(_s.gradient_shift) else (2,)

    def check_loss(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            model = random_model(seed, (sp.Integer(1),) * 2, degree=3)  # odd terms average out: exact up to cubics
            deltas = displacements(seed, 2)
            brute = sp.Add(*(model.loss(scale(a, d)) for d in deltas for a in (1, -1))) / 4
            H = model.hessian((0, 0))
            curvature = sp.Add(*((sp.Matrix(d).T * H * sp.Matrix(d))[0] for d in deltas)) / 2
            values = {_s.loss: model.value, _s.curvature_of_oscillation: curvature}
            if not agree(Point(values, 2)(after), brute):
                return False
        return True

    def check_edge(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            point, model = edge_point(spec, P, c, seed, degree=3)
            amplitude, u = point.values[_s.sigma_squared], point.values[_s.u]
            metric = sp.Add(*(p * a * a for p, a in zip(point.vector(P), u, strict=True)))
            delta = scale(sp.sqrt(amplitude), u)
            brute = (model.loss(delta) + model.loss(scale(-1, delta))) / 2
            stated = point.with_values({_s.loss: model.value, _s.trace_X: amplitude * metric})
            if not agree(stated(after), brute):
                return False
        return True

    def check_norm(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in CASES:
            for degree in degrees:
                point, model = edge_point(spec, P, c, seed, degree=degree)
                delta = scale(sp.sqrt(point.values[_s.sigma_squared]), point.values[_s.u])
                still = sp.Add(*(a * a for a in point.vector(_s.g)))
                brute = still + second_order(model, [delta], lambda g: sp.Add(*(a * a for a in g)))
                if not agree(point(after), brute):
                    return False
        return True

    return [
        Step(Part.PREDICTED.named("loss"), SECTION, "average the loss", "E[L]", _s.loss, averaged_loss,
             "The loss at the oscillating weights lies above the loss at their average by half the "
             "curvature that the "
             "oscillation feels.", check_loss, "", f"{CF}, part I"),
        Step(Part.PREDICTED.named("loss_at_edge"), SECTION, "insert the edge", "E[L]", averaged_loss, at_edge,
             r"With $HU=cPU$ and $U^\top PU=I$ the contraction of $\Sigma=UXU^\top$ with $H$ is "
             r"$c\,\mathrm{tr}X$. Off the edge use the contraction.", check_edge, CRITICAL, "derived"),
        Step(Part.PREDICTED.named("grad_sq_norm"), SECTION, "sum over the coordinates", r"E[\|\nabla L\|^2]",
             contract(Total(squared_gradient)), norm,
             "For one critical eigenvalue.", check_norm, CRITICAL, f"{CF}, part II"),
    ]  # fmt: skip


def alternating_part(
    state: sp.Symbol, new: sp.Expr, kick: sp.Expr, others: Mapping[sp.Symbol, sp.Expr] | None = None
) -> sp.Expr:
    """Return the part of a state that changes sign at every step, in phase with a gradient `kick`.

    It solves B = -F_s B + F_g[kick]: (1 - beta) / (1 + beta) times that of the squared gradient for an
    average. `others` holds those of the states whose old values the update reads: the opposite before it.

    >>> s = symbols
    >>> alternating_part(s.nu, s.beta2 * s.nu + (1 - s.beta2) * s.grad_sq_norm, s.u)
    2*grad_dot_u*(1 - beta2)/(beta2 + 1)
    """
    amplitude = sp.Symbol("amplitude", real=True)
    path = expand_names(new).xreplace(
        {_s.g: _s.g + amplitude * kick} | {s: s - amplitude * B for s, B in (others or {}).items()}
    )
    response = contract(path.diff(amplitude).subs(amplitude, 0).doit())
    return sp.Mul(response, 1 / (1 + new.diff(state)))


def alternating_steps(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, form: CanonicalForm) -> list[Step]:
    """Return what the alternating part of each state adds to the mean step: two named remainders a state.

    `spec`, `P` and `c` are those of the flow over the weights alone; with momentum the step alternates by the share
    G(-1)/G(1) of what it would without.
    """
    kick = _s.Hu if is_elementwise(P) else _s.S * _s.u
    share = form.late.transfer(sp.Integer(-1)) / form.late.speed if form.states else sp.Integer(1)
    steps: list[Step] = []
    parts: dict[sp.Symbol, sp.Expr] = {}
    for state, new in spec.state_updates.items():
        if state == _s.t:
            continue
        B = parts[state] = alternating_part(state, new, kick, dict(parts)).xreplace({_s.g_mean: _s.g})
        if not P.has(state) or sp.expand(B) == 0:
            continue
        cross = -(1 / P).diff(state) * B * share * kick * _s.sigma_squared
        square = -(1 / P).diff(state, 2) * B**2 * _s.g * _s.sigma_squared / 2
        for key, expr, kind, why in (
            ("alternating", cross, "cross",
             "In phase with the gradient the state alternates, too; the product of the two has a mean, which "
             "weakens the step along the critical direction; small when the average is long."
             + (" What alternates of the step is the filter's answer at the edge." if form.states else "")),
            ("alternating_squared", square, "square",
             "The square of the alternating part meets the curvature of $1/P$; smaller again by the share of "
             "the alternating part."),
        ):  # fmt: skip
            steps.append(Step(
                Part.REMAINDER.of(state.name, key), DROPPED, "keep the remainder", r"\text{dropped from }\dot w",
                spec.weight_update, _tidy(expr), why + f" Dropped: the flow's ${latex_of(state)}$ does not "
                                                       f"alternate.",
                _alternating_check(spec, P, c, state, kind, form),
            ))  # fmt: skip
    return steps


def _tidy(expr: sp.Expr) -> sp.Expr:
    """Return the expression in factors, or as it is where factoring could take minutes."""
    plain = debias(contract(expr))
    whole = sp.expand(plain) if plain.count_ops() <= FACTORED else plain
    return orient(rebias(in_factors(whole) if whole.count_ops() <= FACTORED else plain))


def _alternating_check(
    spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, state: sp.Symbol, kind: str, form: CanonicalForm
) -> Check:
    """Solve for the state's period-two part with the optimizer's own update, then average its own step."""
    late = form.late
    updates = late.slow if form.states else spec.state_updates
    step = -late.direction / late.P if form.states else spec.weight_update

    def filtered(point: Point, sign: int, kick: tuple) -> Point:
        """Return the point with gradient and updated averages of an oscillation that has always been there."""
        steady = {m: scale(point(s), point.vector(_s.g)) for m, s in form.steady.items()}
        turned = {m: scale(sign * point(f), kick) for m, f in form.alternating.items()}
        averages = {m: add(steady[m], turned[m]) for m in form.states}
        return point.with_values({_s.g: add(point.vector(_s.g), scale(sign, kick)), **averages})

    def half(point: Point, moving: dict[sp.Symbol, tuple], s: sp.Symbol, kick: tuple) -> tuple:
        ends = []
        for sign in (1, -1):
            here = {}
            for x, b in moving.items():
                before = add(point.vector(x), scale(-sign, b))
                here[x] = before if isinstance(point.values[x], tuple) else before[0]
            ends.append(filtered(point, sign, kick).with_values(here).vector(updates[s]))
        return scale(sp.Rational(1, 2), add(ends[0], scale(-1, ends[1])))

    def alternating(point: Point, kick: tuple) -> tuple:
        """Return the state's alternating part: that of each state in order, by a secant on half(b) = b."""
        moving: dict[sp.Symbol, tuple] = {}
        for s in spec.state_updates:
            moving[s] = (sp.Integer(0),) * point.dimension
            first = half(point, moving, s, kick)
            second = half(point, moving | {s: first}, s, kick)
            moving[s] = tuple(
                f * f / (2 * f - g) if 2 * f - g != 0 else sp.Integer(0) for f, g in zip(first, second, strict=True)
            )
            if s == state:
                break
        return moving[state]

    def mean_step(point: Point, b: tuple, kick: tuple, relative: tuple[int, ...]) -> tuple:
        moved = []
        for sign in (1, -1):
            for turn in relative:
                value = add(point.vector(state), scale(sign * turn, b))
                inserted = value if isinstance(point.values[state], tuple) else value[0]
                moved.append(filtered(point, sign, kick).with_values({state: inserted}).vector(step))
        return scale(sp.Rational(1, len(moved)), add(*moved))

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point, _ = edge_point(spec, P, c, seed)
            kick = scale(STEP, point.values[_s.Hu])
            b = alternating(point, kick)
            in_phase, mixed = (mean_step(point, b, kick, r) for r in ((1,), (1, -1)))
            still = filtered(point, 0, kick).vector(step)
            brute = add(in_phase, scale(-1, mixed)) if kind == "cross" else add(mixed, scale(-1, still))
            stated = point.with_values({_s.sigma_squared: sp.Integer(1)}).vector(after)
            if not all(is_zero(x / STEP**2 - y, 1 + abs(y)) for x, y in zip(brute, stated, strict=True)):
                return False
        return True

    return check

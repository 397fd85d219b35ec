"""The centre flow, of second order in the step, and its leapfrog: at step 1 it is the optimizer on averaged gradients.

Averages and slow states live half a step away from the weights, so their increment belongs to the *mean* of old and
new value: an average with decay b relaxes at the rate 2 (1 - b) / (1 + b), its inverse tau is its memory. The
trapezoidal rule for these rates, with any time step dt, gives the leapfrog. Without momentum the filter is a single
average with b = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import Point, add, agree, draw, is_zero, on_average, random_point, scale, source
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import Coordinate, contract, latex_names, latex_of, orient, symbols
from cflow_sym.theory import expansion
from cflow_sym.theory.canonical_form import CanonicalForm, in_updated_averages, shorter
from cflow_sym.theory.momentum import SAMPLES, hyperparameter_samples

_s = symbols
SECTION = "The centre flow and its leapfrog"
MEAN = (
    "Second-order (symmetric) convention: states live half a step away from the weights, time is that of the averaged "
    "path."
)
SMALL = sp.Rational(1, 10**12)


def leap(x: sp.Symbol, new: sp.Expr) -> sp.Expr:
    """Return the rate of one leapfrog step of length dt: x + dt times it solves the trapezoidal rule exactly.

    >>> s = symbols
    >>> leap(s.nu, s.nu + s.grad_sq_norm)
    grad_sq_norm
    """
    keep = _kept(x, new)
    return _increment(x, new, keep) * rate_of_leap(keep)


def rate_of_leap(keep: sp.Expr) -> sp.Expr:
    """Return the factor on an increment in a leapfrog step of length dt, where `keep` is left of the old value.

    >>> rate_of_leap(sp.Integer(0)), rate_of_leap(sp.Integer(1))
    (2/(dt + 1), 1)
    """
    return 2 / (1 + keep + (1 - keep) * _s.dt)


def memory_left(keep: sp.Expr) -> sp.Expr:
    """Return (tau - 1/2) / (tau - dt/2) for an average with decay `keep`: what of a deviation is left at step dt.

    >>> memory_left(sp.Integer(0)), memory_left(sp.Integer(1))
    (0, 1)
    """
    return 2 * keep / (1 + keep - (1 - keep) * _s.dt) if keep != 1 else sp.Integer(1)


def _kept(x: sp.Symbol, new: sp.Expr) -> sp.Expr:
    """Return the share of the old value in the new one; 1 where the update is not affine (explicit there)."""
    keep = new.diff(x)
    return sp.Integer(1) if keep.atoms(Coordinate) or keep.has(x, _s.g, _s.grad_sq_norm) else in_factors(keep)


def _increment(x: sp.Symbol, new: sp.Expr, keep: sp.Expr) -> sp.Expr:
    """Return new - x, written (1 - keep) (drive - x) where it is an average."""
    if keep == 1:
        return contract(sp.expand(new - x))
    driven = [sp.cancel(term / (1 - keep)) for term in sp.Add.make_args(new.xreplace({x: sp.Integer(0)}))]
    if any(sp.fraction(term)[1] != 1 for term in driven):
        return new.xreplace({x: sp.Integer(0)}) - (1 - keep) * x
    terms = [term / (1 - keep) for term in sp.Add.make_args(new.xreplace({x: sp.Integer(0)}))]
    return (1 - keep) * (sp.Add(*terms) - x)


def relaxation_time(b: sp.Expr) -> sp.Expr:
    """Return tau = (1 + b) / (2 (1 - b)).

    >>> relaxation_time(symbols.beta1)
    (beta1 + 1)/(2 - 2*beta1)
    """
    return (1 + b) / (2 * (1 - b))


def average_symbols(form: CanonicalForm) -> list[sp.Symbol]:
    """Return the symbols of the averages, normalized to g in the steady state; the last stands for r g itself."""
    return [Coordinate(f"mean_{name}", real=True) for name in _averaged(form)]


def _averaged(form: CanonicalForm) -> list[str]:
    """Return the names of what is averaged; the gradient itself, where it is in the step, is the last."""
    return [*(m.name for m in form.states), "g"][: len(form.averages)]


def leapfrog_steps(form: CanonicalForm, order: str) -> list[Step]:
    """Return the steps for the centre flow, its leapfrog, its start and the slow states' averages."""
    averages = average_symbols(form)
    weights = [weight for _, weight in form.averages]
    direction = sp.Add(*(q * m for q, m in zip(weights, averages, strict=True)))
    steps = []
    for name, m, (b, _) in zip(_averaged(form), averages, form.averages, strict=True):
        new = b * m + (1 - b) * _s.g_mean
        latex = latex_of(m)
        steps += [
            Step(
                Part.CENTRE.of(name, "mean"), SECTION, "rewrite the increment in terms of the mean",
                rf"\dot{{{latex}}}", new - m,
                (_s.g_mean - m) / relaxation_time(b),
                rf"${latex}$ is the average normalized to the gradient in the steady state" + (
                    r", and $\bar g=E[\nabla L]=g+\tfrac12T[\Sigma]$ what drives it. Its increment in terms of the "
                    r"mean of old and new value gives its memory $\tau$, the inverse of the rate, here "
                    rf"$\tau={sp.latex(relaxation_time(b), symbol_names=latex_names(b))}$ steps; it is at least half a "
                    "step." if b != 0 else
                    r", here without memory: what stands for the gradient itself in the step, with $\tau=\tfrac12$ as "
                    r"the step is taken half a step late. It is driven by $\bar g=E[\nabla L]=g+\tfrac12T[\Sigma]$."),
                _trapezoid_check(form, m, new), MEAN,
            ),
            Step(
                Part.LEAP.of(name, "mean"), SECTION, "trapezoidal rule",
                rf"({latex}_+-{latex})/\Delta t", new - m, leap(m, new),
                r"One step of length $\Delta t$; at $\Delta t=1$ the optimizer's own.",
                _leap_check(form, m, new), MEAN,
            ),
            Step(
                Part.MEMORY.of(name, "mean"), SECTION, "match the averages' total effect",
                r"\frac{\tau-1/2}{\tau-\Delta t/2}", b, memory_left(b),
                "A deviation from the steady state dies out geometrically; at step $\\Delta t$ this much of the "
                "optimizer's deviation has the same total effect on the weights. It starts the leapfrog, and gives "
                "slow states the averages that they read.", _memory_check(form, b),
            ),
        ]  # fmt: skip
    step = -direction / form.P - form.decay * _s.w
    slowed = 1 - form.decay
    steps += [
        Step(
            Part.CENTRE.of("w"), SECTION, "rewrite the increment in terms of the mean",
            r"\dot w", step, step * 2 / (1 + slowed),
            "The step follows the averages; decoupled decay acts on the mean of old and new weights.",
            lambda before, after: _trapezoid_check(form, _s.w, _s.w + step)(before, after)
            and _centre_check(form)(before, after), MEAN,
        ),
        Step(
            Part.LEAP.of("w"), SECTION, "trapezoidal rule", r"(w_+-w)/\Delta t", step, step * rate_of_leap(slowed),
            "With the updated averages and the updated preconditioner.", _leap_check(form, _s.w, _s.w + step), MEAN,
        ),
    ]  # fmt: skip
    push = shorter(
        rate_of_leap(slowed)
        * sp.Add(*(q * _s.dt * leap(m, b * m + (1 - b) * _s.g_mean).diff(_s.g_mean)
                   for m, (b, q) in zip(averages, form.averages, strict=True)))
    )  # fmt: skip
    steps.append(Step(
        Result("leap_push"), SECTION, "collect the coefficient of the averaged gradient",
        r"\partial(w_+-w)/\partial(-\Delta t\,P^{-1}E[\nabla L])", direction, push,
        "How far a change of the averaged gradient, such as the oscillation's shift, moves the weights within the same "
        "step. Where it is positive the complementarity problem of the step is monotone.", _push_check(form),
    ))  # fmt: skip
    for state, new in form.slow.items():
        if state != _s.t:
            steps += _slow_steps(form, state, new, order)
    return steps


def _slow_steps(form: CanonicalForm, state: sp.Symbol, new: sp.Expr, order: str) -> list[Step]:
    name, latex, keep = state.name, latex_of(state), _kept(state, new)
    seen = leap(state, form.seen(new))
    whole = contract(expansion.expand(sp.expand(form.seen(new) - state), order))
    zero = dict.fromkeys((_s.gradient_variance, _s.gradient_shift), sp.Integer(0))
    added = orient(in_factors(contract(sp.expand(whole - contract(whole.xreplace(zero))))))
    averaged = rate_of_leap(keep) * (_increment(state, new, keep) + added)
    start = _increment(state, new, keep) * (1 - _s.dt) / (1 + keep - (1 - keep) * _s.dt)

    def check_average(before: sp.Expr, after: sp.Expr) -> bool:
        points = [on_average(_point(form, seed)) for seed in expansion.CASES]
        return all(_alternates(form, point, leap(state, new), before) for point in points) and all(
            expansion.averages_as_stated(seen, point, before, after, order, seed)
            for seed, point in zip(expansion.CASES, points, strict=True)
        )

    def check_start(before: sp.Expr, after: sp.Expr) -> bool:
        # with the drive held, the sum of all later deviations is that of the optimizer's own states
        for seed in range(3):
            point = _point(form, seed)
            h, small = point.values[_s.dt], point(keep)
            whole = point.with_values({_s.dt: sp.Integer(1)})
            if small != 0 and not is_zero(whole.vector(after)):  # at step 1 it starts where the optimizer stands
                return False
            if small == 1:  # a sum moves on a line
                if not agree(point.vector(after), scale((1 - h) / 2, point.vector(new - state))):
                    return False
                continue
            step = (1 + small - (1 - small) * h) / (1 + small + (1 - small) * h)
            rest = add(point.vector(state), scale(1 / (1 - small), point.vector(new - state)))
            deviation = add(point.vector(state), scale(-1, rest))
            begun = add(deviation, point.vector(after))
            total = scale(small / (1 - small), deviation)
            leaped = scale(step / (1 - step) * h, begun)
            if not all(is_zero(a - b, 1 + abs(a)) for a, b in zip(total, leaped, strict=True)):
                return False
        return True

    return [
        Step(
            Part.LEAP.of(name), SECTION, "trapezoidal rule", rf"({latex}_+-{latex})/\Delta t", new - state,
            leap(state, new), "The slow state, with the averages that it reads.", _leap_check(form, state, new), MEAN,
        ),
        Step(
            Part.LEAP_AVERAGE.of(name), SECTION, "average over the oscillation", rf"E[({latex}_+-{latex})/\Delta t]",
            seen, averaged,
            "Functions of the gradient are averaged to second order in the amplitude; averages of the gradient "
            "alternate with it by their share.", check_average,
        ),
        Step(
            Part.START.of(name), SECTION, "match the total effect of the deviation",
            rf"{latex}(t_0-\tfrac{{\Delta t}}2)-{latex}_{{\rm pre}}", new - state, start,
            "Where the leapfrog starts, from the state before its update: at step 1 there.", check_start,
        ),
    ]  # fmt: skip


# Checks


def _point(form: CanonicalForm, seed: int) -> Point:
    return random_point(form.spec, seed).with_values({_s.dt: draw(source(f"dt-{seed}"), 0, 1)})


def _with_averages(form: CanonicalForm, point: Point, label: str) -> Point:
    rng = source(label)
    return point.with_values({
        m: tuple(draw(rng) for _ in range(point.dimension)) for m in average_symbols(form)
    })  # fmt: skip


def _trapezoid_check(form: CanonicalForm, x: sp.Symbol, new: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    """At the mean of old and new value the rate must be the increment itself."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = _with_averages(form, _point(form, seed), f"centre-{seed}")
            old, updated = point.vector(x), point.vector(new)
            mean = scale(sp.Rational(1, 2), add(old, updated))
            if not agree(point.with_values({x: mean}).vector(after), add(updated, scale(-1, old))):
                return False
        return True

    return check


def _leap_check(form: CanonicalForm, x: sp.Symbol, new: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    """A step of length 1 is the optimizer's; one of length -dt undoes one of dt: symmetric, so of second order.

    Its limit for small dt is the rate of the differential equation: at the mean of old and new value the increment.
    """

    def value_of(point: Point, vector: tuple) -> object:
        return vector if isinstance(point.values[x], tuple) else vector[0]

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = _with_averages(form, _point(form, seed), f"leap-{seed}")
            h = point.values[_s.dt]
            whole = point.with_values({_s.dt: sp.Integer(1)})
            if not agree(add(point.vector(x), whole.vector(after)), point.vector(new)):
                return False
            if after.has(x) and _kept(x, new) == 1:
                continue  # not affine: explicit, of first order
            increment = add(point.vector(new), scale(-1, point.vector(x)))
            mean = value_of(point, add(point.vector(x), scale(sp.Rational(1, 2), increment)))
            if not agree(point.with_values({x: mean, _s.dt: sp.Integer(0)}).vector(after), increment):
                return False
            there = add(point.vector(x), scale(h, point.vector(after)))
            moved = point.with_values({x: value_of(point, there), _s.dt: -h})
            back = add(there, scale(-h, moved.vector(after)))
            if not all(is_zero(a - b, 1 + abs(b)) for a, b in zip(back, point.vector(x), strict=True)):
                return False
        return True

    return check


def _alternates(form: CanonicalForm, point: Point, rate: sp.Expr, seen: sp.Expr) -> bool:
    """Say whether `seen` is the rate with the averages that the optimizer's own updates give in a two-cycle.

    The gradient is displaced to either side, g_mean is in the middle; an average that stands at m in the middle answers
    with a deviation d = F(-d, kick), F its own update, which is affine.
    """
    zero, one = scale(0, point.ones), point.ones
    for sign in (1, -1):
        kick = scale(sp.Rational(sign, 3), point.vector(_s.g))
        there = point.with_values({_s.g: add(point.vector(_s.g), kick)})
        moved = {}
        for m in form.states:
            update = form.spec.sequential_updates[m]
            kept, fed = (point.with_values({m: x, _s.g: y}).vector(update) for x, y in ((one, zero), (zero, kick)))
            moved[m] = add(point.vector(m), tuple(f / (1 + k) for f, k in zip(fed, kept, strict=True)))
        if not agree(there.with_values(moved).vector(rate), there.vector(seen)):
            return False
    return True


def _memory_check(form: CanonicalForm, b: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Compare the sums of both geometric sequences of deviations."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed, sample in enumerate(hyperparameter_samples(form.spec)):
            h = draw(source(f"memory-{seed}"), 0, 1)
            keep, left = b.xreplace(sample), after.xreplace({**sample, _s.dt: h})
            step = (1 + keep - (1 - keep) * h) / (1 + keep + (1 - keep) * h)
            if not is_zero(keep / (1 - keep) - h * left * step / (1 - step)):
                return False
        return True

    return check


def _centre_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """On a quadratic of small curvature the flow's slow exponent is the logarithm of the optimizer's own root.

    Both are of the size of the curvature; they must agree up to its third power. Decoupled decay, which need not be
    small, is taken out of both; that it belongs to the mean of the weights is checked with the step itself.
    """
    step_alone = in_updated_averages(form.spec) + form.decay * _s.w

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        averages = average_symbols(form)
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            P, w = point.vector(form.P)[0], sp.Symbol("w_one")
            slowest = max(1 / (1 - point(b)) for b, _ in form.averages)  # the longest memory
            curvature = SMALL * P / (slowest * (1 + abs(point(form.speed))))
            here = {s: v[0] if isinstance(v, tuple) else v for s, v in point.values.items()}

            def at(expr: sp.Expr, values: dict, here: dict = here) -> sp.Expr:
                return expr.xreplace({**here, **values})

            alone = after.xreplace({_s.w: sp.Integer(0)}) * (2 - form.decay) / 2
            flow = [at(alone, {m: m for m in averages})]
            flow += [at((_s.g_mean - m) / relaxation_time(b), {_s.g_mean: curvature * w, m: m})
                     for m, (b, _) in zip(averages, form.averages, strict=True)]  # fmt: skip
            J = sp.Matrix([[f.diff(x) for x in (w, *averages)] for f in flow])
            step = [at(sp.expand(step_alone), {_s.w: w, _s.g: curvature * w, **{m: m for m in form.states}})]
            new = {m: at(form.spec.sequential_updates[m], {m: m, _s.g: curvature * w}) for m in form.states}
            maps = [w + step[0].xreplace(new), *new.values()]
            M = sp.Matrix([[f.diff(x) for x in (w, *form.states)] for f in maps])
            z = sp.Symbol("z_root")
            exponent = min(sp.Poly(J.charpoly(z).as_expr(), z).nroots(n=60, maxsteps=500), key=abs)
            root = min(sp.Poly(M.charpoly(z).as_expr(), z).nroots(n=60, maxsteps=500), key=lambda r: abs(r - 1))
            if not abs(sp.log(root) - exponent) < 10**4 * SMALL**3:
                return False
        return True

    return check


def _push_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Take the leapfrog step with two averaged gradients and compare the weights."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        averages = average_symbols(form)
        for seed in range(SAMPLES):
            point = _with_averages(form, _point(form, seed), f"push-{seed}")
            h, ends = point.values[_s.dt], []
            for gradient in (point.vector(_s.g), scale(2, point.vector(_s.g))):
                driven = point.with_values({_s.g_mean: gradient})
                moved = {
                    m: add(driven.vector(m), scale(h, driven.vector(leap(m, b * m + (1 - b) * _s.g_mean))))
                    for m, (b, _) in zip(averages, form.averages, strict=True)
                }
                step = (-before / form.P - form.decay * _s.w) * rate_of_leap(1 - form.decay)
                ends.append(scale(h, driven.with_values(moved).vector(step)))
            stated = tuple(-h * point(after) * g / P
                           for g, P in zip(point.vector(_s.g), point.vector(form.P), strict=True))  # fmt: skip
            difference = add(ends[1], scale(-1, ends[0]))
            if not all(is_zero(a - b, 1 + abs(b)) for a, b in zip(difference, stated, strict=True)):
                return False
        return True

    return check

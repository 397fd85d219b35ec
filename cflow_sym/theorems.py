"""What is proved of the results: each theorem is a step with its own check, asked for by name in the spec.

Theorems are stated for the bare optimizer in published order; with switches or options on they are left out.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import random
from collections.abc import Callable

import sympy as sp

from cflow_sym.central_flow import edge_point
from cflow_sym.derivation import Derivation, Step, StepError
from cflow_sym.exact import DIGITS, Vector, draw, is_zero
from cflow_sym.notation import Total, contract, symbols
from cflow_sym.stable_flow import name_rates, rate_names

_s = symbols
SECTION = "Theorems"
SAMPLES = 4


def theorem_steps(d: Derivation) -> list[Step]:
    """Return the theorems that the derivation's spec asks for."""
    if d.order != "published" or d.spec.active_switches or d.spec.active_options:
        return []
    return [step for name in d.spec.theorems for step in THEOREMS[name](d)]


def _dot(a: Vector, b: Vector) -> sp.Expr:
    return sp.Add(*(x * y for x, y in zip(a, b, strict=True)))


def descent(d: Derivation) -> list[Step]:
    """The loss falls along the central flow: dL/dt = -P |dw/dt|^2 for a constant scalar P."""
    flow, P, sigma = d.central_flow["w"], d.preconditioner, d.sigma_squared
    w_dot = sp.Symbol("w_dot_sq_norm", nonnegative=True)
    rate = contract(Total(sp.expand(_s.g * flow)))
    square = contract(Total(sp.expand(flow**2)))
    difference = sp.factor((rate + P * square).subs(_s.sigma_squared, sigma))
    if difference != 0:
        raise StepError(f"dL/dt + P |dw/dt|^2 = {difference}, expected 0")

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        # walk the loss itself along the flow, with the variance that the edge asks for
        for seed in range(SAMPLES):
            point, model = edge_point(d.spec, P, d.threshold, seed)
            point = point.with_values({_s.sigma_squared: point(sigma)})
            velocity = point.vector(flow)
            tau = sp.Symbol("tau")
            slope = model.loss([tau * v for v in velocity]).diff(tau).subs(tau, 0)
            speed = point.with_values({w_dot: _dot(velocity, velocity)})
            if not is_zero(slope - speed(after), 1 + abs(slope)) or not speed(after) <= 0:
                return False
        return True

    return [Step(
        "theorem_descent", SECTION, "prove", r"\dot L=\langle g,\dot w\rangle", rate, -P * w_dot,
        r"Insert the variance of the edge: the loss falls at the rate $\|\dot w\|^2/\eta$, so $\dot L\le0$ "
        r"for a constant "
        "learning rate. Oscillation does not cost descent: the flow is the gradient flow projected on the "
        "constraint.",
        check, "One critical eigenvalue, constant learning rate.", "arXiv:2410.24206; arXiv:2209.15594",
    )]  # fmt: skip


def _rational_point(seed: int) -> dict[sp.Symbol, sp.Expr]:
    """Draw scalars that two vectors g, grad S can have (Cauchy-Schwarz holds)."""
    rng = random.Random(f"theorem-{seed}")
    g, h = ([draw(rng) for _ in range(2)] for _ in range(2))
    values = {s: draw(rng, 0.1, 3) for s in (_s.eta, _s.kappa2, _s.S)}
    squares = {_s.grad_sq_norm: _dot(tuple(g), tuple(g)), _s.grad_S_sq_norm: _dot(tuple(h), tuple(h))}
    return {**values, **squares, _s.grad_dot_grad_S: _dot(tuple(g), tuple(h))}


def _samples(
    check: Callable[[dict[sp.Symbol, sp.Expr], sp.Expr], bool],
) -> Callable[[sp.Expr, sp.Expr], bool]:
    return lambda before, after: all(check(_rational_point(seed), after) for seed in range(SAMPLES))


def monotone_in_learning_rate(d: Derivation) -> list[Step]:
    """sigma^2 increases with the learning rate, exactly while the predicted squared gradient is positive."""
    (rate, _), = rate_names(d.spec).items()  # fmt: skip
    sigma = name_rates(d.spec, d.sigma_squared)
    eta, S, p, a, b = _s.eta, _s.S, _s.grad_dot_grad_S, _s.grad_sq_norm, _s.grad_S_sq_norm
    derivative = sp.factor(sigma.diff(eta))
    numerator = sp.factor(derivative * (eta**2 * b + 2 * rate * S**2) ** 2 / (2 * eta * rate))
    bracket = sp.expand(numerator)
    slope = 2 * eta * rate * bracket / (eta**2 * b + 2 * rate * S**2) ** 2
    weight = b + 2 * rate * S**2 / eta**2
    squares = 2 * weight * (a + S**2 * _s.sigma_squared)
    by_signs = 2 * a * b + rate * S**4 + 4 * S**2 * sp.Symbol("minus_grad_dot_grad_S", nonnegative=True)

    def by_rate(point: dict) -> dict:
        return {**point, _s.beta2: 1 / (1 + point[rate])}

    def check_named(point: dict, after: sp.Expr) -> bool:
        return is_zero(after.subs(point) - d.sigma_squared.subs(by_rate(point)))

    def check_slope(point: dict, after: sp.Expr) -> bool:
        h = sp.Rational(1, 10**30)
        ends = [d.sigma_squared.subs({**by_rate(point), eta: point[eta] + e}) for e in (h, -h)]
        measured = (ends[0] - ends[1]) / (2 * h)
        return is_zero(after.subs(point) - measured, 1 + abs(measured))

    def check_squares(point: dict, after: sp.Expr) -> bool:
        variance = d.sigma_squared.subs(by_rate(point))
        inserted = after.subs(_s.sigma_squared, variance).subs(point)
        positive = after.subs({**point, _s.sigma_squared: sp.Rational(1, 3)}) > 0
        # independent: the sign of a measured difference of sigma^2 is the sign of the bracket
        measured = d.sigma_squared.subs({**by_rate(point), eta: point[eta] + sp.Rational(1, 10**30)}) - variance
        slope_here = measured * 10**30 * (point[eta] ** 2 * point[b] + 2 * point[rate] * point[S] ** 2) ** 2
        expected = slope_here / (2 * point[eta] * point[rate])
        return bool(positive) and is_zero(inserted - expected, 1 + abs(expected))

    def check_signs(point: dict, after: sp.Expr) -> bool:
        name = next(s for s in after.free_symbols if s.name == "minus_grad_dot_grad_S") if after.free_symbols else None
        falling = {**point, p: -abs(point[p])}
        value = after.subs({**falling, name: abs(point[p])})
        variance = d.sigma_squared.subs(by_rate(falling))
        measured = d.sigma_squared.subs({**by_rate(falling), eta: falling[eta] + sp.Rational(1, 10**30)}) - variance
        scale = (falling[eta] ** 2 * falling[b] + 2 * falling[rate] * falling[S] ** 2) ** 2 * 10**30
        expected = measured * scale / (2 * falling[eta] * falling[rate])
        terms_nonnegative = all(t.is_nonnegative for t in sp.Add.make_args(after))
        return terms_nonnegative and is_zero(value - expected, 1 + abs(expected))

    def make(
        key: str, rule: str, quantity: str, before: sp.Expr, after: sp.Expr, why: str, check, source="derived"
    ) -> Step:
        return Step(f"theorem_{key}", SECTION, rule, quantity, before, after, why, _samples(check), source=source)

    return [
        make("sigma_squared_by_rate", "name the rate", r"\sigma^2", d.sigma_squared, sigma,
             r"Write $\kappa_2$ for $(1-\beta_2)/\beta_2$; the statements below hold for any positive rate.",
             check_named),
        make("slope_in_learning_rate", "differentiate by the learning rate", r"\partial_\eta\sigma^2",
             sp.Derivative(_s.sigma_squared, eta), slope,
             "Everything outside the bracket is positive, so the sign is that of the bracket.", check_slope,
             "derived; stated without formula in arXiv:2410.24206, part II"),
        make("slope_positive", "complete to positive terms", r"\text{bracket}", bracket, squares,
             r"An identity, with $\sigma^2$ written for its closed form: the bracket is positive if and "
             r"only if "
             r"$\|g\|^2+\sigma^2S^2>0$, the predicted averaged squared gradient norm. In particular it is "
             r"positive wherever "
             r"$\sigma^2>0$, so along the edge the variance increases with the learning "
             r"rate.", check_squares),
        make("slope_positive_by_signs", "read off signs", r"\text{bracket}", bracket, by_signs,
             r"Where $\langle g,\nabla S\rangle\le0$ every term is nonnegative and $\kappa_2S^4$ is "
             r"positive, whatever the "
             r"sign of $\sigma^2$.", check_signs),
    ]  # fmt: skip


def rate_limits(d: Derivation) -> list[Step]:
    """The limits of sigma^2 in the decay: a long average, and none."""
    (rate, _), = rate_names(d.spec).items()  # fmt: skip
    sigma = name_rates(d.spec, d.sigma_squared)
    beta = _s.beta2
    tiny = sp.Rational(1, 10**40)

    def check_at(symbol: sp.Symbol, value: sp.Expr) -> Callable[[dict, sp.Expr], bool]:
        def check(point: dict, after: sp.Expr) -> bool:
            decay = value if symbol == beta else 1 / (1 + value)
            near = (
                d.sigma_squared.subs({**point, beta: decay}) if symbol == beta else sigma.subs({**point, rate: value})
            )
            stated = after.subs(point)
            return is_zero(sp.N(near - stated, DIGITS), 1 + abs(stated))

        return check

    cases = (
        ("slow", rate, sp.Integer(0), tiny, r"\lim_{\kappa_2\to0}\sigma^2",
         "A long average cannot react: $P$ is constant on the time scale of the flow, and the variance is "
         "gradient descent's."),
        ("fast", rate, sp.oo, 1 / tiny, r"\lim_{\kappa_2\to\infty}\sigma^2",
         r"No memory (published rate only): the squared gradient norm must equal $\nu=(\eta S/2)^2$ at every "
         "instant, so the oscillation fills up what the gradient lacks."),
        ("beta_to_one", beta, sp.Integer(1), 1 - tiny, r"\lim_{\beta_2\to1}\sigma^2",
         "The same limit in the hyperparameter."),
        ("beta_to_zero", beta, sp.Integer(0), tiny, r"\lim_{\beta_2\to0}\sigma^2",
         "The same limit in the hyperparameter: normalized gradient descent."),
    )  # fmt: skip
    steps = []
    for key, symbol, at, near, quantity, why in cases:
        expression = d.sigma_squared if symbol == beta else sigma
        after = sp.expand(sp.limit(sp.together(expression), symbol, at))
        steps.append(Step(
            f"theorem_limit_{key}", SECTION, "take the limit", quantity, expression, after, why,
            _samples(check_at(symbol, near)),
        ))  # fmt: skip
    return steps


THEOREMS: dict[str, Callable[[Derivation], list[Step]]] = {
    "descent": descent,
    "monotone_in_learning_rate": monotone_in_learning_rate,
    "rate_limits": rate_limits,
}

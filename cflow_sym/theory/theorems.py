"""What is proved of the results: each theorem is a step with its own check, asked for by name in the spec.

Theorems are stated for the bare optimizer in published order; with switches or options on they are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Derivation, Step, StepError
from cflow_sym.derivation.exact import DIGITS, Vector, draw, is_zero, source
from cflow_sym.derivation.result import Part
from cflow_sym.notation import Coordinate, Total, contract, symbols
from cflow_sym.theory.central_flow import CRITICAL, edge_point
from cflow_sym.theory.stable_flow import name_rates, rate_names

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
    difference = in_factors((rate + P * square).subs(_s.sigma_squared, sigma))
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
        Part.THEOREM.named("descent"), SECTION, "prove", r"\dot L=\langle g,\dot w\rangle", rate, -P * w_dot,
        r"Insert the variance of the edge: the loss falls at the rate $\|\dot w\|^2/\eta$, so $\dot L\le0$ "
        "for a constant learning rate. The flow is the gradient flow projected on the constraint: what it descends "
        "is what the projection leaves of the gradient.",
        check, "One critical eigenvalue, constant learning rate.", "arXiv:2410.24206; arXiv:2209.15594",
    )]  # fmt: skip


def _rational_point(seed: int) -> dict[sp.Symbol, sp.Expr]:
    """Draw scalars that two vectors g, grad S can have (Cauchy-Schwarz holds)."""
    rng = source(f"theorem-{seed}")
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
    derivative = in_factors(sigma.diff(eta))
    numerator = in_factors(derivative * (eta**2 * b + 2 * rate * S**2) ** 2 / (2 * eta * rate))
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
        result = Part.THEOREM.named(key)
        return Step(result, SECTION, rule, quantity, before, after, why, _samples(check), source=source)

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
         r"No memory: the squared gradient norm must equal $\nu=(\eta S/2)^2$ at every instant, so the oscillation "
         "fills up what the gradient lacks. With the published rate only, and formal: slow states were taken to be "
         "frozen over one period, which a state without memory is not."),
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
            Part.THEOREM.named(f"limit_{key}"), SECTION, "take the limit", quantity, expression, after, why,
            _samples(check_at(symbol, near)),
        ))  # fmt: skip
    return steps


def stationary_preconditioner(d: Derivation) -> list[Step]:
    """The stationary preconditioner minimizes tr P + |g|^2_{1/P} / eta^2 under H <= 2P; Sigma is the multiplier."""
    P = Coordinate("P_ii", positive=True)
    Z, Sigma = (Coordinate(f"{name}_ii", nonnegative=True) for name in ("Z", "Sigma"))
    eta, g = _s.eta, _s.g
    objective = P + g**2 / (eta**2 * P) - 2 * Z * P  # what depends on P_ii: <Z, H - 2P> holds it
    slope = sp.expand(objective.diff(P))
    nu = d.spec.state_symbols["nu"]
    variance = d.threshold**2 * P**2 * Sigma  # diag(H Sigma H) where H U = c P U
    at_rest = d.stationary["nu"].xreplace({_s.gradient_variance: variance})
    balance = sp.expand(d.preconditioner.xreplace({nu: at_rest}) ** 2 - P**2)
    multiplier = 2 * Sigma / eta**2
    solved = sp.Abs(g) / sp.sqrt(eta**2 - 4 * Sigma)
    if sp.expand(slope.xreplace({Z: multiplier}) * P**2 + balance) != 0:
        raise StepError("the stationarity of the convex program is not that of the state")

    def points() -> list[dict[sp.Symbol, sp.Expr]]:
        found = []
        for seed in range(SAMPLES):
            rng = source(f"stationary-{seed}")
            size = draw(rng, 1, 2)
            values = {
                eta: size,
                g: draw(rng),
                P: draw(rng, 0.2, 2),
                Z: draw(rng, 0, 1),
                Sigma: size**2 * draw(rng, 0, 0.2),
            }
            found.append(values)
        return found

    def check_slope(before: sp.Expr, after: sp.Expr) -> bool:
        h = sp.Rational(1, 10**30)
        for point in points():
            ends = [before.xreplace({**point, P: point[P] + e}) for e in (h, -h)]
            measured = (ends[0] - ends[1]) / (2 * h)
            if not is_zero(after.xreplace(point) - measured, 1 + abs(measured)):
                return False
        return True

    def check_balance(before: sp.Expr, after: sp.Expr) -> bool:
        # the rest of the state itself: P from its stationary value, against what the program asks for
        for point in points():
            program = slope.xreplace({**point, Z: multiplier.xreplace(point)}) * point[P] ** 2
            rest = (point[g] ** 2 + 4 * point[P] ** 2 * point[Sigma]) / point[eta] ** 2 - point[P] ** 2
            if not (is_zero(after.xreplace(point) - rest) and is_zero(program + rest)):
                return False
        return True

    def check_solved(before: sp.Expr, after: sp.Expr) -> bool:
        for point in points():
            value = after.xreplace(point)
            residual = balance.xreplace({**point, P: value})
            if not (is_zero(sp.N(residual, DIGITS), 1 + point[g] ** 2) and sp.N(value) > 0):
                return False
        return True

    return [
        Step(
            Part.THEOREM.named("program_slope"), SECTION, "differentiate the Lagrangian",
            r"\partial_{P_{ii}}\left[\mathrm{tr}P+\tfrac1{\eta^2}g^\top P^{-1}g+\langle Z,H-2P\rangle\right]",
            objective, slope,
            r"The convex program: the smallest $\mathrm{tr}P+\tfrac1{\eta^2}g^\top P^{-1}g$ over diagonal "
            r"$P\succeq0$ with $H\preceq2P$, and a multiplier $Z\succeq0$, $\langle Z,H-2P\rangle=0$. Only what "
            r"depends on $P_{ii}$ is written.",
            check_slope, "", "arXiv:2410.24206, part III",
        ),
        Step(
            Part.THEOREM.named("program_is_rest"), SECTION, "insert the multiplier",
            r"-P_{ii}^2\,\partial_{P_{ii}}\Big|_{Z=2\Sigma/\eta^2}", slope.xreplace({Z: multiplier}), balance,
            r"With $Z=2\Sigma/\eta^2$ this is $(\bar\nu-\nu)/\eta^2$ for $\nu=\eta^2P^2$: the program is solved where "
            r"the state is at rest, and complementarity is the same for both. So the stationary preconditioner is "
            r"the program's solution and $\Sigma=\tfrac{\eta^2}2Z$.",
            check_balance, CRITICAL, "arXiv:2410.24206, part III; the multiplier: derived",
        ),
        Step(
            Part.THEOREM.named("stationary_P"), SECTION, "solve for the preconditioner", r"\bar P_{ii}",
            balance, solved,
            r"The covariance alone determines $\bar P$; its diagonal stays below $\eta^2/4$ wherever the gradient is "
            r"not zero. For large $\eta$ the gradient's term of the program fades: $\hat P$ minimizes "
            r"$\mathrm{tr}P$ under $H\preceq2P$.",
            check_solved, CRITICAL, "derived",
        ),
    ]  # fmt: skip


THEOREMS: dict[str, Callable[[Derivation], list[Step]]] = {
    "descent": descent,
    "monotone_in_learning_rate": monotone_in_learning_rate,
    "rate_limits": rate_limits,
    "stationary_preconditioner": stationary_preconditioner,
}

"""Equilibrium at the edge for one critical eigenvalue: the variance that keeps u'(cP - H)u at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import DerivationError, Step
from cflow_sym.derivation.exact import STEP, LocalModel, Point, Vector, add, agree, is_zero, random_point, scale
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import (
    Coordinate,
    Total,
    contract,
    debias,
    is_elementwise,
    latex_of,
    orient,
    rate_symbol,
    rebias,
    symbols,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.central_flow import CF, CRITICAL, EDGE, edge_point

_s = symbols
MOTION = "How the edge moves"
WHERE = (
    r"It holds at the edge while it is positive: below the edge $\sigma^2=0$, and a negative value means that the "
    "eigenvalue leaves it."
)
SYMBOLS_OF_THRESHOLD = 2  # with more of them, as with momentum and decay together, elimination takes minutes


def rates_of(spec: OptimizerSpec) -> dict[str, sp.Symbol]:
    """Return the symbols `nu_dot`, ..., `t_dot` of the rates of slow states and scheduled hyperparameters."""
    return {s.name: rate_symbol(s) for s in (*spec.state_updates, *spec.scheduled)}


def drift(f: sp.Expr, spec: OptimizerSpec) -> sp.Expr:
    """Return df/dt by the chain rule, linear in the rates of the slow states; schedules move with the counter.

    >>> import cflow_sym as cs
    >>> spec = cs.optimizer("scalar_rmsprop")
    >>> drift(spec.derive().preconditioner, spec)
    nu_dot/(2*eta*sqrt(nu))
    """
    rates = {s: rate_symbol(s) for s in spec.state_updates}
    rates |= {s: rate_symbol(s) * rates[_s.t] for s in spec.scheduled}
    return sp.Add(*(_shortest_slope(f, s) * rate for s, rate in rates.items()))


def _shortest_slope(f: sp.Expr, s: sp.Symbol) -> sp.Expr:
    plain = debias(f.diff(s))
    return rebias(min((in_factors(plain), plain), key=lambda e: e.count_ops()))


def chain_rule(f: sp.Expr, spec: OptimizerSpec) -> sp.Expr:
    """Return df/dt like `drift`, bias corrections one by one: no term is infinite where their sum is finite.

    >>> import cflow_sym as cs
    >>> spec = cs.optimizer("rmsprop", bias_correction=True)
    >>> chain_rule(spec.derive().preconditioner, spec).coeff(rate_symbol(symbols.t))
    sqrt(nu)*beta2**t*log(beta2)/(2*eta*(1 - beta2**t)**(3/2))
    """
    rates = {s: rate_symbol(s) for s in (*spec.state_updates, *spec.scheduled)}
    moving, total = debias(f), sp.Integer(0)
    for s in (*spec.state_updates, *spec.scheduled):
        rate = rates[s] if s in spec.state_updates else rates[s] * rates[_s.t]
        total += rebias(_by_terms(moving, s)) * rate
    decaying = sorted((x for x in moving.free_symbols if x.name.startswith("debias_")), key=str)
    return total + sp.Add(*(rebias(_by_terms(moving, x)) * rebias(x).diff(_s.t) for x in decaying)) * rates[_s.t]


def _by_terms(f: sp.Expr, x: sp.Symbol) -> sp.Expr:
    """Return df/dx in factors, term by term where one of several has a denominator that depends on coordinates."""
    terms = [in_factors(term.diff(x)) for term in sp.Add.make_args(sp.expand(f))]
    whole = in_factors(f.diff(x))
    return sp.Add(*terms) if sp.fraction(whole)[1].atoms(Coordinate) else whole


def speeds_of(spec: OptimizerSpec, point: Point, flow: Mapping[str, sp.Expr]) -> dict[sp.Symbol, Vector]:
    """Return how fast everything moves at a point that P and c may depend on."""
    states = {s: point.vector(flow[s.name]) for s in spec.state_updates}
    counts = states[_s.t][0]
    return states | {s: scale(counts, point.vector(rate_symbol(s))) for s in spec.scheduled}


def state_value(point: Point, state: sp.Symbol, vector: tuple) -> object:
    """Return a vector as the value of a state: itself, or its only number."""
    return vector if isinstance(point.values[state], tuple) else vector[0]


def drift_step(spec: OptimizerSpec, P: sp.Expr) -> Step:
    """Return the step for dP/dt."""
    return Step(
        Result("preconditioner_drift"), MOTION, "differentiate along the flow", r"\dot P", P, chain_rule(P, spec),
        "The chain rule; an explicit dependence on the step count enters through its rate, which is 1, a schedule "
        "through its own.", _chain_rule_check(spec),
    )  # fmt: skip


def threshold_drift_step(spec: OptimizerSpec, c: sp.Expr) -> Step:
    """Return the step for dc/dt."""
    causes = [
        "while corrections of bias in the filter die out" if c.has(_s.t) else "",
        "with the schedule that shifts it through decoupled decay"
        if not c.free_symbols.isdisjoint(spec.scheduled)
        else "",
    ]
    moved = " and ".join(cause for cause in causes if cause)
    return Step(
        Result("threshold_drift"), MOTION, "differentiate along the flow", r"\dot c", c, drift(c, spec),
        f"The threshold moves {moved}." if moved else "The threshold does not move.", _chain_rule_check(spec),
    )  # fmt: skip


def _chain_rule_check(spec: OptimizerSpec) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Compare with central differences of the expression itself."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point = random_point(spec, seed)
            chosen = {s: scale(sp.Rational(k + 1, 3), point.vector(s)) for k, s in enumerate(spec.state_updates)}
            slopes = {rate_symbol(s): state_value(point, s, v) for s, v in chosen.items()}
            speeds = speeds_of(spec, point.with_values(slopes), {s.name: rate_symbol(s) for s in spec.state_updates})
            ahead, behind = (
                point.with_values(
                    {s: state_value(point, s, add(point.vector(s), scale(h, v))) for s, v in speeds.items()}
                )
                for h in (STEP, -STEP)
            )
            slope = scale(1 / (2 * STEP), add(ahead.vector(before), scale(-1, behind.vector(before))))
            stated = point.with_values(slopes).vector(after)
            if not all(is_zero(a - b, 1 + abs(b)) for a, b in zip(stated, slope, strict=True)):
                return False
        return True

    return check


def path_rate(
    spec: OptimizerSpec,
    point: Point,
    model: LocalModel,
    flow: Mapping[str, sp.Expr],
    f: Callable[[sp.Matrix, Point], sp.Expr],
) -> sp.Expr:
    """Differentiate f(Hessian, point) along the flow through a point by central differences."""
    speeds = speeds_of(spec, point, flow)
    w_speed = point.vector(flow["w"])
    values = []
    for h in (STEP, -STEP):
        moved = {s: state_value(point, s, add(point.vector(s), scale(h, v))) for s, v in speeds.items()}
        values.append(f(model.hessian(scale(h, w_speed)), point.with_values(moved)))
    return (values[0] - values[1]) / (2 * STEP)


def equilibrium_steps(spec: OptimizerSpec, P: sp.Expr, central: dict[str, sp.Expr], c: sp.Expr) -> list[Step]:
    """Return the rate of u'(cP - H)u, the edge, and sigma^2."""
    rates, edge_value = rates_of(spec), c * P
    edge_dot = debias(drift(edge_value, spec).xreplace({rates[n]: e for n, e in central.items() if n != "w"}))
    flow_w = debias(central["w"])
    balance = sp.expand(contract(Total(sp.expand(_s.u**2 * edge_dot)) - Total(sp.expand(_s.grad_S * flow_w))))
    driving, coefficient = (balance.coeff(_s.sigma_squared, k) for k in (0, 1))
    A_dot = orient(rebias(_collected(driving) + _s.sigma_squared * _collected(coefficient)))
    gap = contract(Total(_s.u**2 * edge_value)) - _s.S

    def check_rate(before: sp.Expr, after: sp.Expr) -> bool:
        def curvature_gap(H: sp.Matrix, point: Point) -> sp.Expr:
            u = sp.Matrix(point.values[_s.u])
            return (u.T * (sp.diag(*point.vector(edge_value)) - H) * u)[0]

        for seed in range(3):
            point, model = edge_point(spec, P, c, seed)
            slope = path_rate(spec, point, model, central, curvature_gap)
            if not is_zero(slope - point(after), 1 + abs(slope)):
                return False
        return True

    def check_balance(before: sp.Expr, after: sp.Expr) -> bool:
        # the critical root of det(H - lambda P), followed implicitly along the flow, must stand still
        for seed in range(3):
            point, model = edge_point(spec, P, c, seed)
            balanced = point.with_values({_s.sigma_squared: point(after)})
            slope = path_rate(
                spec, balanced, model, central, lambda H, p: (H - sp.diag(*p.vector(edge_value))).det()
            )  # fmt: skip
            size = (model.hessian(scale(0, point.ones)) - sp.diag(*point.vector(edge_value))).norm() + 1
            if not is_zero(slope, size ** (point.dimension - 1)):
                return False
        return True

    sigma = orient(rebias(_quotient(-driving, coefficient)))
    steps = [
        Step(
            Result("equilibrium"), EDGE, "differentiate the distance to the edge", r"\tfrac{d}{dt}u^\top(cP-H)u",
            gap, A_dot,
            "The distance to the edge is zero and stays zero. Its rate is the growth of $cP$ minus the "
            "growth of the "
            "curvature along the flow, affine in the variance.", check_rate, CRITICAL, f"{CF}, parts I to "
                f"III",
        ),
        Step(
            Result("sigma_squared_with_states"), EDGE, "solve for the variance", r"\sigma^2", A_dot, sigma,
            "The only variance that keeps the critical eigenvalue at the threshold.", check_balance,
            "", f"{CF}, parts I to III",
        ),
    ]  # fmt: skip
    edge = eliminate_state(spec, P, c)

    def check_edge(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point, _ = edge_point(spec, P, c, seed)
            state = next(iter(edge))
            if not agree(point.with_values({state: point(after)})(edge_value), point.values[_s.S]):
                return False
        return True

    for state, value in edge.items():
        steps.append(Step(
            Part.EDGE.of(state.name), EDGE, "eliminate the state at the edge", latex_of(state), gap, value,
            "At the edge $S=cP$, which gives the state in terms of the sharpness.", check_edge,
        ))  # fmt: skip
    long = len(c.free_symbols) > SYMBOLS_OF_THRESHOLD
    if is_elementwise(P) or long:
        why = "It would be too long without the state" if long else (
            "With one P for each weight the state is not eliminated by one equation"
        )  # fmt: skip
        steps.append(Step(
            Result("sigma_squared"), EDGE, "closed form", r"\sigma^2", sigma, sigma,
            why + "; the closed form keeps it. " + WHERE, check_balance, "", f"{CF}, part III",
        ))  # fmt: skip
        return steps
    roots = _rooted(spec, P, c)
    reduced = orient(rebias(_quotient(_eliminate(-driving, roots), _eliminate(coefficient, roots))))

    steps.append(Step(
        Result("sigma_squared"), EDGE, "insert the edge", r"\sigma^2", sigma, reduced,
        "The closed form in terms of the loss and the hyperparameters. " + WHERE, check_balance, "",
        "derived" if edge else f"{CF}, part I",
    ))  # fmt: skip
    return steps


def closed_form_in_time(
    spec: OptimizerSpec, P: sp.Expr, central: dict[str, sp.Expr], c: sp.Expr, late: sp.Expr, when: str
) -> Step:
    """Return the closed form with corrections of bias in P: `late` at late times, with P(t) and its share of dP/dt."""
    moved = central | {"w": -(_s.g + _s.sigma_squared * _s.grad_S / 2) / P - spec.decay * _s.w}
    last = equilibrium_steps(spec, P, moved, c)[-1]
    why = (
        f"The same with the corrections of bias that $P(t)$ has from {when} on; they also move $P$ by themselves, "
        r"through $\partial_tP$. At late times it is the closed form above. "
    )

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        settled = after.xreplace({p: sp.Integer(0) for p in after.atoms(sp.Pow) if p.exp.has(_s.t)})
        points = [edge_point(spec, P, c, seed)[0] for seed in range(3)]
        return last.check(last.before, after) and all(agree(p(before), p(settled)) for p in points)

    return replace(
        last,
        result=Result("sigma_squared_in_time"),
        rule="keep the correction of bias",
        before=late,
        why=why + WHERE,
        check=check,
    )


def _normalization(coefficient: sp.Expr) -> sp.Expr:
    squares = [_s.grad_S_sq_norm, *(e for e in coefficient.atoms(Total) if e.has(_s.grad_S))]
    found = [sp.expand(coefficient).coeff(e, 1) for e in squares]
    return next((q for q in found if q != 0), sp.Integer(1)) if len(squares) <= 2 else sp.Integer(1)


def _quotient(numerator: sp.Expr, denominator: sp.Expr) -> sp.Expr:
    """Return numerator / denominator with the coefficient of |grad S|^2 (in its metric) scaled to 1, as it is read."""
    unit = _normalization(denominator)
    return _terms(numerator, unit) / _terms(denominator, unit)


def _terms(expr: sp.Expr, unit: sp.Expr) -> sp.Expr:
    return _collected(sp.expand(sp.expand(expr) / unit))


def _collected(expr: sp.Expr) -> sp.Expr:
    """Collect by contraction, each coefficient factored."""
    if expr.atoms(Coordinate):
        return by_contraction(expr)
    named = (_s.grad_sq_norm, _s.grad_dot_grad_S, _s.grad_S_sq_norm, _s.w_dot_grad_S, _s.S)
    collected = sp.collect(expr, named)
    return sp.collect(expr, named, in_factors) if collected.is_Add else in_factors(expr)


def by_contraction(expr: sp.Expr) -> sp.Expr:
    """Collect terms with the same contractions, each coefficient factored."""
    groups: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(expr):
        totals = sp.Mul(*(f for f in sp.Mul.make_args(term) if f.has(Total)))
        groups[totals] = groups.get(totals, sp.Integer(0)) + term / totals
    return sp.Add(*(totals * in_factors(coefficient) for totals, coefficient in groups.items()))


def _rooted(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr) -> dict[sp.Symbol, tuple[sp.Symbol, sp.Expr]]:
    """Solve S = c P for the root r of the first state that P depends on; returns {state: (r, value of r)}."""
    for state in () if is_elementwise(P) else spec.state_updates:
        if state != _s.t and P.has(state):
            root, x = sp.Symbol(f"root_{state.name}", positive=True), sp.Symbol("x_any_sign")
            equation = debias(c * P).xreplace({state: root**2}).xreplace({root: x}) - _s.S
            try:
                solutions = sp.solve(equation, x, check=False)
            except NotImplementedError as error:
                raise DerivationError(
                    f"optimizer {spec.name!r}: the edge S = c P with P = {P} cannot be solved for {state}, as the "
                    f"closed form of the variance needs; write P as an invertible function of {state} (without max, "
                    "min or cases), or keep one state for each weight."
                ) from error
            point = random_point(spec, 0)
            point = point.with_values({_s.S: point(c * P)})
            solutions = [
                r for r in solutions if agree(point(rebias(r)) ** 2, point.values[state]) and point(rebias(r)) > 0
            ]
            if len(solutions) != 1:
                raise DerivationError(
                    f"S = c P = {c * P} gives {solutions} for sqrt({state}): the edge does not fix {state}."
                )
            return {state: (root, solutions[0])}
    return {}


def _eliminate(expr: sp.Expr, roots: dict[sp.Symbol, tuple[sp.Symbol, sp.Expr]]) -> sp.Expr:
    for state, (root, value) in roots.items():
        expr = sp.powsimp(expr.xreplace({state: root**2})).subs(root, value)
    return sp.powdenest(expr)


def eliminate_state(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    """Return the value of the state that S = c P fixes at the edge, by state (empty where P has none).

    >>> import cflow_sym as cs
    >>> d = cs.derive("scalar_rmsprop")
    >>> eliminate_state(d.spec, d.preconditioner, d.threshold)
    {nu: S**2*eta**2/4}
    """
    return {state: rebias(in_factors(value**2)) for state, (_, value) in _rooted(spec, P, c).items()}

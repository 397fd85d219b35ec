"""The central flow: averaged rates, affine in the covariance, for any oscillation and for one direction.

Which covariance keeps the edge in equilibrium is settled in `equilibrium.py` (one critical eigenvalue, a
division) and in `sdcp.py` (several, a semidefinite complementarity problem).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import (
    LocalModel,
    Point,
    agree,
    moments,
    random_model,
    random_point,
    scale,
    two_point_average,
)
from cflow_sym.derivation.result import Part
from cflow_sym.notation import Coordinate, contract, is_elementwise, latex_of, orient, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory import expansion

_s = symbols
ANSATZ, EDGE = "The ansatz", "Equilibrium at the edge, one critical eigenvalue"
REDUCED = "The flow over the weights alone"
CF = expansion.CF
CRITICAL = r"Along the critical directions $Hu=cPu$; the motion of the eigenvectors then drops out of the rate."


def one_direction(P: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    """Return the moments for Sigma = sigma^2 u u'; with one P for all weights, H u = S u."""
    Hu = _s.Hu if is_elementwise(P) else _s.S * _s.u
    return {
        _s.gradient_shift: _s.sigma_squared * _s.grad_S / 2,
        _s.gradient_variance: _s.sigma_squared * Hu**2,
    }


def substitute(expr: sp.Expr, values: dict) -> sp.Expr:
    """Insert moments or named contractions, then contract again."""
    return contract(sp.sympify(expr).xreplace(values))


def edge_point(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, seed: int, degree: int = 4) -> tuple[Point, LocalModel]:
    """Draw a point at the edge: a random loss with H u = c P u, and u, Hu, S, grad_S, sigma_squared."""
    point = random_point(spec, seed)
    metric, g = point.vector(P), point.vector(_s.g)
    model = random_model(seed, metric, curvature=point(c), degree=degree, gradient=g)
    u = model.directions[0]
    Hu, grad_S = model.derivative(u), model.derivative(u, u)
    amplitude = sp.Rational(seed + 2, 7)
    values = {
        _s.u: u,
        _s.Hu: Hu,
        _s.grad_S: grad_S,
        _s.S: sp.Add(*(a * b for a, b in zip(u, Hu, strict=True))),
    }
    return point.with_values({**values, _s.sigma_squared: amplitude**2}), model


def ansatz_steps(spec: OptimizerSpec, P: sp.Expr, rates: dict[str, sp.Expr], c: sp.Expr, order: str) -> list[Step]:
    """Return the steps to the averaged rates: for any covariance, then for one critical direction."""
    steps = []
    w_rate = -(_s.g + _s.gradient_shift) / P - spec.decay * _s.w

    def check_w(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point = random_point(spec, seed)
            model = random_model(seed, point.ones, degree=4, gradient=point.vector(_s.g))
            deltas = expansion.displacements(seed, point.dimension)
            brute = two_point_average(
                model, deltas, lambda g, p=point: p.with_values({_s.g: g}).vector(spec.weight_update)
            )
            if not agree(point.with_values(moments(model, deltas)).vector(after), brute):
                return False
        return True

    steps.append(Step(
        Part.ANSATZ.of("w"), ANSATZ, "average the step", r"\dot w", spec.weight_update, w_rate,
        "The step is linear in the gradient, so its average needs the averaged gradient only.", check_w,
        "" if set(spec.state_updates) <= {_s.t} else
        "Slow states do not oscillate; what their alternating part adds, where it adds anything, is named under what "
        "the flow drops.", f"{CF}, parts I to III",
    ))  # fmt: skip
    for name, rate in rates.items():
        averaged = rate if name == "t" else expansion.expand(rate, order)
        steps.append(Step(
            Part.ANSATZ.of(name), ANSATZ, "average the rate", rf"\dot{{{latex_of(name)}}}",
            rate, _grouped(averaged, rate, spec.all_symbols[name]) if name != "t" else averaged,
            "Functions of the gradient are averaged to second order in the amplitude." if name != "t" else
            "A counter does not see the oscillation.",
            _rate_check(spec, rate, order), "", f"{CF}, parts II and III" if name != "t" else "derived",
        ))  # fmt: skip
    return steps


def _grouped(averaged: sp.Expr, rate: sp.Expr, state: sp.Symbol) -> sp.Expr:
    """Return kappa (q + moments - nu) as one factored expression where that is what it is."""
    decay = orient(in_factors(-averaged.diff(state)))
    if rate.has(_s.g_mean) and decay != 0 and not decay.has(state):
        driven = sp.collect(sp.expand(averaged + decay * state), _s.gradient_variance, evaluate=False)
        return decay * (sp.Add(*(in_factors(q / decay) * m for m, q in driven.items())) - state)
    factored = in_factors(averaged)
    flipped = in_factors(-averaged)
    prefactor, bracket = rate.as_independent(*rate.atoms(Coordinate), _s.grad_sq_norm, as_Add=False)
    if isinstance(bracket, sp.Add):
        inner = sp.expand(sp.cancel(averaged / prefactor))
        if inner.count_ops() <= min(factored.count_ops(), flipped.count_ops()):
            return prefactor * inner
    return factored


def _rate_check(spec: OptimizerSpec, rate: sp.Expr, order: str) -> Callable[[sp.Expr, sp.Expr], bool]:
    def check(before: sp.Expr, after: sp.Expr) -> bool:
        return all(
            expansion.averages_as_stated(rate, random_point(spec, seed), before, after, order, seed)
            for seed in expansion.CASES
        )

    return check


def one_eigenvalue_steps(spec: OptimizerSpec, P: sp.Expr, ansatz: dict[str, sp.Expr], c: sp.Expr) -> list[Step]:
    """Return the central flow for one critical eigenvalue, in terms of sigma_squared."""

    def check_for(general: sp.Expr) -> Callable[[sp.Expr, sp.Expr], bool]:
        def check(before: sp.Expr, after: sp.Expr) -> bool:
            for seed in range(3):
                point, model = edge_point(spec, P, c, seed)
                delta = scale(sp.sqrt(point.values[_s.sigma_squared]), point.values[_s.u])
                brute = point.with_values(moments(model, [delta])).vector(general)
                if not agree(point.vector(after), brute):
                    return False
            return True

        return check

    steps = []
    for name, general in ansatz.items():
        after = substitute(general, one_direction(P))
        steps.append(Step(
            Part.CENTRAL.of(name), EDGE, "insert one critical direction", rf"\dot{{{latex_of(name)}}}",
            general, after,
            r"One eigenvalue at the edge: $\Sigma=\sigma^2uu^\top$ with $\|u\|=1$, so "
            r"$T[\Sigma]=\sigma^2\nabla S$"
            + (r" and $H\Sigma H=\sigma^2(Hu)(Hu)^\top$." if is_elementwise(P) else r" and $H\Sigma "
                r"H=\sigma^2S^2uu^\top$."),
            check_for(general), CRITICAL, f"{CF}, parts I to III",
        ))  # fmt: skip
    return steps


def reduced_steps(spec: OptimizerSpec, P: sp.Expr, edge: Mapping[sp.Symbol, sp.Expr], c: sp.Expr) -> list[Step]:
    """Return the flow over w alone at the edge, with and without the oscillation's shift of the gradient.

    With one P for each weight the states cannot be eliminated: the ablated flow keeps them, there is no
    reduced one.
    """
    inverse = _s.S / c if edge else P
    both = {
        "reduced_w": -(_s.g + _s.sigma_squared * _s.grad_S / 2) / inverse - spec.decay * _s.w,
        "ablated_w": -_s.g / inverse - spec.decay * _s.w,
    }

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point, model = edge_point(spec, P, c, seed)
            delta = scale(sp.sqrt(point.values[_s.sigma_squared]), point.values[_s.u])
            displacements = (
                [delta] if after.has(_s.sigma_squared) or before.has(_s.sigma_squared) else [scale(0, delta)]
            )
            update = lambda g, p=point: p.with_values({_s.g: g}).vector(spec.weight_update)  # noqa: E731
            if not agree(point.vector(after), two_point_average(model, displacements, update)):
                return False
        return True

    why = (
        "At the edge the state is a function of the sharpness, so that the step is as long as the sharpness allows, "
        "whatever the learning rate: that acts through the variance only. Valid while the variance is positive."
        if edge
        else "P has no state to eliminate: the flow over the weights is the central flow itself."
    )
    steps = [
        Step(Part.REDUCED.of("w"), REDUCED, "insert the edge into the flow", r"\dot w",
             -(_s.g + _s.sigma_squared * _s.grad_S / 2) / P - spec.decay * _s.w, both["reduced_w"], why, check,
             CRITICAL, f"{CF}, part II"),
        Step(Part.ABLATED.of("w"), REDUCED, "drop the shift of the gradient", r"\dot w_{\rm ablated}",
             -_s.g / P - spec.decay * _s.w, both["ablated_w"],
             "The same step size without implicit reduction of the sharpness: a flow to compare with, which "
             "shows what "
             "the oscillation does beyond setting the step size.", check, "", f"{CF}, part II"),
    ]  # fmt: skip
    return steps[1:] if is_elementwise(P) else steps

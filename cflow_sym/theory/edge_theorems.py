"""Theorems about the edge that hold for every optimizer: when the loss falls, and how the learning rate acts.

Each is an identity, checked against the loss or the curvature followed along the flow, and a sign that is read off it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations_with_replacement

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Check, Step
from cflow_sym.derivation.exact import (
    STEP,
    LocalModel,
    Point,
    Vector,
    draw,
    is_zero,
    random_model,
    random_point,
    source,
)
from cflow_sym.derivation.result import Part
from cflow_sym.notation import Total, contract, is_elementwise, orient, rate_symbol, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.central_flow import CRITICAL
from cflow_sym.theory.equilibrium import drift, path_rate
from cflow_sym.theory.sdcp import entry_of_gap, moments_of

_s = symbols
SECTION = "Theorems"
W_DOT = rate_symbol(_s.w)
Flow = Mapping[str, sp.Expr]


def _dot(a: Vector, b: Vector) -> sp.Expr:
    return sp.Add(*(x * y for x, y in zip(a, b, strict=True)))


# The loss


def loss_steps(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, ansatz: Flow, momentum: bool = False) -> list[Step]:
    """Return the rate of the loss for any number of critical eigenvalues; empty with decoupled decay.

    `P` and `c` are those of the flow over the weights alone (with `momentum` P/v and vc), `ansatz` its averaged rates.

    >>> import cflow_sym as cs
    >>> cs.derive("gradient_descent").theorems["loss_rate"]
    -Total(w_dot**2)/eta
    """
    if spec.decay != 0:
        return []
    moved = drift(c * P, spec)
    spent = in_factors(contract(Total(sp.expand(P * W_DOT**2))))
    rate = -orient(spent) - orient(contract(Total(sp.expand(_s.Sigma_ii * moved)))) / 2
    P_name = r"\tfrac1vP" if momentum else "P"
    return [Step(
        Part.THEOREM.named("loss_rate"), SECTION, "balance the loss", r"\dot L=\langle g,\dot w\rangle",
        contract(Total(_s.g * W_DOT)), rate,
        rf"With $g=-{P_name}\dot w-\tfrac12T[\Sigma]$ the rate is $-\langle\dot w,{P_name}\dot w\rangle"
        r"-\tfrac12\langle\Sigma,\dot H\rangle$, and on the edge $\langle\Sigma,\dot H\rangle=\langle\Sigma,"
        r"\tfrac{d}{dt}(cP)\rangle$: "
        + ("$cP$ does not move, so the loss never rises." if moved == 0 else
           "the loss falls wherever $cP$ grows on the oscillation; where it shrinks, this bounds how fast the loss can "
           "rise. For any number of critical eigenvalues.")
        + " The oscillation costs descent all the same: what the first term has lost against the stable flow is spent "
        "on staying at the edge. In a straight valley, where descent and rising curvature are one direction, that is "
        "all of it.",
        _loss_check(spec, P, c, ansatz), CRITICAL,
    )]  # fmt: skip


def _loss_check(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, ansatz: Flow) -> Check:
    """Walk the loss itself along the flow, with the covariance for which the matrix at the edge stands still."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed, critical in ((0, 1), (1, 2)):
            point, model = _edge(spec, P, c, seed, critical)
            X = _covariance_at_rest(spec, point, model, c * P, ansatz)
            at = point.with_values(moments_of(model, X))
            rates = {rate_symbol(s): at(ansatz[s.name]) for s in spec.state_updates}
            V = sp.Matrix([list(v) for v in model.directions]).T
            variances = tuple((V * X * V.T).diagonal())
            velocity = at.vector(ansatz["w"])
            place = sp.Dummy()
            slope = model.loss([place * x for x in velocity]).diff(place).subs(place, 0)
            known = at.with_values(rates | {W_DOT: velocity, _s.Sigma_ii: variances})
            if not (is_zero(known(after) - slope, 1 + abs(slope)) and is_zero(known(before) - slope, 1 + abs(slope))):
                return False
        return True

    return check


def _edge(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, seed: int, critical: int) -> tuple[Point, LocalModel]:
    """Return a point and a loss with this many eigenvalues at the edge."""
    point = random_point(spec, seed, dimension=3)
    options = {"curvature": point(c), "critical": critical, "degree": 3, "gradient": point.vector(_s.g)}
    return point, random_model(seed, point.vector(P), **options)


def _covariance_at_rest(spec: OptimizerSpec, point: Point, model: LocalModel, edge: sp.Expr, ansatz: Flow) -> sp.Matrix:
    """Return the symmetric X for which U'(cP - H)U stands still; its rate is affine in X, and measured."""
    k = len(model.directions)
    pairs = list(combinations_with_replacement(range(k), 2))

    def rates(X: sp.Matrix) -> sp.Matrix:
        at = point.with_values(moments_of(model, X))
        return sp.Matrix([path_rate(spec, at, model, ansatz, entry_of_gap(model, edge, i, j)) for i, j in pairs])

    units = [sp.Matrix(k, k, lambda a, b, p=p: int((a, b) in (p, p[::-1]))) for p in pairs]
    still = rates(sp.zeros(k, k))
    slopes = sp.Matrix.hstack(*(rates(E) - still for E in units))
    solution = slopes.LUsolve(-still)
    return sum((x * E for x, E in zip(solution, units, strict=True)), sp.zeros(k, k))


# The learning rate


def learning_rate_steps(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, sigma: sp.Expr, ansatz: Flow) -> list[Step]:
    """Return how the variance answers the learning rate where P = sqrt(nu)/eta is one number; else nothing.

    >>> import cflow_sym as cs
    >>> cs.derive("adagrad_norm").theorems["slope_by_variance"]
    (4/eta**3)*(S**2*sigma_squared + grad_sq_norm)/(2*S**2/eta**2 + grad_S_sq_norm)
    """
    states = [s for s in spec.state_updates if s != _s.t]
    if (
        spec.scheduled
        or len(states) != 1
        or is_elementwise(P)
        or spec.decay != 0
        or sp.cancel(P * _s.eta - sp.sqrt(states[0])) != 0
    ):
        return []
    K = stiffness(sigma)
    if K is None:
        return []
    (nu,) = states
    D = _s.grad_S_sq_norm + K * _s.S**2 / _s.eta**2
    squared = _s.grad_sq_norm + _s.sigma_squared * _s.S**2
    slope = sp.Mul(2 * K / _s.eta**3, squared, 1 / D, evaluate=False)
    t1, t2, e1, e2 = _s.trace_X1, _s.trace_X2, _s.eta_1, _s.eta_2
    place = sp.Symbol("P", positive=True)
    drives = [(_s.grad_sq_norm + c**2 * place * t) / e**2 for t, e in ((t1, e1), (t2, e2))]
    K_name = "$K$, the factor of $S^2/\\eta^2$ in its denominator,"
    return [
        Step(
            Part.THEOREM.named("slope_by_variance"), SECTION, "differentiate by the learning rate",
            r"\partial_\eta\sigma^2", sp.Derivative(_s.sigma_squared, _s.eta), slope,
            rf"From the closed form with {K_name} and $D=\|\nabla S\|^2+KS^2/\eta^2$, its denominator: "
            r"$\eta^3D\,\partial_\eta\sigma^2/2K$ is the predicted averaged squared gradient norm. "
            r"So at fixed weights a larger learning rate oscillates more.", _slope_check(sigma),
        ),
        Step(
            Part.THEOREM.named("trace_monotone"), SECTION, "compare two learning rates",
            r"\langle X_1-X_2,\dot A_1-\dot A_2\rangle", sp.Integer(0),
            _s.curvature_shift / (2 * place) + K / (2 * place**2) * (t1 - t2) * (drives[0] - drives[1]),
            r"Several critical eigenvalues: at the same weights $X_1$ and $X_2$ keep the edge at the learning rates "
            r"$\eta_1<\eta_2$, each with its $\dot A_i\succeq0$ and $\langle X_i,\dot A_i\rangle=0$, so that the left "
            r"side is at most $0$. On the right, $\mathrm{tr}X_1>\mathrm{tr}X_2$ would make every term positive: "
            r"hence $\mathrm{tr}X$ never falls when the learning rate grows. $X$ itself need not grow: directions "
            "trade with each other.", _trace_check(spec, P, c, nu, ansatz), CRITICAL,
        ),
    ]  # fmt: skip


def stiffness(sigma: sp.Expr) -> sp.Expr | None:
    """Return K of a closed form with the denominator |grad S|^2 + K S^2/eta^2, None where there is none.

    >>> import cflow_sym as cs
    >>> stiffness(cs.derive("adagrad_norm").sigma_squared)
    2
    """
    denominator = sp.expand(sp.fraction(sigma)[1])
    unit = denominator.coeff(_s.grad_S_sq_norm)
    K = sp.cancel((denominator / unit - _s.grad_S_sq_norm) * _s.eta**2 / _s.S**2) if unit != 0 else sp.Integer(0)
    free = {_s.eta, _s.S, _s.grad_sq_norm, _s.grad_S_sq_norm, _s.grad_dot_grad_S}
    return None if K == 0 or K.free_symbols & free else orient(in_factors(K))


def _slope_check(sigma: sp.Expr) -> Check:
    """Compare with the central difference of the closed form, at rational values that two vectors can have."""

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(4):
            rng = source(f"slope-{seed}")
            g, h = ([draw(rng) for _ in range(2)] for _ in range(2))
            at = {x: draw(rng, 0.1, 3) for x in sorted(sigma.free_symbols, key=str) if x != _s.beta2}
            at |= {_s.beta2: draw(rng, 0.1, 0.9), _s.grad_dot_grad_S: _dot(g, h)}
            at |= {_s.grad_sq_norm: _dot(g, g), _s.grad_S_sq_norm: _dot(h, h)}
            ends = [sigma.xreplace(at | {_s.eta: at[_s.eta] + e}) for e in (STEP, -STEP)]
            measured = (ends[0] - ends[1]) / (2 * STEP)
            stated = after.xreplace({_s.sigma_squared: sigma}).xreplace(at)
            if not is_zero(stated - measured, 1 + abs(measured)):
                return False
        return True

    return check


def _trace_check(spec: OptimizerSpec, P: sp.Expr, c: sp.Expr, nu: sp.Symbol, ansatz: Flow) -> Check:
    """Follow the matrix at the edge for two covariances and learning rates; nu keeps P where it is."""

    def entries(point: Point, model: LocalModel, X: sp.Matrix) -> sp.Matrix:
        at = point.with_values(moments_of(model, X))
        gap: Callable[[int, int], sp.Expr] = lambda i, j: path_rate(  # noqa: E731
            spec, at, model, ansatz, entry_of_gap(model, c * P, i, j)
        )
        return sp.Matrix(2, 2, lambda i, j: gap(min(i, j), max(i, j)))

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(2):
            rng = source(f"trace-{seed}")
            point, model = _edge(spec, P, c, seed, critical=2)
            model = _normalized(model, point(P))
            Xs, As, values = [], [], {sp.Symbol("P", positive=True): point(P), _s.c: point(_s.c)}
            for eta, trace in ((_s.eta_1, _s.trace_X1), (_s.eta_2, _s.trace_X2)):
                size, entry = draw(rng, 0.1, 2), [draw(rng) for _ in range(3)]
                X = sp.Matrix(2, 2, [entry[0], entry[1], entry[1], entry[2]])
                there = point.with_values({_s.eta: size, nu: (size * point(P)) ** 2})
                Xs, As = [*Xs, X], [*As, entries(there, model, X)]
                values |= {eta: size, trace: X.trace()}
            left = ((Xs[0] - Xs[1]) * (As[0] - As[1])).trace()
            change = moments_of(model, Xs[0] - Xs[1])[_s.gradient_shift]
            g = point.vector(_s.g)
            values |= {_s.curvature_shift: 4 * _dot(change, change), _s.grad_sq_norm: _dot(g, g)}
            if not is_zero(left - point.with_values(values)(after), 1 + abs(left)):
                return False
        return True

    return check


def _normalized(model: LocalModel, P: sp.Expr) -> LocalModel:
    """Return the model with directions for which U'PU = I, as P is one number."""
    basis = sp.GramSchmidt([sp.Matrix(v) for v in model.directions], True)
    return LocalModel(model.loss, tuple(tuple(v / sp.sqrt(P)) for v in basis))

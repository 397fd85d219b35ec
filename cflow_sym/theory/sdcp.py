"""Several critical eigenvalues: the coefficients of the semidefinite complementarity problem (SDCP).

For critical directions U, the matrix A = U'(c P - H) U stays complementary to the covariance X of the
oscillation: 0 <= X, 0 <= A, <X, A> = 0 for all time. At the edge A = 0 and dA/dt = A0 + A1[X].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import LocalModel, Point, Vector, add, is_zero, random_model, random_point, scale
from cflow_sym.derivation.result import Result
from cflow_sym.notation import Total, contract, debias, orient, rebias, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.central_flow import CF, CRITICAL, substitute
from cflow_sym.theory.equilibrium import by_contraction, drift, path_rate, rates_of

_s = symbols
SEVERAL = "Several critical eigenvalues"


def sdcp_steps(spec: OptimizerSpec, P: sp.Expr, ansatz: Mapping[str, sp.Expr], c: sp.Expr) -> list[Step]:
    """Return A0_ij and the coefficient of X_kl in dA_ij/dt."""
    zero = {_s.gradient_shift: sp.Integer(0), _s.gradient_variance: sp.Integer(0)}
    pair = {_s.gradient_shift: _s.X_kl * _s.d_kl / 2, _s.gradient_variance: _s.X_kl * _s.Hu_k * _s.Hu_l}
    rates = rates_of(spec)

    def A_rate(values: dict) -> sp.Expr:
        inserted = {n: substitute(e, values) for n, e in ansatz.items()}
        edge_dot = drift(c * P, spec).xreplace({rates[n]: e for n, e in inserted.items() if n != "w"})
        total = Total(sp.expand(_s.u_i * _s.u_j * edge_dot)) - Total(sp.expand(_s.d_ij * inserted["w"]))
        return sp.expand(contract(debias(total)))

    A0 = A_rate(zero)
    A1 = A_rate(pair).coeff(_s.X_kl, 1)
    A0, A1 = (orient(rebias(by_contraction(a))) for a in (A0, A1))

    def check(after: sp.Expr, linear: bool) -> bool:
        for seed in range(2):
            point = random_point(spec, seed, dimension=3)
            curvature, g = point(c), point.vector(_s.g)
            model = random_model(seed, point.vector(P), curvature=curvature, critical=2, degree=3, gradient=g)
            X = sp.Matrix([[2, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]])
            still, moving = (point.with_values(moments_of(model, a * X)) for a in (0, 1))
            for i in range(2):
                for j in range(2):
                    gap = entry_of_gap(model, c * P, i, j)
                    slope = path_rate(spec, still, model, ansatz, gap)
                    here = point.with_values(_pair(model, i, j))
                    stated = here(after)
                    if linear:
                        slope = path_rate(spec, moving, model, ansatz, gap) - slope
                        pairs = [(k, m) for k in range(2) for m in range(2)]
                        stated = sp.Add(
                            *(X[k, m] * here.with_values(_other_pair(model, k, m))(after) for k, m in pairs)
                        )
                    if not is_zero(slope - stated, 1 + abs(slope)):
                        return False
        return True

    quantity = r"\dot A_{ij}\big|_{X=0}", r"\partial\dot A_{ij}/\partial X_{kl}"
    why = (
        r"Without oscillation: what drives the matrix $A=U^\top(cP-H)U$.",
        "The oscillation's part, linear in $X$: one term is the response of $P$ to larger gradients, the "
        r"other that of the curvature. With it, $X\succeq0$, $A\succeq0$, $\langle X,A\rangle=0$ for all "
        "time is a semidefinite complementarity problem, solved numerically.",
    )
    return [
        Step(Result("sdcp_constant"), SEVERAL, "differentiate the matrix at the edge", quantity[0],
             _s.u_i * _s.u_j * c * P, A0, why[0], lambda b, a: check(a, False), CRITICAL, f"{CF}, parts I "
                 f"to III"),
        Step(Result("sdcp_linear"), SEVERAL, "collect the coefficient of X", quantity[1],
             rebias(A_rate(pair)), A1, why[1], lambda b, a: check(a, True), CRITICAL,
             f"{CF}, parts I to III"),
    ]  # fmt: skip


def entry_of_gap(model: LocalModel, cP: sp.Expr, i: int, j: int) -> Callable[[sp.Matrix, Point], sp.Expr]:
    """Return u_i'(cP - H)u_j as a function of the Hessian and of a point."""
    left, right = sp.Matrix(model.directions[i]), sp.Matrix(model.directions[j])
    return lambda H, point: (left.T * (sp.diag(*point.vector(cP)) - H) * right)[0]


def _pair(model: LocalModel, i: int, j: int) -> dict[sp.Symbol, Vector]:
    V = model.directions
    return {_s.u_i: V[i], _s.u_j: V[j], _s.d_ij: model.derivative(V[i], V[j])}


def _other_pair(model: LocalModel, k: int, m: int) -> dict[sp.Symbol, Vector]:
    V = model.directions
    return {
        _s.Hu_k: model.derivative(V[k]),
        _s.Hu_l: model.derivative(V[m]),
        _s.d_kl: model.derivative(V[k], V[m]),
    }


def moments_of(model: LocalModel, X: sp.Matrix) -> dict[sp.Symbol, Vector]:
    """Return the moments of Sigma = V X V'."""
    V = model.directions
    HV = [model.derivative(v) for v in V]
    pairs = [(k, m) for k in range(len(V)) for m in range(len(V))]
    shift = add(*(scale(X[k, m] / 2, model.derivative(V[k], V[m])) for k, m in pairs))
    variance = add(*(tuple(X[k, m] * a * b for a, b in zip(HV[k], HV[m], strict=True)) for k, m in pairs))
    return {_s.gradient_shift: shift, _s.gradient_variance: variance}

"""Linear stability of one optimizer step on a quadratic: the preconditioner and the threshold c.

The curvature is measured in units of the preconditioner, H -> lambda P, slow states frozen. c is the smallest
positive lambda at which the linearized map has the eigenvalue -1; until then no other eigenvalue may leave
the unit disc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import sympy as sp

from cflow_sym.algebra import in_factors, simplified
from cflow_sym.derivation.derivation import DerivationError, Step
from cflow_sym.derivation.exact import agree, draw, is_zero, random_point, source
from cflow_sym.derivation.result import Result
from cflow_sym.notation import Coordinate, is_blockwise, is_elementwise, symbols
from cflow_sym.spec.optimizer import OptimizerSpec

_s = symbols
SECTION = "Preconditioner and threshold"
MU = sp.Symbol("mu")
PLACE = Coordinate("P_value", positive=True)


def linearized_map(update: sp.Expr, filters: Mapping[sp.Symbol, sp.Expr], P: sp.Expr) -> sp.Matrix:
    """Return M(lambda) on (w, filtered states) for one coordinate: gradient lambda P w, slow states frozen.

    Heavy ball, m' = b m + (1 - b) g and w' = w - m' / P:

    >>> b, m, P = sp.symbols("b m P", positive=True)
    >>> linearized_map(-m / P, {m: b * m + (1 - b) * symbols.g}, P)[0, 0]
    b*lam - lam + 1
    """
    return sp.Matrix(_linearized_map(update, tuple(filters.items()), P))


@lru_cache(maxsize=256)
def _linearized_map(update: sp.Expr, filters: tuple[tuple[sp.Symbol, sp.Expr], ...], P: sp.Expr) -> sp.ImmutableMatrix:
    w = sp.Symbol("w_scalar")
    gradient = {_s.g: _s.lam * P * w, _s.w: w}
    updated = {m: new.xreplace(gradient) for m, new in filters}
    weights = w + update.xreplace(gradient).xreplace(updated)
    variables = [w, *(m for m, _ in filters)]
    after = [weights, *updated.values()]
    return sp.ImmutableMatrix([[simplified(sp.cancel(a.diff(v))) for v in variables] for a in after])


def threshold(M: sp.Matrix) -> sp.Expr:
    """Return c, the smallest positive root of det(M + I); raises `DerivationError` where there is none.

    >>> threshold(sp.Matrix([[1 - symbols.lam]]))
    2
    """
    equation = sp.numer(sp.together((M + sp.eye(M.rows)).det()))
    solutions = [s for s in sp.solve(equation, _s.lam) if s.is_positive is not False]
    if len(solutions) != 1:
        raise DerivationError(
            f"det(M + I) = {equation} has the positive roots {solutions} in lambda: there is no single "
            f"threshold, so no "
            "central flow of period two."
        )
    return sp.expand(solutions[0]) if solutions[0].is_polynomial() else in_factors(solutions[0])


def refuse_other_periods(
    M: sp.Matrix, c: sp.Expr, samples: Sequence[Mapping[sp.Symbol, sp.Expr]] = ({},), name: str = ""
) -> None:
    """Raise `DerivationError` where a root other than -1 leaves the unit disc for a lambda in (0, c).

    Exact at each sample of the hyperparameters: the resultant of the characteristic polynomial and its
    reversal is 0 wherever a root lies on the unit circle; without such a lambda in (0, c), one stable lambda
    settles it.
    """
    for sample in samples:
        p = sp.Poly(M.subs(sample).charpoly(MU).as_expr(), MU)
        end = sp.sympify(c).xreplace(dict(sample))
        reversal = sp.Poly(list(reversed(p.all_coeffs())), MU)
        crossing = sp.Poly(sp.resultant(p.as_expr(), reversal.as_expr(), MU), _s.lam)
        roots = [] if crossing.is_zero else sorted(r for r in sp.real_roots(crossing) if 0 < r < end)
        probes = [a + (b - a) / 2 for a, b in zip([sp.Integer(0), *roots], [*roots, end], strict=True)]
        for lam in probes:
            at_lam = sp.Poly(p.as_expr().subs(_s.lam, sp.nsimplify(sp.N(lam, 30), rational=True)), MU)
            worst = max(at_lam.nroots(n=30), key=abs, default=sp.Integer(0))
            if abs(worst) >= 1:
                start = max((r for r in roots if r < lam), default=lam)  # where it has left
                there = sp.nsimplify(sp.N(start, 30), rational=True) * (1 + sp.Rational(1, 10**6))
                leaving = sp.Poly(p.as_expr().subs(_s.lam, there), MU).nroots(n=30)
                worst, lam = max(leaving, key=abs), start
                whose = f"optimizer {name!r}: " if name else ""
                raise DerivationError(
                    f"{whose}the root {complex(worst):.4g} of modulus {float(abs(worst)):.4g} leaves the unit disc at "
                    f"lambda = {float(lam):.5g}, before the threshold c = {float(end):.5g}: the instability does not "
                    "have period two, so no central flow exists; less weight on the gradient itself, or a shorter "
                    "average, may help."
                )


def entries_of(P: sp.Expr) -> str:
    """Return how many entries P has, as the end of a sentence.

    >>> entries_of(_s.g**2)
    'one entry for each weight.'
    """
    if not is_elementwise(P):
        return "one number for all weights."
    return "one number for each block of weights." if is_blockwise(P) else "one entry for each weight."


def stability_steps(spec: OptimizerSpec, P: sp.Expr) -> list[Step]:
    """Return the steps for P and c of an optimizer without momentum."""
    scalar = sp.Symbol("P", positive=True)
    M = linearized_map(-_s.g / scalar - spec.decay * _s.w, {}, scalar)
    c = threshold(M)
    points = [random_point(spec, seed) for seed in range(3)]
    refuse_other_periods(M, c, [{x: p.values[x] for x in spec.decay.free_symbols} for p in points])

    def check_preconditioner(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(4):
            point = random_point(spec, seed)
            moved = point.vector(spec.weight_update)
            stated = point.with_values({PLACE: point.vector(after)}).vector(-_s.g / PLACE - spec.decay * _s.w)
            if not agree(moved, stated):
                return False
        return True

    def check_threshold(before: sp.Expr, after: sp.Expr) -> bool:
        # the optimizer's own update on the quadratic with H = c P: w goes to -w; below c it contracts
        for seed in range(3):
            point = random_point(spec, seed)
            w, p, at = point.vector(_s.w), point.vector(P), point(after)
            for lam in (at, at * draw(source(f"below-{seed}"), 0, 1)):
                g = tuple(lam * b * a for a, b in zip(w, p, strict=True))
                moved = point.with_values({_s.g: g}).vector(spec.weight_update)
                factors = [1 + dw / a for a, dw in zip(w, moved, strict=True)]
                if lam == at and not all(is_zero(f + 1) for f in factors):
                    return False
                if lam != at and not all(abs(f) < 1 for f in factors):
                    return False
        return is_zero(before.xreplace({_s.lam: sp.sympify(after)}))

    return [
        Step(
            Result("preconditioner"), SECTION, "read off the preconditioner", "P",
            spec.weight_update, P,
            "Given the updated states, the step is linear in the gradient, so $P$ is minus one over its slope, "
            + entries_of(P),
            check_preconditioner, "$P$ depends on slow states and on $t$ only.", spec.source,
        ),
        Step(
            Result("threshold"), SECTION, "linearize and solve det(M + I) = 0", "c", (M + sp.eye(M.rows)).det(), c,
            r"On a quadratic whose curvature is $\lambda$ in units of $P$ the step multiplies $w$ by "
            + (r"$M=1-\lambda$. " if spec.decay == 0 else r"$M=1-\lambda$ less the decoupled decay. ") +
            "The period-two "
            "instability begins where $M=-1$, and on $(0,c)$ the only root stays inside the unit disc. "
            "Negative curvature is "
            "unstable, too, but does not oscillate.",
            check_threshold, "Slow states are frozen over one period of the oscillation.",
            "arXiv:2207.14484" if spec.decay == 0 else "derived",
        ),
    ]  # fmt: skip

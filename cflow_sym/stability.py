"""Linear stability of one optimizer step on a quadratic: the preconditioner and the threshold c.

The curvature is measured in units of the preconditioner, H -> lambda P, slow states frozen. c is the smallest
positive lambda at which the linearized map has the eigenvalue -1; until then no other eigenvalue may leave
the unit disc.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import sympy as sp

from cflow_sym.derivation import DerivationError, Step
from cflow_sym.exact import Point, agree, draw, is_zero, random_point, scale, source
from cflow_sym.notation import OLD, Coordinate, drop_sums, expand_names, is_blockwise, is_elementwise, symbols
from cflow_sym.spec import OptimizerSpec, SpecError

_s = symbols
SECTION = "Preconditioner and threshold"
MU = sp.Symbol("mu")
PLACE = Coordinate("P_value", positive=True)


def preconditioner(spec: OptimizerSpec) -> sp.Expr:
    """Return P with w' - w = -g / P - d w; raises `SpecError` where that is not so or P not positive.

    >>> import cflow_sym as cs
    >>> preconditioner(cs.optimizer("scalar_rmsprop"))
    sqrt(nu)/eta
    """
    update = spec.weight_update
    if drop_sums(expand_names(update)) != expand_names(update):
        raise SpecError(
            f"optimizer {spec.name!r}: the update contains a norm of the gradient, {update}; P may depend on states "
            f"only, so make the norm a state."
        )
    old = sorted(s.name for s in update.atoms(sp.Symbol) if s.name.endswith(OLD))
    if old:
        raise SpecError(
            f"optimizer {spec.name!r}: the step reads {', '.join(old)}, states as they were before their update; "
            f"write it in terms of the updated states."
        )
    slope = update.diff(_s.g)
    if slope.has(_s.g) or sp.expand(update.subs(_s.g, 0) + spec.decay * _s.w) != 0:
        raise SpecError(
            f"optimizer {spec.name!r}: given the updated states, the update {update} is not linear in g; write what "
            f"makes it nonlinear as a state."
        )
    P = 1 / sp.together(-slope)
    for point in _admissible(spec):
        values = point.vector(P)
        if not all(v.is_number and v.is_real and v > 0 for v in values):
            raise SpecError(
                f"optimizer {spec.name!r}: P = {P} is {values[0]} at the admissible point {_show(point, P)}; P must "
                f"be positive, so check the sign of the update and the ranges of the hyperparameters."
            )
    return P


def _admissible(spec: OptimizerSpec) -> Iterator[Point]:
    """Draw points, some of them with small states: where a difference in P may turn negative."""
    for seed in range(8):
        point = random_point(spec, seed)
        small = sp.Rational(1, 10**6) if seed >= 5 else sp.Integer(1)
        states = {s: point.values[s] for s in spec.state_symbols.values()}
        yield point.with_values({s: scale(small, v) if isinstance(v, tuple) else small * v for s, v in states.items()})


def _show(point: Point, P: sp.Expr) -> str:
    return ", ".join(f"{k} = {v}" for k, v in point.values.items() if k in P.atoms(sp.Symbol))


def linearized_map(update: sp.Expr, filters: Mapping[sp.Symbol, sp.Expr], P: sp.Expr) -> sp.Matrix:
    """Return M(lambda) on (w, filtered states) for one coordinate: gradient lambda P w, slow states frozen.

    Heavy ball, m' = b m + (1 - b) g and w' = w - m' / P:

    >>> b, m, P = sp.symbols("b m P", positive=True)
    >>> linearized_map(-m / P, {m: b * m + (1 - b) * symbols.g}, P)[0, 0]
    b*lam - lam + 1
    """
    w = sp.Symbol("w_scalar")
    gradient = {_s.g: _s.lam * P * w, _s.w: w}
    updated = {m: new.xreplace(gradient) for m, new in filters.items()}
    weights = w + update.xreplace(gradient).xreplace(updated)
    variables = [w, *filters]
    after = [weights, *updated.values()]
    return sp.Matrix([[sp.simplify(sp.cancel(a.diff(v))) for v in variables] for a in after])


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
    return sp.expand(solutions[0]) if solutions[0].is_polynomial() else sp.factor(solutions[0])


def refuse_other_periods(M: sp.Matrix, c: sp.Expr, samples: Sequence[Mapping[sp.Symbol, sp.Expr]] = ({},)) -> None:
    """Raise `DerivationError` where a root other than -1 leaves the unit disc for a lambda in (0, c).

    Exact at each sample of the hyperparameters: the resultant of the characteristic polynomial and its
    reversal is 0 wherever a root lies on the unit circle; without such a lambda in (0, c), one stable lambda
    settles it.
    """
    for sample in samples:
        p = sp.Poly(M.subs(sample).charpoly(MU).as_expr(), MU)
        end = sp.nsimplify(sp.sympify(c).subs(sample))
        reversal = sp.Poly(list(reversed(p.all_coeffs())), MU)
        crossing = sp.Poly(sp.resultant(p.as_expr(), reversal.as_expr(), MU), _s.lam)
        roots = [] if crossing.is_zero else sorted(r for r in sp.real_roots(crossing) if 0 < r < end)
        probes = [a + (b - a) / 2 for a, b in zip([sp.Integer(0), *roots], [*roots, end], strict=True)]
        for lam in probes:
            at_lam = sp.Poly(p.as_expr().subs(_s.lam, sp.nsimplify(sp.N(lam, 30), rational=True)), MU)
            worst = max((abs(r) for r in at_lam.nroots(n=30)), default=0)
            if worst >= 1:
                raise DerivationError(
                    f"a root of modulus {float(worst):.4g} leaves the unit disc at lambda = "
                    f"{float(lam):.5g}, before the "
                    f"threshold c = {float(end):.5g}: the instability does not have period two, so no "
                    f"central flow exists."
                )


def refuse_filters(spec: OptimizerSpec) -> None:
    """Raise `DerivationError` for a spec with filtered states, naming a root that is unstable before the period two."""
    filters = {s: e for s, e in spec.sequential_updates.items() if spec.kinds[s.name] == "filtered"}
    if not filters:
        return
    names = ", ".join(s.name for s in filters)
    moving = {_s.g, _s.w, *filters}
    if any(spec.weight_update.diff(x).atoms(sp.Symbol) & moving for x in moving):
        raise DerivationError(
            f"optimizer {spec.name!r}: the step {spec.weight_update} is not linear in the gradient and in its averages "
            f"({names}), so that P would oscillate with them; no flow is derived for that."
        )
    for seed in range(3):
        # at random hyperparameters, slow states 1, bias corrections gone; P = 1 only sets the unit of lambda
        point = random_point(spec, seed)
        values = {h.symbol: point.values[h.symbol] for h in spec.active_hyperparameters}
        values |= dict.fromkeys(spec.state_symbols.values(), sp.Integer(1))
        step, decay, *updates = (_late(e).xreplace(values) for e in (spec.weight_update, spec.decay, *filters.values()))
        slopes = {x: step.diff(x) for x in (_s.g, *filters, *map(spec.new, (s.name for s in filters)))}
        unit = next((abs(a) for a in slopes.values() if a != 0), sp.Integer(1))
        step = sp.Add(*(a / unit * x for x, a in slopes.items())) - decay * _s.w
        inserted = {spec.new(s.name): e for s, e in zip(filters, updates, strict=True)}
        M = linearized_map(
            step, {s: e.xreplace(inserted) for s, e in zip(filters, updates, strict=True)}, sp.Integer(1)
        )
        refuse_other_periods(M, threshold(M))
    raise DerivationError(
        f"optimizer {spec.name!r} has momentum (the filtered states {names}): its derivation needs the filter, which "
        "is not built yet; use an optimizer without momentum. Its discrete update can be traced and run."
    )


def _late(expr: sp.Expr) -> sp.Expr:
    """Return an expression at a large count, where decays to the power of the count are gone."""
    gone = {p: sp.Integer(0) for p in expr.atoms(sp.Pow) if p.exp.has(_s.t)}
    return expr.xreplace(gone).xreplace({_s.t: sp.Integer(10**6)})


def _shape(P: sp.Expr) -> str:
    if not is_elementwise(P):
        return "one number for all weights."
    return "one number for each block of weights." if is_blockwise(P) else "one entry for each weight."


def stability_steps(spec: OptimizerSpec) -> list[Step]:
    """Return the steps for P and c."""
    P = preconditioner(spec)
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
            "preconditioner", SECTION, "read off the preconditioner", "P",
            spec.weight_update, P,
            "Given the updated states, the step is linear in the gradient, so $P$ is minus one over its slope, "
            + _shape(P),
            check_preconditioner, "$P$ depends on slow states and on $t$ only.", spec.source,
        ),
        Step(
            "threshold", SECTION, "linearize and solve det(M + I) = 0", "c", (M + sp.eye(M.rows)).det(), c,
            r"On a quadratic whose curvature is $\lambda$ in units of $P$ the step multiplies $w$ by "
            + (r"$M=1-\lambda$. " if spec.decay == 0 else r"$M=1-\lambda$ less the decoupled decay. ") +
            "The period-two "
            "instability begins where $M=-1$, and on $(0,c)$ the only root stays inside the unit disc. "
            "Negative curvature is "
            "unstable, too, but does not oscillate.",
            check_threshold, "Slow states are frozen over one period of the oscillation.",
            "arXiv:2410.24206; arXiv:2207.14484",
        ),
    ]  # fmt: skip

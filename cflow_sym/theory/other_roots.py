"""No root but z = -1 reaches the unit circle before the threshold, where the filter's weights are not negative.

Also the signs that this needs, proved for all values of the hyperparameters rather than tried at some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import draw, is_zero, source
from cflow_sym.derivation.result import Part
from cflow_sym.notation import symbols
from cflow_sym.theory.canonical_form import CanonicalForm
from cflow_sym.theory.momentum import SECTION, filter_map, hyperparameter_samples
from cflow_sym.theory.stability import MU

_s = symbols


def weights(form: CanonicalForm) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
    """Return (k, b) with G(z) = sum k / (1 - b / z); r is a weight with b = 0.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> weights(canonical_form(cs.optimizer("nesterov")))
    ((beta1, beta1), (1, 0))
    """
    found = tuple((q * a, b) for q, a, b in zip(form.phi, form.a, form.b, strict=True))
    return found if form.r == 0 else (*found, (form.r, sp.Integer(0)))


def other_roots_steps(form: CanonicalForm) -> list[Step]:
    """Return the theorem, empty where a weight may be negative or its sign is not found.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> other_roots_steps(canonical_form(cs.optimizer("heavy_ball")))[0].after
    -(1 - beta1)/(beta1**2 - 2*beta1*cos_phase + 1)
    """
    if not form.states or not _signs_hold(form):
        return []
    C, keep = _s.cos_phase, 1 - form.decay
    parts = [(k, b, 1 - 2 * b * C + b**2) for k, b in weights(form)]
    imaginary = sp.Add(*(k * b / size for k, b, size in parts))
    real = sp.Add(*(k * (1 - b * C) / size for k, b, size in parts))
    left = -sp.Add(*(k * (1 - keep * b) / size for k, b, size in parts))
    return [Step(
        Part.THEOREM.named("other_roots"), SECTION, "eliminate the curvature on the unit circle", "0",
        (keep - C) * imaginary - real, left,
        r"Can another root reach the unit circle at some $\lambda$ between $0$ and $c$? There $z=e^{i\varphi}$ and "
        r"$1-d-z=\lambda G(z)$ with $G(z)=\sum_ik_i/(1-b_i/z)$, $d$ the decoupled decay. Unless $z=\pm1$, the "
        r"imaginary part gives $1/\lambda$; inserted into the real part it leaves this equation, in which every term "
        r"is negative: $k_i\ge0$, $0\le b_i<1$ and $0\le d<1$. So no other root reaches the circle. At $z=1$ the "
        r"equation asks for $-d=\lambda G(1)$, which is impossible, and at $z=-1$ for $\lambda=c$. As all roots but "
        r"$z=1-d$ start inside, at the $b_i$, and that one moves inside, period two is the first instability.",
        _circle_check(form), "The decoupled decay of one step is less than 1." if form.decay != 0 else "",
    )]  # fmt: skip


def _signs_hold(form: CanonicalForm) -> bool:
    """Prove that all weights are at least 0, some of them more, and that (1 - d) b < 1."""
    positive = [k for k, _ in weights(form) if _at_least_zero(form, k, strictly=True)]
    return bool(positive) and all(
        _at_least_zero(form, k) and _at_least_zero(form, 1 - (1 - form.decay) * b, strictly=True)
        for k, b in weights(form)
    )


def _at_least_zero(form: CanonicalForm, expr: sp.Expr, strictly: bool = False) -> bool:
    """Say whether an expression is at least (or more than) 0 for all hyperparameters in their ranges and all counts.

    A decay in (0, 1) is written 1/(1 + x) with any x > 0, a power of it with the count likewise.
    """
    shrink = sp.Dummy(positive=True)
    expr = sp.sympify(expr)
    if form.decay != 0:
        expr = sp.expand(expr).xreplace({sp.expand(form.decay): 1 / (1 + shrink)})
    fractions = {h.symbol for h in form.spec.active_hyperparameters if (h.lower, h.upper) == (0.0, 1.0)}
    powers = {p for p in expr.atoms(sp.Pow) if p.exp.has(_s.t) and p.base in fractions}
    open_ends = {x: 1 / (1 + sp.Dummy(positive=True)) for x in (*powers, *fractions)}
    found = in_factors(sp.together(expr.xreplace(open_ends)))
    return bool(found.is_positive if strictly else found.is_nonnegative)


def _circle_check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """At rational points of the circle, and with the optimizer's own map: its polynomial is p0 + lambda p1.

    A root there needs a real lambda = -p0/p1, so that Im(p0 conj(p1)) must vanish; it is -sin(phase) times the result.
    """

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed, sample, p in _samples(form):
            for sign in (1, -1):
                y = sign * draw(source(f"circle-{seed}"), 0.1, 4)
                C, sine = (1 - y**2) / (1 + y**2), 2 * y / (1 + y**2)
                z = C + sp.I * sine
                p0, p1 = (sp.expand(e.subs(MU, z)) for e in (p.subs(_s.lam, 0), p.diff(_s.lam)))
                poles = sp.Mul(*((C - b) ** 2 + sine**2 for b in (sp.sympify(b).xreplace(sample) for b in form.b)))
                needed = sp.im(sp.expand(p0 * sp.conjugate(p1))) / poles
                stated, written = (e.xreplace(sample | {_s.cos_phase: C}) for e in (after, before))
                if not (is_zero(needed + sine * stated) and is_zero(stated - written) and stated < 0):
                    return False
        return True

    return check


def _samples(form: CanonicalForm) -> Iterator[tuple[int, dict[sp.Symbol, sp.Expr], sp.Expr]]:
    for seed, sample in enumerate(hyperparameter_samples(form.spec)):
        yield seed, sample, filter_map(form).xreplace(sample).charpoly(MU).as_expr()

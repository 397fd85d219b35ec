"""The multiplier of a small oscillation: by what factor one step takes a displacement along an eigenvector.

At the effective eigenvalue lambda, slow states frozen, the optimizer is a linear map on the weights and the averages of
the gradient. Its multipliers are the roots of the characteristic polynomial; the leftmost one, -1 at the threshold,
says how fast the oscillation of period two decays below it and grows beyond it.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import agree, draw, random_point, scale, source
from cflow_sym.derivation.result import Result
from cflow_sym.notation import symbols
from cflow_sym.theory.canonical_form import CanonicalForm, shorter
from cflow_sym.theory.momentum import SAMPLES, averages_updated, filter_map
from cflow_sym.theory.momentum import SECTION as MOMENTUM
from cflow_sym.theory.stability import MU
from cflow_sym.theory.stability import SECTION as THRESHOLD

_s = symbols


def multiplier_step(form: CanonicalForm) -> Step:
    """Return the step for the characteristic polynomial, whose roots are the multipliers, with momentum or without.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> multiplier_step(canonical_form(cs.optimizer("gradient_descent"))).after
    lam + z - 1
    """
    M = filter_map(form)
    polynomial = sp.Add(*(q * _s.z**k for k, q in enumerate(reversed(coefficients(form)))))
    return Step(
        Result("characteristic_polynomial"), MOMENTUM if form.states else THRESHOLD, "linearize at any curvature",
        "p(z)", (_s.z * sp.eye(M.rows) - M).det(), polynomial,
        r"Its roots are the factors by which one step multiplies a displacement along an eigenvector of effective "
        r"eigenvalue $\lambda$. The leftmost one belongs to the oscillation of period two: it is $-1$ at the "
        "threshold; below, the oscillation decays by its modulus at every step, and above it grows.", _check(form),
        "The oscillation is small, and slow states are frozen over one period.",
    )  # fmt: skip


def coefficients(form: CanonicalForm) -> tuple[sp.Expr, ...]:
    """Return the coefficients of det(z - M), that of the highest power, 1, first.

    Heavy ball, m' = b m + (1 - b) g and w' = w - eta m':

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> coefficients(canonical_form(cs.optimizer("heavy_ball_ema")))
    (1, -beta1 + lam*(1 - beta1) - 1, beta1)
    """
    found = sp.Poly(filter_map(form).charpoly(MU).as_expr(), MU).all_coeffs()
    return tuple(_in_curvature(q) for q in found)


def _in_curvature(q: sp.Expr) -> sp.Expr:
    """Write a coefficient as what it is without curvature plus lambda times its slope."""
    still = q.subs(_s.lam, 0)
    return shorter(_s.lam * shorter(sp.cancel(sp.diff(q, _s.lam))) + shorter(sp.cancel(still)))


def _check(form: CanonicalForm) -> Callable[[sp.Expr, sp.Expr], bool]:
    """Take the optimizer's own step from a mode, at the curvature for which its multiplier is a given z.

    The polynomial is linear in lambda, so that lambda follows from z. Averages start at a g / (z - b), and one step
    must multiply weights and averages by z.
    """

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(SAMPLES):
            point = random_point(form.spec, seed)
            z = draw(source(f"multiplier-{seed}"), -2, -sp.Rational(1, 4))
            p = sp.Poly(point.with_values({_s.z: z, _s.lam: _s.lam})(after), _s.lam)
            lam = -p.nth(0) / p.nth(1)
            w = point.vector(_s.w)
            gradient = tuple(lam * q * x for q, x in zip(point.vector(form.P), w, strict=True))
            shares = [point(a) / (z - point(b)) for a, b in zip(form.a, form.b, strict=True)]
            averages = {m: scale(share, gradient) for m, share in zip(form.states, shares, strict=True)}
            end = averages_updated(form, point.with_values({_s.g: gradient, **averages}))
            moved = tuple(x + d for x, d in zip(w, end.vector(form.spec.weight_update), strict=True))
            kept = all(agree(end.values[m], scale(z, old)) for m, old in averages.items())
            if p.degree() != 1 or not kept or not agree(moved, scale(z, w)):
                return False
        return True

    return check

"""Whether cycles about the central flow grow or settle: how late amplitude, curvature and P answer each other.

Two loops hold the eigenvalue at the threshold. Through the curvature a larger oscillation lowers S; through the
second moment, where there is one, it raises P. Each answers with a delay, and the second one forgets, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.derivation.exact import agree, is_zero
from cflow_sym.derivation.result import Result
from cflow_sym.notation import drop_sums, expand_names, symbols
from cflow_sym.theory.canonical_form import CanonicalForm, shorter
from cflow_sym.theory.closures import GAIN, SECTION
from cflow_sym.theory.cycles import SHARPENING
from cflow_sym.theory.momentum import hyperparameter_samples

_s = symbols
SMALL = sp.Rational(1, 10**20)  # of an oscillation, or of the root of a rate
NEGLIGIBLE = 1e-10
PLACES = 200  # digits
VALLEY = "One critical eigenvalue that changes along a straight valley, where nothing but the loops damps; no decay."
PLAIN_NU = sp.Symbol("nu", positive=True)


def growth_steps(form: CanonicalForm) -> list[Step]:
    """Return the steps for the delay of the loop, the burst index, and the growth with a second moment.

    Decoupled decay and schedules are slow, and left out.

    >>> import cflow_sym as cs
    >>> d = cs.derive("heavy_ball_ema")
    >>> [d[key].subs(cs.symbols.beta1, 0) for key in ("cycle_growth", "burst_index")]
    [1, 2]
    >>> cs.derive("scalar_rmsprop")["cycle_growth_nu"]
    a - kappa2/2
    """
    form = replace(form, decay=sp.Integer(0))
    edge = Edge.of(form)
    steps = [_delay_step(form, edge), _index_step(form, edge)]
    if second_moment(form.late) is not None:
        steps.append(_second_moment_step(form, edge))
    return steps


@dataclass(frozen=True)
class Edge:
    """Late threshold, gain, G'(1)/G(1) and G''(-1); `named` says that formulas keep their names, where they are long.

    >>> import cflow_sym as cs
    >>> from cflow_sym.theory.canonical_form import canonical_form
    >>> Edge.of(canonical_form(cs.optimizer("gradient_descent"))).delay
    1
    """

    values: Mapping[sp.Symbol, sp.Expr]
    named: bool

    @classmethod
    def of(cls, form: CanonicalForm) -> Edge:
        """Read them off the filter without decay, its corrections of bias died out."""
        G = form.late.transfer(_s.z)
        slope = G.diff(_s.z)
        c = 2 / G.subs(_s.z, -1)
        values = {
            _s.c: shorter(c),
            GAIN: shorter(2 / (1 + c * slope.subs(_s.z, -1))),
            _s.lag_ratio: (slope / G).subs(_s.z, 1),
            _s.bend_at_edge: slope.diff(_s.z).subs(_s.z, -1),
        }
        return cls(values, len(form.states) > 1)

    def shown(self, expr: sp.Expr) -> sp.Expr:
        """Insert the values, or keep the names."""
        return expr if self.named else shorter(expr.xreplace(dict(self.values)))

    def at(self, expr: sp.Expr, sample: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Return the value of an expression, with names or without, at a sample of the hyperparameters."""
        return sp.sympify(expr).xreplace(dict(self.values)).xreplace(dict(sample))

    @property
    def delay(self) -> sp.Expr:
        """Theta of the loop through the curvature.

        The loop (Z - 1)(1 + Z - c G(-Z)) + 2 a G(Z) G(-Z)/G(1) = 0 has Z = exp(s) with s = i omega + omega^2 theta/2.
        """
        half = sp.Rational(1, 2)
        return self.shown(half - _s.lag_ratio + 1 / GAIN - _s.c * GAIN * _s.bend_at_edge / 4)

    @property
    def delay_of_amplitude(self) -> sp.Expr:
        """Theta of the loop through the second moment."""
        return self.shown(-_s.c * GAIN * _s.bend_at_edge / 4)


def second_moment(late: CanonicalForm) -> sp.Symbol | None:
    """Return the state nu of P = sqrt(nu)/eta that averages squared gradients, None for any other P."""
    states = [s for s in late.slow if s != _s.t]
    if len(states) != 1:
        return None
    (nu,) = states
    decay = late.slow[nu].diff(nu)
    fed = drop_sums(expand_names(late.slow[nu] - decay * nu))
    alike = sp.cancel(late.P * _s.eta / sp.sqrt(nu)) == 1
    whole = sp.expand(fed - (1 - decay) * _s.g**2)
    decays = {h.symbol for h in late.spec.active_hyperparameters if (h.lower, h.upper) == (0.0, 1.0)}
    return nu if alike and decay in decays and whole == 0 else None


def _delay_step(form: CanonicalForm, edge: Edge) -> Step:
    late, Z = form.late, _s.z
    G, Gm = late.transfer(Z), late.transfer(-Z)
    loop = (Z - 1) * (1 + Z - _s.c * Gm) + 2 * SHARPENING * G * Gm / late.speed

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for sample in hyperparameter_samples(form.spec)[:2]:
            r, omega_squared, _ = measured(late, sample, edge)
            p = sp.Poly(sp.numer(sp.together(edge.at(before, sample))).subs(Z, 1 + Z), Z, SHARPENING)
            of_loop = 1 + p.nth(3, 0) / p.nth(2, 0) - p.nth(1, 1) / p.nth(0, 1)
            stated = edge.at(after, sample)
            if not (agree(2 * r / omega_squared, stated) and agree(of_loop, stated)):
                return False
        return True

    return Step(
        Result("cycle_growth"), SECTION, "next order of the loop through the curvature", r"\theta", loop, edge.delay,
        r"Followed step by step with $P$ held fixed, a small cycle is $e^{st}$ with "
        r"$s=i\omega+\frac12\omega^2\theta$: amplitude and curvature answer each other late, by $\theta$ steps in all: "
        r"half a step, the averaged path's lag $-G'(1)/G(1)$, and $\tfrac1\Gamma-\tfrac14c\,\Gamma\,G''(-1)$, that of "
        r"the amplitude. So cycles grow by the factor $e^{\pi\omega\theta}$ from one to the next unless something "
        "damps them, the loss or a moving $P$: by itself this loop does not settle, with momentum or without.",
        check, VALLEY,
    )  # fmt: skip


def _index_step(form: CanonicalForm, edge: Edge) -> Step:
    index = edge.shown(GAIN * edge.delay)

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for sample in hyperparameter_samples(form.spec)[:2]:
            r, _, prevented = measured(form.late, sample, edge)
            if not agree(r / prevented, edge.at(after, sample)):
                return False
        return True

    return Step(
        Result("burst_index"), SECTION, "growth per sharpening prevented", r"\Gamma\theta", edge.delay * GAIN, index,
        r"A small cycle grows by $\frac12\omega^2\theta=\Gamma\theta\,a/c$ per step, and $a/c$ is the relative rate at "
        r"which the eigenvalue would rise without the oscillation. So the *burst index* $\Gamma\theta$ counts "
        r"$e$-folds per relative sharpening prevented, $\int a\,dt/c$. It gives a horizon: cycles stay small, and the "
        r"flow is followed closely, while $\Gamma\theta\int a\,dt/c<\log(1/\text{initial misfit})$, the misfit being "
        r"the relative deviation of $x^2$ from $a/b$ at the start.", check, VALLEY,
    )  # fmt: skip


def _second_moment_step(form: CanonicalForm, edge: Edge) -> Step:
    late = form.late
    nu = second_moment(late)
    decay = late.slow[nu].diff(nu)
    rate = _s.kappa2 if decay == _s.beta2 else 1 - decay
    growth = SHARPENING * edge.shown(GAIN * edge.delay / _s.c) + rate / 2 * edge.shown(
        GAIN * edge.delay_of_amplitude - 1
    )

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed, sample in enumerate(hyperparameter_samples(form.spec)[:2]):
            kappa = (seed + 2) * SMALL**2
            here = sample | {decay: 1 - kappa, _s.kappa2: kappa}
            r, omega_squared, prevented = measured(late, here, edge, kappa)
            threshold, slope = (edge.at(e, here) for e in (_s.c, GAIN))
            stated = edge.at(after.subs(SHARPENING, (prevented - kappa / 2) * threshold), here)
            if not (agree(r, stated) and agree(omega_squared, 2 * slope * prevented)):
                return False
        return True

    one = "one $\\nu$ for all weights, in which the gradient is that of the oscillation"
    return Step(
        Result("cycle_growth_nu"), SECTION, "next order with both loops", r"\mathrm{Re}\,s", edge.delay, growth,
        r"A larger oscillation also raises $\nu$, and with it $P$: of the rise that the oscillation prevents the part "
        rf"$\tfrac12c\,{sp.latex(rate)}$ is what $P$ would lose by forgetting, and $a$ in this formula is the rest, "
        r"the curvature's. The loop through $\nu$ answers within the step, so that of the delay only the amplitude's "
        r"$-\tfrac14c\,\Gamma\,G''(-1)$ is left, and it forgets. Cycles settle where the sum is negative. To first "
        r"order in the rates: where $\omega\theta$ is not small, as with a large $\beta_1$, growth is slower.",
        check, f"{VALLEY[:-1]}; {one}.",
    )  # fmt: skip


# The optimizer itself, linearized about its oscillation at rest


def measured(
    late: CanonicalForm, sample: Mapping[sp.Symbol, sp.Expr], edge: Edge, kappa: sp.Expr | None = None
) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Return growth per step and squared frequency of the slow mode, and a/c, in the valley (S + y) x^2/2 - p y.

    P stays fixed, or with `kappa` follows sqrt(nu)/eta where nu forgets at that rate. Without it the oscillation is
    small, with it the curvature is large: both make the cycle slow.
    """
    threshold = edge.at(_s.c, sample)
    v = late.speed.xreplace(dict(sample))
    if kappa is None:
        P, x = sp.Rational(7, 5), SMALL
        S = threshold * P
    else:
        S, x = sp.Rational(3, 2) / SMALL, sample[_s.eta] / threshold
        P = S / threshold
    prevented = v * x**2 / (2 * P**2 * threshold) + (kappa or sp.Integer(0)) / 2
    with mpmath.workdps(PLACES):
        s = mpmath.log(1 + mpmath.mpf(SMALL.p) / SMALL.q * _slow_root(_one_step(late, sample, S, P, x, kappa)))
        return sp.Float(s.real, PLACES), sp.Float(s.imag**2, PLACES), prevented


def _slow_root(J: sp.Matrix) -> Any:
    """Return u of the multiplier 1 + SMALL u that turns, by Newton from that of the largest coefficients."""
    u = sp.Symbol("u")
    p = sp.Poly(J.charpoly(u).as_expr().subs(u, 1 + SMALL * u), u)
    coefficients = [mpmath.mpf(q.p) / q.q for q in p.all_coeffs()]
    largest = max(abs(q) for q in coefficients)
    leading = [q if abs(q) > largest * NEGLIGIBLE else mpmath.mpf(0) for q in coefficients]
    first = next(i for i, q in enumerate(leading) if q != 0)
    root = max(mpmath.polyroots(leading[first:], maxsteps=500, extraprec=PLACES), key=lambda q: q.imag)
    for _ in range(12):
        value, slope = mpmath.polyval(coefficients, root, derivative=True)
        root -= value / slope
    return root


def _one_step(
    late: CanonicalForm, sample: Mapping[sp.Symbol, sp.Expr], S: sp.Expr, P: sp.Expr, x: sp.Expr, kappa: sp.Expr | None
) -> sp.Matrix:
    """Return the Jacobian of a step at rest; along x with the sign of the oscillation, so that it is a fixed point."""
    place = sp.symbols("w_x w_y")
    gradient = ((S + place[1]) * place[0], (place[0] ** 2 - x**2) / 2)
    size = sp.sqrt(PLAIN_NU) / sample[_s.eta] if kappa is not None else P
    squared = gradient[0] ** 2 + gradient[1] ** 2
    remembered = (1 - kappa) * PLAIN_NU + kappa * squared if kappa is not None else PLAIN_NU
    start: dict[sp.Symbol, sp.Expr] = {}
    after: list[sp.Expr] = []
    for i, (sign, at_rest) in enumerate(((-1, x), (1, sp.Integer(0)))):
        averages = {m: sp.Symbol(f"{m}_{i}") for m in late.states}
        updated = {
            m: (b * averages[m] + a * gradient[i]).xreplace(dict(sample))
            for m, b, a in zip(late.states, late.b, late.a, strict=True)
        }
        direction = late.direction.xreplace({**dict(sample), **updated, _s.g: gradient[i]})
        start |= {place[i]: at_rest}
        start |= {averages[m]: (-f * S * at_rest).xreplace(dict(sample)) for m, f in late.alternating.items()}
        after += [sign * (place[i] - direction / size.xreplace({PLAIN_NU: remembered}))]
        after += [sign * updated[m] for m in late.states]
    if kappa is not None:
        start[PLAIN_NU], after = (S * x) ** 2, [*after, remembered]
    moved = [f.xreplace(start) - start[v] for f, v in zip(after, start, strict=True)]
    if not all(is_zero(e, 1 + abs(start[v])) for e, v in zip(moved, start, strict=True)):
        raise ValueError("the oscillation at the threshold is not at rest")
    return sp.Matrix(after).jacobian(list(start)).xreplace(start)

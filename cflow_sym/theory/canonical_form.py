"""The canonical form of an optimizer with momentum, recognised in its update.

    m_i' = b_i m_i + a_i g,   s' = slow(s, g, m', t),   w' = (1 - d) w - P(s')^{-1} (sum_i phi_i m_i' + r g)

Everything that a flow needs of the filter is in its transfer function G(z) = sum_i phi_i a_i / (1 - b_i / z) + r, with
z the shift by one step. Whatever is outside this form is refused with a sentence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import sympy as sp

from cflow_sym.algebra import before_update, in_factors
from cflow_sym.derivation.derivation import DerivationError
from cflow_sym.derivation.exact import Point, random_point, scale
from cflow_sym.notation import (
    NEW,
    OLD,
    Coordinate,
    contract,
    drop_sums,
    expand_names,
    latex_of,
    orient,
    state_symbol,
    symbols,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import SpecError, State

_s = symbols


@dataclass(frozen=True)
class CanonicalForm:
    """The parts of the canonical form; `slow` holds the slow states' updates, where m stands for the updated m.

    >>> import cflow_sym as cs
    >>> form = canonical_form(cs.optimizer("nesterov"))
    >>> form.phi, form.r, form.P, form.transfer(sp.Integer(-1))
    ((beta1,), 1, 1/eta, beta1/(beta1 + 1) + 1)
    """

    spec: OptimizerSpec
    b: tuple[sp.Expr, ...]
    a: tuple[sp.Expr, ...]
    phi: tuple[sp.Expr, ...]
    r: sp.Expr
    P: sp.Expr
    decay: sp.Expr
    slow: Mapping[sp.Symbol, sp.Expr]

    @property
    def states(self) -> tuple[sp.Symbol, ...]:
        """The filtered states, in the order of b, a and phi."""
        return tuple(s for n, s in self.spec.all_symbols.items() if self.spec.kinds[n] == "filtered")

    @property
    def direction(self) -> sp.Expr:
        """sum_i phi_i m_i' + r g, in terms of the updated states."""
        return sp.Add(*(q * m for q, m in zip(self.phi, self.states, strict=True))) + self.r * _s.g

    def transfer(self, z: sp.Expr) -> sp.Expr:
        """Return G(z): what the filter makes of a gradient that grows by z with every step."""
        parts = (q * (a / (1 - b / z)) for q, a, b in zip(self.phi, self.a, self.b, strict=True))
        return shorter(sp.Add(*parts) + self.r)

    @property
    def speed(self) -> sp.Expr:
        """v = G(1): how fast the weights move per unit of P^{-1} g in the steady state."""
        return shorter(sp.Add(*(weight for _, weight in self.averages)))

    @property
    def averages(self) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """(b, weight) of averages of the gradient that add up to the direction; r g is an average with b = 0."""
        found = [(b, q * (a / (1 - b))) for q, a, b in zip(self.phi, self.a, self.b, strict=True)]
        return (*found, *([(sp.Integer(0), self.r)] if self.r != 0 else []))

    @property
    def steady(self) -> dict[sp.Symbol, sp.Expr]:
        """The value of each filtered state per unit of a gradient that stands still."""
        return {m: a / (1 - b) for m, a, b in zip(self.states, self.a, self.b, strict=True)}

    @property
    def alternating(self) -> dict[sp.Symbol, sp.Expr]:
        """The value of each updated filtered state per unit of a gradient that changes sign at every step."""
        return {m: a / (1 + b) for m, a, b in zip(self.states, self.a, self.b, strict=True)}

    @property
    def late(self) -> CanonicalForm:
        """The form at a large count, where corrections of bias have died out."""
        return self._without(lambda base: True)

    @property
    def settled(self) -> CanonicalForm:
        """The form after the memory of the filter, where those corrections of bias are left that belong to states."""
        return self._without(lambda base: base in self.b)

    def _without(self, gone: Callable[[sp.Expr], bool]) -> CanonicalForm:
        late = functools.partial(late_limit, gone=gone)
        slow = {s: late(e) if s != _s.t else e for s, e in self.slow.items()}
        return replace(self, phi=tuple(map(late, self.phi)), r=late(self.r), P=late(self.P), slow=slow)

    def seen(self, expr: sp.Expr) -> sp.Expr:
        """Write updated filtered states as the mean that they stand for plus their alternating part.

        With `g_mean` the mean of g the result is a function of g alone, whose averages are known.
        """
        parts = {m: m + p * (_s.g - _s.g_mean) for m, p in self.alternating.items()}
        return sp.sympify(expr).xreplace(parts)


def late_limit(expr: sp.Expr, gone: Callable[[sp.Expr], bool]) -> sp.Expr:
    """Return the limit for a large count, in which those decays to the power of the count vanish that are gone.

    >>> everything = lambda base: True
    >>> late_limit((2**symbols.t - 1) * symbols.nu / 2**symbols.t, everything)
    nu
    >>> late_limit(1 - symbols.beta2 ** (symbols.t + 1), everything)
    1
    """
    left: dict[sp.Expr, sp.Symbol] = {}  # what is left of the past, by decay

    def decay(p: sp.Pow) -> sp.Expr:
        return 1 / p.base if p.base.is_Rational and p.base > 1 else p.base  # (1/2)**t reads 2**(-t)

    def decaying(p: sp.Pow) -> sp.Expr:
        slope = p.exp.diff(_s.t)
        x = left.setdefault(decay(p), sp.Dummy(positive=True))
        return x ** (slope if decay(p) == p.base else -slope) * p.base ** (p.exp - slope * _s.t)

    counted = (p for p in expr.atoms(sp.Pow) if p.exp.has(_s.t) and not p.exp.diff(_s.t).has(_s.t))
    moving = expr.xreplace({p: decaying(p) for p in counted if gone(decay(p))})
    for x in left.values():
        there = moving.xreplace({x: sp.Integer(0)})
        undefined = there.has(sp.nan, sp.zoo, sp.oo) or sp.together(moving).as_numer_denom()[1].subs(x, 0) == 0
        moving = sp.limit(sp.together(moving), x, 0, "+") if undefined else there
    if moving.has(sp.nan, sp.zoo, sp.oo, sp.Limit):
        raise DerivationError(
            f"{expr} has no limit for a large count that could be found; write it with decays below 1."
        )
    return moving


def shorter(expr: sp.Expr) -> sp.Expr:
    """Return an expression or its factored form, whichever is shorter.

    >>> shorter(symbols.beta1 / (1 - symbols.beta1) + 1)
    1/(1 - beta1)
    """
    factored = in_factors(expr)
    return min((expr, factored, orient(factored)), key=lambda e: (e.count_ops(), str(e).count("-"), len(str(e))))


def memories(form: CanonicalForm, of_states: bool = True) -> str:
    """Return which time is late, as a condition on t; without `of_states` late for the averages of the gradient.

    >>> import cflow_sym as cs
    >>> print(memories(canonical_form(cs.optimizer("adam"))))
    $t\\gg1/(1-\\beta_1),\\ 1/(1-\\beta_2)$
    """
    slow = (new.diff(s) for s, new in form.slow.items() if s != _s.t and of_states)
    decays = [*form.b, *slow]
    named = dict.fromkeys(b for b in decays if b.is_Symbol)
    return r"$t\gg" + r",\ ".join(f"1/(1-{latex_of(b)})" for b in named) + "$"


def has_momentum(spec: OptimizerSpec) -> bool:
    """Say whether some state is an average of the gradient itself.

    >>> import cflow_sym as cs
    >>> has_momentum(cs.optimizer("adam")), has_momentum(cs.optimizer("rmsprop"))
    (True, False)
    """
    return "filtered" in spec.kinds.values()


def canonical_form(spec: OptimizerSpec) -> CanonicalForm:
    """Return the canonical form; raises `SpecError` or `DerivationError` with the part that is outside it."""
    update = spec.weight_update
    if drop_sums(expand_names(update)) != expand_names(update):
        raise SpecError(
            f"optimizer {spec.name!r}: the update contains a norm of the gradient, {update}; P may depend on states "
            f"only, so make the norm a state."
        )
    filters = {s: e for s, e in spec.sequential_updates.items() if spec.kinds[s.name] == "filtered"}
    b, a = _coefficients(spec, filters)
    update = in_updated_averages(spec)
    old = sorted(s.name for s in update.atoms(sp.Symbol) if s.name.endswith(OLD))
    if old:
        raise SpecError(
            f"optimizer {spec.name!r}: the step reads {', '.join(old)}, states as they were before their update; "
            f"write it in terms of the updated states."
        )
    slopes = {x: -update.diff(x) for x in (*filters, _s.g)}
    rest = sp.expand(update.xreplace(dict.fromkeys(slopes, sp.Integer(0))) + spec.decay * _s.w)
    if rest != 0 or any(e.has(*slopes) for e in slopes.values()):
        averages = f" and in its averages ({', '.join(s.name for s in filters)}), so that P would oscillate with them"
        raise (DerivationError if filters else SpecError)(
            f"optimizer {spec.name!r}: given the updated states, the update {update} is not linear in "
            + (f"the gradient g{averages}; no flow is derived for that." if filters else
               "g: supported is a step - g / P - d w with P a function of states that remember past gradients, such "
               "as nu' = beta2 nu + (1 - beta2) g^2, not of the gradient of the same step.")
        )  # fmt: skip
    if filters:
        unit = {m: _unit(a_i, b_i) for m, b_i, a_i in zip(filters, b, a, strict=True)} | {_s.g: sp.Integer(1)}
        common = _common([sp.together(e * unit[x]) for x, e in slopes.items() if e != 0])
        shares = {x: _share(spec, x, sp.together(e) / common) for x, e in slopes.items()}
        P = 1 / common
    else:
        P, shares = 1 / sp.together(slopes[_s.g]), {_s.g: sp.Integer(1)}
    own = [h.symbol for h in spec.active_hyperparameters if h.values]
    if any(sp.sympify(e).has(*own) for e in (*b, *a, *shares.values())):
        raise DerivationError(
            f"optimizer {spec.name!r}: its groups of arrays weigh the gradient and its averages differently, and all "
            "must share one filter: give them the same momentum; rates, decays and constants in P may differ."
        )
    _refuse_negative(spec, P)
    slow = _slow_updates(spec, filters)
    return CanonicalForm(spec, tuple(b), tuple(a), tuple(shares[m] for m in filters), shares[_s.g], P, spec.decay, slow)


def in_updated_averages(spec: OptimizerSpec) -> sp.Expr:
    """Return the step with averages before their update written in terms of the updated ones.

    >>> import cflow_sym as cs
    >>> in_updated_averages(cs.optimizer("heavy_ball"))
    -m*eta
    """
    update = spec.weight_update
    earlier = {}
    for m, new in spec.sequential_updates.items():
        old = state_symbol(m.name + OLD, "filtered")
        if spec.kinds[m.name] == "filtered" and update.has(old):
            earlier[old] = _before(spec, m, new)
    return sp.expand(update.xreplace(earlier)) if earlier else update


def _coefficients(spec: OptimizerSpec, filters: Mapping[sp.Symbol, sp.Expr]) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """Return b and a of every filter; refuses what is no average of the gradient itself."""
    known = {h.symbol for h in spec.active_hyperparameters}
    b, a = [], []
    for m, update in filters.items():
        slopes = update.diff(m), update.diff(_s.g)
        others = sorted(s.name for s in update.atoms(sp.Symbol) - known - {m, _s.g, _s.t})
        if others:
            reads = ", ".join(name.removesuffix(NEW) for name in others)
            raise DerivationError(
                f"optimizer {spec.name!r}: the average {m} also reads {reads}: what is preconditioned or averaged "
                "before it is averaged is outside the form that flows are derived for; average the gradient itself."
            )
        moving = [x for e in slopes for x in (_s.t, *spec.scheduled) if e.has(x)]
        if moving:
            raise DerivationError(
                f"optimizer {spec.name!r}: the average {m}' = {update} has coefficients that change with {moving[0]}; "
                "put what depends on time into the step of the weights."
            )
        if sp.expand(update - slopes[0] * m - slopes[1] * _s.g) != 0 or any(e.has(m, _s.g) for e in slopes):
            raise SpecError(
                f"optimizer {spec.name!r}: {m}' = {update} is no average of the gradient; it must be b {m} + a g with "
                "constants a and b."
            )
        b.append(in_factors(slopes[0]))
        a.append(in_factors(slopes[1]))
        for seed in range(3):
            value = random_point(spec, seed)(b[-1])
            if not 0 <= value < 1:
                raise SpecError(
                    f"optimizer {spec.name!r}: the average {m}' = {update} keeps {float(value):.3g} of its old value, "
                    "which is unstable by itself or alternates; the share must be at least 0 and less than 1."
                )
    return b, a


def _common(slopes: list[sp.Expr]) -> sp.Expr:
    """Return the product of the factors that all slopes share; numbers count only where there is one slope."""
    powers = [e.as_powers_dict() for e in slopes]
    if len(powers) == 1:
        return slopes[0]
    common = sp.Integer(1)
    for base in powers[0]:
        exponents = [p.get(base, sp.Integer(0)) for p in powers]
        if base.is_Number or any(x.is_positive is None for x in exponents):
            continue
        if all(x > 0 for x in exponents) or all(x < 0 for x in exponents):
            common *= base ** (min(exponents) if exponents[0] > 0 else max(exponents))
    return common


def _unit(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """Return the factor by which a filter is fed, without a number and without the 1 - b of an average."""
    factors = (f for f in sp.Mul.make_args(in_factors(a)) if not f.is_Number and sp.expand(f * f - (1 - b) ** 2) != 0)
    return sp.Mul(*factors)


def _share(spec: OptimizerSpec, x: sp.Symbol, share: sp.Expr) -> sp.Expr:
    share = sp.cancel(share) if share.atoms(Coordinate) else share
    if share.atoms(Coordinate) or share.has(*spec.state_symbols.values()):
        raise DerivationError(
            f"optimizer {spec.name!r}: {x} enters the step with the further factor {share}: the gradient and its "
            "averages must share one preconditioner."
        )
    return share


def _refuse_negative(spec: OptimizerSpec, P: sp.Expr) -> None:
    for point in _admissible(spec):
        values = point.vector(P)
        if not all(v.is_number and v.is_real and v > 0 for v in values):
            at = ", ".join(f"{k} = {v}" for k, v in point.values.items() if k in P.atoms(sp.Symbol))
            raise SpecError(
                f"optimizer {spec.name!r}: P = {P} is {values[0]} at the admissible point {at}; P must "
                f"be positive, so check the sign of the update and the ranges of the hyperparameters."
            )


def _admissible(spec: OptimizerSpec) -> Iterator[Point]:
    """Draw points, some of them with small states: where a difference in P may turn negative."""
    for seed in range(8):
        point = random_point(spec, seed)
        small = sp.Rational(1, 10**6) if seed >= 5 else sp.Integer(1)
        states = {s: point.values[s] for s in spec.state_symbols.values()}
        yield point.with_values({s: scale(small, v) if isinstance(v, tuple) else small * v for s, v in states.items()})


def _slow_updates(spec: OptimizerSpec, filters: Mapping[sp.Symbol, sp.Expr]) -> dict[sp.Symbol, sp.Expr]:
    """Return the slow states' updates in terms of old slow states and of updated filtered ones."""
    found: dict[sp.Symbol, sp.Expr] = {}
    new: dict[sp.Symbol, sp.Expr] = {}
    for state, expr in spec.sequential_updates.items():
        if state in filters:
            new[spec.new(state.name)] = state
            continue
        before = {m: _before(spec, m, filters[m]) for m in filters if expr.has(m)}
        found[state] = contract(expr.xreplace({**before, **new}))
        new[spec.new(state.name)] = found[state]
    return {**found, _s.t: _s.t + 1}


def _before(spec: OptimizerSpec, m: sp.Symbol, new: sp.Expr) -> sp.Expr:
    """Return an average before its update in terms of the updated one."""
    old = before_update(m, new)
    if old is None:
        raise SpecError(f"optimizer {spec.name!r}: {m} forgets its past, so nothing can read its old value.")
    return old


def without_momentum(form: CanonicalForm) -> OptimizerSpec:
    """Return the optimizer of the *reduced* flow: every average at its steady value, w' - w = -v P^{-1} g - d w."""
    spec = form.spec
    steady = {m: s * _s.g_mean for m, s in form.steady.items()}
    states = tuple(
        State(s.name, form.seen(e).xreplace(steady), _initial(spec, s.name), spec.kinds[s.name])
        for s, e in form.slow.items()
        if s != _s.t
    )
    return replace(
        spec,
        update=-form.speed * _s.g / form.P - form.decay * _s.w,
        states=states,
        definitions={},
        switches=(),
        active_switches=(),
        theorems=(),
        remarks={},
        reference=None,
        lookahead=0,
    )


def _initial(spec: OptimizerSpec, name: str) -> sp.Expr:
    return spec.resolve(next(s.initial for s in spec.states if s.name == name))

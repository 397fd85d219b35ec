"""From steps to continuous time, and the stable flow.

The state at flow time t is the one used in the step that leaves w_t. So the increment of a state is rewritten
in terms of the *updated* state, by solving its update for the old one: an exponential average gets the rate
(1 - beta) / beta, a running sum its full increment, a counter 1. With these rates implicit Euler of step 1 is
the optimizer. A state without memory gets one first (`with_memory`), which is taken away again at the end.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import DerivationError, Step
from cflow_sym.derivation.exact import Point, add, agree, random_point, scale
from cflow_sym.derivation.result import Part
from cflow_sym.notation import NEW, OLD, Frozen, contract, expand_names, latex_of, state_symbol, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter

_s = symbols
SECTION = "Continuous time and the stable flow"
CONVENTION = (
    "First-order (published) convention: one unit of time is one step, the state at time $t$ "
    "is the one that moves $w_t$."
)


def old_symbol(state: sp.Symbol) -> sp.Symbol:
    """Return the symbol of a state's value before its update.

    >>> old_symbol(symbols.nu)
    nu_old
    """
    return type(state)(f"{state.name}{OLD}", **{k: True for k in ("positive",) if state.is_positive})


def in_old_values(expr: sp.Expr, state: sp.Symbol) -> sp.Expr:
    """Write a state as the old value, except in signs, which are held fixed over the step.

    >>> in_old_values(symbols.nu * Frozen(symbols.nu - 1), symbols.nu)
    nu_old*Frozen(nu - 1)
    """
    fixed = {sign: sp.Dummy(positive=True) for sign in expr.atoms(Frozen)}
    return expr.xreplace(fixed).xreplace({state: old_symbol(state)}).xreplace({v: k for k, v in fixed.items()})


def with_memory(spec: OptimizerSpec) -> OptimizerSpec:
    """Return the spec with a decaying average in place of every state without memory: the decay goes to 0 later.

    >>> import cflow_sym as cs
    >>> with_memory(cs.optimizer("normalized_gradient_descent")).state_updates[symbols.nu]
    beta2*nu + grad_sq_norm*(1 - beta2)
    """
    if not spec.memoryless:
        return spec
    if _s.beta2 in {h.symbol for h in spec.hyperparameters}:
        raise DerivationError(
            f"optimizer {spec.name!r}: the state {spec.memoryless[0]} forgets its past, so its flow is the limit of "
            "an average with decay beta2, but beta2 is a hyperparameter already; rename that one."
        )
    beta, decay = _s.beta2, Hyperparameter("beta2", _s.beta2, upper=1.0, meaning="memory, taken to 0 at the end")
    states = tuple(
        replace(s, update=beta * state_symbol(s.name) + (1 - beta) * s.update) if s.name in spec.memoryless else s
        for s in spec.states
    )
    return replace(spec, states=states, hyperparameters=(*spec.hyperparameters, decay), theorems=(), remarks={})


def memory_steps(spec: OptimizerSpec, averaged: OptimizerSpec) -> list[Step]:
    """Return the step that gives each state without memory a decaying average."""

    def check_for(name: str):
        def check(before: sp.Expr, after: sp.Expr) -> bool:
            points = [random_point(averaged, seed) for seed in range(3)]
            forgotten = (p.with_values({_s.beta2: sp.Integer(0)}) for p in points)
            if not all(agree(p.vector(after), p.vector(before)) for p in forgotten):
                return False
            # an average of the same quantity: what stands there stays there, whatever the decay
            state = averaged.all_symbols[name]
            settled = (p.with_values({state: p(before)}) for p in points)
            return all(agree(p.vector(after), p.vector(before)) for p in settled)

        return check

    steps = []
    for name in spec.memoryless:
        symbol, latex = averaged.all_symbols[name], latex_of(name)
        steps.append(Step(
            Part.MEMORY.of(name), SECTION, "give the state a memory", rf"{latex}'",
            spec.state_updates[spec.all_symbols[name]], averaged.state_updates[symbol],
            r"The update forgets the old value, so its rate in continuous time is infinite. Derive the flow of a "
            r"decaying average, and let $\beta_2\to0$ at the end.", check_for(name),
        ))  # fmt: skip
    return steps


def increment(state: sp.Symbol, new: sp.Expr) -> sp.Expr:
    """Return new - old in terms of the new state, which takes the old one's symbol; raises `DerivationError`.

    >>> s = symbols
    >>> increment(s.nu, s.beta2 * s.nu + (1 - s.beta2) * s.g**2)
    (1 - beta2)*(g**2 - nu)/beta2
    >>> increment(s.nu, s.nu + s.g**2), increment(s.t, s.t + 1)
    (g**2, 1)
    """
    old = old_symbol(state)
    equation = in_old_values(expand_names(new), state)
    slope = equation.diff(old)
    if slope.has(Frozen):  # a running maximum
        return _tidy(contract(sp.expand(new - state)))
    if slope == 0:
        raise DerivationError(
            f"the update of {state} forgets its past, {new}: its rate in continuous time is infinite; keep some "
            f"memory (a decay above 0) and take the limit afterwards."
        )
    if not slope.has(old):
        solutions = [(state - equation.subs(old, 0)) / slope]
    else:
        solutions = sp.solve(sp.Eq(state, equation), old)
    if len(solutions) != 1:
        raise DerivationError(
            f"the update of {state}, {new}, cannot be solved uniquely for the old value: {solutions}."
        )
    return _tidy(contract(sp.expand(state - solutions[0])))


def _tidy(expr: sp.Expr) -> sp.Expr:
    """Factor, as it is read: (1 - beta)(q - nu)/beta rather than (beta - 1)(nu - q)/beta."""
    result = in_factors(sp.together(expr))
    numerator, denominator = sp.fraction(result)
    factors = []
    flips = 0
    for factor in sp.Mul.make_args(numerator):
        constant = sp.sympify(factor).as_coeff_add()[0]
        leads = factor.has(_s.g, _s.grad_sq_norm) and isinstance(factor, sp.Add)
        negative_lead = leads and any(
            t.could_extract_minus_sign() and t.has(_s.g, _s.grad_sq_norm) for t in factor.args
        )
        if isinstance(factor, sp.Add) and (constant.is_negative or negative_lead):
            factors.append(sp.Add(*(-t for t in factor.args)))
            flips += 1
        else:
            factors.append(factor)
    return (-1) ** flips * sp.Mul(*factors) / denominator


def increments(spec: OptimizerSpec) -> dict[str, sp.Expr]:
    """Return the rewritten increment of every slow state, by name.

    >>> import cflow_sym as cs
    >>> increments(cs.optimizer("gradient_descent"))
    {'t': 1}
    """
    return {s.name: increment(s, in_updated_states(spec, s)) for s in spec.state_updates}


def in_updated_states(spec: OptimizerSpec, state: sp.Symbol) -> sp.Expr:
    """Return the new value of a state in terms of its old value and of the updated values of the others that it reads.

    Signs are held fixed over the step.
    """
    updates = spec.state_updates
    new = updates[state]
    others = [s for s in updates if s not in (state, _s.t)]
    if not new.has(*others) if others else True:
        return new
    signs = {sign: sp.Dummy(positive=True) for e in updates.values() for sign in e.atoms(Frozen)}
    old = {s: old_symbol(s) for s in others}
    written = {s: updates[s].xreplace(signs).xreplace(old | {state: old_symbol(state)}) for s in others}
    new = new.xreplace(signs).xreplace(old)
    for _ in others:  # an update may read states that read others
        for s, before in old.items():
            if new.has(before):
                slope = written[s].diff(before)
                if slope == 0 or slope.has(before):
                    raise DerivationError(
                        f"the update of {state} reads the old value of {s}, which its update {updates[s]} does not "
                        f"give back; read the updated value {s}{NEW} instead."
                    )
                rest = written[s].xreplace({before: sp.Integer(0)})
                new = sp.expand(new.xreplace({before: (s - rest) / slope}))
    new = new.xreplace({old_symbol(state): state})
    return new.xreplace({dummy: sign for sign, dummy in signs.items()})


def forgets_by_sign(state: sp.Symbol, new: sp.Expr) -> bool:
    """Say whether a sign decides if a state keeps its old value, as in a running maximum: its rate is explicit then."""
    return new.diff(state).has(Frozen)


def rate_names(spec: OptimizerSpec) -> dict[sp.Symbol, sp.Expr]:
    """Return named rates, kappa2 = (1 - beta2) / beta2, for the states that are exponential averages.

    >>> import cflow_sym as cs
    >>> rate_names(cs.optimizer("scalar_rmsprop"))
    {kappa2: (1 - beta2)/beta2}
    """
    names = {_s.beta1: _s.kappa1, _s.beta2: _s.kappa2}
    slopes = [new.diff(s) for s, new in spec.state_updates.items()]
    return {names[b]: (1 - b) / b for b in names if b in slopes}


def name_rates(spec: OptimizerSpec, expr: sp.Expr) -> sp.Expr:
    """Write (1 - beta2) / beta2 as kappa2 wherever it occurs; powers like beta2**t stay.

    >>> import cflow_sym as cs
    >>> s = symbols
    >>> name_rates(cs.optimizer("scalar_rmsprop"), (1 - s.beta2) * (s.grad_sq_norm - s.nu) / s.beta2)
    kappa2*(grad_sq_norm - nu)
    """
    for rate, value in rate_names(spec).items():
        decay = next(iter(value.free_symbols))
        direct = expr.replace(lambda e, d=decay: _holds_rate(e, d), lambda e, r=rate, v=value: r * (e / v))
        if not any(p.has(decay) and _rational(p) for p in direct.atoms(sp.Pow)) and direct.subs(decay, 0) == direct:
            expr = direct
            continue
        hidden = {p: sp.Dummy(positive=True) for p in expr.atoms(sp.Pow, sp.log) if p.has(decay) and not _rational(p)}
        inside = expr.xreplace(hidden).xreplace({decay: 1 / (1 + rate)})
        named = _factor_parts(inside).xreplace({v: k for k, v in hidden.items()})
        if named.has(rate):
            expr = named
    return expr


def _holds_rate(expr: sp.Expr, decay: sp.Symbol) -> bool:
    return expr.is_Mul and 1 - decay in expr.args and 1 / decay in expr.args


def _rational(p: sp.Expr) -> bool:
    return isinstance(p, sp.Pow) and bool(p.exp.is_Integer)


def _factor_parts(expr: sp.Expr) -> sp.Expr:
    """Factor numerator and denominator each at once or term by term, whichever is shorter."""

    def shortest(part: sp.Expr) -> sp.Expr:
        by_term = sp.Add(*(in_factors(t) for t in sp.Add.make_args(part)))
        return min((by_term, in_factors(part)), key=lambda e: e.count_ops())

    numerator, denominator = sp.fraction(expr, exact=True)
    if isinstance(numerator, sp.Add) and isinstance(denominator, sp.Add):
        return shortest(numerator) / shortest(denominator)
    return shortest(expr)


def step_states(spec: OptimizerSpec, point: Point) -> Point:
    """Apply the optimizer's own state updates: the counter first, then all others from old values."""
    counted = point.with_values({_s.t: point.values[_s.t] + 1})
    new = {s: counted(e) for s, e in spec.state_updates.items() if s != _s.t}
    return counted.with_values(new)


def stable_steps(spec: OptimizerSpec, P: sp.Expr) -> list[Step]:
    """Return the steps that rewrite increments and collect the stable flow."""
    rates = increments(spec)
    steps = []
    for state, new in spec.state_updates.items():
        others = {s: rates[s.name] for s in spec.state_updates if s != state}
        steps += _state_steps(spec, state, new, rates[state.name], others)

    def check_weights(before: sp.Expr, after: sp.Expr) -> bool:
        points = [random_point(spec, seed) for seed in range(3)]
        return all(agree(p.vector(after), p.vector(spec.weight_update)) for p in points)

    steps.append(Step(
        Part.STABLE.of("w"), SECTION, "collect the stable flow", r"\dot w",
        spec.weight_update, -_s.g / P - spec.decay * _s.w,
        "Without oscillation the weights move by one step in one unit of time.", check_weights, CONVENTION,
        spec.source,
    ))  # fmt: skip
    return steps


def _state_steps(
    spec: OptimizerSpec, state: sp.Symbol, new: sp.Expr, rate: sp.Expr, others: dict[sp.Symbol, sp.Expr]
) -> list[Step]:
    latex, old = latex_of(state), old_symbol(state)
    still = _tidy(rate.xreplace({_s.g_mean: _s.g})) if rate.has(_s.g_mean) else rate  # without oscillation
    explicit = forgets_by_sign(state, new)
    source = spec.source if state != _s.t else "derived"

    def check_increment(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(4):
            start = random_point(spec, seed)
            end = step_states(spec, start)
            change = tuple(a - b for a, b in zip(end.vector(state), start.vector(state), strict=True))
            here = start if state == _s.t else start.with_values({_s.t: end.values[_s.t]})
            written = here.with_values({old: start.values[state]}).vector(before)
            at = end.with_values({state: start.values[state]}) if explicit else end
            if not (agree(written, change) and agree(at.vector(after), change)):
                return False
        return True

    def check_euler(before: sp.Expr, after: sp.Expr) -> bool:
        # implicit Euler of step 1 must be the optimizer: take the step back in all states, then apply the update
        for seed in range(4):
            end = random_point(spec, seed)
            end = end.with_values({_s.g_mean: end.values[_s.g]})
            start, rates = end, others | {state: after}
            for s, rate in rates.items():
                back = tuple(a - b for a, b in zip(end.vector(s), end.vector(rate), strict=True))
                kept = forgets_by_sign(s, spec.state_updates[s])  # explicit: the point has its old value
                start = start if kept else start.with_values({s: back if isinstance(end.values[s], tuple) else back[0]})
            moved = scale(1 if explicit else 0, end.vector(after))
            if not agree(step_states(spec, start).vector(state), add(end.vector(state), moved)):
                return False
        return True

    return [
        Step(
            Part.INCREMENT.of(state.name), SECTION, "rewrite the increment in terms of the updated state",
            rf"{latex}_t-{latex}_{{t-1}}", in_old_values(new, state) - old, rate,
            f"The update is written with the old value ${latex}_{{t-1}}$. Solve it for that and insert: from the "
            f"second line on ${latex}$ is the updated value ${latex}_t$.",
            check_increment, "" if state == _s.t else CONVENTION, source,
        ),
        Step(
            Part.STABLE.of(state.name), SECTION, "pass to continuous time", rf"\dot{{{latex}}}", rate, still,
            "Read the increment as a rate. Implicit Euler with step 1 gives the optimizer's update back exactly."
            + (r" Without oscillation $\bar g=g$." if rate.has(_s.g_mean) else "")
            + (" " + spec.remarks[f"stable_{state.name}"] if f"stable_{state.name}" in spec.remarks else ""),
            check_euler, CONVENTION, source,
        ),
    ]  # fmt: skip

"""The recipe: from a spec to a checked derivation, the same steps for every optimizer."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import sympy as sp

from cflow_sym.derivation.derivation import Derivation, DerivationError, Step, of_part
from cflow_sym.derivation.exact import agree, random_point
from cflow_sym.derivation.result import Part, Result
from cflow_sym.notation import contract, latex_of, symbols
from cflow_sym.optimizers import optimizer
from cflow_sym.spec import numerals
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import SpecError
from cflow_sym.theory import (
    central_flow,
    closures,
    cycle_growth,
    cycles,
    edge_theorems,
    equilibrium,
    expansion,
    leapfrog,
    momentum,
    multiplier,
    other_roots,
    predictions,
    reduced,
    remainders,
    sdcp,
    stability,
    stable_flow,
    stationary,
)
from cflow_sym.theory.canonical_form import canonical_form, has_momentum, memories, without_momentum
from cflow_sym.theory.chain import Chain

ORDERS = ("published", "consistent")


def derive(spec: OptimizerSpec | str, *, order: str = "published", **switches: bool) -> Derivation:
    """Derive stable and central flow of an optimizer, given as a spec or by name.

    `order="consistent"` keeps the cross term that the published flows drop. Switches and optional
    hyperparameters are off unless turned on by name. Every step is checked when it is made. Raises
    `SpecError`, `DerivationError`, `StepError`, `UnknownOptimizerError`.

    >>> d = derive("scalar_rmsprop")
    >>> d.central_flow["nu"]
    (1 - beta2)*(S**2*sigma_squared + grad_sq_norm - nu)/beta2
    >>> derive("scalar_rmsprop", epsilon=True).preconditioner
    (epsilon + sqrt(nu))/eta
    """
    if order not in ORDERS:
        raise DerivationError(f"order {order!r} is unknown: use 'published' or 'consistent'.")
    spec = optimizer(spec) if isinstance(spec, str) else spec
    if not isinstance(spec, OptimizerSpec):
        name = getattr(spec, "__name__", type(spec).__name__)
        own = f"optax.{name}" if hasattr(spec, "__name__") else "the function that makes it"
        hint = f"cflow_sym.from_optax({own})" if _of_optax(spec) else "a name or an OptimizerSpec"
        raise SpecError(f"{name} is no spec of an optimizer: pass {hint}.")
    spec = spec.configure(**switches)
    found = _derive(_Key(spec), order)
    return found if found.spec.reference is spec.reference else replace(found, spec=spec)  # equal formulas only


def _of_optax(x: object) -> bool:
    return str(getattr(x, "__module__", "")).startswith("optax")


class _Key:
    """A spec as a cache key: specs hold dictionaries, so they are compared, not hashed."""

    def __init__(self, spec: OptimizerSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash((self.spec.module_name, self.spec.active_options))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.spec == other.spec


@lru_cache(maxsize=128)
def _derive(key: _Key, order: str) -> Derivation:
    from cflow_sym.theory.theorems import theorem_steps

    with_decays = numerals.with_symbols(key.spec)
    if with_decays is not key.spec:
        return _with_numbers(_derive(_Key(with_decays), order), key.spec)
    form, filtered = canonical_form(key.spec), has_momentum(key.spec)
    bare = without_momentum(form.late) if filtered else key.spec
    spec = stable_flow.with_memory(bare)
    steps: list[Step] = []
    chain = Chain(key.spec, spec)

    def record(new: list[Step]) -> dict:
        found = [replace(s, section=f"{s.section} (reduced flow)") if eliminated else s for s in new]
        named = [replace(step, source=source_of(step, key.spec)) for step in found]
        steps.extend(chain.linked(step).verify() for step in named)
        return {step.key: step.after for step in new}

    eliminated = False
    record(decay_steps(key.spec))
    record(expansion.gradient_steps())
    squared = record([expansion.squared_gradient_step(order)])["averaged_squared_gradient"]
    found = record(momentum.momentum_steps(form) if filtered else stability.stability_steps(spec, form.P))
    P, c = found["preconditioner"], found["threshold"]
    found |= record([] if filtered else [momentum.gain_step(form, c)])
    record(other_roots.other_roots_steps(form))
    polynomial = record([multiplier.multiplier_step(form)])["characteristic_polynomial"]
    record([equilibrium.drift_step(spec, P), equilibrium.threshold_drift_step(spec, c)])
    record([remainders.edge_shift_step(form), *remainders.exact_remainder_steps()])
    record(leapfrog.leapfrog_steps(form, order))
    edge = P, c
    if filtered:
        late = record(reduced.late_steps(form, c))
        P, c = late.get("late_preconditioner", P), late.get("late_threshold", c)
        v = record(reduced.reduced_speed_steps(form.late, c))["speed"]
        named = symbols.c if c.free_symbols.isdisjoint(spec.scheduled) else c
        at_edge = P, c
        P, c = P / v, v * named  # of the reduced flow, a flow without momentum
        record([reduced.reduced_edge_step(form.late, *at_edge, c * P)])
        eliminated = True

    rates = stable_flow.increments(spec)
    record(stable_flow.memory_steps(bare, spec))
    record(stable_flow.stable_steps(spec, P))
    record(central_flow.ansatz_steps(spec, P, rates, c, order))
    ansatz = {name: expansion.hold_signs(rate) for name, rate in of_part(Part.ANSATZ, steps).items()}
    for name, rate in rates.items():
        record(expansion.remainder_steps(name, rate, lambda seed: random_point(spec, seed), order))
    record(predictions.alternating_steps(spec, P, c, form))

    record(central_flow.one_eigenvalue_steps(spec, P, ansatz, c))
    central = of_part(Part.CENTRAL, steps)
    sigma = record(equilibrium.equilibrium_steps(spec, P, central, c))["sigma_squared"]
    if filtered and form.settled.P != form.late.P:
        when = memories(form, of_states=False)
        record([equilibrium.closed_form_in_time(spec, form.settled.P / v, central, c, sigma, when)])
    record(sdcp.sdcp_steps(spec, P, ansatz, c))
    record(central_flow.reduced_steps(spec, P, equilibrium.eliminate_state(spec, P, c), c))
    record(stationary.stationary_steps(spec, ansatz))
    record(stationary.memoryless_steps(bare, spec, P, c, {s.key: s.after for s in steps}))
    eliminated = False
    if not key.spec.memoryless:
        record(edge_theorems.loss_steps(spec, P, c, ansatz, filtered))
        record(edge_theorems.learning_rate_steps(spec, P, c, sigma, ansatz))
    record(predictions.prediction_steps(spec, *edge, squared))
    record(closures.closure_steps(form, polynomial, found["gain"], edge[1]))
    record(cycles.cycle_steps(form, found["gain"], edge[1]))
    record(cycle_growth.growth_steps(form))

    record(theorem_steps(Derivation(key.spec, order, tuple(steps))))
    return Derivation(key.spec, order, tuple(steps))


def source_of(step: Step, spec: OptimizerSpec) -> str:
    """Return the source of a step: what is published for three optimizers is derived for all others.

    Averages of the gradient and of the loss know no optimizer.
    """
    general = step.section == expansion.SECTION or step.key == "predicted_loss"
    if general or expansion.CF not in step.source or expansion.CF in spec.source:
        return step.source
    return "derived" if has_momentum(spec) else "derived, by the rule of arXiv:2410.24206 for RMSProp"


def _with_numbers(d: Derivation, spec: OptimizerSpec) -> Derivation:
    """Return a derivation with the numbers of the spec in place of the symbols it was made with."""
    numbers = numerals.numbers_of(d.spec)

    def inserted(step: Step) -> Step:
        before, after, origin = (
            None if e is None else e.xreplace(numbers) for e in (step.before, step.after, step.origin)
        )
        return replace(step, before=before, after=after, origin=origin)

    return Derivation(spec, d.order, tuple(map(inserted, d.steps)), symbolic=d)


def decay_steps(spec: OptimizerSpec) -> list[Step]:
    """Return the step that takes coupled weight decay into the loss, where there is any."""
    if spec.penalty == 0:
        return []
    rho = latex_of(str(spec.penalty))
    written = contract(sp.expand(spec.resolve(spec.update)))

    def check(before: sp.Expr, after: sp.Expr) -> bool:
        for seed in range(3):
            point = random_point(spec, seed)
            penalized = point.with_values({symbols.g: point.vector(symbols.g + spec.penalty * symbols.w)})
            states = [(s.update, spec.sequential_updates[spec.all_symbols[s.name]]) for s in spec.states]
            pairs = [(before, after), *((spec.resolve(raw), seen) for raw, seen in states)]
            if not all(agree(point.vector(raw), penalized.vector(seen)) for raw, seen in pairs):
                return False
        return True

    return [
        Step(
            Result("penalized_step"), "Weight decay", "take the penalty into the loss",
            "w'-w", written, spec.weight_update,
            rf"Coupled decay stands wherever the gradient stands: the optimizer works on "
            rf"$L+\tfrac{{{rho}}}2\|w\|^2$. From here on $L$, $g$ and $H$ belong to this sum, so "
            rf"that the edge is at $H_L+{rho} I\preceq cP$.",
            check,
        )
    ]  # fmt: skip

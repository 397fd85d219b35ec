"""The recipe: from a spec to a checked derivation, the same steps for every optimizer."""

from __future__ import annotations

from functools import lru_cache

from cflow_sym import central_flow, equilibrium, expansion, predictions, sdcp, stability, stable_flow
from cflow_sym.derivation import Derivation, DerivationError, Step
from cflow_sym.exact import random_point
from cflow_sym.optimizers import optimizer
from cflow_sym.spec import OptimizerSpec

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
    return _derive(_Key(spec.configure(**switches)), order)


class _Key:
    """A spec as a cache key: specs hold dictionaries, so they are compared, not hashed."""

    def __init__(self, spec: OptimizerSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash((self.spec.module_name, self.spec.active_options))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.spec == other.spec


@lru_cache(maxsize=32)
def _derive(key: _Key, order: str) -> Derivation:
    from cflow_sym.theorems import theorem_steps

    spec = key.spec
    if "filtered" in spec.kinds.values():
        names = ", ".join(n for n, k in spec.kinds.items() if k == "filtered")
        raise DerivationError(
            f"optimizer {spec.name!r} has filtered states ({names}): a central flow with momentum is not "
            f"derived yet; "
            "use an optimizer without momentum."
        )
    steps: list[Step] = []

    def record(new: list[Step]) -> dict:
        steps.extend(step.verify() for step in new)
        return {step.key: step.after for step in new}

    record(expansion.gradient_steps())
    squared = record([expansion.squared_gradient_step(order)])["averaged_squared_gradient"]
    found = record(stability.stability_steps(spec))
    P, c = found["preconditioner"], found["threshold"]

    rates = stable_flow.increments(spec)
    record(stable_flow.stable_steps(spec, P))
    found = record(central_flow.ansatz_steps(spec, P, rates, c, order))
    ansatz = {k.removeprefix("ansatz_"): v for k, v in found.items()}
    for name, rate in rates.items():
        record(expansion.remainder_steps(name, rate, lambda seed: random_point(spec, seed), order))
    record(predictions.alternating_steps(spec, P))

    found = record(central_flow.one_eigenvalue_steps(spec, P, ansatz, c))
    central = {k.removeprefix("central_"): v for k, v in found.items()}
    record([equilibrium.drift_step(spec, P)])
    record(equilibrium.equilibrium_steps(spec, P, central, c))
    record(sdcp.sdcp_steps(spec, P, ansatz, c))
    record(central_flow.reduced_steps(spec, P, equilibrium.eliminate_state(spec, P, c), c))
    record(predictions.prediction_steps(spec, P, c, squared))

    derivation = Derivation(spec, order, tuple(steps))
    record(theorem_steps(derivation))
    return Derivation(spec, order, tuple(steps))

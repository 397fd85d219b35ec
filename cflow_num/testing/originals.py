"""The built-in specs that optax has, too, against optax's own step: what is written in a spec is not believed.

Each entry is the part of optax's chain between coupled decay, which acts on the gradient, and decoupled decay with the
learning rate, which end the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from cflow_sym.interface import CompiledFlow, value_at

from ..flows.discrete import DiscreteOptimizer
from .declared import STEPS, path_of, setting_of
from .witnesses import close

Values = Mapping[str, Any]
ORIGINALS: dict[str, Callable[[Values], optax.GradientTransformation]] = {
    "gradient_descent": lambda hp: optax.identity(),
    "heavy_ball": lambda hp: optax.trace(hp["beta1"]),
    "nesterov": lambda hp: optax.trace(hp["beta1"], nesterov=True),
    "rmsprop": lambda hp: optax.scale_by_rms(hp["beta2"], hp["epsilon"], eps_in_sqrt=False),
    "adam": lambda hp: optax.scale_by_adam(hp["beta1"], hp["beta2"], hp["epsilon"]),
    "adamw": lambda hp: optax.scale_by_adam(hp["beta1"], hp["beta2"], hp["epsilon"]),
    "nadam": lambda hp: optax.scale_by_adam(hp["beta1"], hp["beta2"], hp["epsilon"], nesterov=True),
    "adabelief": lambda hp: optax.scale_by_belief(hp["beta1"], hp["beta2"], hp["epsilon"], hp["epsilon_root"]),
}


def follows_optax(name: str, flow: CompiledFlow, values: Mapping[str, float], seed: int) -> None:
    """Assert that the first steps of the discrete optimizer are those that optax takes."""
    small, hp = setting_of(flow, values, seed)
    y, path = path_of(DiscreteOptimizer(small, hp, flow))
    w, state = y.w, None
    for t in range(STEPS):
        now = {h: value_at(hp[h], jax.numpy.asarray(t + 1.0)) for h in values}
        whole = optax.chain(
            optax.add_decayed_weights(now.get("l2", 0.0)),
            ORIGINALS[name](now),
            optax.add_decayed_weights(now.get("weight_decay", 0.0)),
            optax.scale(-now["learning_rate"]),
        )
        state = whole.init(w) if state is None else state
        updates, state = whole.update(small.gradient(w), state, w)
        after = jax.tree.map(lambda x, t=t: x[t], path).w
        close(f"the weights after step {t + 1} of optax", after, optax.apply_updates(w, updates), 1e-9)
        w = after

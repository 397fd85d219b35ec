"""Aggregated momentum: the mean of three decaying sums of gradients with decays of their own."""

import sympy as sp

from cflow_sym.notation import state_symbol
from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import DECAY, GRADIENT, L2, LEARNING_RATE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, State

DECAYS = tuple(
    Hyperparameter(f"beta_{k}", sp.Symbol(f"beta_{k}", positive=True), upper=1.0, closed_below=True, default=default,
                   meaning=f"decay of sum number {k}")
    for k, default in (("a", 0.0), ("b", 0.9), ("c", 0.99))
)  # fmt: skip
SUMS = tuple(state_symbol(f"m_{k}", "filtered") for k in "abc")

SPEC = OptimizerSpec(
    name="aggmo",
    title="Aggregated momentum",
    hyperparameters=(LEARNING_RATE, *DECAYS, WEIGHT_DECAY, L2),
    states=tuple(
        State(m.name, h.symbol * m + GRADIENT, meaning="decaying sum of gradients")
        for m, h in zip(SUMS, DECAYS, strict=True)
    ),
    update=-s.eta * sp.Add(*SUMS) / 3 + DECAY,
    source="arXiv:1804.00325",
)

"""AdEMAMix: Adam with a second, slow average of gradients beside the first (constant mixture)."""

import sympy as sp

from cflow_sym.notation import state_symbol
from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import (
    BETA1,
    BETA2,
    DECAY,
    EPSILON,
    GRADIENT,
    L2,
    LEARNING_RATE,
    M_AVERAGE,
    M_HAT,
    NU,
    NU_HAT,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, State

BETA3 = Hyperparameter(
    "beta3", sp.Symbol("beta3", positive=True), upper=1.0, closed_below=True, meaning="decay of the slow average"
)
ALPHA = Hyperparameter(
    "alpha", sp.Symbol("alpha", nonnegative=True), closed_below=True, meaning="weight of the slow average"
)
SLOW = state_symbol("m_slow", "filtered")

SPEC = OptimizerSpec(
    name="ademamix",
    title="AdEMAMix",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, BETA3, ALPHA, EPSILON, WEIGHT_DECAY, L2),
    states=(
        M_AVERAGE,
        State("m_slow", BETA3.symbol * SLOW + (1 - BETA3.symbol) * GRADIENT, meaning="slow average of gradients"),
        NU,
    ),
    definitions=NU_HAT,
    update=-s.eta * (M_HAT + ALPHA.symbol * SLOW) / s.denominator + DECAY,
    source="arXiv:2409.03137",
)

"""AdaBelief: Adam with the average of squared deviations of the gradient from its own average."""

import sympy as sp

from cflow_sym.notation import NEW, state_symbol
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
    NU_HAT,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, State

EPSILON_ROOT = Hyperparameter(
    "epsilon_root", sp.Symbol("epsilon_root", nonnegative=True), closed_below=True, off=0.0,
    meaning="added to nu at every step",
)  # fmt: skip
SURPRISE = GRADIENT - state_symbol(f"m{NEW}", "filtered")

SPEC = OptimizerSpec(
    name="adabelief",
    title="AdaBelief",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, EPSILON_ROOT, WEIGHT_DECAY, L2),
    states=(
        M_AVERAGE,
        State(
            "nu",
            s.beta2 * s.nu + (1 - s.beta2) * SURPRISE**2 + EPSILON_ROOT.symbol,
            meaning="average of squared deviations",
        ),
    ),
    definitions=NU_HAT,
    update=-s.eta * M_HAT / s.denominator + DECAY,
    source="arXiv:2010.07468",
)

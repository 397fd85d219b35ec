"""Scalar Adam: momentum, and one running average nu of the squared gradient norm for all weights."""

from cflow_sym.notation import norm2
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
from cflow_sym.spec.parts import State

SPEC = OptimizerSpec(
    name="scalar_adam",
    title="Scalar Adam",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(
        M_AVERAGE,
        State("nu", s.beta2 * s.nu + (1 - s.beta2) * norm2(GRADIENT), meaning="average of squared gradient norms"),
    ),
    definitions=NU_HAT,
    update=-s.eta * M_HAT / s.denominator + DECAY,
)

"""Adam: the bias-corrected average of gradients over the root of that of squared gradients."""

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import (
    BETA1,
    BETA2,
    DECAY,
    EPSILON,
    L2,
    LEARNING_RATE,
    M_AVERAGE,
    M_HAT,
    NU,
    NU_HAT,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="adam",
    title="Adam",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(M_AVERAGE, NU),
    definitions=NU_HAT,
    update=-s.eta * M_HAT / s.denominator + DECAY,
    source="arXiv:1412.6980",
)

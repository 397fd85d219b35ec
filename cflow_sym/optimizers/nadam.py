"""NAdam as optax has it: Nesterov's look-ahead inside Adam, the corrections of bias one step apart."""

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
    NU,
    NU_HAT,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="nadam",
    title="NAdam",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(M_AVERAGE, NU),
    definitions=NU_HAT,
    update=-s.eta
    * (s.beta1 * s.m / (1 - s.beta1 ** (s.t + 1)) + (1 - s.beta1) * GRADIENT / (1 - s.beta1**s.t))
    / s.denominator
    + DECAY,
    source="Dozat, ICLR 2016 workshop",
)

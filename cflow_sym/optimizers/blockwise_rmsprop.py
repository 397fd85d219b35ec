"""Blockwise RMSProp: one running average nu for each block of weights (a layer's matrix, a bias)."""

from cflow_sym.notation import block_norm2
from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import (
    BETA2,
    BIAS_CORRECTION,
    DENOMINATOR,
    EPS_IN_SQRT,
    EPSILON,
    GRADIENT,
    L2,
    LEARNING_RATE,
    STEP,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import State

SPEC = OptimizerSpec(
    name="blockwise_rmsprop",
    title="Blockwise RMSProp",
    hyperparameters=(LEARNING_RATE, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(
        State(
            "nu",
            s.beta2 * s.nu + (1 - s.beta2) * block_norm2(GRADIENT),
            meaning="average of squared gradient norms, one per block",
        ),
    ),
    definitions=DENOMINATOR,
    update=STEP,
    switches=(BIAS_CORRECTION, EPS_IN_SQRT),
)

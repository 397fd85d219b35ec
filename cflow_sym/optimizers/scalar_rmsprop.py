"""Scalar RMSProp: one running average nu of the squared gradient norm sets the step size eta / sqrt(nu)."""

from cflow_sym.notation import norm2
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
    name="scalar_rmsprop",
    title="Scalar RMSProp",
    hyperparameters=(LEARNING_RATE, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(
        State("nu", s.beta2 * s.nu + (1 - s.beta2) * norm2(GRADIENT), meaning="average of squared gradient norms"),
    ),
    definitions=DENOMINATOR,
    update=STEP,
    switches=(BIAS_CORRECTION, EPS_IN_SQRT),
    theorems=("monotone_in_learning_rate", "rate_limits"),
    source="arXiv:2410.24206, part II",
)

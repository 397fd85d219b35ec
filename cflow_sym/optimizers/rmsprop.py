"""RMSProp: every weight has its own running average nu of its squared gradient and its own step size."""

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
    name="rmsprop",
    title="RMSProp",
    hyperparameters=(LEARNING_RATE, BETA2, EPSILON, WEIGHT_DECAY, L2),
    states=(State("nu", s.beta2 * s.nu + (1 - s.beta2) * GRADIENT**2, meaning="average of squared gradients"),),
    definitions=DENOMINATOR,
    update=STEP,
    switches=(BIAS_CORRECTION, EPS_IN_SQRT),
    theorems=("stationary_preconditioner",),
    remarks={
        "stable_nu": "The companion site of the source prints RMSProp's stable flow without the last term: a slip, "
        "as without it the state could only grow and the discrete update would not come back."
    },
    source="arXiv:2410.24206, part III",
)

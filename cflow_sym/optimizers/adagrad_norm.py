"""AdaGrad-norm: the step is divided by the root of the sum of all squared gradient norms."""

from cflow_sym.notation import norm2
from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import (
    DENOMINATOR,
    EPS_IN_SQRT,
    EPSILON,
    GRADIENT,
    INITIAL,
    L2,
    LEARNING_RATE,
    STEP,
    WEIGHT_DECAY,
)
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import State

SPEC = OptimizerSpec(
    name="adagrad_norm",
    title="AdaGrad-norm",
    hyperparameters=(LEARNING_RATE, EPSILON, INITIAL, WEIGHT_DECAY, L2),
    states=(State("nu", s.nu + norm2(GRADIENT), initial=s.nu_0, meaning="sum of squared gradient norms"),),
    definitions=DENOMINATOR,
    update=STEP,
    switches=(EPS_IN_SQRT,),
)

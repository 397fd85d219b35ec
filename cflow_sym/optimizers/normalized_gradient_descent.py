"""Normalized gradient descent: w' = w - eta g / |g|, Scalar RMSProp without memory (beta2 -> 0)."""

from cflow_sym.notation import norm2
from cflow_sym.optimizers._common import DENOMINATOR, EPSILON, GRADIENT, L2, LEARNING_RATE, STEP, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import State

SPEC = OptimizerSpec(
    name="normalized_gradient_descent",
    title="Normalized gradient descent",
    hyperparameters=(LEARNING_RATE, EPSILON, WEIGHT_DECAY, L2),
    states=(State("nu", norm2(GRADIENT), meaning="squared gradient norm of the step"),),
    definitions=DENOMINATOR,
    update=STEP,
)

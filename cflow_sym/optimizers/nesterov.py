"""Nesterov's momentum as optax has it: a decaying sum m and a step along beta1 m' + g."""

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import BETA1, DECAY, GRADIENT, L2, LEARNING_RATE, M_TRACE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="nesterov",
    title="Nesterov",
    hyperparameters=(LEARNING_RATE, BETA1, WEIGHT_DECAY, L2),
    states=(M_TRACE,),
    update=-s.eta * (s.beta1 * s.m + GRADIENT) + DECAY,
)

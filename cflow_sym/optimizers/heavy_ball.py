"""Heavy ball: steps follow a decaying sum of gradients, m' = beta1 m + g (optax's `sgd` with momentum)."""

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import BETA1, DECAY, L2, LEARNING_RATE, M_TRACE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="heavy_ball",
    title="Heavy ball",
    hyperparameters=(LEARNING_RATE, BETA1, WEIGHT_DECAY, L2),
    states=(M_TRACE,),
    update=-s.eta * s.m + DECAY,
)

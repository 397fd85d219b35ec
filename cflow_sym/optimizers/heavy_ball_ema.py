"""Heavy ball on an average: m' = beta1 m + (1 - beta1) g, the form inside Adam."""

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import BETA1, DECAY, L2, LEARNING_RATE, M_AVERAGE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="heavy_ball_ema",
    title="Heavy ball (EMA)",
    hyperparameters=(LEARNING_RATE, BETA1, WEIGHT_DECAY, L2),
    states=(M_AVERAGE,),
    update=-s.eta * s.m + DECAY,
)

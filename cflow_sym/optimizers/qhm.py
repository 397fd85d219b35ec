"""Quasi-hyperbolic momentum: a mixture of the gradient and of its average."""

import sympy as sp

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import BETA1, DECAY, GRADIENT, L2, LEARNING_RATE, M_AVERAGE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter

SHARE = Hyperparameter(
    "momentum_share", sp.Symbol("q", positive=True), upper=1.0, meaning="share of the average in the step"
)

SPEC = OptimizerSpec(
    name="qhm",
    title="Quasi-hyperbolic momentum",
    hyperparameters=(LEARNING_RATE, BETA1, SHARE, WEIGHT_DECAY, L2),
    states=(M_AVERAGE,),
    update=-s.eta * ((1 - SHARE.symbol) * GRADIENT + SHARE.symbol * s.m) + DECAY,
    source="arXiv:1810.06801",
)

"""Nesterov's momentum in its textbook form: the velocity v' = beta1 v - eta g(w + beta1 v), then w' = w + v'.

The flow follows w + beta1 v, where the gradient is evaluated; its step is -eta (g + beta1 m') with m = -v / eta.
"""

import sympy as sp

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import BETA1
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, State

V = sp.Symbol("v", real=True)

SPEC = OptimizerSpec(
    name="nesterov_lookahead",
    title="Nesterov (look-ahead)",
    hyperparameters=(Hyperparameter("learning_rate", s.eta, meaning="learning rate"), BETA1),
    states=(State("v", s.beta1 * V - s.eta * s.g, meaning="velocity"),),
    update=V,
    lookahead=s.beta1 * V,
)

"""Gradient descent: w' = w - eta g."""

from cflow_sym.notation import symbols as s
from cflow_sym.spec import Hyperparameter, OptimizerSpec

SPEC = OptimizerSpec(
    name="gradient_descent",
    title="Gradient descent",
    hyperparameters=(Hyperparameter("learning_rate", s.eta, meaning="learning rate"),),
    update=-s.eta * s.g,
    theorems=("descent",),
    source="arXiv:2410.24206, part I",
)

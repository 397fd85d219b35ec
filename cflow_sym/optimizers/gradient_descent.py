"""Gradient descent: w' = w - eta (g + gamma w); coupled and decoupled decay are the same here."""

from cflow_sym.notation import symbols as s
from cflow_sym.optimizers._common import LEARNING_RATE, WEIGHT_DECAY
from cflow_sym.spec.optimizer import OptimizerSpec

SPEC = OptimizerSpec(
    name="gradient_descent",
    title="Gradient descent",
    hyperparameters=(LEARNING_RATE, WEIGHT_DECAY),
    update=-s.eta * (s.g + s.gamma * s.w),
    theorems=("descent",),
    source="arXiv:2410.24206, part I",
)

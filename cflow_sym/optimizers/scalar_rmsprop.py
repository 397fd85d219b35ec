"""Scalar RMSProp: one running average nu of the squared gradient norm sets the step size eta / sqrt(nu)."""

import sympy as sp

from cflow_sym.notation import norm2
from cflow_sym.notation import symbols as s
from cflow_sym.spec import Hyperparameter, OptimizerSpec, State, Switch

SPEC = OptimizerSpec(
    name="scalar_rmsprop",
    title="Scalar RMSProp",
    hyperparameters=(
        Hyperparameter("learning_rate", s.eta, meaning="learning rate"),
        Hyperparameter("beta2", s.beta2, upper=1.0, meaning="decay of the average of squared gradient norms"),
        Hyperparameter("epsilon", s.epsilon, closed_below=True, off=0.0, meaning="added to the denominator"),
    ),
    states=(State("nu", s.beta2 * s.nu + (1 - s.beta2) * norm2(s.g), meaning="average of squared gradient norms"),),
    definitions={s.nu_hat: s.nu, s.denominator: sp.sqrt(s.nu_hat) + s.epsilon},
    update=-s.eta * s.g / s.denominator,
    switches=(
        Switch("bias_correction", {s.nu_hat: s.nu / (1 - s.beta2**s.t)}, "divide nu by 1 - beta2**t"),
        Switch(
            "eps_in_sqrt",
            {s.denominator: sp.sqrt(s.nu_hat + s.epsilon)},
            "add epsilon inside the square root",
        ),
    ),
    theorems=("monotone_in_learning_rate", "rate_limits"),
    source="arXiv:2410.24206, part II",
)

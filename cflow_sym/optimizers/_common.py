"""What several optimizers share: hyperparameters, the gradient with coupled decay, where epsilon stands."""

import sympy as sp

from cflow_sym.notation import symbols as s
from cflow_sym.spec.parts import Hyperparameter, State, Switch

LEARNING_RATE = Hyperparameter("learning_rate", s.eta, meaning="learning rate", schedulable=True)
BETA1 = Hyperparameter(
    "beta1", s.beta1, upper=1.0, closed_below=True, meaning="momentum: decay of the average of gradients"
)
BETA2 = Hyperparameter("beta2", s.beta2, upper=1.0, meaning="decay of the average of squared gradients")
EPSILON = Hyperparameter("epsilon", s.epsilon, closed_below=True, off=0.0, meaning="added to the denominator")
WEIGHT_DECAY = Hyperparameter(
    "weight_decay", s.gamma, closed_below=True, off=0.0, meaning="decoupled weight decay", typical=0.25
)
L2 = Hyperparameter(
    "l2", s.rho, closed_below=True, off=0.0, meaning="coupled weight decay: the loss gains l2/2 |w|^2", typical=0.25
)
INITIAL = Hyperparameter(
    "initial_accumulator", s.nu_0, closed_below=True, off=0.0, meaning="the sum before the first step"
)

GRADIENT = s.g + s.rho * s.w  # coupled decay: wherever the gradient stands
DENOMINATOR = {s.nu_hat: s.nu, s.denominator: sp.sqrt(s.nu_hat) + s.epsilon}
STEP = -s.eta * GRADIENT / s.denominator - s.eta * s.gamma * s.w

M_TRACE = State("m", s.beta1 * s.m + GRADIENT, meaning="decaying sum of gradients")
M_AVERAGE = State("m", s.beta1 * s.m + (1 - s.beta1) * GRADIENT, meaning="average of gradients")
NU = State("nu", s.beta2 * s.nu + (1 - s.beta2) * GRADIENT**2, meaning="average of squared gradients")
M_HAT = s.m / (1 - s.beta1**s.t)
NU_HAT = {s.nu_hat: s.nu / (1 - s.beta2**s.t), s.denominator: sp.sqrt(s.nu_hat) + s.epsilon}
DECAY = -s.eta * s.gamma * s.w

BIAS_CORRECTION = Switch("bias_correction", {s.nu_hat: s.nu / (1 - s.beta2**s.t)}, "divide nu by 1 - beta2**t")
EPS_IN_SQRT = Switch(
    "eps_in_sqrt", {s.denominator: sp.sqrt(s.nu_hat + s.epsilon)}, "add epsilon inside the square root"
)

"""The rows of the symbol table: every letter of the theory once, with its LaTeX, its shape and its meaning.

What is done with them, contractions above all, is in `notation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp


class Coordinate(sp.Symbol):
    """The representative coordinate of a vector of shape (n,)."""


@dataclass(frozen=True)
class Entry:
    """One row of the symbol table; `identifier` is the name in the Python interfaces."""

    name: str
    latex: str
    identifier: str
    shape: str
    meaning: str
    assumption: str = "real"

    def symbol(self) -> sp.Symbol:
        """Return the SymPy symbol of this row."""
        kind = Coordinate if self.shape == "(n,)" else sp.Symbol
        return kind(self.name, **{self.assumption: True})


# fmt: off
TABLE: tuple[Entry, ...] = (
    Entry("eta", r"\eta", "learning_rate", "()", "learning rate", "positive"),
    Entry("beta1", r"\beta_1", "beta1", "()", "decay of the first moment", "positive"),
    Entry("beta2", r"\beta_2", "beta2", "()", "decay of the second moment", "positive"),
    Entry("epsilon", r"\epsilon", "epsilon", "()", "small constant that keeps a denominator from "
                                                   "0", "nonnegative"),
    Entry("gamma", r"\gamma", "weight_decay", "()", "decoupled weight decay: the weights shrink beside the "
                                                   "step", "nonnegative"),
    Entry("rho", r"\rho", "l2", "()", "coupled weight decay: the loss gains rho/2 times the squared norm of the "
                                     "weights", "nonnegative"),
    Entry("t", "t", "t", "()", "number of updates of the states made so far, the current one "
                               "included", "positive"),
    Entry("nu", r"\nu", "nu", "()", "second moment: a running average or sum of squared "
                                    "gradients", "positive"),
    Entry("nu_0", r"\nu_0", "initial_accumulator", "()", "second moment before the first step", "nonnegative"),
    Entry("nu_hat", r"\hat\nu", "nu_hat", "()", "second moment after bias correction", "positive"),
    Entry("denominator", "D", "denominator", "()", "what the gradient is divided by", "positive"),
    Entry("kappa1", r"\kappa_1", "kappa1", "()", "rate of the first moment in continuous time", "positive"),
    Entry("kappa2", r"\kappa_2", "kappa2", "()", "rate of the second moment in continuous time", "positive"),
    Entry("P", "P", "preconditioner", "()", "preconditioner: a step is minus the inverse of P times the "
                                            "gradient", "positive"),
    Entry("c", "c", "threshold", "()", "no period-two instability iff H <= c P", "positive"),
    Entry("lam", r"\lambda", "effective_eigenvalue", "()", "an eigenvalue of the inverse of P times "
                                                           "H", "positive"),
    Entry("S", "S", "sharpness", "()", "critical curvature along the unit vector u; the top eigenvalue of H "
                                       "for a scalar P", "positive"),
    Entry("sigma_squared", r"\sigma^2", "sigma_squared", "()", "variance of the oscillation along the unit "
        "vector u"),
    Entry("x", "x", "x", "()", "sign of the oscillation, +1 and -1 in turn"),
    Entry("grad_sq_norm", r"\|g\|^2", "grad_sq_norm", "()", "squared norm of the gradient", "nonnegative"),
    Entry("grad_dot_grad_S", r"\langle g,\nabla S\rangle", "grad_dot_grad_S", "()", "gradient of the loss "
        "times gradient of S"),
    Entry("grad_S_sq_norm", r"\|\nabla S\|^2", "grad_S_sq_norm", "()", "squared norm of the gradient of "
        "S", "positive"),
    Entry("w_dot_grad_S", r"\langle w,\nabla S\rangle", "w_dot_grad_S", "()", "weights times gradient of "
        "S"),
    Entry("grad_dot_u", r"\langle g,u\rangle", "grad_dot_u", "()", "gradient along the critical direction"),
    Entry("loss", "L", "loss", "()", "training loss"),
    Entry("curvature_of_oscillation", r"\langle\Sigma,H\rangle", "curvature_of_oscillation", "()", "Hessian "
        "contracted with the covariance"),
    Entry("X_kl", "X_{kl}", "X", "()", "covariance of the oscillation in critical coordinates"),
    Entry("trace_X", r"\mathrm{tr}X", "trace_X", "()", "sum of the eigenvalues of X", "nonnegative"),
    Entry("dt", r"\Delta t", "dt", "()", "time step of the leapfrog, in optimizer steps", "positive"),
    Entry("z", "z", "z", "()", "shift by one step forward in time"),
    Entry("g", "g", "g", "(n,)", "gradient of the loss"),
    Entry("g_mean", r"\bar g", "g_mean", "(n,)", "time average of the gradient, g plus its shift"),
    Entry("m", "m", "m", "(n,)", "first moment: a running average or sum of gradients"),
    Entry("w", "w", "w", "(n,)", "weights"),
    Entry("u", "u", "u", "(n,)", "critical direction, a unit vector"),
    Entry("Hu", "(Hu)", "Hu", "(n,)", "Hessian times u"),
    Entry("grad_S", r"\nabla S", "grad_S", "(n,)", "gradient of the curvature along u, u held fixed"),
    Entry("gradient_shift", r"\tfrac12T[\Sigma]", "gradient_shift", "(n,)", "averaged gradient minus "
        "gradient"),
    Entry("gradient_variance", r"\mathrm{diag}(H\Sigma H)", "gradient_variance", "(n,)", "variance of the "
        "gradient"),
    Entry("held_variance", r"\mathrm{diag}(H\Sigma H)", "held_variance", "(n,)", "variance of the gradient for "
        "which signs are taken"),
    Entry("D1", r"H\delta", "D1", "(n,)", "first derivative of g along the displacement"),
    Entry("D2", r"D^2g[\delta^2]", "D2", "(n,)", "second derivative of g along the displacement"),
    Entry("D3", r"D^3g[\delta^3]", "D3", "(n,)", "third derivative of g along the displacement"),
    Entry("D4", r"D^4g[\delta^4]", "D4", "(n,)", "fourth derivative of g along the displacement"),
    Entry("u_i", "u_i", "u_i", "(n,)", "i-th critical direction"),
    Entry("u_j", "u_j", "u_j", "(n,)", "j-th critical direction"),
    Entry("Hu_k", "(Hu_k)", "Hu_k", "(n,)", "Hessian times the k-th critical direction"),
    Entry("Hu_l", "(Hu_l)", "Hu_l", "(n,)", "Hessian times the l-th critical direction"),
    Entry("d_ij", "d_{ij}", "d_ij", "(n,)", "gradient of u_i'H u_j, both held fixed"),
    Entry("d_kl", "d_{kl}", "d_kl", "(n,)", "gradient of u_k'H u_l, both held fixed"),
    Entry("path_place", "s", "path_place", "()", "place on the way out, from 0 to 1"),
    Entry("D4_ahead", r"D^4g(w+s\delta)[\delta^4]", "D4_ahead", "(n,)", "fourth derivative of g on the way out"),
    Entry("D4_behind", r"D^4g(w-s\delta)[\delta^4]", "D4_behind", "(n,)", "the same on the other side"),
    Entry("D4_sup", r"\sup\|D^4g\|", "D4_sup", "()", "largest fourth derivative of g on the way", "nonnegative"),
    Entry("delta_norm", r"\|\delta\|", "delta_norm", "()", "length of the displacement", "nonnegative"),
    Entry("quartic_along_u", "D^4L[u^4]", "quartic_along_u", "()", "fourth derivative of the loss along u"),
    Entry("cos_phase", r"\cos\varphi", "cos_phase", "()", "real part of a root on the unit circle"),
    Entry("Sigma_ii", r"\Sigma_{ii}", "Sigma_ii", "(n,)", "variance of the oscillation of each weight"),
    Entry("curvature_shift", r"\|T[\Sigma_1-\Sigma_2]\|^2", "curvature_shift", "()", "squared norm of the change of "
        "T", "nonnegative"),
    Entry("eta_1", r"\eta_1", "eta_1", "()", "the smaller of two learning rates", "positive"),
    Entry("eta_2", r"\eta_2", "eta_2", "()", "the larger of two learning rates", "positive"),
    Entry("trace_X1", r"\mathrm{tr}X_1", "trace_X1", "()", "trace of X at the smaller learning rate"),
    Entry("trace_X2", r"\mathrm{tr}X_2", "trace_X2", "()", "trace of X at the larger learning rate"),
    Entry("lag_ratio", r"\tfrac{G'(1)}{G(1)}", "lag_ratio", "()", "minus the lag of the averaged path"),
    Entry("bend_at_edge", "G''(-1)", "bend_at_edge", "()", "second derivative of G at the edge"),
    Entry("loop_delay", r"\theta", "loop_delay", "()", "delay with which amplitude and curvature answer each other"),
)
# fmt: on

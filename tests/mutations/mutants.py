"""The mutants as data: a fault in one module, and the witness that must catch it.

To add one: `Mutant(name, module, old, new, witness)`; `old` must stand exactly once in the module.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: in `module`, `old` becomes `new`; `witness` catches it (see `witnesses.py`)."""

    name: str
    module: str
    old: str
    new: str
    witness: str
    quick: bool = False  # also part of `make test`
    listed: bool = False  # one of those that an independent check found to survive


# fmt: off
MUTANTS: tuple[Mutant, ...] = (
    # What an independent check found
    Mutant("reduced flow: threshold v c -> c", "cflow_sym.theory.recipe", "P, c = P / v, v * named", "P, c = P / v, named",
           "check ademamix", True, True),
    Mutant("a step that begins elsewhere: the averaged gradient from g", "cflow_sym.theory.expansion",
           r'r"E[\nabla L]", taylor, averaged', r'r"E[\nabla L]", _s.g, averaged', "check gradient_descent", True, True),
    Mutant("centre flow reads g for E[grad L]", "cflow_sym.theory.leapfrog", "                (_s.g_mean - m) / relaxation_time(b),",
           "                (_s.g - m) / relaxation_time(b),", "check heavy_ball", True, True),
    Mutant("E[L] = 3 L + ...", "cflow_sym.theory.predictions", "averaged_loss = _s.loss +", "averaged_loss = 3 * _s.loss +",
           "check gradient_descent", True, True),
    Mutant("T[Sigma]/2 doubled in the numerics", "cflow_num.flows.frame",
           "return Moments(shift / 2, variance)", "return Moments(shift, variance)", "row adam steps", True, True),
    Mutant("the leapfrog's count t + dt -> t in the step that fixes X", "cflow_num.flows.leapfrog",
           'middle = y.slow | {"t": y.slow["t"] + dt}', 'middle = y.slow | {"t": y.slow["t"]}', "row adam steps", False, True),
    Mutant("the leapfrog's start with the wrong sign", "cflow_num.flows.phase_space",
           "filtered = g + left[:, None] * (own - g)", "filtered = g - left[:, None] * (own - g)", "row heavy_ball steps",
           True, True),
    Mutant("NAdam's beta1^(t+1) -> beta1^t", "cflow_sym.optimizers.nadam", "s.beta1 ** (s.t + 1)", "s.beta1 ** s.t",
           "compiled nadam update", False, True),
    Mutant("AdaBelief's m does not alternate", "cflow_sym.theory.canonical_form", "parts = {m: m + p * (_s.g - _s.g_mean) for",
           "parts = {m: m for", "check adabelief", True, True),
    Mutant("LaTeX of T[Sigma]/2 without its 1/2", "cflow_sym.symbol_table", r'r"\tfrac12T[\Sigma]"', r'r"T[\Sigma]"',
           "check gradient_descent", True, True),

    # Expansion
    Mutant("remainder of the averaged gradient begins at the gradient", "cflow_sym.theory.expansion",
           "averaged - _s.g - _s.gradient_shift, _s.D4 / 24,", "averaged - _s.g, _s.D4 / 24,", "check gradient_descent"),
    Mutant("the squared gradient begins at the first power of the displacement", "cflow_sym.theory.expansion",
           "displaced_gradient(2) ** 2, expand", "displaced_gradient(1) ** 2, expand", "check rmsprop"),
    Mutant("the cross term's remainder begins with the square of H delta in it", "cflow_sym.theory.expansion",
           "contract(second.xreplace({_s.D1: sp.Integer(0)})), orient", "contract(second), orient", "check rmsprop"),
    Mutant("the fourth-order remainder is shown before the sum of its square", "cflow_sym.theory.expansion",
           'fourth, orient(in_factors(fourth)),', "cross, orient(in_factors(fourth)),", "check rmsprop"),
    Mutant("the consistent norm has the shift three times", "cflow_sym.theory.predictions",
           "_s.gradient_shift: _s.sigma_squared * _s.grad_S / 2,\n    }\n    norm",
           "_s.gradient_shift: 3 * _s.sigma_squared * _s.grad_S / 2,\n    }\n    norm",
           "check gradient_descent order=consistent"),
    Mutant("Taylor's polynomial has the third derivative with the weight of the fourth", "cflow_sym.theory.averaging",
           "_s.x**k * d / sp.factorial(k) for k, d in enumerate(derivatives, start=1)",
           "_s.x**k * d / sp.factorial(min(k, 3) + (k == 3)) for k, d in enumerate(derivatives, start=1)",
           "check gradient_descent"),

    # Stable flow
    Mutant("a state without memory gets an average of 1 + beta times its quantity", "cflow_sym.theory.stable_flow",
           "beta * state_symbol(s.name) + (1 - beta) * s.update", "beta * state_symbol(s.name) + (1 - beta**2) * s.update",
           "check normalized_gradient_descent"),
    Mutant("the rate has another value than its name says", "cflow_sym.theory.stable_flow",
           "return {names[b]: (1 - b) / b for", "return {names[b]: (1 - b) / b**2 for", "compiled scalar_rmsprop autodiff"),
    Mutant("rates are named for a decay of another form", "cflow_sym.theory.stable_flow",
           "xreplace({decay: 1 / (1 + rate)})", "xreplace({decay: 1 - rate})", "check scalar_rmsprop"),
    Mutant("the increment is written in the old state", "cflow_sym.theory.stable_flow",
           "return _tidy(contract(sp.expand(state - solutions[0])))",
           "return _tidy(contract(sp.expand(equation.subs(old, state) - state)))", "check rmsprop"),
    Mutant("the penalty of coupled decay is left out of the flows", "cflow_num.flows.base",
           "return self.problem.gradient(w) + self.optimizer.l2_penalty(self.hp) * w",
           "return self.problem.gradient(w)", "row rmsprop edge"),

    # Reduced flow
    Mutant("the reduced flow's averages stand at g and not at its mean", "cflow_sym.theory.canonical_form",
           "steady = {m: s * _s.g_mean for m, s in form.steady.items()}", "steady = {m: s * _s.g for m, s in form.steady.items()}",
           "check adabelief"),
    Mutant("the reduced flow begins at P before its late form", "cflow_sym.theory.recipe",
           'P, c = late.get("late_preconditioner", P), late', 'P, c = P, late', "check adam"),
    Mutant("numerics: the reduced flow has the speed 1", "cflow_num.flows.base",
           "return jnp.sum(self.optimizer.leapfrog(y.slow, self.hp, 0.0).weight)", "return 1.0", "row heavy_ball steps"),
    Mutant("numerics: the speed is that of the first average alone", "cflow_num.flows.base",
           "return jnp.sum(self.optimizer.leapfrog(y.slow, self.hp, 0.0).weight)",
           "return self.optimizer.leapfrog(y.slow, self.hp, 0.0).weight[0]", "row nesterov steps"),
    Mutant("the step limit begins at the threshold alone", "cflow_sym.theory.reduced",
           r'r"\Delta t_{\max}", v * c, limit', r'r"\Delta t_{\max}", c, limit', "check nesterov"),

    # Equilibrium
    Mutant("the equilibrium begins at cP in one direction less", "cflow_sym.theory.equilibrium",
           "gap = contract(Total(_s.u**2 * edge_value)) - _s.S", "gap = contract(Total(_s.u * edge_value)) - _s.S",
           "check rmsprop"),
    Mutant("the matrix at the edge begins without c", "cflow_sym.theory.sdcp", "_s.u_i * _s.u_j * c * P, A0, why[0]",
           "_s.u_i * _s.u_j * P, A0, why[0]", "check rmsprop"),
    Mutant("the part linear in X begins at its constant part", "cflow_sym.theory.sdcp", "rebias(A_rate(pair)), A1, why[1]",
           "rebias(A_rate(zero)), A1, why[1]", "check scalar_rmsprop"),
    Mutant("schedules move with the clock and not with the counter", "cflow_sym.theory.equilibrium",
           "rates |= {s: rate_symbol(s) * rates[_s.t] for s in spec.scheduled}",
           "rates |= {s: rate_symbol(s) for s in spec.scheduled}", "check gradient_descent weight_decay schedule"),
    Mutant("the balance forgets how P moves with the count", "cflow_sym.theory.equilibrium",
           "rates = {s: rate_symbol(s) for s in spec.state_updates}\n    rates |=",
           "rates = {s: rate_symbol(s) if s != _s.t else sp.Integer(0) for s in spec.state_updates}\n    rates |=",
           "check scalar_rmsprop bias_correction"),
    Mutant("numerics: an infeasible start is taken back at once", "cflow_num.flows.central",
           "A = jnp.diag(jnp.maximum(slack, -relief)) + change", "A = jnp.diag(slack) + change", "row scalar_rmsprop frame"),
    Mutant("numerics: the ablated flow feels the shift", "cflow_num.flows.central",
           "if self.sharpness_reduction else jnp.zeros_like(shift)\n        slow_still", "if True else jnp.zeros_like(shift)\n        slow_still",
           "row rmsprop frame"),
    Mutant("numerics: states at rest do not count what they are off", "cflow_num.flows.central",
           "still[name] = (still[name] - here) / weight", "still[name] = still[name] / weight",
           "row normalized_gradient_descent edge"),

    # Leapfrog
    Mutant("start_nu is right at half a step only", "cflow_sym.theory.leapfrog", "(1 - _s.dt) / (1 + keep - (1 - keep) * _s.dt)\n\n    def check_average",
           "2 * (1 - _s.dt) ** 2 / (1 + keep - (1 - keep) * _s.dt)\n\n    def check_average", "check rmsprop"),
    Mutant("the leapfrog is symmetric and exact at 1, but stands still for small steps", "cflow_sym.theory.leapfrog",
           "return 2 / (1 + keep + (1 - keep) * _s.dt)", "return 2 * _s.dt**2 / (1 + keep + (1 - keep) * _s.dt**3)", "check heavy_ball"),
    Mutant("the averages' step begins at the gradient", "cflow_sym.theory.leapfrog",
           r"rf\"({latex}_+-{latex})/\Delta t\", new - m, leap(m, new),".replace('\\"', '"'),
           r"rf\"({latex}_+-{latex})/\Delta t\", _s.g - m, leap(m, new),".replace('\\"', '"'), "check heavy_ball"),
    Mutant("numerics: the last shift of the variance counts twice", "cflow_num.flows.leapfrog",
           "lagged = last._replace(gradient_variance=none, signs_at=at)", "lagged = last._replace(signs_at=at)", "row adam steps"),
    Mutant("numerics: P is foreseen without the last oscillation", "cflow_num.flows.leapfrog",
           "dt * (still[name] + jnp.tensordot(x, moved[name], axes=1))", "dt * still[name]", "row adam steps"),
    Mutant("numerics: the step foreseen has the P before it", "cflow_num.flows.leapfrog",
           "P = opt.preconditioner(middle | predicted, hp)", "P = opt.preconditioner(middle, hp)", "row scalar_adam steps"),
    Mutant("numerics: the shift moves the weights by the whole step at once", "cflow_num.flows.leapfrog",
           "w_moved = -k.push * self.shift(basis) / P", "w_moved = -jnp.sum(k.weight) * self.shift(basis) / P",
           "row heavy_ball steps"),
    Mutant("numerics: the step taken leaves the shift out", "cflow_num.flows.leapfrog",
           "return self.leap(y, tangent.g, self.shift(moments), moments, dt), X, info",
           "return self.leap(y, tangent.g, 0 * tangent.g, moments, dt), X, info", "row heavy_ball steps"),
    Mutant("numerics: the start counts from the update before", "cflow_num.flows.phase_space",
           'here = before | {"t": before["t"] + (1 - dt) / 2}', 'here = before | {"t": before["t"]}', "row adam steps"),
    Mutant("numerics: slow states read averages whose lag is that of the step", "cflow_num.flows.phase_space",
           "k.steady[i] * (g - left[i] * lag[i])", "k.steady[i] * (g - lag[i])", "row adabelief steps"),
    Mutant("numerics: the weights move by the averages before the step", "cflow_num.flows.phase_space",
           "dt * k.w_rate * (k.weight @ m / P", "dt * k.w_rate * (k.weight @ y.filtered / P", "row heavy_ball autodiff"),

    # Predictions
    Mutant("the loss at the edge is the sharpness times the variance", "cflow_sym.theory.predictions",
           "at_edge = _s.loss + c * _s.trace_X / 2", "at_edge = _s.loss + _s.S * _s.trace_X / 2", "check gradient_descent"),
    Mutant("the averaged squared norm begins at the norm of the gradient", "cflow_sym.theory.predictions",
           "contract(Total(squared_gradient)), norm,", "_s.grad_sq_norm, norm,", "check rmsprop"),
    Mutant("the loss at the edge begins at the loss", "cflow_sym.theory.predictions",
           '"E[L]", averaged_loss, at_edge,', '"E[L]", _s.loss, at_edge,', "check scalar_rmsprop"),
    Mutant("numerics: the energy of the oscillation is counted by the threshold alone", "cflow_num.stepping.log",
           "H = jnp.diag(frame.pairs.eigenvalues[: len(X)]) + frame.turned(y)", "H = jnp.diag(frame.pairs.eigenvalues[: len(X)])",
           "row rmsprop frame"),
    Mutant("numerics: the oscillation's eigenvalues are those in the frame's P", "cflow_num.stepping.log",
           "R = jnp.linalg.cholesky(frame.inner(P)).T", "R = jnp.eye(len(X), dtype=X.dtype)", "row rmsprop frame"),
    Mutant("numerics: the predicted squared gradient is that without oscillation", "cflow_num.stepping.log",
           "squared_gradient=flow.optimizer.averaged_squared_gradient(g, frame.moments_of(X)),", "squared_gradient=g**2,",
           "row rmsprop frame"),

    # Frame
    Mutant("numerics: the Hessian stays that of the frame's point", "cflow_num.flows.frame",
           "return smat(product(self.D, y.w - self.y.w))", "return smat(0 * product(self.D, y.w))", "row rmsprop frame"),
    Mutant("numerics: the slack away from the frame has the metric of its point", "cflow_num.flows.central",
           "slack = c * metric - jnp.diag(lam) - frame.turned(y)",
           "slack = c * jnp.eye(len(lam)) - jnp.diag(lam) - frame.turned(y)", "row rmsprop frame"),
    Mutant("numerics: the variance of the gradient is that of the displacement", "cflow_num.flows.central",
           "outer_products(U), outer_products(HU), U.T @ U)", "outer_products(U), outer_products(U), U.T @ U)", "row rmsprop edge"),

    # Stepping
    Mutant("numerics: the second stage of a short step is not relaxed", "cflow_num.stepping.short_steps",
           "back = jnp.where(second, Z.rates(point.w - y.w) / h, 0)", "back = 0 * Z.rates(point.w - y.w)", "row rmsprop steps"),
    Mutant("numerics: the second stage counts in full", "cflow_num.stepping.short_steps",
           "return jnp.where(second, h / 2, h)", "return h", "row scalar_rmsprop steps"),
    Mutant("numerics: Heun has the weights of the method of the midpoint", "cflow_num.stepping.half_explicit",
           "((1.0, 0.0), (0.5, 0.5))", "((1.0, 0.0), (0.0, 1.0))", "row scalar_rmsprop steps"),
    Mutant("numerics: the discrete run starts one update late", "cflow_num.flows.discrete",
           "return FlowState(w, self.optimizer.update_state(slow, self.gradient(w), self.hp))", "return FlowState(w, slow)",
           "row adam update"),

    # Closures, and where other steps begin
    Mutant("the rod's variance begins at a covariance counted from both ends", "cflow_sym.theory.closures",
           "growth * _s.sigma_squared / 2 - 2 * _s.sigma_squared, _s", "growth * _s.sigma_squared - 2 * _s.sigma_squared, _s",
           "check gradient_descent"),
    Mutant("the envelope begins at the odd part alone", "cflow_sym.theory.closures", "-2 * X + X * (1 - z), X *", "X * (1 - z), X *",
           "check gradient_descent"),
    Mutant("the published average begins at its new value", "cflow_sym.theory.momentum", "new - m, orient(rate)", "new, orient(rate)",
           "check heavy_ball"),
    Mutant("what is left of a memory begins at what is lost of it", "cflow_sym.theory.leapfrog", "b, memory_left(b),",
           "1 - b, memory_left(b),", "check heavy_ball"),
    Mutant("the start of a state begins at its new value", "cflow_sym.theory.leapfrog", "new - state, start,", "new, start,",
           "check rmsprop"),
    Mutant("the value at rest begins at itself", "cflow_sym.theory.stationary", "ansatz[state.name], value,", "value, value,",
           "check rmsprop"),

    # What is printed
    Mutant("printed sums lose the sign of a term that begins with one", "cflow_sym.writing.typesetting",
           'text += (" - " + printed[1:].lstrip()) if printed.startswith("-") else " + " + printed',
           'text += (" + " + printed[1:].lstrip()) if printed.startswith("-") else " + " + printed', "check scalar_rmsprop"),
    Mutant("elementwise powers are printed as products", "cflow_sym.writing.typesetting",
           r'rf"{base}^{{\odot {expr.exp}}}"', r'rf"{base}"', "check rmsprop"),
    Mutant("a vector in brackets loses the fraction before it", "cflow_sym.writing.typesetting",
           r'front = rf"\frac{{{above}}}{{{self._print(bottom)}}}"', 'front = above', "check adam"),
    Mutant("two quantities are printed alike", "cflow_sym.symbol_table", r'Entry("Hu", "(Hu)"', r'Entry("Hu", "u"', "check rmsprop"),
)
# fmt: on

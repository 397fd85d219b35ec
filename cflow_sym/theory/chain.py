"""The chain of a derivation: where each step begins, recomputed from the optimizer and from earlier steps.

A step says that `before` becomes `after`. Its check holds `after` against brute force; this module holds `before`
against where the step must begin: a raw part of the optimizer (its step, the update of a state), a definition, or what
an earlier step ended at. So a right step from a wrong place is refused as well. What has no entry here begins where its
own check says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import sympy as sp

from cflow_sym.derivation.derivation import Step
from cflow_sym.notation import OLD, Coordinate, Frozen, Total, state_symbol, symbols
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.expansion import hold_signs

_s = symbols
X = sp.Symbol("x", positive=True)  # the amplitude, as the closures write it
GAMMA = sp.Symbol("Gamma", positive=True)
Origin = Callable[["Chain", str], sp.Expr]  # from the variable of a step's result, such as the name of a state


class Chain:
    """The steps so far, and the origin of the next one. `flow` is the spec whose flow is derived.

    With momentum that is the reduced one; with states without memory the one with decaying averages.

    >>> import cflow_sym as cs
    >>> d = cs.derive("gradient_descent")
    >>> chain = Chain(d.spec, d.spec)
    >>> [chain.linked(step).origin for step in d.steps[:2]]
    [g, D1*x + D2*x**2/2 + D3*x**3/6 + D4*x**4/24 + g]
    """

    def __init__(self, spec: OptimizerSpec, flow: OptimizerSpec) -> None:
        self.spec, self.flow, self.found = spec, flow, {}
        self.filters = {s: e for s, e in spec.sequential_updates.items() if spec.kinds[s.name] == "filtered"}

    def linked(self, step: Step) -> Step:
        """Return the step with its origin, where one is known, and remember what it ends at."""
        origin = self._origin(step)
        self.found[step.key] = step.after
        return step if origin is None else replace(step, origin=sp.sympify(origin))

    def _origin(self, step: Step) -> sp.Expr | None:
        result = step.result
        if result.family in OF_RESULT:
            return OF_RESULT[result.family](self, step.after)
        origin = ORIGINS.get(result.key) or ORIGINS.get(result.family)
        return origin(self, result.variable) if origin else None

    # Parts of the optimizer

    def _feedback(self, m: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
        """Return b and a of an average: what it keeps and what it takes of the gradient."""
        return self.filters[m].diff(m), self.filters[m].diff(_s.g)

    def _kept(self, name: str) -> sp.Expr:
        """Return b of the average with that name, 0 for the gradient itself."""
        return next((self._feedback(m)[0] for m in self.filters if m.name == name), sp.Integer(0))

    def _relaxing(self, name: str) -> sp.Expr:
        """The increment of an average normalized to the gradient."""
        return (1 - self._kept(name)) * (_s.g_mean - Coordinate(f"mean_{name}", real=True))

    def _in_averages(self, expr: sp.Expr) -> sp.Expr:
        """Write the optimizer's averages, and the gradient beside them, as averages normalized to the gradient."""
        normalized: dict[sp.Symbol, sp.Expr] = {_s.g: Coordinate("mean_g", real=True)}
        for m in self.filters:
            b, a = self._feedback(m)
            normalized[m] = a / (1 - b) * Coordinate(f"mean_{m.name}", real=True)
        return expr.xreplace(normalized)

    def _canonical(self) -> sp.Expr:
        """The step in terms of updated averages."""
        return self.found.get("canonical_form", self.spec.weight_update)

    def _direction(self) -> sp.Expr:
        """The filter's output: what is left of the step without decay and preconditioner."""
        return -(self._canonical() + self.spec.decay * _s.w) * self.found["preconditioner"]

    def _slow(self, name: str) -> sp.Expr:
        """The increment of a slow state, in terms of updated averages and of old slow states."""
        state = self.spec.all_symbols[name]
        new, updated = {}, {}
        for s, e in self.spec.sequential_updates.items():
            if s in self.filters:
                b, a = self._feedback(s)
                new |= {s: (s - a * _s.g) / b, self.spec.new(s.name): s} if b != 0 else {self.spec.new(s.name): s}
            else:
                updated[s] = e.xreplace(new)
                new[self.spec.new(s.name)] = updated[s]
        return updated[state] - state

    def _alternating(self, expr: sp.Expr) -> sp.Expr:
        """Let the averages alternate with the gradient about the value that they stand for."""
        parts = {}
        for m in self.filters:
            b, a = self._feedback(m)
            parts[m] = m + a / (1 + b) * (_s.g - _s.g_mean)
        return expr.xreplace(parts)

    def _steady(self, expr: sp.Expr) -> sp.Expr:
        """Let every average stand at its steady value."""
        values = {}
        for m in self.filters:
            b, a = self._feedback(m)
            values[m] = a / (1 - b) * _s.g_mean
        return expr.xreplace(values)

    def _determinant(self) -> sp.Expr:
        """det(z - M) of the optimizer's own step on the quadratic with curvature lam P, for one weight."""
        P = self.found.get("preconditioner", sp.Integer(1))
        return _determinant_of(self.spec.weight_update, tuple(self.filters.items()), P)

    def _gap(self) -> sp.Expr:
        """u'(cP - H)u, of the reduced flow where momentum is eliminated."""
        return Total(_s.u**2 * self._edge()) - _s.S

    def _edge(self) -> sp.Expr:
        """c P of the flow that is derived."""
        return self.found.get("reduced_edge", self.found["threshold"] * self.found["preconditioner"])

    def _late(self, name: str) -> sp.Expr:
        return self.found.get(f"late_{name}", self.found[name])

    def _root(self) -> sp.Expr:
        """The multiplier: by name with momentum."""
        return _s.z if self.filters else 1 - _s.lam - self.spec.decay

    def _rewritten(self, name: str) -> sp.Expr:
        """The increment of a slow state of the flow that is derived, its old value by name."""
        if name == "t":
            return sp.Integer(1)
        state = self.flow.all_symbols[name]
        if self.filters:
            change = _settled(self._steady(self._alternating(self._slow(name))))
        else:
            change = self.flow.state_updates[state] - state
        fixed = {sign: sp.Dummy(real=True) for sign in change.atoms(Frozen)}
        old = type(state)(f"{name}{OLD}", positive=True)
        return change.xreplace(fixed).xreplace({state: old}).xreplace({v: k for k, v in fixed.items()})

    def _step_of_flow(self) -> sp.Expr:
        """The step whose limit is the stable flow."""
        if "stable_w" in self.found:  # the limit without memory
            return self.found["stable_w"]
        if not self.filters:
            return self.spec.weight_update
        return -self.found["speed"] * _s.g / self._late("preconditioner") - self.spec.decay * _s.w


@lru_cache(maxsize=16)
def _determinant_of(update: sp.Expr, filters: tuple[tuple[sp.Symbol, sp.Expr], ...], P: sp.Expr) -> sp.Expr:
    w = sp.Symbol("w_scalar")
    seen = {_s.g: _s.lam * P * w, _s.w: w}
    new = {m: e.xreplace(seen) for m, e in filters}
    old = {state_symbol(m.name + OLD, "filtered"): m for m, _ in filters}
    step = w + update.xreplace(seen).xreplace(new).xreplace(old)
    variables, after = [w, *new], [step, *new.values()]
    M = sp.Matrix([[e.diff(v) for v in variables] for e in after])
    return (_s.z * sp.eye(M.rows) - M).det(method="berkowitz")


def _settled(expr: sp.Expr) -> sp.Expr:
    """Let corrections of bias, decays to the power of the count, die out."""
    return expr.xreplace({p: sp.Integer(0) for p in expr.atoms(sp.Pow) if p.exp.has(_s.t)})


def _quadratic(taylor: sp.Expr) -> sp.Expr:
    return taylor.xreplace({_s.D3: sp.Integer(0), _s.D4: sp.Integer(0)})


def _odd(taylor: sp.Expr) -> sp.Expr:
    return (taylor.subs(_s.x, 1) - taylor.subs(_s.x, -1)) / 2


# fmt: off
ORIGINS: dict[str, Origin] = {  # by a step's key, or by its family: for any variable
    "expansion": lambda c, of: _s.g,
    "averaged_gradient": lambda c, of: c.found["expansion"],
    "remainder_averaged_gradient": lambda c, of: c.found["averaged_gradient"] - _s.g - _s.gradient_shift,
    "remainder_edge": lambda c, of: _odd(c.found["expansion"]),
    "averaged_squared_gradient": lambda c, of: _quadratic(c.found["expansion"]) ** 2,
    "penalized_step": lambda c, of: c.spec.resolve(c.spec.update),
    "canonical_form": lambda c, of: c.spec.weight_update,
    "preconditioner": lambda c, of: c.spec.weight_update,
    "transfer_function": lambda c, of: c._direction(),
    "characteristic_equation": lambda c, of: c._determinant() * (-1) ** (1 + len(c.filters)),
    "characteristic_polynomial": lambda c, of: c._determinant(),
    "threshold": lambda c, of: c.found.get("characteristic_equation", -c._determinant()).subs(_s.z, -1),
    "other_roots": lambda c, of: c.found["threshold"],
    "gain": lambda c, of: c.found.get("characteristic_equation", _s.z - 1 + c.spec.decay + _s.lam),
    "direction": lambda c, of: c.filters[c.spec.all_symbols[of]],
    "published": lambda c, of: c.filters[c.spec.all_symbols[of]] - c.spec.all_symbols[of],
    "preconditioner_drift": lambda c, of: c.found["preconditioner"],
    "threshold_drift": lambda c, of: c.found["threshold"],
    "centre_mean": lambda c, of: c._relaxing(of),
    "leap_mean": lambda c, of: c._relaxing(of),
    "memory_mean": lambda c, of: c._kept(of),
    "centre_w": lambda c, of: c._in_averages(c._canonical()),
    "leap_w": lambda c, of: c._in_averages(c._canonical()),
    "leap_push": lambda c, of: c._in_averages(c._direction()),
    "leap": lambda c, of: c._slow(of),
    "start": lambda c, of: c._slow(of),
    "leap_average": lambda c, of: c._alternating(c.found[f"leap_{of}"]),
    "late": lambda c, of: c.found[of],
    "speed": lambda c, of: _settled(c._direction()),
    "step_limit": lambda c, of: c.found["speed"] * c._late("threshold"),
    "reduced_edge": lambda c, of: c._late("threshold") * c._late("preconditioner"),
    "memory": lambda c, of: c.spec.state_updates[c.spec.all_symbols[of]],
    "increment": lambda c, of: c._rewritten(of),
    "stable": lambda c, of: c.found[f"increment_{of}"],
    "stable_w": lambda c, of: c._step_of_flow(),
    "ansatz": lambda c, of: c.found.get(f"increment_{of}", c.found[f"stable_{of}"]),
    "remainder_alternating": lambda c, of: c.found["stable_w"] if c.filters else c.spec.weight_update,
    "remainder_alternating_squared": lambda c, of: c.found["stable_w"] if c.filters else c.spec.weight_update,
    "central": lambda c, of: c.found.get(f"central_{of}", hold_signs(c.found[f"ansatz_{of}"])),
    "equilibrium": lambda c, of: c._gap(),
    "edge": lambda c, of: c._gap(),
    "sigma_squared_with_states": lambda c, of: c.found["equilibrium"],
    "sigma_squared": lambda c, of: c.found.get("sigma_squared", c.found["sigma_squared_with_states"]),
    "sigma_squared_in_time": lambda c, of: c.found["sigma_squared"],
    "sdcp_constant": lambda c, of: _s.u_i * _s.u_j * c._edge(),
    "reduced": lambda c, of: c.found[f"central_{of}"],
    "ablated": lambda c, of: c.found[f"stable_{of}"],
    "stationary": lambda c, of: hold_signs(c.found[f"ansatz_{of}"]),
    "predicted_loss": lambda c, of: _s.loss,
    "predicted_loss_at_edge": lambda c, of: c.found["predicted_loss"],
    "predicted_grad_sq_norm": lambda c, of: Total(c.found["averaged_squared_gradient"]),
    "edge_amplitude": lambda c, of: X * sp.log(-_s.z),
    "envelope_amplitude": lambda c, of: X * (1 - c._root()) - 2 * X,
    "cycle": lambda c, of: X * GAMMA * (_s.lam - _s.c) / _s.c,
    "rod_variance": lambda c, of: ((1 - c._root()) ** 2 / 2 - 2) * _s.sigma_squared,
}
OF_RESULT: dict[str, Callable[[Chain, sp.Expr], sp.Expr]] = {  # where the result is a part of it, or the same
    "remainder_cross": lambda c, after: after.xreplace({_s.gradient_shift: _s.D2 / 2}),  # of one displacement
    "remainder_fourth_order": lambda c, after: after,
    "sdcp_linear": lambda c, after: c.found["sdcp_constant"] + _s.X_kl * after,
}
# fmt: on

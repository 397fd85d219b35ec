"""The text of a generated module: the optimizer's own step and what its flows need besides the Hessian."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy as sp

from cflow_sym.derivation.derivation import Derivation
from cflow_sym.derivation.result import Part
from cflow_sym.notation import Frozen, contract, debias, is_elementwise, rate_symbol, rebias, symbols
from cflow_sym.theory.canonical_form import canonical_form
from cflow_sym.theory.cycle_growth import Edge
from cflow_sym.theory.expansion import hold_signs
from cflow_sym.theory.leapfrog import average_symbols, rate_of_leap
from cflow_sym.theory.multiplier import coefficients
from cflow_sym.theory.stable_flow import name_rates, rate_names
from cflow_sym.writing.jax_printer import jax_code
from cflow_sym.writing.step_writer import HEADER, Assignment, StepWriter, as_tuple, contractions, layout, source_hash

_s = symbols
SCALAR_ARGUMENTS = ("S", "grad_dot_grad_S", "grad_sq_norm", "grad_S_sq_norm")
FURTHER_ARGUMENTS = {"t": "t=math.inf", "w_dot_grad_S": "w_dot_grad_S=0.0"}


class ModuleWriter(StepWriter):
    """Writes the functions of one module; holds nothing but what it was made from.

    The optimizer's own step has its numbers as they are; all else has names for them (`spec/numerals.py`).
    """

    def __init__(self, d: Derivation) -> None:
        self.own = StepWriter(d.spec)
        d = d.symbolic or d
        super().__init__(d.spec)
        self.d = d
        self.form = canonical_form(d.spec)
        self.rates = rate_names(d.spec)
        self.by_array = {h.symbol for h in d.spec.active_hyperparameters if h.values}  # one value for each array
        self.vector_P = is_elementwise(d.preconditioner) or d.preconditioner.has(*self.by_array)
        corrected = {x.name for x in debias(d.preconditioner).atoms(sp.Symbol) if x.name.startswith("debias_")}
        self.debiased = sorted(name.removeprefix("debias_") for name in corrected)
        self.P_shape = "(n,)" if self.vector_P else "()"
        closed = [h.symbol for h in d.spec.active_hyperparameters if h.closed_below and h.lower == 0]
        self.zero = frozenset([_s.g, *d.spec.all_symbols.values(), *closed])  # what may be 0

    def code(self, expr: sp.Expr, shape: str = "(n,)", still: bool = False) -> str:
        """Return JAX code, quotients with their limits; the only bias correction needs no index."""
        text = jax_code(expr, blockwise=shape == "(B,)", zero=self.zero, still=still)
        return text.replace(f"debias_{self.debiased[0]}", "debias") if len(self.debiased) == 1 else text

    # Pieces

    def header(self, functions: str) -> str:
        """Return the module's docstring, imports and constants, for the text of its functions."""
        spec = self.spec
        switches = f" with {', '.join(spec.active_switches)}" if spec.active_switches else ""
        return "\n".join([
            f'"""{spec.title}{switches}: what its flows need besides the Hessian.', "",
            "One step, first the states, then the weights with the updated states (t counts updates):", "",
            *self.own.update_lines(), '"""', "", HEADER, "",
            "import math", "",
            "import jax.numpy as jnp", "",
            *_boundary_imports(functions),
            self.imports("Filter", "HyperparameterInfo", "Leapfrog", "Moments"), "",
            *self.names(),
            "MEMORYLESS = " + as_tuple(f'"{n}"' for n in spec.memoryless),
            "STATIONARY = " + as_tuple(f'"{n}"' for n in self.d.stationary),
            "PIECEWISE = " + as_tuple(f'"{s}"' for s, e in spec.state_updates.items() if e.has(Frozen)),
            f'SOURCE_HASH = "{source_hash(self.own.spec, self.d.order)}"',
        ])  # fmt: skip

    def functions(self) -> list[str]:
        """Return the text of every function of the protocol, in its order."""
        d, spec = self.d, self.spec
        slow = [s.name for s in spec.state_updates]
        stable = {n: _mean(d.stable_flow.get(n, sp.Integer(0))) for n in slow}
        ansatz = {n: hold_signs(d.ansatz.get(n, stable[n])) for n in slow}
        added = {n: contract(sp.expand(_mean(ansatz[n]) - stable[n])) for n in slow}
        at_rest, more = _parted({n: _mean(e) for n, e in d.stationary.items()})
        leap_rest, leap_more = _parted({n: hold_signs(e) for n, e in d.of(Part.LEAP_AVERAGE).items()})
        start = d.of(Part.START)
        return [
            *self.own.step_functions(),  # the optimizer's own, as it is
            self.named_function(
                "preconditioner(state, hp)", f"Return P, shape {self.P_shape}: w' - w = -g / P - decay w.",
                d.preconditioner, self.P_shape,
            ),
            self.drift(),
            self.named_function(
                "threshold(state, hp)", "Return c: no period-two instability iff H <= c P.", d.threshold
            ),
            self.named_function(
                "threshold_drift(state, state_dot, hp)", "Return dc/dt, zero where c is constant.", d.threshold_drift
            ),
            self.gain(),
            self.burst_index(),
            self.characteristic_polynomial(),
            self.state_function(
                "slow_drift(state, g, hp)", "Return the rates of the slow states without oscillation.", stable
            ),
            self.state_function(
                "slow_drift_moments(state, g, moments, hp)",
                "Return what the oscillation adds to the rates of the slow states, linear in the moments.", added,
            ),
            self.state_function(
                "stationary_state(state, g, hp)", "Return the values at which states stand still without oscillation.",
                at_rest, "_rest",
            ),
            self.state_function(
                "stationary_state_moments(state, g, moments, hp)",
                "Return what the oscillation adds to these values, linear in the moments.", more, "_rest",
            ),
            self.filter_coefficients(),
            self.leapfrog(),
            self.state_function(
                "leap_slow(state, g, hp, dt)", "Return (s_+ - s) / dt of the slow states without oscillation.",
                leap_rest, "_rate", named=False,
            ),
            self.state_function(
                "leap_slow_moments(state, g, moments, hp, dt)",
                "Return what the oscillation adds to these rates, linear in the moments.",
                leap_more, "_rate", named=False,
            ),
            self.state_function(
                "start_slow(state, g, hp, dt)",
                "Return the change of the slow states from before their update to where the leapfrog starts.",
                start, "_change", named=False,
            ),
            self.sigma_squared(),
            self.function(
                "averaged_squared_gradient(g, moments)", "Return E[grad^2] per coordinate.", [],
                d["averaged_squared_gradient"],
            ),
            self.function(
                "predicted_loss(loss, curvature_of_oscillation)", "Return E[loss] from the loss and <Sigma, H>.", [],
                d["predicted_loss"],
            ),
        ]  # fmt: skip

    def named_function(self, signature: str, doc: str, result: sp.Expr, shape: str = "()") -> str:
        """Write a function whose result has its rates and contractions named."""
        if result.is_Number:
            number = 'zeros_like(state["t"])' if result == 0 else f'full_like(state["t"], {jax_code(result)})'
            return layout(signature, doc, [], f"jnp.{number}")
        result, named = self.name_parts(result)
        rows = self.unpack([result, *(e for _, e, _ in named)], signature)
        rows += [(n, self.code(e), s) for n, e, s in named]
        return layout(signature, doc, rows, self.code(result, shape))

    def drift(self) -> str:
        """Write dP/dt, one slope for each state or schedule that P depends on."""
        signature = "preconditioner_drift(state, state_dot, hp)"
        doc = "Return dP/dt, linear in the rates of the slow states; schedules move with the counter."
        moving = {s: rate_symbol(s) for s in self.spec.state_updates}
        moving |= {s: rate_symbol(s) * rate_symbol(_s.t) for s in self.spec.scheduled}
        slopes = {s: debias(self.d.preconditioner_drift.coeff(rate)) for s, rate in moving.items()}
        slopes[_s.t] = slopes[_s.t].xreplace({rate_symbol(s): sp.Integer(0) for s in self.spec.scheduled})
        slopes = {s: e for s, e in slopes.items() if e != 0}
        if not slopes:
            return self.named_function(signature, doc, self.d.preconditioner_drift, self.P_shape)
        parts = self.debias_parts(sp.Add(*slopes.values()))
        used = [*slopes.values(), *(e for _, e, _ in parts), *(moving[s] for s in slopes)]
        rows = self.unpack(used, signature)
        rows += [(n, self.code(e), shape) for n, e, shape in parts]
        for s, e in slopes.items():
            shape = "(n,)" if is_elementwise(e) else "()"
            of_state = s in self.spec.state_updates and s != _s.t  # a weight without gradient keeps the state 0
            rows.append((f"P_{s}", self.code(e, still=of_state), shape))
        return layout(signature, doc, rows, " + ".join(f"P_{s} * {self.code(moving[s])}" for s in slopes))

    def state_function(
        self, signature: str, doc: str, values: Mapping[str, sp.Expr], suffix: str = "_dot", named: bool = True
    ) -> str:
        """Write a function that returns one value for each state, with published rates by name where `named`."""
        named_parts: dict[str, Assignment] = {}
        results: dict[str, sp.Expr] = {}
        for name, value in values.items():
            results[name], parts = self.name_parts(value) if named else (value, contractions(value))
            named_parts.update({n: (n, e, shape) for n, e, shape in parts})
        rows = self.unpack([*results.values(), *(e for _, e, _ in named_parts.values())], signature)
        rows += [(n, self.code(e), shape) for n, e, shape in named_parts.values()]
        entries = []
        for name, value in results.items():
            like = f'state["{name}"]'
            if value.is_Number:
                entries.append(f'"{name}": ' + _constant_like(value, like))
            else:
                rows.append((f"{name}{suffix}", self.code(value, self.shape(name)), self.shape(name)))
                entries.append(f'"{name}": {name}{suffix}')
        return layout(signature, doc, rows, "{" + ", ".join(entries) + "}")

    def filter_coefficients(self) -> str:
        """Write the filter's coefficients: empty without momentum, with the decoupled decay of one step."""
        form, signature = self.form, "filter_coefficients(state, hp)"
        decay = self.spec.decay
        rows = self.unpack([*form.b, *form.a, *form.phi, form.r, decay], signature)
        value = 'jnp.zeros_like(state["t"])' if decay == 0 else self.code(decay)
        if not form.b:
            rows.append(("none", 'jnp.zeros((0,), state["t"].dtype)', "(0,)"))
            result = f'Filter(b=none, a=none, phi=none, r=jnp.ones_like(state["t"]), decay={value})'
        else:
            rows.append(("one", 'jnp.ones_like(state["t"])', "()"))
            rows += [(n, self.stacked(es), "(F,)") for n, es in (("b", form.b), ("a", form.a), ("phi", form.phi))]
            result = f"Filter(b=b, a=a, phi=phi, r={self.scalar(form.r)}, decay={value})"
        doc = "Return the filter's coefficients, empty without momentum, and the decoupled decay of one step."
        return layout(signature, doc, rows, result)

    def gain(self) -> str:
        """Write the gain at the edge, with G(-1) and its slope there by name."""
        G = self.form.transfer(_s.z)
        ends = {"G_edge": G.subs(_s.z, -1), "G_slope": G.diff(_s.z).subs(_s.z, -1)}
        gain = self.d.gain.xreplace({e: sp.Symbol(name) for name, e in ends.items() if not e.is_Number})
        parts = [(name, e, "()") for name, e in ends.items() if gain.has(sp.Symbol(name))] + [("Gamma", gain, "()")]
        rows = self.unpack([e for _, e, _ in parts], "gain(state, hp)")
        rows += [(name, self.code(e), shape) for name, e, shape in parts]
        doc = "Return d log|z| / d log lambda at the edge: 2 without momentum and decay."
        return layout("gain(state, hp)", doc, rows, 'Gamma * jnp.ones_like(state["t"])')

    def burst_index(self) -> str:
        """Write the burst index of late times, with what it is made of by name where it is long."""
        index, edge = self.d["burst_index"], Edge.of(replace(self.form, decay=sp.Integer(0)))
        names = {sp.Symbol("Gamma", positive=True): "Gamma", _s.c: "c", _s.lag_ratio: "lag", _s.bend_at_edge: "bend"}
        used = [x for x in names if index.has(x)]
        parts = [(names[x], edge.values[x], "()") for x in used]
        parts.append(("index", index.xreplace({x: sp.Symbol(names[x]) for x in used}), "()"))
        rows = self.unpack([e for _, e, _ in parts], "burst_index(state, hp)")
        rows += [(name, self.code(e), shape) for name, e, shape in parts]
        doc = "Return the e-folds of cycles about the flow per relative sharpening prevented; decay left out."
        return layout("burst_index(state, hp)", doc, rows, 'index * jnp.ones_like(state["t"])')

    def characteristic_polynomial(self) -> str:
        """Write the coefficients of the characteristic polynomial, that of the highest power first."""
        signature, found = "characteristic_polynomial(state, lam, hp)", coefficients(self.form)
        rows = self.unpack(found, signature)
        rows.append(("one", 'jnp.ones_like(state["t"])', "()"))
        doc = "Return the coefficients, falling, of the polynomial whose roots multiply a mode of curvature lam P."
        return layout(signature, doc, rows, self.stacked(found))

    def leapfrog(self) -> str:
        """Write the coefficients of the leapfrog: one entry for each average of the gradient."""
        form, signature = self.form, "leapfrog(state, hp, dt)"
        averages, leap, left = average_symbols(form), self.d.of(Part.LEAP), self.d.of(Part.MEMORY)
        columns = {
            "rate": [_rate(leap[m.name], m) for m in averages],
            "weight": [weight for _, weight in form.averages],
            "left": [left[m.name] for m in averages],
            "steady": [*form.steady.values(), *([sp.Integer(1)] if len(averages) > len(form.states) else [])],
        }
        w_rate, decay, push = rate_of_leap(1 - form.decay), form.decay, self.d["leap_push"]
        rows = self.unpack([*(e for es in columns.values() for e in es), w_rate, decay, push], signature)
        rows.append(("one", 'jnp.ones_like(state["t"])', "()"))
        for name, es in columns.items():
            rows.append((name, self.stacked(es), "(F,)"))
        rows += [(name, self.scalar(e), "()") for name, e in (("w_rate", w_rate), ("decay", decay), ("push", push))]
        return layout(
            signature, "Return the coefficients of one leapfrog step of length dt, see `Leapfrog`.", rows,
            "Leapfrog(rate=rate, weight=weight, left=left, steady=steady, w_rate=w_rate, decay=decay, push=push)",
        )  # fmt: skip

    def stacked(self, expressions: Sequence[sp.Expr]) -> str:
        """Return code for an array of scalars."""
        return "jnp.stack([" + ", ".join(self.scalar(e) for e in expressions) + "])"

    def scalar(self, expr: sp.Expr | int) -> str:
        """Return code for an array of shape (); `one` is such an array."""
        expr = sp.sympify(expr)
        if expr == 1:
            return "one"
        code = self.code(expr)
        return f"{code} * one" if code.isidentifier() or expr.is_Integer else f"({code}) * one"

    def sigma_squared(self) -> str:
        """Write the closed form for one critical eigenvalue, or a refusal with its reason."""
        signature = f"sigma_squared({', '.join(SCALAR_ARGUMENTS)}, hp, {', '.join(FURTHER_ARGUMENTS.values())})"
        doc = (
            "Return the unclamped variance along the unit eigenvector for one critical eigenvalue at the edge.\n\n"
            "    `t` is the step count; at infinity, the default, bias correction has died out. `w_dot_grad_S` counts\n"
            "    with decoupled decay only.\n    "
        )
        value = self.d.sigma_squared
        reason = self.refusal(value)
        if reason:
            return f'\n\ndef {signature}:\n    """{doc}"""\n    raise NotImplementedError(\n        "{reason}"\n    )'
        numerator, denominator = sp.fraction(value, exact=True)
        numerator, denominator = (name_rates(self.spec, debias(e)) for e in (numerator, denominator))
        parts = [(str(s), e, "()") for s, e in self.edge.items() if value.has(s)]
        parts += [(str(k), v, "()") for k, v in self.rates.items() if numerator.has(k) or denominator.has(k)]
        parts += self.debias_parts(numerator + denominator)
        c = self.d.threshold
        if (numerator + denominator).has(sp.expand(-c)):  # decoupled decay: the threshold by its name
            numerator, denominator = (e.xreplace({sp.expand(-c): -_s.c}) for e in (numerator, denominator))
            parts.append(("c", c, "()"))
        if _s.c in (numerator + denominator).atoms(sp.Symbol) and "c" not in {name for name, _, _ in parts}:
            parts.append(("c", self.d.of(Part.LATE).get("threshold", c), "()"))
        explicit = sorted((a for a in (numerator + denominator).atoms(sp.Add) if _only_rates(a)), key=str)
        names = [sp.Symbol("time_term" + (str(k) if k else "")) for k in range(len(explicit))]
        parts += [(n.name, e, "()") for n, e in zip(names, explicit, strict=True)]
        numerator, denominator = (e.xreplace(dict(zip(explicit, names, strict=True))) for e in (numerator, denominator))
        used = [numerator, denominator, *(v for _, v, _ in parts)]
        rows = [row for row in self.unpack(used, signature) if row[0] not in self.spec.kinds]  # no state is passed
        rows += [(n, _at_any_time(self.code(e)), shape) for n, e, shape in parts]
        rows += [
            (n, self.code(e), "()") for n, e in zip(("numerator", "denominator"), (numerator, denominator), strict=True)
        ]
        return layout(signature, doc, rows, "numerator / denominator")

    def refusal(self, value: sp.Expr) -> str:
        """Return why there is no closed form in the protocol's arguments, or an empty string."""
        if self.vector_P or value.has(*self.by_array):
            return "P has many entries: the variance needs contractions with the state; use the complementarity problem"
        known = {*SCALAR_ARGUMENTS, *FURTHER_ARGUMENTS, *(h.symbol.name for h in self.spec.active_hyperparameters)}
        known |= {rate_symbol(s).name for s in self.spec.scheduled} | {s.name for s in self.edge}
        extra = sorted({s.name for s in value.atoms(sp.Symbol)} - known - {_s.c.name})
        return f"the closed form needs {', '.join(extra)} as well; use the complementarity problem" if extra else ""

    @property
    def edge(self) -> dict[sp.Symbol, sp.Expr]:
        """The slow states that the edge fixes, in terms of the sharpness."""
        found = self.d.of(Part.EDGE)
        return {s: found[s.name] for s in self.spec.state_updates if s.name in found}

    # Naming

    def name_parts(self, expr: sp.Expr) -> tuple[sp.Expr, list[Assignment]]:
        """Name rates and contractions in an expression."""
        expr = name_rates(self.spec, debias(expr))
        parts = [(str(k), v, "()") for k, v in self.rates.items() if expr.has(k)]
        return expr, parts + self.debias_parts(expr) + contractions(expr)

    def debias_parts(self, expr: sp.Expr) -> list[Assignment]:
        """Return the assignments of bias corrections, debias_beta2 = 1 - beta2**t."""
        names = sorted((s for s in expr.atoms(sp.Symbol) if s.name.startswith("debias_")), key=str)
        return [(self.code(s), rebias(s), "()") for s in names]


def _at_any_time(code: str) -> str:
    """Return code whose powers of decays have derivatives at an infinite count, too."""
    return re.sub(r"\b(\w+)\*\*t\b", r"decayed(\1, t)", code)


def _boundary_imports(functions: str) -> list[str]:
    """Return the line that imports what the functions use at the boundary of their domain."""
    used = [n for n in ("decayed", "power", "quotient", "root") if re.search(rf"\b{n}\(", functions)]
    return [f"from cflow_sym.boundary import {', '.join(used)}"] if used else []


def _mean(expr: sp.Expr) -> sp.Expr:
    """Write the mean of the gradient as the gradient: their difference is of the order that is dropped."""
    return contract(sp.sympify(expr).xreplace({_s.g_mean: _s.g}))


def _parted(values: Mapping[str, sp.Expr]) -> tuple[dict[str, sp.Expr], dict[str, sp.Expr]]:
    """Return the parts of expressions without moments of the oscillation, and what these add."""
    zero = dict.fromkeys((_s.gradient_shift, _s.gradient_variance, _s.held_variance), sp.Integer(0))
    still = {n: contract(e.xreplace(zero)) for n, e in values.items()}
    return still, {n: _added(e, still[n]) for n, e in values.items()}


def _added(expr: sp.Expr, still: sp.Expr) -> sp.Expr:
    factors, rest = sp.Integer(1), expr
    if isinstance(expr, sp.Mul):  # a rate times a bracket: the rate stays as it is written
        brackets = [f for f in expr.args if f.has(_s.gradient_shift, _s.gradient_variance)]
        rest = sp.Mul(*brackets)
        factors = expr / rest
    zero = dict.fromkeys((_s.gradient_shift, _s.gradient_variance, _s.held_variance), sp.Integer(0))
    return factors * contract(sp.expand(rest - contract(rest.xreplace(zero))))


def _rate(leap: sp.Expr, m: sp.Symbol) -> sp.Expr:
    """Return the factor of E[grad L] - m in the leap of an average."""
    return leap.xreplace({_s.g_mean: sp.Integer(1), m: sp.Integer(0)})


def step_module(writer: StepWriter) -> Sequence[str]:
    """Return the text of a module that has the optimizer's own step only."""
    spec = writer.spec
    head = "\n".join([
        f'"""{spec.title}: its own step; no flow is derived.', "",
        "First the states, then the weights with the updated states (t counts updates):", "",
        *writer.update_lines(), '"""', "", HEADER, "", "import jax.numpy as jnp", "",
        writer.imports("HyperparameterInfo"), "", *writer.names(),
    ])  # fmt: skip
    return [head, *writer.step_functions()]


def _constant_like(value: sp.Expr, like: str) -> str:
    kind = {0: f"jnp.zeros_like({like})", 1: f"jnp.ones_like({like})"}
    return kind.get(int(value) if value.is_Integer else None, f"jnp.full_like({like}, {jax_code(value)})")  # type: ignore[arg-type]


def _only_rates(part: sp.Expr) -> bool:
    """Say whether a sum is the explicit time dependence: decays, rates and their logarithms only."""
    decays = {_s.beta1, _s.beta2, _s.kappa1, _s.kappa2}
    return part.has(sp.log) and all(x in decays or x.name.startswith("debias_") for x in part.atoms(sp.Symbol))

"""An optimizer as data: its states, hyperparameters and updates, validated with one-sentence errors.

One step of every optimizer has two halves: first each state is updated with the gradient at the current
weights, then the weights move by `update`, an expression of the *updated* states. The counter `t` (updates
made so far, the current one included) is available to all.
"""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy as sp

from cflow_sym.interface import HyperparameterInfo
from cflow_sym.notation import contract, is_elementwise, state_symbol, symbols

if TYPE_CHECKING:
    from types import ModuleType

    from cflow_sym.derivation import Derivation

KINDS = ("scalar", "elementwise", "filtered")


class SpecError(ValueError):
    """A specification that no flow can be derived from; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter `lower < value < upper`; an optional one has a value `off` at which it disappears."""

    name: str
    symbol: sp.Symbol
    lower: float = 0.0
    upper: float = math.inf
    closed_below: bool = False
    default: float | None = None
    off: float | None = None
    meaning: str = ""

    def info(self) -> HyperparameterInfo:
        """Return the row that a generated module carries."""
        default = self.off if self.default is None else self.default
        return HyperparameterInfo(
            self.name, self.symbol.name, default, self.lower, self.upper, self.closed_below, self.meaning
        )


@dataclass(frozen=True)
class State:
    """A slow state: `update` is its new value from old values, the gradient and the counter.

    `kind` is `"scalar"`, `"elementwise"` or `"filtered"` (momentum); None reads it off the update.
    """

    name: str
    update: sp.Expr
    initial: sp.Expr | float = 0
    kind: str | None = None
    meaning: str = ""


@dataclass(frozen=True)
class Switch:
    """A named variant: while it is on, `definitions` replaces those of the spec."""

    name: str
    definitions: Mapping[sp.Symbol, sp.Expr]
    meaning: str = ""


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer, ready to be derived.

    `definitions` are named intermediates of the update (in order), which switches may replace. Optional
    hyperparameters and switches are off until `configure` turns them on. Raises `SpecError`.

    >>> from cflow_sym.notation import norm2, symbols as s
    >>> adagrad_norm = OptimizerSpec(
    ...     name="adagrad_norm",
    ...     hyperparameters=(Hyperparameter("learning_rate", s.eta),),
    ...     states=(State("nu", s.nu + norm2(s.g)),),
    ...     update=-s.eta * s.g / sp.sqrt(s.nu),
    ... )
    >>> adagrad_norm.derive().sigma_squared.subs(s.grad_sq_norm, 0)
    -2*grad_dot_grad_S/(2*S**2/eta**2 + grad_S_sq_norm)
    """

    name: str
    update: sp.Expr
    hyperparameters: tuple[Hyperparameter, ...]
    states: tuple[State, ...] = ()
    title: str = ""
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    switches: tuple[Switch, ...] = ()
    assumptions: tuple[str, ...] = ()
    theorems: tuple[str, ...] = ()
    source: str = "derived"
    active_switches: tuple[str, ...] = ()
    active_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name.replace("_", " "))
        _validate(self)

    # Configuration

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the optional hyperparameters."""
        return tuple(h.name for h in self.hyperparameters if h.off is not None)

    def configure(self, **flags: bool) -> OptimizerSpec:
        """Turn switches and optional hyperparameters on or off by name.

        >>> import cflow_sym as cs
        >>> cs.optimizer("scalar_rmsprop").configure(bias_correction=True).active_switches
        ('bias_correction',)
        """
        known = [s.name for s in self.switches] + list(self.options)
        for name, value in flags.items():
            if name not in known:
                allowed = f"it has {', '.join(known)}" if known else "it has none"
                raise SpecError(f"{self.name} has no switch {name!r}: {allowed}; drop {name!r} or use one of them.")
            if not isinstance(value, bool):
                raise SpecError(f"switch {name!r} of {self.name} is {value!r}: pass True or False.")
        on = set(self.active_switches) | set(self.active_options)
        on = (on | {n for n, v in flags.items() if v}) - {n for n, v in flags.items() if not v}
        return replace(
            self,
            active_switches=tuple(s.name for s in self.switches if s.name in on),
            active_options=tuple(name for name in self.options if name in on),
        )

    def with_options(self) -> OptimizerSpec:
        """Turn every optional hyperparameter on, as generated modules do (its default is its off value)."""
        return self.configure(**dict.fromkeys(self.options, True))

    @property
    def active_hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """The hyperparameters that the updates depend on: all but optional ones that are off."""
        return tuple(h for h in self.hyperparameters if h.off is None or h.name in self.active_options)

    @property
    def module_name(self) -> str:
        """The name of the generated module: the optimizer's and its active switches'."""
        return "_".join((self.name, *self.active_switches))

    # Resolved expressions: switches, options and kinds of states applied

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every state, by name."""
        kinds = {s.name: s.kind for s in self.states if s.kind}
        for state in self.states:
            marked = {symbols_of(n): state_symbol(n, k == "elementwise") for n, k in kinds.items()}
            inferred = "elementwise" if is_elementwise(_by_name(state.update, marked)) else "scalar"
            kinds.setdefault(state.name, inferred)
        return {s.name: kinds[s.name] for s in self.states}

    @cached_property
    def state_symbols(self) -> dict[str, sp.Symbol]:
        """The symbol of every slow state, by name, without the counter."""
        return {n: state_symbol(n, k == "elementwise") for n, k in self.kinds.items() if k != "filtered"}

    def resolve(self, expr: sp.Expr | float) -> sp.Expr:
        """Apply definitions, switches, options and kinds of states to an expression in the spec's terms."""
        definitions = dict(self.definitions)
        for switch in self.switches:
            if switch.name in self.active_switches:
                definitions.update(switch.definitions)
        result = sp.sympify(expr)
        for name, meaning in reversed(list(definitions.items())):
            result = result.xreplace({name: sp.sympify(meaning)})
        off = {h.symbol: sp.nsimplify(h.off) for h in self.hyperparameters if h not in self.active_hyperparameters}
        result = result.subs(off) if off else result
        elementwise = {symbols_of(n): s for n, s in self.state_symbols.items()}
        return contract(_by_name(result, elementwise))

    @cached_property
    def weight_update(self) -> sp.Expr:
        """w' - w, in terms of the updated states."""
        return self.resolve(self.update)

    @cached_property
    def state_updates(self) -> dict[sp.Symbol, sp.Expr]:
        """The new value of every slow state in terms of old ones; the counter (last) is new in others."""
        updates = {
            self.state_symbols[s.name]: self.resolve(s.update) for s in self.states if s.name in self.state_symbols
        }
        return {**updates, symbols.t: symbols.t + 1}

    @property
    def slow_states(self) -> dict[str, str]:
        """Name and kind of every slow state, the counter included."""
        return {**{n: k for n, k in self.kinds.items() if k != "filtered"}, "t": "counter"}

    # Verbs

    def derive(self, order: str = "published", **switches: bool) -> Derivation:
        """Derive the flows; see `cflow_sym.derive`."""
        from cflow_sym.recipe import derive

        return derive(self, order=order, **switches)

    def compile(self, **switches: bool) -> ModuleType:
        """Derive with every optional hyperparameter on and return the generated functions."""
        return self.with_options().derive(**switches).compile()


def symbols_of(name: str) -> sp.Symbol:
    """Return the scalar symbol under which a state is written in a spec."""
    return state_symbol(name)


def _by_name(expr: sp.Expr, replacement: Mapping[sp.Symbol, sp.Symbol]) -> sp.Expr:
    """Replace symbols by name whatever their assumptions: a user's own `Symbol("nu")` is understood."""
    names = {old.name: new for old, new in replacement.items()}
    return sp.sympify(expr).xreplace({s: names[s.name] for s in expr.atoms(sp.Symbol) if s.name in names})


def _validate(spec: OptimizerSpec) -> None:
    def fail(message: str) -> Any:
        raise SpecError(f"optimizer {spec.name!r}: {message}")

    if not spec.name.isidentifier():
        fail("the name is not a Python identifier; use letters, digits and underscores, like 'scalar_rmsprop'.")
    names = [h.name for h in spec.hyperparameters] + [s.name for s in spec.states] + [s.name for s in spec.switches]
    for name in names:
        if names.count(name) > 1 or name in ("t", "w", "g"):
            fail(f"the name {name!r} is used twice or is reserved (t, w, g); rename one of them.")
    for h in spec.hyperparameters:
        if not h.lower < h.upper:
            fail(f"{h.name} has the empty range ({h.lower}, {h.upper}); give lower < upper.")
        for value in (h.default, h.off):
            if value is not None and not (h.lower < value < h.upper or (h.closed_below and value == h.lower)):
                fail(f"{h.name} = {value} lies outside its range ({h.lower}, {h.upper}); choose a value inside.")
    for state in spec.states:
        if state.kind is not None and state.kind not in KINDS:
            fail(f"state {state.name!r} has kind {state.kind!r}; allowed are {', '.join(KINDS)} or None.")
        if sp.sympify(state.update) == symbols_of(state.name):
            fail(f"state {state.name!r} is never updated; give its new value or remove it.")
    for switch in spec.switches:
        for name in switch.definitions:
            if name not in spec.definitions:
                fail(f"switch {switch.name!r} replaces {name}, which is not in definitions; add it there.")
    declared = {"t", "g", "w"} | {h.symbol.name for h in spec.hyperparameters} | {s.name for s in spec.states}
    where = [("the update", spec.weight_update)] + [(f"the update of {s}", e) for s, e in spec.state_updates.items()]
    for place, expr in where:
        unknown = sorted(s.name for s in _free(expr) if s.name not in declared)
        if unknown:
            fail(
                f"{place} contains the undeclared symbols {', '.join(unknown)}; declare each as "
                f"hyperparameter or state."
            )
        if "w" in {s.name for s in _free(expr)}:
            fail(f"{place} depends on the weights w, which no flow is derived for yet; write it in terms of g.")
    moves = {s.name for s in _free(spec.weight_update)}
    if not moves & ({"g"} | {s.name for s in spec.states if spec.kinds[s.name] == "filtered"}):
        fail(f"the update {spec.weight_update} does not depend on the gradient g; a step must follow the gradient.")


def _free(expr: sp.Expr) -> set[sp.Symbol]:
    from cflow_sym.notation import expand_names

    return expand_names(expr).atoms(sp.Symbol)

"""An optimizer as data: its states, hyperparameters and updates, validated with one-sentence errors.

One step of every optimizer has two halves: first each state is updated with the gradient at the current
weights, then the weights move by `update`, an expression of the *updated* states. The counter `t` (updates
made so far, the current one included) is available to all. A state's update is written with the old values;
the new value of a state that stands before it is called `NAME_new`, and the step may read `NAME_old`.

Weight decay is recognised, not declared. *Coupled* decay is `g + rho w` wherever the gradient stands: the
optimizer works on the loss plus rho/2 |w|^2, and from there on `g` is the gradient of that sum. *Decoupled*
decay is a further `- d w` in the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy as sp

import cflow_sym  # for the verbs of later stages, by name
from cflow_sym.interface import Reference
from cflow_sym.notation import SCHEDULE
from cflow_sym.spec.parts import Hyperparameter, SpecError, State, Switch
from cflow_sym.spec.resolved import Resolved
from cflow_sym.spec.validation import validate

if TYPE_CHECKING:
    from types import ModuleType

    from cflow_sym.derivation.derivation import Derivation


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer, ready to be derived.

    `definitions` are named intermediates of the update (in order), which switches may replace; `theorems` names
    what is to be proved of the results, `remarks` adds a sentence to a step of the derivation. Optional
    hyperparameters and switches are off until `configure` turns them on; so is `schedule`, with which the
    schedulable hyperparameters become functions of time. A traced spec keeps its original in `reference`. With
    `lookahead`, an expression of the states before their update, the gradient is the one at w + lookahead: that point
    is what flows call w. `frozen` names arrays of the parameters that the optimizer never moves.
    Raises `SpecError`.

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
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict[sp.Symbol, sp.Expr])
    switches: tuple[Switch, ...] = ()
    assumptions: tuple[str, ...] = ()
    theorems: tuple[str, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict[str, str])
    source: str = "derived"
    lookahead: sp.Expr | int = 0
    frozen: tuple[str, ...] = ()
    reference: Reference | None = field(default=None, repr=False, compare=False)
    active_switches: tuple[str, ...] = ()
    active_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name.replace("_", " "))
        validate(self)

    # Configuration

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the optional hyperparameters, and `schedule` where one may depend on time."""
        optional = tuple(h.name for h in self.hyperparameters if h.off is not None)
        return (*optional, SCHEDULE) if any(h.schedulable for h in self.hyperparameters) else optional

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
            if type(value) is not bool:
                raise SpecError(f"switch {name!r} of {self.name} is {value!r}: pass True or False.")
        on = set(self.active_switches) | set(self.active_options)
        on = (on | {n for n, v in flags.items() if v}) - {n for n, v in flags.items() if not v}
        return replace(
            self,
            active_switches=tuple(s.name for s in self.switches if s.name in on),
            active_options=tuple(name for name in self.options if name in on),
        )

    def on(self, params: Any) -> OptimizerSpec:
        """Return the spec traced on these parameters; itself where it was not traced or is the same on them."""
        if self.reference is None or self.reference.trace is None:
            return self
        on = dict.fromkeys((*self.active_switches, *self.active_options), True)
        traced = self.reference.trace(params).configure(**on)
        return self if traced == self else traced

    def with_options(self) -> OptimizerSpec:
        """Turn every optional hyperparameter on, as generated modules do (its default is its off value)."""
        return self.configure(**dict.fromkeys(self.options, True))

    @property
    def active_hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """The hyperparameters that the updates depend on: all but optional ones that are off."""
        return tuple(h for h in self.hyperparameters if h.off is None or h.name in self.active_options)

    @property
    def scheduled(self) -> tuple[sp.Symbol, ...]:
        """The symbols of the hyperparameters that depend on time."""
        on = SCHEDULE in self.active_options
        return tuple(h.symbol for h in self.active_hyperparameters if h.schedulable and on)

    @property
    def module_name(self) -> str:
        """The name of the generated module: the optimizer's and its active switches'."""
        return "_".join((self.name, *self.active_switches))

    # What follows from the data

    @cached_property
    def resolved(self) -> Resolved:
        """The formulas with definitions, switches and options applied; the properties below read it."""
        definitions = dict(self.definitions)
        for switch in self.switches:
            if switch.name in self.active_switches:
                definitions.update(switch.definitions)
        active = self.active_hyperparameters
        off = {h.symbol: h.off for h in self.hyperparameters if h not in active and h.off is not None}
        constants = frozenset(h.symbol for h in active) - set(self.scheduled)
        return Resolved(
            self.name, self.update, self.states, self.lookahead, definitions, off, constants, frozenset(self.scheduled)
        )

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every state, by name."""
        return self.resolved.kinds

    @property
    def all_symbols(self) -> dict[str, sp.Symbol]:
        """The symbol of every state, by name, without the counter."""
        return self.resolved.all_symbols

    @property
    def state_symbols(self) -> dict[str, sp.Symbol]:
        """The symbol of every slow state, by name, without the counter."""
        return self.resolved.state_symbols

    def new(self, name: str) -> sp.Symbol:
        """Return the symbol under which later updates read the new value of a state."""
        return self.resolved.new(name)

    def written(self, expr: sp.Expr | float) -> sp.Expr:
        """Apply definitions, switches, options and kinds of states; signs stay as they are written."""
        return self.resolved.written(expr)

    def resolve(self, expr: sp.Expr | float) -> sp.Expr:
        """Apply definitions, switches, options, kinds of states and frozen signs to an expression of the spec."""
        return self.resolved.resolve(expr)

    @property
    def penalty(self) -> sp.Expr:
        """The coefficient rho of coupled decay: the optimizer sees the gradient of the loss plus rho/2 |w|^2."""
        return self.resolved.uncoupled.penalty

    @property
    def decay(self) -> sp.Expr:
        """Decoupled decay: the share of the weights that every step takes away."""
        return self.resolved.uncoupled.decay

    @property
    def weight_update(self) -> sp.Expr:
        """w' - w, in terms of the updated states; with coupled decay g is the gradient of the penalized loss."""
        return self.resolved.uncoupled.step

    @property
    def sequential_updates(self) -> dict[sp.Symbol, sp.Expr]:
        """The new value of every state, in order, in terms of old values and of new ones of states before it."""
        return self.resolved.sequential_updates

    @property
    def state_updates(self) -> dict[sp.Symbol, sp.Expr]:
        """The new value of every slow state in terms of old ones; the counter (last) is new in others."""
        return self.resolved.state_updates

    @property
    def memoryless(self) -> tuple[str, ...]:
        """The slow states whose new value depends on no old one."""
        return self.resolved.memoryless

    @property
    def slow_states(self) -> dict[str, str]:
        """Name and kind of every slow state, the counter included."""
        return self.resolved.slow_states

    @property
    def frozen_signs(self) -> tuple[sp.Expr, ...]:
        """The quantities whose signs the derivation takes for constant."""
        return self.resolved.frozen_signs

    # Verbs

    def derive(self, order: str = "published", **switches: bool) -> Derivation:
        """Derive the flows; see `cflow_sym.derive`."""
        return cflow_sym.derive(self, order=order, **switches)

    def compile(self, order: str = "published", **switches: bool) -> ModuleType:
        """Derive with every optional hyperparameter on and return the generated functions."""
        return self.with_options().derive(order, **switches).compile()

    def compile_step(self, **switches: bool) -> ModuleType:
        """Return the optimizer's own step as JAX functions, without any flow; see `codegen.compile_step`."""
        return cflow_sym.compile_step(self.configure(**switches))

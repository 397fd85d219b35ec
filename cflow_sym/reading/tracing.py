"""From an optax optimizer, or from any JAX `init` and `update`, to a spec.

The pair is traced once, to its jaxpr, on parameters that consist of a vector and a matrix; the jaxpr is then
evaluated on SymPy symbols (`jaxpr_symbols.py`), and its states are told apart (`traced_states.py`). Hyperparameters
are arguments of the trace, so they stay symbols; their values become defaults. Constants are the rationals of
their shortest decimals. What the program decides by comparing numbers must be decided by the assumptions on the
symbols, which `spec.assumptions` then lists, or by a value given in `static`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import keyword
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from jax.errors import ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError

from cflow_sym.interface import Reference
from cflow_sym.notation import SCHEDULE, TABLE, symbols
from cflow_sym.reading.groups import Groups
from cflow_sym.reading.jaxpr_symbols import FIRST_STEP, SCHEDULED
from cflow_sym.reading.state_slots import arrays_of, slots_of, stand_ins
from cflow_sym.reading.traced_states import Program, read_states
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, SpecError, Switch

Init = Callable[[Any, dict[str, Any]], Any]
Update = Callable[[Any, Any, Any, dict[str, Any]], tuple[Any, Any]]

BRANCHED = (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError)
CANONICAL = {
    "b1": "beta1", "b2": "beta2", "momentum": "beta1", "decay": "beta2", "rho": "beta2", "eps": "epsilon",
    "lr": "learning_rate", "eta": "learning_rate",
}  # fmt: skip
DECAYS = re.compile(r"b\d|beta\d*|decay(_rate)?|momentum|rho")
KNOWN = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "l2", "initial_accumulator")
OWN_ROWS = tuple(e for e in TABLE if e.identifier in KNOWN)  # of the symbol table: what is a hyperparameter there
STATES = ("nu", "nu_hat", "m", "denominator")  # names of the symbol table that stand for states
RESERVED = {
    *(x for e in TABLE for x in (e.name, e.identifier) if e not in OWN_ROWS and e.name not in STATES),
    *(SCHEDULE, "hp", "state", "state_dot", "blocks", "moments", "dw", "jnp", "math", "none", "one", "Gamma", "debias"),
    *("rate", "weight", "left", "steady", "w_rate", "decay", "push", "a", "b", "phi", "G_edge", "G_slope"),
}  # fmt: skip
AFTER_FIRST_STEP = Switch(
    "after_first_step", {FIRST_STEP: sp.Integer(0)}, "leave out what is special about the first step"
)


def from_optax(
    factory: Callable[..., Any],
    /,
    *,
    static: Mapping[str, Any] | None = None,
    name: str | None = None,
    params: Any = None,
    **hyperparameters: Any,
) -> OptimizerSpec:
    """Return the spec of an optax optimizer: `factory(**hyperparameters)` is what optax would be called with.

    **Arguments:**

    - `factory`: a function that returns an `optax.GradientTransformation`, such as `optax.adam` or your own that
      chains transformations; or such a transformation itself, with its numbers built in.
    - `static`: arguments of the factory whose values are built into the spec.
    - `name`: the spec's name; the factory's by default.
    - `params`: parameters to trace on, a pytree like that of the problem; what depends on names and shapes of arrays
      (masks, `optax.multi_transform`) needs them. A run traces again on the parameters of its own problem.
    - `hyperparameters`: further arguments; floating-point ones, like the factory's own defaults, stay symbols under
      the spec's names (`b1` is `beta1`, `eps` is `epsilon`) with these values as defaults. All others are static.

    **Raises:** `SpecError` where no spec can be made, with the reason.

    >>> import optax
    >>> from_optax(optax.sgd, learning_rate=0.1).update
    -g*eta
    >>> spec = from_optax(optax.adabelief, b1=0.9, b2=0.99, static=dict(eps=0.0, eps_root=0.0))
    >>> {state.name: state.update for state in spec.states}
    {'mu': g*(1 - beta1) + beta1*mu, 'nu': beta2*nu + (1 - beta2)*(g - mu_new)**2}
    """
    title = name or _name_of(factory)
    if callable(factory):
        found, fixed = _arguments(title, factory, hyperparameters, dict(static or {}))

        def make(hp: Mapping[str, Any]) -> Any:
            return factory(**fixed, **{argument: hp[argument] for argument in hp})
    else:
        found = {}
        if hyperparameters or static:
            raise SpecError(
                f"optimizer {title!r}: {factory!r} takes no hyperparameters; pass the function that makes it."
            )

        def make(hp: Mapping[str, Any]) -> Any:
            return factory

    origin = f"{factory.__module__.partition('.')[0]}.{factory.__name__}" if hasattr(factory, "__name__") else "optax"
    return _Tracer(
        title,
        lambda params, hp: make(hp).init(params),
        lambda grads, state, params, hp: make(hp).update(grads, state, params),
        found,
        source=f"traced from {origin}",
        params=params,
    ).spec()


def from_jax(
    init: Init,
    update: Update,
    *,
    hyperparameters: Mapping[str, float | None] | None = None,
    name: str = "traced",
    params: Any = None,
) -> OptimizerSpec:
    """Return the spec of an optimizer that is written as two JAX functions.

    **Arguments:**

    - `init`: `init(params, hp) -> state`.
    - `update`: `update(grads, state, params, hp) -> (updates, state)`; the weights become `params + updates`.
    - `hyperparameters`: the keys of the dictionary `hp` with their default values, None where there is none.
    - `name`: the spec's name.
    - `params`: parameters to trace on, a pytree like that of the problem.

    Without `params` the functions are tried on a dictionary of two arrays and, if they cannot work with one, on a
    single vector.

    **Raises:** `SpecError` where no spec can be made, with the reason.

    >>> import jax.numpy as jnp
    >>> def init(params, hp):
    ...     return {"nu": jnp.zeros(())}
    >>> def update(grads, state, params, hp):
    ...     nu = hp["beta2"] * state["nu"] + (1 - hp["beta2"]) * jnp.sum(grads**2)
    ...     return -hp["learning_rate"] * grads / jnp.sqrt(nu), {"nu": nu}
    >>> spec = from_jax(init, update, hyperparameters={"learning_rate": 0.1, "beta2": 0.99})
    >>> spec.states[0].update
    beta2*nu + (1 - beta2)*Total(g**2)
    """
    found = dict(hyperparameters or {})
    return _Tracer(name, init, update, found, source="traced from JAX", params=params, arrays_too=True).spec()


@dataclass
class _Tracer:
    """Traces an optimizer; `found` maps arguments that stay symbols to their values, or to None."""

    name: str
    init: Init
    update: Update
    found: dict[str, float | None]
    source: str
    params: Any = None
    arrays_too: bool = False

    def spec(self) -> OptimizerSpec:
        """Return the spec, with arguments built in that cannot stay symbols."""
        fixed = self.branching()
        notes = [f"{n} = {v} is built in: the optimizer branches on its value" for n, v in fixed.items()]
        spec = self.build(fixed, notes)
        unfit = {n: 0.0 for n in self.found if n not in fixed and self.off(n) and not _works(spec, self.called(n).name)}
        if not unfit:
            return spec
        notes += [f"{n} = 0 is built in: with other values the optimizer has no spec" for n in unfit]
        return self.build({**fixed, **unfit}, notes)

    def branching(self) -> dict[str, float]:
        """Return the arguments on whose values the optimizer branches."""
        try:
            self.trace({})
        except BRANCHED:
            fixed = {n: v for n, v in self.found.items() if v is not None}
        else:
            return {}
        for name in list(fixed):
            without = {n: v for n, v in fixed.items() if n != name}
            try:
                self.trace(without)
            except BRANCHED:
                continue
            fixed = without
        try:
            self.trace(fixed)
        except BRANCHED as error:
            self.fail(
                f"its program branches on numbers that are not known while it is traced "
                f"({_first_line(error)}); give them in `static`, or use jnp.where.",
                error,
            )
        return fixed

    def trace(self, fixed: Mapping[str, float]) -> Program:
        """Return the jaxprs of `init` and `update`, hyperparameters as arguments but for those in `fixed`."""
        free = sorted(n for n in self.found if n not in fixed)
        init = lambda params, hp: self.init(params, {**fixed, **hp})  # noqa: E731
        update = lambda grads, state, params, hp: self.update(grads, state, params, {**fixed, **hp})  # noqa: E731
        with double_precision():
            hp = {n: jnp.asarray(0.5 if self.found[n] is None else float(self.found[n])) for n in free}

            def traced(params: Any) -> tuple[Any, Any, Any]:
                state = jax.eval_shape(init, params, hp)
                return state, jax.make_jaxpr(init)(params, hp), jax.make_jaxpr(update)(params, state, params, hp)

            params = stand_ins() if self.params is None else arrays_of(self.params)
            try:
                state, *jaxprs = traced(params)
            except BRANCHED:
                raise
            except Exception as error:
                if not self.arrays_too or self.params is not None:
                    unknown = self.params is None and not _asks_for_more(error)
                    hint = " Pass the parameters that it is for: params=." if unknown else ""
                    self.fail(_untraceable(error) + hint, error)
                params = jax.tree.leaves(params)[0]
                try:
                    state, *jaxprs = traced(params)
                except BRANCHED:
                    raise
                except Exception as second:
                    self.fail(_untraceable(second), second)
        hyperparameters = tuple(self.called(n) for n in free)
        used = RESERVED | {x for n in self.found for x in (self.called(n).name, self.called(n).symbol.name)}
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(params))
        groups = None if self.params is None else Groups(frozenset(h.symbol for h in hyperparameters))
        return Program(*jaxprs, slots_of(state, params, used, self.fail), shapes, hyperparameters, groups)

    def build(self, fixed: Mapping[str, float], notes: list[str]) -> OptimizerSpec:
        """Return the spec with some arguments built in."""
        program = self.trace(fixed)
        try:
            traced = read_states(program)
        except SpecError as error:
            self.fail(str(error), error)
        first = any(e.has(FIRST_STEP) for e in (traced.step, *(s.update for s in traced.states)))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays_of(self.params))]
        moving = [k for k in range(len(program.shapes)) if k not in program.frozen]
        if not moving:
            self.fail("it moves none of the parameters: there is nothing to follow.")
        decided = [f"{_in_words(a)}: cases are decided by that." for a in traced.assumed]
        return OptimizerSpec(
            name=self.name,
            title=self.name.replace("_", " "),
            update=traced.step,
            hyperparameters=(
                *(self.called(n) for n in self.found if n not in fixed),
                *(_of_groups(x, values, moving) for x, values in traced.groups.items()),
            ),
            frozen=tuple(paths[k] for k in program.frozen),
            states=traced.states,
            definitions={FIRST_STEP: sp.Pow(0, symbols.t - 1)} if first else {},
            switches=(AFTER_FIRST_STEP,) if first else (),
            assumptions=tuple([f"{note}." for note in notes] + decided),
            source=self.source,
            reference=self.reference(fixed, len(program.shapes)),
        )

    def reference(self, fixed: Mapping[str, float], arrays: int) -> Reference:
        """Return the traced program with hyperparameters under the spec's names."""
        names = {n: self.called(n).name for n in self.found if n not in fixed}

        def passed(hp: Mapping[str, Any]) -> dict[str, Any]:
            return {**fixed, **{argument: hp.get(name, 0.0) for argument, name in names.items()}}  # 0: an option off

        known: dict[Any, OptimizerSpec] = {}

        def trace(params: Any) -> OptimizerSpec:
            arrays = arrays_of(params)
            key = jax.tree.structure(arrays), tuple(x.shape for x in jax.tree.leaves(arrays))
            if key not in known:
                known[key] = replace(self, params=arrays).spec()
            return known[key]

        return Reference(
            lambda params, hp: self.init(params, passed(hp)),
            lambda grads, state, params, hp: self.update(grads, state, params, passed(hp)),
            single=arrays == 1 and self.params is None,
            trace=trace,
        )

    def called(self, argument: str) -> Hyperparameter:
        """Return the hyperparameter for an argument, under the name and symbol that the theory has for it."""
        name = CANONICAL.get(argument, argument)
        if (name != argument and name in self.found) or name in [CANONICAL.get(n, n) for n in self._before(argument)]:
            name = argument
        name = name + "_" if name in RESERVED or keyword.iskeyword(name) else name
        row = next((e for e in OWN_ROWS if e.identifier == name), None)
        value = self.found[argument]
        off = 0.0 if self.off(argument) else None
        named = DECAYS.fullmatch(argument) or DECAYS.fullmatch(name)
        if named and (value is None or 0 <= value < 1):
            symbol = row.symbol() if row else sp.Symbol(name, positive=True)
            return Hyperparameter(
                name, symbol, upper=1.0, closed_below=value == 0, default=value, off=off, meaning="decay"
            )
        if name == "learning_rate":
            return Hyperparameter(name, symbols.eta, default=value, meaning="learning rate", schedulable=True)
        symbol = row.symbol() if row else sp.Symbol(name, nonnegative=True)
        meaning = row.meaning if row else argument.replace("_", " ")
        typical = 0.25 if name in ("weight_decay", "l2") else None
        return Hyperparameter(name, symbol, closed_below=True, default=value, off=off, meaning=meaning, typical=typical)

    def _before(self, argument: str) -> list[str]:
        names = list(self.found)
        return names[: names.index(argument)]

    def off(self, argument: str) -> bool:
        """Say whether an argument is zero by default, so that it may be left out."""
        return self.found[argument] == 0 and argument != "learning_rate"

    def fail(self, message: str, error: BaseException | None = None) -> NoReturn:
        """Raise `SpecError` with the optimizer's name."""
        text = message if message.startswith("optimizer ") else f"optimizer {self.name!r}: {message}"
        raise SpecError(text) from error


def double_precision() -> Any:
    """Return the context of 64-bit floats, which moved within JAX; nothing outside of it changes."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


def _arguments(
    title: str, factory: Callable[..., Any], given: Mapping[str, Any], static: Mapping[str, Any]
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return the arguments that stay symbols with their values, and those that are built in."""
    found: dict[str, float | None] = {}
    fixed = dict(static)
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in (*given, *static):
        if name not in parameters and not open_ended:
            near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else "it has none."
            raise SpecError(f"optimizer {title!r} has no argument {name!r}: {hint}")
    for name, parameter in parameters.items():
        if name in static or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        value = given.get(name, default)
        if callable(value) and CANONICAL.get(name, name) in KNOWN:
            raise SpecError(f"optimizer {title!r}: {name} is a function of the count of steps; {SCHEDULED}.")
        number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
        if isinstance(value, float) or (
            number and (isinstance(default, float) or parameter.default is parameter.empty)
        ):
            found[name] = float(value)
        elif name not in given and parameter.default is parameter.empty:
            found[name] = None
        elif name in given:
            fixed[name] = value
    found |= {n: float(v) for n, v in given.items() if n not in parameters and isinstance(v, numbers.Real)}
    return found, fixed


def _works(spec: OptimizerSpec, option: str) -> bool:
    """Say whether a spec can have an optional hyperparameter on."""
    try:
        spec.configure(**{option: True})
    except SpecError:
        return False
    return True


def _name_of(factory: Any) -> str:
    factory = factory.func if isinstance(factory, functools.partial) else factory
    name = getattr(factory, "__name__", None) or type(factory).__name__
    return name if name.isidentifier() else "traced"


def _in_words(condition: sp.Basic) -> str:
    signs = {sp.Ne: "is not", sp.StrictGreaterThan: "is above", sp.GreaterThan: "is at least"}
    signs |= {sp.LessThan: "is at most", sp.StrictLessThan: "is below"}
    return f"{condition.args[0]} {signs.get(type(condition), 'compares with')} {condition.args[1]}"


def _of_groups(symbol: sp.Symbol, values: tuple[sp.Expr, ...], moving: Sequence[int]) -> Hyperparameter:
    """Return a constant that groups of arrays have of their own as a hyperparameter with one value for each array."""
    own = tuple(float(values[k]) for k in moving)
    low, high = min(own), max(own)
    return Hyperparameter(
        symbol.name, symbol, lower=low, upper=high, closed_below=True, values=own, meaning="one value for each array"
    )


def _untraceable(error: Exception) -> str:
    """Say that a program cannot be traced, and why."""
    more = _asks_for_more(error)
    why = f" A flow knows the gradient alone, and this update also asks for {more}." if more else ""
    return f"it cannot be traced ({type(error).__name__}: {_first_line(error)}).{why}"


def _asks_for_more(error: Exception) -> str:
    """Return what an update asks for besides gradient, state and parameters, such as the value of the loss."""
    found = re.search(r"missing \d+ required keyword-only arguments?: (.*)", str(error))
    return found[1] if found else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Optimizers from outside: a TOML file, a Python file with a spec, or an optax optimizer by name.

The TOML form is data only. Its expressions go through the whitelist of `expressions.py`, so that a file from
a stranger can be wrong but cannot do anything. A Python file is run, as any program that its user starts.
"""

from __future__ import annotations

import difflib
import importlib
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import sympy as sp

from cflow_sym.notation import NEW, OLD, SCHEDULE, TABLE, symbols
from cflow_sym.optimizers import _common as common
from cflow_sym.optimizers import optimizer
from cflow_sym.python_file import PythonFileError, run_file
from cflow_sym.reading.expressions import FUNCTIONS, ExpressionError, parse
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.spec.parts import Hyperparameter, SpecError, State, Switch

KEYS = ("name", "title", "source", "hyperparameters", "update", "state", "initial", "definitions", "switches")
HYPERPARAMETER_KEYS = ("lower", "upper", "default", "meaning")
EXAMPLE = 'update = "-eta * g / sqrt(nu)"'
_KNOWN = {
    h.name: h
    for h in (
        common.LEARNING_RATE,
        common.BETA2,
        common.EPSILON,
        common.WEIGHT_DECAY,
        common.L2,
        common.INITIAL,
        Hyperparameter("beta1", symbols.beta1, upper=1.0, closed_below=True, meaning="decay of the first moment"),
    )
}
_MOST_BYTES = 100_000


def load_optimizer(text: str, **switches: bool) -> OptimizerSpec:
    """Return the spec that a text names.

    **Arguments:**

    - `text`: the name of a built-in optimizer; a path that ends in `.toml` or `.py`; or `optax:NAME`.
    - `switches`: switches and optional hyperparameters to turn on or off.

    **Raises:** `SpecError`, `ExpressionError` or `UnknownOptimizerError`, with the file and the place in it.

    >>> load_optimizer("rmsprop").title
    'RMSProp'
    >>> load_optimizer("optax:adagrad").states[0].update
    g**2 + sum_of_squares
    """
    if text.startswith("optax:"):
        spec = _from_optax(text.removeprefix("optax:"))
    elif text.endswith(".toml"):
        spec = read_toml(_text_of(text), text)
    elif text.endswith(".py"):
        spec = _from_python(Path(text))
    else:
        return optimizer(text, **switches)
    return spec.configure(**switches)


# A text form


def read_toml(text: str, origin: str = "the text") -> OptimizerSpec:
    """Return the spec of an optimizer in the TOML form.

    >>> spec = read_toml('''
    ... name = "adagrad_norm"
    ... hyperparameters = ["eta"]
    ... update = "-eta * g / sqrt(nu)"
    ... [state]
    ... nu = "nu + norm2(g)"
    ... ''')
    >>> spec.states[0].update
    nu + Total(g**2)
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{origin} is not TOML: {error}; put expressions in quotes, as in {EXAMPLE}") from None
    except RecursionError:
        raise SpecError(f"{origin} is nested too deeply: an optimizer needs two levels of tables") from None
    return _Toml(origin, table).spec()


class _Toml:
    """Translates one TOML table; every complaint names the file and the place."""

    def __init__(self, origin: str, table: dict[str, Any]) -> None:
        self.origin, self.table = origin, table

    def spec(self) -> OptimizerSpec:
        self.known(self.table, KEYS, "it")
        name = self.string("name")
        hyperparameters = self.hyperparameters()
        states, initial = self.subtable("state"), self.subtable("initial")
        definitions, switches = self.subtable("definitions"), self.subtable("switches")
        self.known(initial, states, "initial")
        reserved = {*(n for h in hyperparameters for n in (h.name, h.symbol.name)), *FUNCTIONS, "pi", "g", "w", "t"}
        for key in (*states, *definitions):
            if not key.isidentifier() or key in reserved:
                self.fail(f"the name {key!r} is not free or not an identifier: choose another one")
        names: dict[str, sp.Expr] = {"g": symbols.g, "w": symbols.w, "t": symbols.t}
        names |= {n: h.symbol for h in hyperparameters for n in (h.name, h.symbol.name)}
        constants = {n: x for n, x in names.items() if n not in ("g", "t")}  # of initial values
        names |= {state + end: sp.Symbol(state + end, real=True) for state in states for end in ("", NEW, OLD)}
        defined = {key: sp.Symbol(key, real=True) for key in definitions}
        names |= defined
        read = {key: self.parse(text, names, f"definitions.{key}") for key, text in definitions.items()}
        return self.made(
            name=name,
            title=self.string("title", ""),
            source=self.string("source", self.origin),
            hyperparameters=hyperparameters,
            states=tuple(
                State(
                    key,
                    self.parse(text, names, f"state.{key}"),
                    self.parse(initial.get(key, 0), constants, f"initial.{key}"),
                )
                for key, text in states.items()
            ),
            update=self.parse(self.string("update"), names, "update"),
            definitions={defined[key]: expr for key, expr in read.items()},
            switches=tuple(self.switch(key, table, defined, names) for key, table in switches.items()),
        )

    def made(self, **parts: Any) -> OptimizerSpec:
        try:
            return OptimizerSpec(**parts)
        except SpecError as error:
            raise SpecError(f"{self.origin}: {error}") from error

    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        given = self.table.get("hyperparameters", [])
        if isinstance(given, list) and _all_text(given) and (twice := [n for n in given if given.count(n) > 1]):
            self.fail(f"hyperparameters list {twice[0]!r} twice: leave one out")
        if isinstance(given, list):
            given = {name: {} for name in given if isinstance(name, str)} if _all_text(given) else None
        if not isinstance(given, dict):
            self.fail('hyperparameters must list names, as in hyperparameters = ["eta", "beta2"]')
        return tuple(self.hyperparameter(name, options) for name, options in given.items())

    def hyperparameter(self, name: str, options: Any) -> Hyperparameter:
        if not isinstance(options, dict):
            options = {"default": options}
        self.known(options, HYPERPARAMETER_KEYS, f"hyperparameters.{name}")
        if not name.isidentifier() or name in (*FUNCTIONS, "pi", "g", "w", "t", SCHEDULE):
            self.fail(f"the hyperparameter {name!r} has a name that is taken or no identifier: choose another one")
        row = next((r for r in TABLE if name in (r.name, r.identifier)), None)
        if row is not None and row.identifier in _KNOWN:
            found = _KNOWN[row.identifier]
        else:
            found = Hyperparameter(name, sp.Symbol(name, positive=True))
        bounds = {
            k: self.number(options.get(k, getattr(found, k)), f"hyperparameters.{name}.{k}") for k in ("lower", "upper")
        }
        if not math.isfinite(bounds["lower"]):
            self.fail(f"hyperparameters.{name}.lower is {bounds['lower']:g}: it must be finite")
        default = options.get("default")
        if default is not None:
            default = self.number(default, f"hyperparameters.{name}.default")
        meaning = options.get("meaning", found.meaning)
        if not isinstance(meaning, str):
            self.fail(f"hyperparameters.{name}.meaning must be a text in quotes")
        closed = found.closed_below and "lower" not in options
        symbol = found.symbol
        if bounds["lower"] < 0:
            symbol = sp.Symbol(symbol.name, real=True)
        return Hyperparameter(
            found.name,
            symbol,
            lower=bounds["lower"],
            upper=bounds["upper"],
            closed_below=closed or (default is not None and default == bounds["lower"]),
            default=default,
            meaning=meaning,
            schedulable=found.schedulable,
            typical=found.typical,
        )

    def switch(self, key: str, table: Any, defined: Mapping[str, sp.Symbol], names: Mapping[str, sp.Expr]) -> Switch:
        where = f"switches.{key}"
        if not isinstance(table, dict) or not key.isidentifier():
            self.fail(f"[{where}] must be a table of definitions that it replaces")
        meaning = table.get("meaning", "")
        if not isinstance(meaning, str):
            self.fail(f"{where}.meaning must be a text in quotes")
        replaced = {k: v for k, v in table.items() if k != "meaning"}
        self.known(replaced, defined, where)
        found = {defined[k]: self.parse(v, names, f"{where}.{k}") for k, v in replaced.items()}
        return Switch(key, found, meaning)

    # Pieces

    def parse(self, text: Any, names: Mapping[str, sp.Expr], where: str) -> sp.Expr:
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            text = repr(text)
        if not isinstance(text, str):
            self.fail(f"{where} must be an expression in quotes, as in {EXAMPLE}")
        try:
            return parse(text, names)
        except ExpressionError as error:
            raise ExpressionError(f"{self.origin}, {where}: {error}") from None

    def string(self, key: str, default: str | None = None) -> str:
        value = self.table.get(key, default)
        if value is None:
            self.fail(
                f"it has no {key}: add one, as in {EXAMPLE if key == 'update' else key + ' = ' + repr('my_optimizer')}"
            )
        if not isinstance(value, str):
            self.fail(f"{key} is {value!r}: put it in quotes")
        return value

    def number(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            self.fail(f"{where} is {value!r}: it must be a number")
        return float(value)

    def subtable(self, key: str) -> dict[str, Any]:
        value = self.table.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"[{key}] must be a table with one line for each name")
        return value

    def known(self, given: Mapping[str, Any], allowed: Any, where: str) -> None:
        for key in given:
            if key not in allowed:
                near = difflib.get_close_matches(key, list(allowed), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(allowed) or 'none'}."
                self.fail(f"{where} has an unknown key {key!r}: {hint}")

    def fail(self, message: str) -> NoReturn:
        raise SpecError(f"{self.origin}: {message}")


def _all_text(items: list[Any]) -> bool:
    return all(isinstance(x, str) for x in items)


def _text_of(path: str) -> str:
    try:
        data = Path(path).read_bytes()
        if len(data) > _MOST_BYTES:
            raise SpecError(f"{path} has {len(data)} bytes, an optimizer has at most {_MOST_BYTES}: pass another file")
        return data.decode()
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror or error}): pass the path of a TOML file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not text in UTF-8: pass the path of a TOML file") from None


# Python and optax


def _from_python(path: Path) -> OptimizerSpec:
    """Run a Python file and return its `SPEC`, or its only spec."""
    try:
        module = run_file(path, "SPEC = cflow_sym.OptimizerSpec(...)")
    except PythonFileError as error:
        raise SpecError(str(error)) from error
    found = getattr(module, "SPEC", None)
    if isinstance(found, OptimizerSpec):
        return found
    specs = {n: x for n, x in vars(module).items() if isinstance(x, OptimizerSpec)}
    if len(specs) != 1:
        many = f"several specs ({', '.join(specs)})" if specs else "no OptimizerSpec"
        raise SpecError(f"{path} defines {many}: call the one that is meant SPEC")
    return next(iter(specs.values()))


def _from_optax(name: str) -> OptimizerSpec:
    """Trace `optax.NAME` (or `optax.contrib.NAME`) with every floating-point argument a symbol."""
    from cflow_sym.reading.tracing import from_optax

    place: Any = importlib.import_module("optax")
    *folders, last = name.split(".")
    if any(part.startswith("_") for part in (*folders, last)) or folders not in ([], ["contrib"]):
        raise SpecError(f"optax:{name} is no name of an optax optimizer: write for instance optax:adabelief")
    if folders:
        place = importlib.import_module("optax.contrib")
    factory = getattr(place, last, None)
    if not callable(factory):
        near = difflib.get_close_matches(last, [n for n in dir(place) if callable(getattr(place, n))], n=1, cutoff=0.0)
        raise SpecError(f"optax has no optimizer {name!r}: did you mean {near[0]!r}?")
    return from_optax(factory)


# Schedules


def schedule(text: str) -> Callable[[Any], Any]:
    """Return a learning-rate schedule from an expression in `t`, the number of steps already taken.

    The function is a JAX function; its `text` is the expression. Raises `ExpressionError`.

    >>> halving = schedule("0.1 * exp(-t / 500)")
    >>> round(float(halving(0.0)), 6), halving.text
    (0.1, '0.1 * exp(-t / 500)')
    """
    expr = parse(text, {"t": symbols.t})
    function = sp.lambdify(symbols.t, expr, modules="jax", cse=True)

    def value(t: Any) -> Any:
        return function(t)

    value.text = text.strip()  # type: ignore[attr-defined]
    return value

"""The parts of a spec: hyperparameters, states, switches, and the error that names what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from cflow_sym.interface import HyperparameterInfo


class SpecError(ValueError):
    """A specification that no flow can be derived from; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter `lower < value < upper`; an optional one has a value `off` at which it disappears.

    A `schedulable` one may depend on time; `typical` bounds the values that random checks try from above. One that is
    `fixed` stands for a number of the program: it has this value only. One with `values` has one for each array of the
    parameters, which are part of the optimizer; formulas hold for each of them.
    """

    name: str
    symbol: sp.Symbol
    lower: float = 0.0
    upper: float = math.inf
    closed_below: bool = False
    default: float | None = None
    off: float | None = None
    meaning: str = ""
    schedulable: bool = False
    typical: float | None = None
    fixed: sp.Rational | None = None
    values: tuple[float, ...] = ()

    def info(self) -> HyperparameterInfo:
        """Return the row that a generated module carries."""
        default = self.off if self.default is None else self.default
        return HyperparameterInfo(
            self.name,
            self.symbol.name,
            default,
            self.lower,
            self.upper,
            self.closed_below,
            self.meaning,
            self.schedulable,
            self.values,
        )


@dataclass(frozen=True)
class State:
    """A state: `update` is its new value from old values, the gradient and the counter.

    `kind` is `"scalar"`, `"elementwise"`, `"blockwise"` (one value for each layer) or `"filtered"` (an average of
    the gradient itself: momentum); None reads it off the update.
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

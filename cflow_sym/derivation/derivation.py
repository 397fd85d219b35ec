"""A derivation: an immutable list of steps, each checked when it is made and again by `check()`.

The results (`threshold`, `sigma_squared`, ...) are read off the steps, so that nothing can be right in the
steps and wrong in the results. A check never compares with a stored copy: it recomputes the step by another
route (brute-force averages of random polynomial losses, the discrete update itself, implicit
differentiation), see `exact.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy as sp

import cflow_sym  # for the verbs of later stages, by name
from cflow_sym.derivation.result import Part, Result
from cflow_sym.derivation.values import same_value
from cflow_sym.spec.optimizer import OptimizerSpec

if TYPE_CHECKING:
    from types import ModuleType

    from cflow_sym.writing.render import Note

Check = Callable[[sp.Expr, sp.Expr], bool]


class StepError(ValueError):
    """A derivation step whose recorded result is wrong; the message names the step."""


class DerivationError(ValueError):
    """The recipe does not apply to this optimizer; the message says which assumption fails and what to do."""


@dataclass(frozen=True)
class Step:
    """One step: its `result`, `quantity` in LaTeX, goes from `before` to `after` by `rule`.

    `check(before, after)` says if it does, `why` is a sentence for the reader, `assumption` what the step takes for
    granted, `source` where it is published. `origin` is where the step must begin, recomputed from the optimizer and
    earlier steps (`theory/chain.py`).
    """

    result: Result
    section: str
    rule: str
    quantity: str
    before: sp.Expr
    after: sp.Expr
    why: str
    check: Check
    assumption: str = ""
    source: str = "derived"
    origin: sp.Expr | None = None

    @property
    def key(self) -> str:
        """The name of the result, by which notes and `Derivation` know the step."""
        return self.result.key

    def verify(self) -> Step:
        """Run the check and return the step; raises `StepError` naming the step."""
        if self.origin is not None and not same_value(self.before, self.origin):
            raise StepError(
                f"step {self.key!r} ({self.rule}) does not begin where the chain has come to: it begins at "
                f"{self.before}, an earlier step or the optimizer itself gives {self.origin}."
            )
        try:
            fine = self.check(self.before, self.after)
        except StepError:
            raise
        except Exception as error:
            raise StepError(f"step {self.key!r} ({self.rule}) cannot be checked: {error}") from error
        if not fine:
            raise StepError(
                f"step {self.key!r} ({self.rule}) fails its check at random exact points: "
                f"{self.before} does not lead to {self.after}; derive again instead of editing a result."
            )
        return self


class Flow(Mapping[str, sp.Expr]):
    """The rates of a flow by name of the variable; a SymPy symbol works as key, too.

    >>> import cflow_sym as cs
    >>> cs.derive("gradient_descent").stable_flow["w"]
    -g*eta
    """

    def __init__(self, rates: Mapping[str, sp.Expr]) -> None:
        self._rates = dict(rates)

    def __getitem__(self, key: str | sp.Symbol) -> sp.Expr:
        return self._rates[str(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rates)

    def __len__(self) -> int:
        return len(self._rates)

    def __repr__(self) -> str:
        return f"Flow({self._rates})"


def of_part(part: Part, steps: Iterable[Step]) -> dict[str, sp.Expr]:
    """Return the results that belong to one part of the theory, by name; a later one stands for the earlier."""
    return {s.result.name: s.after for s in steps if s.result.part is part}


@dataclass(frozen=True, repr=False)
class Derivation:
    """The checked steps for one optimizer, and the results read off them.

    `symbolic` is the same derivation with symbols for decays that the optimizer holds as numbers, if it holds any.

    >>> import cflow_sym as cs
    >>> d = cs.derive("gradient_descent")
    >>> d
    <Derivation of gradient_descent: ... checked steps>
    >>> d.threshold, d.sigma_squared
    (2, -2*grad_dot_grad_S/grad_S_sq_norm)
    """

    spec: OptimizerSpec
    order: str
    steps: tuple[Step, ...]
    symbolic: Derivation | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, key: str) -> sp.Expr:
        for step in reversed(self.steps):  # a later result of the same name stands for the earlier one
            if step.key == key:
                return step.after
        raise KeyError(f"no step {key!r}; the steps are {', '.join(s.key for s in self.steps)}")

    def __contains__(self, key: str) -> bool:
        return any(step.key == key for step in self.steps)

    def __repr__(self) -> str:
        switches = "".join(f", {name}" for name in self.spec.active_switches)
        return f"<Derivation of {self.spec.name}{switches}: {len(self.steps)} checked steps>"

    def _repr_markdown_(self) -> str:
        """Return the results, typeset in a notebook."""
        return str(self.to_markdown("results"))

    def check(self) -> Derivation:
        """Check every step again, and what is printed of it; raises `StepError` naming the first one that fails."""
        for step in self.steps:
            step.verify()
        cflow_sym.printed_as_meant(self)
        return self

    def of(self, part: Part) -> dict[str, sp.Expr]:
        """The results of one part, by name: of the variable, or their own."""
        return of_part(part, self.steps)

    def _flow(self, part: Part) -> Flow:
        return Flow({name: e for name, e in self.of(part).items() if name not in self.spec.memoryless})

    @property
    def preconditioner(self) -> sp.Expr:
        """P, in terms of the slow states and t."""
        return self["preconditioner"]

    @property
    def preconditioner_drift(self) -> sp.Expr:
        """dP/dt, linear in the rates `nu_dot`, ..., `t_dot` of the slow states."""
        return self["preconditioner_drift"]

    @property
    def threshold(self) -> sp.Expr:
        """C: no period-two instability iff H <= c P."""
        return self["threshold"]

    @property
    def threshold_drift(self) -> sp.Expr:
        """dc/dt, linear in the rates of scheduled hyperparameters (0 where c is constant)."""
        return self["threshold_drift"]

    @property
    def gain(self) -> sp.Expr:
        """d log|z| / d log lambda at the edge: 2 without momentum, above 10 expect bursts."""
        return self["gain"]

    @property
    def centre_flow(self) -> Flow:
        """The rates of weights and normalized averages in the second-order convention, P frozen."""
        return self._flow(Part.CENTRE)

    @property
    def leapfrog(self) -> Flow:
        """The increments of one leapfrog step of length dt, divided by dt, of weights, averages and slow states."""
        return self._flow(Part.LEAP)

    @property
    def stationary(self) -> dict[str, sp.Expr]:
        """The values at which slow states stand still, for those that can."""
        return self.of(Part.STATIONARY)

    @property
    def stable_flow(self) -> Flow:
        """The rates without oscillation."""
        return self._flow(Part.STABLE)

    @property
    def ansatz(self) -> Flow:
        """The rates for any covariance, through `gradient_shift` and `gradient_variance`."""
        return self._flow(Part.ANSATZ)

    @property
    def central_flow(self) -> Flow:
        """The rates for one critical eigenvalue, in terms of `sigma_squared`."""
        return self._flow(Part.CENTRAL)

    @property
    def sigma_squared(self) -> sp.Expr:
        """The variance for one critical eigenvalue with |u| = 1 at the edge, unclamped, state eliminated."""
        return self["sigma_squared"]

    @property
    def sdcp(self) -> tuple[sp.Expr, sp.Expr]:
        """The constant A0_ij and the coefficient of X_kl in dA/dt, for several critical eigenvalues."""
        return self["sdcp_constant"], self["sdcp_linear"]

    @property
    def reduced_flow(self) -> Flow:
        """The central flow over w alone at the edge (empty where P has one entry for each weight)."""
        return self._flow(Part.REDUCED)

    @property
    def ablated_flow(self) -> Flow:
        """The reduced flow without the oscillation's shift of the gradient."""
        return self._flow(Part.ABLATED)

    @property
    def predictions(self) -> Flow:
        """Time averages: loss, squared gradient per coordinate, squared gradient norm."""
        return self._flow(Part.PREDICTED)

    @property
    def remainders(self) -> Flow:
        """The terms that the flow drops, by name."""
        return self._flow(Part.REMAINDER)

    @property
    def theorems(self) -> Flow:
        """What is proved of the results, by name."""
        return self._flow(Part.THEOREM)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Everything taken for granted, each once, in order of use."""
        found = [s.assumption for s in self.steps if s.assumption]
        frozen = [
            f"The sign of {a} is that of its average over the oscillation, and is the same at both of its points."
            for a in self.spec.frozen_signs
        ]
        return tuple(dict.fromkeys([*self.spec.assumptions, *frozen, *found]))

    def to_markdown(self, *keys: str) -> Note:
        """Return the derivation as a Markdown note, or only the parts with these keys.

        A key is that of a step, or `update`, `results` or `assumptions`. In a notebook the text is typeset.

        >>> import cflow_sym as cs
        >>> print(cs.derive("gradient_descent").to_markdown("gain").splitlines()[0][:35])
        **7. Follow the root past the edge.
        """
        return cflow_sym.to_markdown(self, keys)

    def to_latex(self) -> str:
        """Return the derivation as a LaTeX document."""
        return cflow_sym.to_latex(self)

    def compile(self) -> ModuleType:
        """Return the generated functions, ready for JAX; see `cflow_sym.compile`."""
        return cflow_sym.compile(self)

    def on(self, params: Any) -> Derivation:
        """Return the derivation for these parameters: itself unless its optimizer, a traced one, is another on them."""
        traced = self.spec.on(params)
        return self if traced is self.spec else traced.derive(self.order)

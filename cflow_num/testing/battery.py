"""The battery: properties by name, the search for counterexamples, a short real run, and the table."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jaxtyping import Array

from cflow_sym.derivation.derivation import Derivation
from cflow_sym.derivation.exact import other_points
from cflow_sym.interface import CompiledFlow
from cflow_sym.reading.tracing import double_precision
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.canonical_form import has_momentum

from ..flows.base import FlowState
from ..flows.discrete import DiscreteOptimizer
from ..loss.problem import Problem
from ..optimizer.hyperparameters import as_arrays, resolve
from ..problems import problem
from ..record.measures import values
from ..running.run import run
from ..support.errors import GainWarning, GrowthWarning, InputError, check_one_of
from . import frames, leaps, phase_space, steps, witnesses
from .declared import follows_reference, takes_declared_updates
from .originals import ORIGINALS, follows_optax

EXAMPLES = {True: 8, False: 100}  # of each property, in the quick form and in full
POINTS = {True: 1, False: 3}  # fresh sets of exact points for the derivation
PROPERTIES = (
    "derivation", "autodiff", "update", "threshold", "stable", "edge", "frame", "steps", "symmetry", "real run",
)  # fmt: skip
STEPS = {True: 250, False: 600}  # of the real run
WARM_START = 5
BEATS = 1.0  # D_central / D_stable of the real run must stay below
EARLY = 0.25  # of the run: by then the edge must have been reached
EVERY = 10  # steps between two looks at it
EDGE_HELD = 0.97  # of the threshold: an optimizer whose largest effective eigenvalue stays there holds the edge
_SEEDS = st.integers(0, 10_000)


class Row(NamedTuple):
    """One property: `passed` is None where it was not tried, which `detail` explains."""

    name: str
    statement: str
    passed: bool | None
    detail: str
    seconds: float


@dataclass(frozen=True)
class Battery:
    """The result of `check`: `print` it for the table. `reason` says why it ended early, empty where it did not."""

    title: str
    rows: tuple[Row, ...]
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return all(row.passed for row in self.rows)

    def __getitem__(self, name: str) -> Row:
        """Return the row with that name."""
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        words = {True: "pass", False: "FAIL", None: "-"}
        wide = max(len(row.name) for row in self.rows)
        lines = [self.title, ""]
        for row in self.rows:
            lines.append(f"{words[row.passed]:<4}  {row.name:<{wide}}  {row.statement} [{row.seconds:.1f} s]")
            if row.detail:
                lines.append(f"{'':<{wide + 6}}  {row.detail}")
        failed = [row.name for row in self.rows if row.passed is False]
        missing = [row.name for row in self.rows if row.passed is None]
        end = "every property holds"
        if failed or missing:
            end = "; ".join(
                f"{what}: {', '.join(names)}" for what, names in (("failed", failed), ("not tried", missing)) if names
            )
        return "\n".join([*lines, "", f"{self.reason}; {end}" if self.reason else end])


def check(
    spec: OptimizerSpec,
    *,
    quick: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
    flow: CompiledFlow | None = None,
    only: Sequence[str] = (),
    on_row: Callable[[str], None] | None = None,
) -> Battery:
    """Try every property on an optimizer.

    **Arguments:**

    - `spec`: the optimizer, with the switches that are to be on.
    - `quick`: few examples and a short run (about 20 s) instead of many (one to two minutes).
    - `hyperparameters`: of the real run; a learning rate at which an edge is reached is looked for by default.
    - `flow`: compiled functions to test in place of those that the spec generates.
    - `only`: names of properties, to try no others (the derivation is always checked).
    - `on_row`: called with a property's name before it is tried.

    **Returns:** a `Battery`, after an interrupt with the rows so far. **Raises:** nothing for a property that fails,
    `InputError` for bad hyperparameters.
    """
    battery = Tried(spec, quick, dict(hyperparameters or {}), on_row or (lambda name: None))
    for name in only:
        check_one_of("property", name, PROPERTIES)
    return battery.run(flow, tuple(only) or PROPERTIES)


def assert_optimizer(spec: OptimizerSpec, **options: Any) -> None:
    """Raise `AssertionError` with the table where a property of `check(spec, **options)` does not hold."""
    found = check(spec, **options)
    if found.reason:
        raise KeyboardInterrupt(found.reason)
    if not found.passed:
        raise AssertionError(f"\n{found}")


class Tried:
    """The properties of one optimizer, tried one after the other; `rows` are those that have been."""

    def __init__(
        self, spec: OptimizerSpec, quick: bool, hyperparameters: dict[str, Any], on_row: Callable[[str], None]
    ) -> None:
        self.spec, self.quick, self.hyperparameters, self.on_row = spec, quick, hyperparameters, on_row
        self.rows: list[Row] = []
        self.typical = {h.name: h.typical for h in spec.hyperparameters}

    def run(self, flow: CompiledFlow | None, names: tuple[str, ...]) -> Battery:
        """Derive, compile and try the properties of these names."""
        derivation: Derivation | None = None

        def derive() -> str:
            nonlocal derivation
            derivation = self.spec.derive()
            for salt in range(1, POINTS[self.quick] + 1):
                with other_points(salt):
                    derivation.check()
            return f"{len(derivation.steps)} steps"

        first = "derivation", "every step holds at fresh random exact points"
        chosen = {name: row for name, row in self.numerical().items() if name in names}
        reason = ""
        with double_precision(), fast_compilation(self.quick):
            try:
                self.row(*first, derive)
                if derivation is not None:
                    compiled = self.spec.compile() if flow is None else flow
                    resolve(compiled, {"learning_rate": 1.0} | _defaults(compiled) | self.hyperparameters)  # early
                    for name, (statement, tried) in chosen.items():
                        self.row(name, statement, lambda tried=tried: tried(compiled))
            except KeyboardInterrupt:
                reason = f"interrupted after {len(self.rows)} of {1 + len(chosen)} properties"
        said = reason or "there is no derivation"
        statements = dict([first]) | {name: row[0] for name, row in chosen.items()}
        have = {row.name for row in self.rows}
        self.rows += [
            Row(name, statement, None, said, 0.0) for name, statement in statements.items() if name not in have
        ]
        on = f" with {', '.join(self.spec.active_switches)}" if self.spec.active_switches else ""
        return Battery(f"{self.spec.title}{on}", tuple(self.rows), reason)

    def row(self, name: str, statement: str, tried: Callable[[], str]) -> None:
        """Try one property and keep its row."""
        self.on_row(name)
        began = time.perf_counter()
        try:
            passed, detail = True, tried()
        except InputError:
            raise
        except Exception as error:
            passed, detail = False, _sentence(error)
        self.rows.append(Row(name, statement, passed, detail, time.perf_counter() - began))

    def numerical(self) -> dict[str, tuple[str, Callable[[CompiledFlow], str]]]:
        """Return the properties of the compiled functions, by name."""
        return {
            "autodiff": (
                "the leapfrog of step 1 is the optimizer, and averages are those of its oscillation"
                if has_momentum(self.spec)
                else "generated functions are what automatic differentiation of the step gives",
                self.autodiff,
            ),
            "update": ("the discrete run takes the declared updates", self.update),
            "threshold": ("bisection on quadratics finds the threshold", self.threshold),
            "stable": ("below the edge the central flow is the stable flow", self.stable),
            "edge": ("at the edge X >= 0, A + dA >= 0 and <X, A + dA> = 0", self.edge),
            "frame": ("what is evaluated in a frame is what dense matrices give", self.frame),
            "steps": (
                "leapfrog steps, their start and the reduced flow are the optimizer's own, averaged"
                if has_momentum(self.spec)
                else "steps are of second order, below the edge and on it",
                self.steps,
            ),
            "symmetry": (f"the flow keeps {self.symmetries()}", self.symmetry),
            "real run": ("on a small network the central flow beats the stable flow", self.real_run),
        }

    def symmetries(self) -> str:
        """Say which symmetries the optimizer has."""
        kinds = set(self.spec.slow_states.values())
        if kinds <= {"scalar", "counter"}:
            return "rotations of the weights"
        within = "within each block " if "blockwise" in kinds else ""
        return f"permutations {within}and changes of sign of the weights"

    def search(self, test: Callable[..., None], flow: CompiledFlow, **strategies: Any) -> str:
        """Try examples; a failure is reported with its values, shrunk first (minutes) unless it is to be quick."""
        values = st.fixed_dictionaries(
            {h.name: _inside(h.lower, h.upper, self.typical.get(h.name)) for h in flow.HYPERPARAMETERS}
        )
        last: dict[str, Any] = {}

        @hypothesis.settings(
            max_examples=EXAMPLES[self.quick],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=tuple(hypothesis.HealthCheck),  # type: ignore[arg-type]
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate,) if self.quick else tuple(hypothesis.Phase),
        )
        @hypothesis.given(values=values, **strategies)
        def tried(**example: Any) -> None:
            try:
                test(**example)
            except Exception:
                last.update(example)
                raise

        try:
            tried()
        except Exception as error:
            shown = ", ".join(f"{k}={v:.6g}" for k, v in {**last.pop("values", {}), **last}.items())
            raise AssertionError(f"{_sentence(error)} at {shown}") from error
        return f"{EXAMPLES[self.quick]} examples"

    def autodiff(self, flow: CompiledFlow) -> str:
        """Compare generated functions with automatic differentiation."""

        def test(values: dict, seed: int) -> None:
            case = witnesses.random_case(flow, seed, values)
            if flow.FILTERED_STATES:
                phase_space.the_leapfrog_of_step_one_is_the_optimizer(flow, case)
            else:
                witnesses.agrees_with_automatic_differentiation(flow, case)

        return self.search(test, flow, seed=_SEEDS)

    def threshold(self, flow: CompiledFlow) -> str:
        """Compare the threshold with where the optimizer begins to grow."""

        def test(values: dict, seed: int) -> None:
            case = witnesses.random_case(flow, seed, values)
            if flow.FILTERED_STATES:
                phase_space.threshold_is_where_the_spectral_radius_passes_one(flow, case)
            else:
                witnesses.threshold_is_where_the_optimizer_starts_to_grow(flow, case)

        return self.search(test, flow, seed=_SEEDS)

    def stable(self, flow: CompiledFlow) -> str:
        """Compare with the stable flow below the edge."""

        def test(values: dict, seed: int, k: int, at: float) -> None:
            e = witnesses.edge_state(flow, seed, k, at, values)
            if flow.FILTERED_STATES:
                phase_space.below_the_edge_a_step_has_no_oscillation(e)
            else:
                witnesses.below_the_edge_the_flow_is_the_stable_flow(e)

        return self.search(test, flow, seed=_SEEDS, k=st.integers(1, 3), at=_inside(0.1, 0.85))

    def edge(self, flow: CompiledFlow) -> str:
        """Try what must hold at the edge."""

        def test(values: dict, seed: int, k: int) -> None:
            e = witnesses.edge_state(flow, seed, k, 1.0, values)
            if flow.FILTERED_STATES:
                phase_space.complementarity_holds_after_a_step(e)
            else:
                witnesses.complementarity_holds(e)

        return self.search(test, flow, seed=_SEEDS, k=st.integers(1, 3))

    def frame(self, flow: CompiledFlow) -> str:
        """Try what must hold within a frame."""

        def test(values: dict, seed: int, k: int) -> None:
            e = witnesses.edge_state(flow, seed, k, 1.0, values)
            frames.frame_is_dense(e, seed)
            if not (flow.FILTERED_STATES or flow.MEMORYLESS):
                frames.an_infeasible_start_is_relieved(witnesses.edge_state(flow, seed, k, frames.EXCESS, values))
                frames.the_ablated_flow_keeps_the_edge_alone(e)

        return self.search(test, flow, seed=_SEEDS, k=st.integers(1, 3))

    def steps(self, flow: CompiledFlow) -> str:
        """Compare steps with finer ones."""

        def test(values: dict, seed: int, k: int) -> None:
            e = witnesses.edge_state(flow, seed, k, 1.0, values)
            if flow.FILTERED_STATES:
                leaps.steps_of_the_optimizer(flow, witnesses.random_case(flow, seed, values))
                leaps.the_step_is_the_one_foreseen(e, seed)
            else:
                steps.steps_are_of_second_order(e, witnesses.edge_state(flow, seed, k, 0.5, values))

        return self.search(test, flow, seed=_SEEDS, k=st.integers(1, 3))

    def symmetry(self, flow: CompiledFlow) -> str:
        """Try the symmetries."""

        def test(values: dict, seed: int, k: int, turn: int) -> None:
            kept = phase_space.symmetries_of_a_step if flow.FILTERED_STATES else witnesses.symmetries_are_kept
            kept(witnesses.edge_state(flow, seed, k, 1.0, values), turn)

        return self.search(test, flow, seed=_SEEDS, k=st.integers(1, 3), turn=_SEEDS)

    def update(self, flow: CompiledFlow) -> str:
        """Compare the compiled update with the spec."""
        spec = self.spec.with_options()

        traced = spec.reference is not None and not spec.active_switches  # the original knows no switches
        published = spec.name in ORIGINALS and spec.reference is None and not spec.active_switches

        def test(values: dict, seed: int) -> None:
            takes_declared_updates(spec, flow, values, seed)
            if traced:
                follows_reference(spec, flow, values, seed)
            if published:
                follows_optax(spec.name, flow, values, seed)

        said = ", also against the original" if traced else ", also against optax" if published else ""
        return self.search(test, flow, seed=_SEEDS) + said

    def real_run(self, flow: CompiledFlow) -> str:
        """Look for a learning rate at which the edge is reached, then run all three processes."""
        size = {"width": 6, "parity": True} if self.quick else {"width": 8}
        small, steps = problem("digits-mlp", n=100, components=10, **size), STEPS[self.quick]
        found = _defaults(flow) | self.hyperparameters
        if "learning_rate" not in found and any(h.name == "learning_rate" for h in flow.HYPERPARAMETERS):
            found["learning_rate"] = rate_with_an_edge(small, flow, found, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GainWarning)
            warnings.simplefilter("ignore", GrowthWarning)
            result = run(small, flow, found, steps=steps, warm_start=WARM_START, quiet=True)
        comparison = result.compare()
        ratio = comparison["distance_ratio"].value
        shown = ", ".join(f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, float) and v)
        ends = [values(result, name, "loss")[-1] for name in ("discrete", "central")]
        if not np.isfinite(ends).all():  # the stable flow may explode: that is no fault of the central one
            raise AssertionError(f"with {shown}: {result.reason}")
        if ratio is None:
            raise AssertionError(f"with {shown} there is nothing to compare: {comparison.verdict}")
        said = f"D_central / D_stable = {ratio:.3g} after {steps} steps with {shown}"
        if not ratio < BEATS:
            raise AssertionError(f"{said}, it must be below {BEATS:g}")
        return said


def _defaults(flow: CompiledFlow) -> dict[str, Any]:
    """Return hyperparameters of a real run: defaults, a positive epsilon, decays 0.95 (0.5), others mid-range."""
    out: dict[str, Any] = {}
    for h in flow.HYPERPARAMETERS:
        if h.name == "epsilon" and h.default == 0:
            out[h.name] = 1e-3  # keeps the stable flow from becoming singular where the gradient vanishes
        elif h.default is not None:
            out[h.name] = h.default
        elif h.name != "learning_rate":
            decay = 0.5 if h.closed_below else 0.95
            out[h.name] = decay if (h.lower, h.upper) == (0.0, 1.0) else h.lower + min(1.0, (h.upper - h.lower) / 2)
    return out


def rate_with_an_edge(small: Problem, flow: CompiledFlow, hp: Mapping[str, Any], steps: int) -> float:
    """Return a learning rate at which the optimizer holds the edge for most of a run, but does not diverge.

    It is up to twice the smallest one of a grid that does. To hold the edge: in both halves of what follows the first
    quarter, the median of the largest effective eigenvalue is at the threshold.
    Dense Hessians, all rates at once, so for small problems only. Raises `AssertionError` where there is none.
    """
    rates = 1e-4 * 1.4 ** np.arange(38)  # up to about 25
    arrays = as_arrays(flow, {**hp, "learning_rate": 1.0}, small)
    ratio, losses = map(np.asarray, _edge_ratios(small, flow, arrays, jnp.asarray(rates, small.w0.dtype), steps))
    late = ratio[:, int(EARLY * ratio.shape[1]) :]
    held = np.all([np.median(half, axis=1) >= EDGE_HELD for half in np.array_split(late, 2, axis=1)], axis=0)
    held &= np.max(losses, axis=1) <= 2 * losses[:, 0]  # not where it diverges
    if not held.any():
        raise AssertionError(
            f"no learning rate between {rates[0]:g} and {rates[-1]:.2g} holds an edge in {steps} steps: pass "
            "hyperparameters at which one is held"
        )
    smallest = int(np.argmax(held))
    return float(rates[smallest : smallest + 3][held[smallest : smallest + 3]][-1])


@eqx.filter_jit
def _edge_ratios(
    small: Problem, flow: CompiledFlow, hp: dict[str, Any], rates: Array, steps: int
) -> tuple[Array, Array]:
    """Return largest effective eigenvalue over threshold, and loss, (rates, times) each, along discrete runs."""

    def of_rate(rate: Array) -> tuple[Array, Array]:
        discrete = DiscreteOptimizer(small, hp | {"learning_rate": rate}, flow)
        path = discrete.steps(discrete.first(small.w0), steps)

        def look(y: FlowState) -> tuple[Array, Array]:
            P = jnp.broadcast_to(flow.preconditioner(y.slow, discrete.hp), y.w.shape)
            root = 1 / jnp.sqrt(P)
            H = jax.hessian(discrete.value)(y.w)
            eigenvalues = jnp.linalg.eigvalsh(root[:, None] * H * root)
            return eigenvalues[-1] / flow.threshold(y.slow, discrete.hp), discrete.value(y.w)

        return jax.lax.map(look, jax.tree.map(lambda x: x[::EVERY], path))

    return jax.lax.map(of_rate, rates)


def _inside(lower: float, upper: float, typical: float | None = None) -> st.SearchStrategy[float]:
    """Return multiples of 1/64 of the range, the middle first: what hypothesis shrinks to."""
    width = min(upper - lower, typical or 1.0)
    halvings = [k / 2**depth for depth in range(1, 7) for k in range(1, 2**depth, 2)]
    return st.sampled_from([lower + width * x for x in halvings])


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error.args[0] if error.args else error).split()) or type(error).__name__
    return (
        text
        if isinstance(error, AssertionError) or type(error).__module__.startswith("cflow_")
        else (f"{type(error).__name__}: {text}")
    )


@contextlib.contextmanager
def fast_compilation(on: bool) -> Iterator[None]:
    """Compile with few optimizations: in the quick form more time goes to compiling than to running."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", on or before)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)

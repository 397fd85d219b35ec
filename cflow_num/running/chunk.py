"""One chunk of any process, compiled: the states at its steps, what is observed of them, and the state after it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..flows.base import Flow, FlowState, Observation
from ..flows.central import CentralFlow
from ..flows.closures.base import Closure
from ..flows.discrete import DiscreteOptimizer
from ..flows.piecewise import missed_by_signs
from ..flows.stable import PhaseSpaceStableFlow, StableFlow
from ..flows.stationary import StationaryFlow
from ..stepping import dropped_terms as budget
from ..stepping.anchored import Anchored, AnchoredState, Pace, Paced, costs, paced
from ..stepping.chebyshev import STIFF, STIFF_TOLERANCE, Chebyshev, Memory, fastest_rate
from ..stepping.control import MOST_STEPS, ByArray, Controlled, Motion
from ..stepping.half_explicit import ConstrainedTerm, Log, LoggedState, SolverState


class Carry(NamedTuple):
    """Where a process stands: its state `y`, eigenvectors of its last observation, the solver's memory, the budget."""

    y: Any
    V: Float[Array, "n K"]
    solver: SolverState | AnchoredState | None
    step: Int[Array, ""]
    pace: Paced | Motion | None = None
    budget: budget.Budget | None = None


class Records(NamedTuple):
    """What one chunk of T steps leaves: weights `(T, n)`, observations and logs with a leading axis T."""

    w: Float[Array, "T n"]
    seen: Observation
    log: Log | None
    predictions: dict[str, Array]
    captured: dict[str, Array]
    n_gradients: Array
    reason: Array
    missed: Array | None = None  # by signs that do not stay over a period


class Options(NamedTuple):
    """How a process advances: steps in a chunk, eigenvalues how often, coordinates kept, solver, time step, pace."""

    chunk: int
    eig_every: int
    coordinates: tuple[int, ...]
    solver: type
    dt: Any
    pace: Pace = Pace()


@eqx.filter_jit
def advance_chunk(
    flow: Flow,
    carry: Carry,
    length: int,
    eig_every: int,
    coordinates: tuple[int, ...],
    solver: type,
    dt: Array,
    pace: Pace,
) -> tuple[Carry, Records]:
    """Advance by `length` steps and observe each; one compiled program for every chunk."""
    path = advance_path(flow, carry, length, solver, dt, pace)
    # one past the capacity is certified too, so that an arriving eigenvalue shows
    capacity = carry.solver.X.shape[0] + 1 if carry.solver is not None else carry.V.shape[1] - 1

    def look(V: Array, at: tuple[Array, FlowState]) -> tuple[Array, Observation]:
        step, y = at
        seen = jax.lax.cond(
            step % eig_every == 0,
            lambda: flow.observe(y, V, capacity),
            lambda: flow.observe_cheaply(y, V),
        )
        return seen.V, seen._replace(V=jnp.zeros((), V.dtype))

    V, seen = jax.lax.scan(look, carry.V, (carry.step + 1 + jnp.arange(length, dtype=carry.step.dtype), path.states))
    predictions = path.predictions
    if (log := path.log) is not None:
        predictions = {
            "predicted_loss": flow.optimizer.predicted_loss(seen.loss, log.oscillation_energy),
            "predicted_squared_gradient_norm": jnp.sum(log.squared_gradient, axis=1),
        }
    after = path.after._replace(V=V, step=carry.step + length)
    if carry.budget is not None:
        assert isinstance(flow, CentralFlow)
        after, spent = _spent(flow, carry, path, after, eig_every)
        predictions = predictions | spent
    captured = _captured(flow, path, coordinates) if coordinates else {}
    missed = None
    if log is not None and flow.optimizer.PIECEWISE and isinstance(flow, CentralFlow):
        missed = missed_by_signs(flow, path.states, log.squared_gradient)
    return after, Records(path.states.w, seen, log, predictions, captured, path.n_gradients, path.reason, missed)


def _spent(flow: CentralFlow, carry: Carry, path: Path, after: Carry, every: int) -> tuple[Carry, dict[str, Array]]:
    """Return the carry with the budget after the chunk, and what is recorded of it at each step, nan between."""
    moved = jnp.diff(path.states.w, axis=0, prepend=carry.y.state.w[None])  # (T, n)
    steps = carry.step + 1 + jnp.arange(len(moved), dtype=carry.step.dtype)

    def look(known: budget.Budget, at: tuple) -> tuple[budget.Budget, dict[str, Array]]:
        step, y, log, moved = at
        spend = partial(budget.evaluated, flow, y, log, moved, every, known)
        unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(spend)[1])
        return jax.lax.cond(step % every == 0, spend, lambda: (known, unknown))

    assert carry.budget is not None
    begun = carry.budget._replace(first=jnp.where(jnp.isnan(carry.budget.first), moved[0], carry.budget.first))
    end, recorded = jax.lax.scan(look, begun, (steps, path.states, path.log, moved))
    return after._replace(budget=end), recorded


def _captured(flow: Flow, path: Path, coordinates: tuple[int, ...]) -> dict[str, Array]:
    """Return what is kept of single coordinates: states, squared gradient, its predicted time average; (T, m) each."""
    chosen = jnp.array(coordinates)
    kept = {
        name: s[:, chosen] for name, s in path.states.slow.items() if s.ndim == 2 and s.shape == path.states.w.shape
    }
    kept["squared_gradient"] = jax.lax.map(lambda w: flow.gradient(w)[chosen] ** 2, path.states.w)
    if path.log is not None:
        kept["predicted_squared_gradient"] = path.log.squared_gradient[:, chosen]
    return kept


class Path(NamedTuple):
    """The states at the steps of a chunk, the carry after them, logs, gradients taken by each step, 1 for failure."""

    states: FlowState
    after: Carry
    log: Log | None
    n_gradients: Array
    reason: Array
    predictions: dict[str, Array] = {}  # noqa: RUF012


@eqx.filter_jit
def advance_path(flow: Flow, carry: Carry, length: int, solver: type, dt: Array, pace: Pace) -> Path:
    """Advance any process by `length` steps, observing nothing."""
    dtype = carry.V.dtype
    if isinstance(flow, DiscreteOptimizer):
        states = flow.steps(carry.y, length)
        after = carry._replace(y=jax.tree.map(lambda x: x[-1], states))
        return Path(states, after, None, jnp.ones(length, dtype), jnp.zeros((), jnp.int32))
    if isinstance(flow, Closure):
        y, states, losses = flow.steps(carry.y, length, dt.astype(dtype))
        cost = jnp.broadcast_to(flow.cost / dt.astype(dtype), (length,))
        predicted = {"predicted_loss": losses}
        return Path(states, carry._replace(y=y), None, cost, jnp.zeros((), jnp.int32), predicted)
    if isinstance(flow, CentralFlow) and isinstance(carry.pace, Paced):
        term, method, controller = ConstrainedTerm(), Anchored(dt.astype(dtype)), paced(flow, pace)
        dt = carry.pace.size
    elif isinstance(flow, (CentralFlow, StationaryFlow)):
        term, method, controller = ConstrainedTerm(), solver(), dfx.ConstantStepSize()
    else:
        assert isinstance(flow, (StableFlow, PhaseSpaceStableFlow))
        return _stable_path(flow, carry, length)
    solution = dfx.diffeqsolve(
        term,
        method,
        t0=jnp.zeros((), dtype),
        t1=jnp.asarray(length, dtype),
        dt0=dt.astype(dtype),
        y0=carry.y,
        args=flow,
        saveat=_at_steps(length, dtype, carry.solver is not None, carry.pace is not None),
        stepsize_controller=controller,
        controller_state=carry.pace,
        solver_state=carry.solver,
        max_steps=100_000,
        throw=False,
    )
    assert solution.ys is not None
    path, last = solution.ys
    after = carry._replace(
        y=jax.tree.map(lambda x: x[0], last), solver=solution.solver_state, pace=solution.controller_state
    )
    assert isinstance(path, LoggedState)
    log, before = path.log, carry.y.log.n_gradients
    if isinstance(carry.pace, Paced) and isinstance(after.pace, Paced):  # rejected steps cost too
        log = log._replace(**{name: x + after.pace.wasted[name] for name, x in costs(log).items()})
        before = before + carry.pace.wasted["n_gradients"]
    return Path(path.state, after, log, jnp.diff(log.n_gradients, prepend=before), _reason(solution))


def _at_steps(length: int, dtype: Any, solver_state: bool = False, controller_state: bool = False) -> dfx.SaveAt:
    """Save at every step of a chunk, and what the next chunk starts from at its end."""
    steps = dfx.SubSaveAt(ts=jnp.arange(1, length + 1, dtype=dtype))
    return dfx.SaveAt(
        subs=[steps, dfx.SubSaveAt(t1=True)], solver_state=solver_state, controller_state=controller_state
    )


def _reason(solution: dfx.Solution) -> Int[Array, ""]:
    return jnp.where(solution.result == dfx.RESULTS.successful, 0, 1).astype(jnp.int32)


def _stable_path(flow: StableFlow | PhaseSpaceStableFlow, carry: Carry, length: int) -> Path:
    """Advance a flow without oscillation, by a stabilized method where it is stiff at the start of the chunk."""
    dtype = carry.V.dtype
    motion = carry.pace if isinstance(carry.pace, Motion) else Motion.none(flow, carry.y)

    def solved(
        method: dfx.AbstractSolver, tolerance: float, memory: Memory | None
    ) -> tuple[tuple[FlowState, FlowState, Motion], Array, Array]:
        controller = ByArray(tolerance)
        solution = dfx.diffeqsolve(
            flow.term(),
            method,
            t0=jnp.zeros((), dtype),
            t1=jnp.asarray(length, dtype),
            dt0=jnp.asarray(0.1, dtype),
            y0=carry.y,
            args=flow,
            saveat=_at_steps(length, dtype, memory is not None, controller_state=True),
            stepsize_controller=controller,
            controller_state=controller.begun(motion),
            solver_state=memory,
            max_steps=MOST_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        steps = solution.stats["num_steps"]
        cost = 6 * steps.astype(dtype)  # Tsit5: six gradients a step
        if memory is not None:  # the solver has counted the steps that were kept
            assert isinstance(solution.solver_state, Memory)
            cost = solution.solver_state.n_gradients * steps / jnp.maximum(solution.stats["num_accepted_steps"], 1)
        path, last = solution.ys
        assert isinstance(solution.controller_state, Controlled)
        last = jax.tree.map(lambda x: x[0], last)
        return (path, last, solution.controller_state.motion), cost.astype(dtype), _reason(solution)

    plain = partial(solved, dfx.Tsit5(), 1e-6, None)
    if isinstance(flow, StableFlow):
        rate, u = fastest_rate(flow, carry.y, carry.V[:, 0])
        stabilized = partial(solved, Chebyshev(), STIFF_TOLERANCE, Memory(u, jnp.zeros((), dtype)))
        (path, last, motion), cost, reason = jax.lax.cond(rate > STIFF, stabilized, plain)
    else:
        (path, last, motion), cost, reason = plain()
    per_step = cost / length
    if flow.optimizer.MEMORYLESS and isinstance(flow, StableFlow):  # no dynamics of their own: follow the weights
        path = jax.lax.map(lambda y: flow.settled(y, flow.gradient(y.w)), path)
        per_step = per_step + 1
    after = carry._replace(y=last, solver=None, pace=motion)
    return Path(path, after, None, jnp.broadcast_to(per_step, (length,)), reason)

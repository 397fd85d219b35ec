"""The path of one process through a chunk, without observations: by the kind of the flow."""

from __future__ import annotations

from functools import partial, singledispatch
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..flows.base import Flow, FlowState
from ..flows.central import CentralFlow
from ..flows.closures.base import Closure
from ..flows.discrete import DiscreteOptimizer
from ..flows.stable import PhaseSpaceStableFlow, StableFlow
from ..flows.stationary import StationaryFlow
from ..stepping import dropped_terms as budget
from ..stepping.anchored import Anchored, AnchoredState
from ..stepping.base import ConstrainedTerm, SolverState
from ..stepping.chebyshev import STIFF, STIFF_TOLERANCE, Chebyshev, Memory, fastest_rate
from ..stepping.control import MOST_STEPS, ByArray, Controlled, Motion
from ..stepping.log import Log, LoggedState
from ..stepping.pace import Pace, Paced, costs, paced
from .looks import Past


class Carry(NamedTuple):
    """Where a process stands: its state `y`, eigenvectors of its last observation, the solver's memory, the budget.

    `past` are the last eigenvalues, where they are evaluated where they move.
    """

    y: Any
    V: Float[Array, "n K"]
    solver: SolverState | AnchoredState | None
    step: Int[Array, ""]
    pace: Paced | Motion | None = None
    budget: budget.Budget | None = None
    past: Past | None = None


class Path(NamedTuple):
    """The states at the steps of a chunk, the carry after them, logs, gradients taken by each step, 1 for failure."""

    states: FlowState
    after: Carry
    log: Log | None
    n_gradients: Array
    reason: Array
    predictions: dict[str, Array] = {}  # noqa: RUF012


class How(NamedTuple):
    """How a path is taken: so many steps, by which solver, in which time steps, at which pace."""

    length: int
    solver: type
    dt: Array
    pace: Pace


@eqx.filter_jit
def advance_path(flow: Flow, carry: Carry, length: int, solver: type, dt: Array, pace: Pace) -> Path:
    """Advance any process by `length` steps, observing nothing."""
    return path_of(flow, carry, How(length, solver, dt, pace))


@singledispatch
def path_of(flow: Flow, carry: Carry, how: How) -> Path:
    """Return the path of a flow through a chunk, by its class; a new one registers its own."""
    raise NotImplementedError(f"{type(flow).__name__} has no path: register one with path_of.register")


@path_of.register
def _discrete_path(flow: DiscreteOptimizer, carry: Carry, how: How) -> Path:
    states = flow.steps(carry.y, how.length)
    after = carry._replace(y=jax.tree.map(lambda x: x[-1], states))
    return Path(states, after, None, jnp.ones(how.length, carry.V.dtype), jnp.zeros((), jnp.int32))


@path_of.register
def _closed_path(flow: Closure, carry: Carry, how: How) -> Path:
    dt = how.dt.astype(carry.V.dtype)
    y, states, losses = flow.steps(carry.y, how.length, dt)
    cost = jnp.broadcast_to(flow.cost / dt, (how.length,))
    return Path(states, carry._replace(y=y), None, cost, jnp.zeros((), jnp.int32), {"predicted_loss": losses})


@path_of.register(CentralFlow)
@path_of.register(StationaryFlow)
def _constrained_path(flow: CentralFlow | StationaryFlow, carry: Carry, how: How) -> Path:
    """Advance a flow whose oscillation keeps the edge, by the solver that was chosen for it."""
    dtype, length = carry.V.dtype, how.length
    if isinstance(carry.pace, Paced):
        assert isinstance(flow, CentralFlow)
        method, controller = Anchored(how.dt.astype(dtype)), paced(flow, how.pace)
        dt = carry.pace.size
    else:
        method, controller, dt = how.solver(), dfx.ConstantStepSize(), how.dt
    solution = dfx.diffeqsolve(
        ConstrainedTerm(),
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
        adjoint=dfx.ForwardMode(),
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


@path_of.register(StableFlow)
@path_of.register(PhaseSpaceStableFlow)
def _stable_path(flow: StableFlow | PhaseSpaceStableFlow, carry: Carry, how: How) -> Path:
    """Advance a flow without oscillation, by a stabilized method where it is stiff at the start of the chunk."""
    dtype, length = carry.V.dtype, how.length
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
            adjoint=dfx.ForwardMode(),
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

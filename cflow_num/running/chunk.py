"""One chunk of any process, compiled: the states at its steps, what is observed of them, and the state after it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..flows.base import Flow, FlowState, Observation
from ..flows.central import CentralFlow
from ..flows.discrete import DiscreteOptimizer
from ..flows.piecewise import missed_by_signs
from ..stepping import dropped_terms as budget
from ..stepping.log import Log
from ..stepping.pace import Pace
from . import diagnostics
from .looks import RESIDUAL, Looks, looked
from .path import Carry, Path, advance_path


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
    end: FlowState | None = None  # at the last step that is wanted, which may come before the end of the chunk
    before: dict[str, Array] | None = None  # the optimizer's states that its update there starts from
    exact: Bool[Array, " T"] | None = None  # where eigenvalues were evaluated and not interpolated


class Options(NamedTuple):
    """How a process advances: steps in a chunk, eigenvalues how often, coordinates kept, solver, time step, pace.

    `last` is the step at which the run ends.
    """

    chunk: int
    eig_every: int
    coordinates: tuple[int, ...]
    solver: type
    dt: Any
    pace: Pace = Pace()
    last: Any = 0


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
    last: Array,
) -> tuple[Carry, Records]:
    """Advance by `length` steps and observe each; one compiled program for every chunk."""
    path = advance_path(flow, carry, length, solver, dt, pace)
    # one past the capacity is certified too, so that an arriving eigenvalue shows
    capacity = carry.solver.X.shape[0] + 1 if carry.solver is not None else carry.V.shape[1] - 1

    V, seen, looks = _seen(flow, carry, path, capacity, eig_every)
    predictions = path.predictions
    if (log := path.log) is not None:
        predictions = {
            "predicted_loss": flow.optimizer.predicted_loss(seen.loss, log.oscillation_energy),
            "predicted_squared_gradient_norm": jnp.sum(log.squared_gradient, axis=1),
        } | diagnostics.of_flow(flow, path.states, carry.y.state, seen, log)
    after = path.after._replace(V=V, step=carry.step + length, past=carry.past if looks is None else looks.past)
    if carry.budget is not None:
        assert isinstance(flow, CentralFlow)
        after, spent = _spent(flow, carry, path, after, eig_every or 1)
        predictions = predictions | spent
    captured = _captured(flow, path, coordinates) if coordinates else {}
    missed = None
    if log is not None and flow.optimizer.PIECEWISE and isinstance(flow, CentralFlow):
        missed = missed_by_signs(flow, path.states, log.squared_gradient)
    end, before = _ended(flow, carry, path, last - carry.step - 1)
    exact = None if looks is None else looks.exact
    return after, Records(
        path.states.w, seen, log, predictions, captured, path.n_gradients, path.reason, missed, end, before, exact
    )


def _seen(
    flow: Flow, carry: Carry, path: Path, capacity: int, eig_every: int
) -> tuple[Array, Observation, Looks | None]:
    """Return eigenvectors at the end, what is observed of each state, and where eigenvalues were evaluated.

    They are at every so many steps, or for 0 where they move.
    """
    states, T = path.states, len(path.states.w)

    def look(V: Array, at: tuple[Array, FlowState]) -> tuple[Array, Observation]:
        step, y = at
        seen = jax.lax.cond(
            step % eig_every == 0,
            lambda: flow.observe(y, V, capacity),
            lambda: flow.observe_cheaply(y, V),
        )
        return seen.V, seen._replace(V=jnp.zeros((), V.dtype))

    if eig_every:
        V, seen = jax.lax.scan(look, carry.V, (carry.step + 1 + jnp.arange(T, dtype=carry.step.dtype), states))
        return V, seen, None
    assert carry.past is not None
    c = jax.vmap(lambda slow: jnp.asarray(flow.optimizer.threshold(slow, flow.hp), carry.V.dtype))(states.slow)  # (T,)
    leading = partial(flow.leading, capacity=capacity, others=RESIDUAL)
    looks = looked(leading, states, carry.V, carry.past, capacity, c)
    shares = jnp.arange(1, T + 1, dtype=carry.V.dtype) / T
    ends = carry.V, looks.V

    def between(at: tuple[FlowState, Array, Array]) -> Observation:
        seen = flow.observe_between(at[0], ends, at[1], at[2])
        return seen._replace(V=jnp.zeros((), carry.V.dtype), converged=looks.converged)

    return looks.V, jax.lax.map(between, (states, shares, looks.eigenvalues)), looks


def _ended(flow: Flow, carry: Carry, path: Path, at: Array) -> tuple[FlowState, dict[str, Array] | None]:
    """Return the state at a place in the chunk, or at its end, and those that the optimizer's update began with."""
    at = jnp.clip(at, 0, len(path.states.w) - 1)
    end = jax.tree.map(lambda x: x[at], path.states)
    if not isinstance(flow, DiscreteOptimizer):
        return end, None
    last = {name: jnp.where(at > 0, x[at - 1], carry.y.slow[name]) for name, x in path.states.slow.items()}
    return end, last


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

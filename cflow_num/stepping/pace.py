"""How long the anchored steps are: whole units of time, under control of the estimated error."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flows.central import CentralFlow
from .log import Log, LoggedState

LONGEST = 8  # units of flow time; chunks are multiples of it, so that their length changes no number


SHORTEST = 1 / 16


FEW = 4  # eigenvalues near the threshold; where the capacity is for more, the longest step is half as long


STEP = 1.0  # a short step


LEAP = 1 / 2  # with momentum


class Paced(NamedTuple):
    """State of the controller: length of the next step, what rejected steps have cost, the PID controller's own."""

    size: Float[Array, ""]
    wasted: dict[str, Float[Array, ""]]
    inner: Any


def costs(log: Log) -> dict[str, Float[Array, "*T"]]:
    """Return the counters of a log, by name."""
    return {name: getattr(log, name) for name in ("n_gradients", "n_hessian_vectors", "n_curvature_gradients")}


class WholeUnits(dfx.AbstractStepSizeController):
    """A controller whose steps are powers of two at multiples of themselves, so that whole units are always met.

    Steps then depend on time alone, not on where a chunk of the integration begins. The length of the next step is in
    the controller's state (`Paced`), which a later call starts from, and so is what rejected steps have cost.
    """

    controller: dfx.PIDController
    shortest: float
    longest: float

    def wrap(self, direction):
        """Return the controller for the direction of time."""
        return WholeUnits(self.controller.wrap(direction), self.shortest, self.longest)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """Return the end of the first step and the state."""
        t, state = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return t, Paced(jnp.asarray(t - t0), jax.tree.map(jnp.zeros_like, costs(y0.log)), state)

    def begun(self, y: LoggedState) -> Paced:
        """Return the state before the first step of a flow that has not moved from y."""
        step = jnp.asarray(STEP, y.state.w.dtype)
        state = self.init(None, jnp.zeros_like(step), step, y, step, None, lambda terms, t, y, args: y, None)[1]
        return jax.tree.map(jnp.asarray, state)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        """Return whether to keep the step and where the next one goes."""
        keep, next_t0, next_t1, jump, inner, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state.inner
        )
        spent = jax.tree.map(jnp.subtract, costs(y1_candidate.log), costs(y0.log))
        wasted = jax.tree.map(lambda w, x: w + jnp.where(keep, 0, x), controller_state.wasted, spent)
        wanted = jnp.asarray(next_t1 - next_t0)
        doublings = int(np.log2(self.longest / self.shortest))
        sizes = self.shortest * 2.0 ** jnp.arange(doublings + 1, dtype=wanted.dtype)
        fits = (sizes <= wanted * (1 + 1e-6)) & (jnp.round(next_t0 / sizes) * sizes == next_t0)
        size = jnp.max(jnp.where(fits, sizes, self.shortest))
        return keep, next_t0, next_t0 + size, jump, Paced(size, wasted, inner), result


class Pace(NamedTuple):
    """How steps are chosen: largest error estimate relative to the length of the path, longest step (at most 8)."""

    tolerance: float = 0.2
    longest: float = float(LONGEST)


def paced(flow: CentralFlow, pace: Pace) -> WholeUnits:
    """Return the controller of the anchored solver for a flow, with half the longest step for a large capacity.

    In phase space the short steps keep their length: averages and states live half of it before the weights.
    """
    shortest = LEAP if flow.STAGGERED else SHORTEST
    longest = float(pace.longest if flow.capacity <= FEW else max(pace.longest / 2, shortest))
    pid = dfx.PIDController(
        rtol=0, atol=pace.tolerance, dtmin=shortest, dtmax=longest, force_dtmin=True, norm=_norm_of_weights
    )
    return WholeUnits(pid, shortest, longest)


def _norm_of_weights(y: LoggedState) -> Float[Array, ""]:
    return jnp.linalg.norm(y.state.w)

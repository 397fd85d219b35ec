"""Steps of the central flow without momentum, in a frame and by Heun, are of second order.

That is told below the edge, where the stable flow can be integrated finely. On it a step is held against two half ones:
the covariance, a multiplier, is of one order less, and so is what is left between them.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..stepping.base import SolverState
from ..stepping.half_explicit import HalfExplicitHeun
from ..stepping.log import LoggedState, empty_log
from ..stepping.short_steps import short_steps
from .frames import plain_central
from .witnesses import Edge, N, at_least

STEP = 0.02  # the longer of the two that are compared, by the largest rate
FINE = 64  # steps of the reference
LEAST = 5.0  # by what the error of one step falls where it is halved; 8 in the limit, 4 for a method of first order
LEAST_AT_EDGE = 2.5  # 4 in the limit, 2 for a step that is not consistent
ROUNDING = 1e-11


@eqx.filter_jit
def _reference(flow: CentralFlow, y: FlowState, h: Array) -> FlowState:
    """Return the stable flow after h by the method of Runge and Kutta."""
    move = lambda y, a, f: jax.tree.map(lambda x, r: x + a * r, y, f)  # noqa: E731
    small = h / FINE

    def step(y: FlowState, _: None) -> tuple[FlowState, None]:
        a = flow.stable_drift(y)
        b = flow.stable_drift(move(y, small / 2, a))
        c = flow.stable_drift(move(y, small / 2, b))
        d = flow.stable_drift(move(y, small, c))
        return move(y, small, jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, a, b, c, d)), None

    return jax.lax.scan(step, y, None, length=FINE)[0]


@eqx.filter_jit
def _short(flow: CentralFlow, anchor: FlowState, V: Array, y: FlowState, X: Array, h: Array) -> tuple[FlowState, Array]:
    end = short_steps(flow, flow.frame(anchor, V), h).step(y, X)
    return end.y, end.X


@eqx.filter_jit
def _heun(flow: CentralFlow, y: LoggedState, memory: SolverState, h: Array) -> tuple[LoggedState, SolverState]:
    end, _, _, memory, _ = HalfExplicitHeun().step(None, jnp.zeros(()), h, y, flow, memory, False)
    return end, memory


def _in_frame(flow: CentralFlow, e: Edge, lengths: list[float]) -> FlowState:
    """Return the end of short steps of these lengths, in the frame of their start."""
    y, X = e.y, jnp.zeros((flow.capacity, flow.capacity))
    for h in lengths:
        y, X = _short(flow, e.y, e.V, y, X, jnp.asarray(h))
    return y


def _by_heun(flow: CentralFlow, e: Edge, lengths: list[float]) -> FlowState:
    y = LoggedState(e.y, empty_log(flow, e.y))
    memory = SolverState(e.V, jnp.zeros((flow.capacity, flow.capacity)))
    for h in lengths:
        y, memory = _heun(flow, y, memory, jnp.asarray(h))
    return y.state


def _finely(flow: CentralFlow, e: Edge, stepped: Callable, h: float) -> FlowState:
    """Return the flow after h: the stable one integrated finely, or, where states have no rates, in two half steps."""
    return stepped(flow, e, [h / 2] * 2) if flow.optimizer.MEMORYLESS else _reference(flow, e.y, jnp.asarray(h))


def _at_rest(e: Edge) -> Edge:
    opt, hp, y = e.flow.optimizer, e.flow.hp, e.y
    rest = opt.stationary_state(y.slow, e.flow.gradient(y.w), hp) if opt.MEMORYLESS else {}
    return e._replace(y=y._replace(slow=y.slow | {name: rest[name] for name in opt.MEMORYLESS}))


def _apart(a: FlowState, b: FlowState) -> float:
    parts = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y), initial=0.0)), a, b)
    return max(jax.tree.leaves(parts))


def _falls(what: str, long: float, short: float, size: float, least: float = LEAST) -> None:
    """Assert that an error falls by a factor where the step is halved."""
    if long > ROUNDING * size:
        at_least(f"the ratio of the errors of {what}", long / max(short, 1e-300), least)


def steps_are_of_second_order(e: Edge, below: Edge) -> None:
    """Halving a step divides its error by eight below the edge, and brings it nearer to two half ones on it.

    States without memory start at rest, and steps with them are of first order, where a step began; on the edge rest is
    where the oscillation puts them, which only a step tells.
    """
    below = _at_rest(below)
    for what, stepped in (("a short step", _in_frame), ("a step of Heun", _by_heun)):
        flow, h = plain_central(below), _length(below)
        ends = [(stepped(flow, below, [x]), _finely(flow, below, stepped, x)) for x in (h, h / 2)]
        found = [_apart(*pair) for pair in ends]
        least = LEAST_AT_EDGE if flow.optimizer.MEMORYLESS else LEAST
        _falls(f"{what} below the edge", found[0], found[1], float(jnp.linalg.norm(below.y.w)), least)
        if flow.optimizer.MEMORYLESS:
            continue
        flow, h = plain_central(e), _length(e)
        ends = [stepped(flow, e, lengths) for lengths in ([h], [h / 2] * 2, [h / 2], [h / 4] * 2)]
        size = float(jnp.linalg.norm(e.y.w))
        found = [_apart(ends[0], ends[1]), _apart(ends[2], ends[3])]
        _falls(f"{what} at the edge", found[0], found[1], size, LEAST_AT_EDGE)
        _falls(f"the edge after {what}", _excess(e, ends[0]), _excess(e, ends[2]), 1.0, LEAST_AT_EDGE)


def _excess(e: Edge, y: FlowState) -> float:
    """Return by what part the largest effective eigenvalue at y, from dense matrices, is above the threshold."""
    opt, hp = e.flow.optimizer, e.flow.hp
    root = np.sqrt(np.broadcast_to(opt.preconditioner(y.slow, hp), (N,)))
    H = e.H + e.T @ np.asarray(y.w - e.y.w)
    largest = np.linalg.eigvalsh(H / root[:, None] / root)[-1]
    return max(float(largest / opt.threshold(y.slow, hp)) - 1, 0.0)


def _length(e: Edge) -> float:
    return float(STEP / (1 + e.c + np.linalg.norm(e.b / e.P)))

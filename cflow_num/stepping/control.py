"""How long steps without oscillation are: errors measured against what each array moves, whatever its unit.

A solver's usual norm adds a tolerance relative to each number and an absolute one, which has a unit: in other units of
weights or loss the same flow takes other steps, and where weights are small, wrong ones. Here no number has a unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax as dfx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..flows.base import Flow, FlowState

FAR = 30.0  # times its fastest motion in a unit of time: an array's own size counts up to there
DIGITS = 4.0  # times the rounding error of the weights themselves: what stands at rest moves by as much
NOISE = 10.0  # times the rounding error of what moves fastest: no array is resolved beyond
SHORTEST = 1e-8  # units of flow time: a step that has to be shorter resolves nothing
MOST_STEPS = 10_000  # in a chunk
MOST_REJECTED = 300  # steps in a chunk: where more fail, rounding or a kink is what they meet


class Motion(NamedTuple):
    """How fast the weights have moved at most so far, in a unit of flow time.

    `arrays (B,)`: root mean squares over each array of the parameters; `whole ()`: over all, in the metric of P.
    """

    arrays: Float[Array, " B"]
    whole: Float[Array, ""]

    @classmethod
    def none(cls, flow: Flow, y: FlowState) -> Motion:
        """Return the motion of a flow that has not moved."""
        return cls(jnp.zeros(len(flow.problem.blocks.sizes), y.w.dtype), jnp.zeros((), y.w.dtype))

    def joined(self, other: Motion) -> Motion:
        """Return the faster one of both, array by array."""
        return Motion(jnp.maximum(self.arrays, other.arrays), jnp.maximum(self.whole, other.whole))


class Controlled(NamedTuple):
    """State of the controller: the motion so far, how many steps were rejected, the PID controller's own."""

    motion: Motion
    rejected: Int[Array, ""]
    inner: Any


class ByArray(dfx.AbstractStepSizeController):
    """A PID controller of `relative_error`; it ends where steps collapse or too many are rejected."""

    tolerance: float
    controller: dfx.PIDController = dfx.PIDController(rtol=0, atol=1, norm=jnp.abs, dtmin=SHORTEST)

    def wrap(self, direction):
        """Return the controller: time only goes forward."""
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """Return the end of the first step and the state of a flow that has not moved."""
        t, inner = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return t, Controlled(Motion.none(args, y0), jnp.zeros((), jnp.int32), inner)

    def begun(self, motion: Motion) -> Controlled:
        """Return the state at the start of a chunk, with the motion of those before."""
        one = jnp.ones_like(motion.whole)
        return Controlled(motion, jnp.zeros((), jnp.int32), (one, one, jnp.asarray(False)))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error: Any, error_order, controller_state):
        """Return whether to keep the step and where the next one goes."""
        motion, rejected, inner = controller_state
        h: Any = t1 - t0
        now = moved(args, y0, y1_candidate, h)
        error = relative_error(args, y0, y1_candidate, y_error, h, motion.joined(now), self.tolerance)
        nothing = jnp.zeros_like(error)
        keep, next_t0, next_t1, jump, inner, result = self.controller.adapt_step_size(
            t0, t1, nothing, nothing, args, error, error_order, inner
        )
        motion = Motion(*(jnp.where(keep, new, old) for new, old in zip(motion.joined(now), motion, strict=True)))
        rejected = rejected + jnp.where(keep, 0, 1)
        result = dfx.RESULTS.where(rejected > MOST_REJECTED, dfx.RESULTS.max_steps_reached, result)
        return keep, next_t0, next_t1, jump, Controlled(motion, rejected, inner), result


def moved(flow: Flow, y0: FlowState, y1: FlowState, h: Float[Array, ""]) -> Motion:
    """Return how fast the weights move in a step of length h."""
    speed = (y1.w - y0.w) / h                                                 # (n,)
    root = jnp.sqrt(flow.optimizer.preconditioner(y1.slow, flow.hp))          # () or (n,)
    return Motion(_by_array(flow, speed), jnp.sqrt(jnp.mean((root * speed) ** 2)))


def relative_error(
    flow: Flow, y0: FlowState, y1: FlowState, error: FlowState, h: Float[Array, ""], motion: Motion, tolerance: float
) -> Float[Array, ""]:
    """Return the largest error of a step in units of what is tolerated; more than 1 is too much.

    Root mean squares over each array of the parameters. Weights: relative to the array's size, or to what it moves in a
    unit of time where that is more, but at most `FAR` times its fastest motion, so that it does not matter where the
    origin is. Averages of the gradient: by what they move the weights. Other states: each number's relative error, by
    what share of the fastest motion it has to do with. Below rounding, of the weights and of what moves fastest,
    nothing is resolved.
    """
    opt, hp, sizes = flow.optimizer, flow.hp, jnp.array(flow.problem.blocks.sizes, y1.w.dtype)
    P = jnp.broadcast_to(opt.preconditioner(y1.slow, hp), y1.w.shape)         # (n,)
    speed = (y1.w - y0.w) / h                                                 # (n,)
    size = jnp.maximum(_by_array(flow, y0.w), _by_array(flow, y1.w))          # (B,)
    scale = jnp.clip(size, _by_array(flow, speed), FAR * motion.arrays)       # (B,)
    root = jnp.sqrt(flow.problem.blocks.total(P) / sizes)                     # (B,)
    eps = jnp.finfo(y1.w.dtype).eps
    noise = eps * (NOISE * motion.whole / root + DIGITS * size)               # (B,)

    def felt(e: Float[Array, " n"], scale: Float[Array, " B"]) -> Float[Array, " B"]:
        allowed, e = tolerance * scale + noise, _by_array(flow, e)            # (B,), (B,)
        return jnp.where(e > 0, e / allowed, e)                               # nan stays

    found = [felt(error.w, scale)]
    if error.filtered is not None:
        k = opt.leapfrog(y1.slow, hp, 0.0)
        found += [felt(e, scale) for e in (k.w_rate * k.weight)[:, None] * error.filtered / P]
    for name, e in error.slow.items():
        s = jnp.maximum(jnp.abs(y0.slow[name]), jnp.abs(y1.slow[name]))       # (), (B,) or (n,)
        relative = e / jnp.where(s > 0, s, 1)
        if relative.shape not in ((), speed.shape):
            relative = flow.problem.blocks.spread(relative)                   # (n,)
        found.append(felt(speed * relative, motion.arrays))
    largest = jnp.max(jnp.stack(found))
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)


def _by_array(flow: Flow, x: Float[Array, " n"]) -> Float[Array, " B"]:
    """Return the root mean square over each array of the parameters."""
    sizes = jnp.array(flow.problem.blocks.sizes, x.dtype)                     # (B,)
    largest = jnp.max(jnp.abs(x))                                             # () squares of small numbers vanish
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.sqrt(flow.problem.blocks.total((x / unit) ** 2) / sizes)

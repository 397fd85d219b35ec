"""A stabilized explicit method for the stable flow, which beyond the edge is stiff: Runge-Kutta-Chebyshev, order two.

Without oscillation the effective sharpness of an adaptive optimizer may grow to hundreds of times its threshold. A
classical method then takes steps in proportion to its inverse, although nothing happens that fast. With s stages of
one step the stability of this one reaches to 0.65 s^2 on the negative real axis, so that the cost grows with the root
of the sharpness only (Sommeijer, Shampine, Verwer, Journal of Computational and Applied Mathematics 88, 1998).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..flows.base import FlowState
from ..flows.stable import StableFlow

DAMPING = 2 / 13
REACH = 0.65  # the stability interval over the square of the number of stages
STIFF = 20.0  # rate of the fastest mode from which on it is cheaper than a classical method
STIFF_TOLERANCE = 3e-6  # of a step, relative: some 1e-4 of the distance travelled
MOST_STAGES = 500  # a step that needs more is unstable with these, so that it is rejected and a shorter one tried
MOST_GRADIENTS = 100_000  # in a chunk, of steps that are kept: beyond, it ends with what it has
SAFETY = 1.2  # on the estimate of the spectral radius


class Memory(NamedTuple):
    """The leading eigenvector, `u (n,)`, as far as it is known, and the gradients taken since the start."""

    u: Float[Array, " n"]
    n_gradients: Float[Array, ""]


def fastest_rate(
    flow: StableFlow, y: FlowState, u: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """Return the rate of the fastest mode of the weights, v S_eff, and its direction: a step of the power method."""
    P = flow.optimizer.preconditioner(y.slow, flow.hp)                        # () or (n,)
    turned = flow.hessian_vectors(y.w, u[:, None])[:, 0] / P                  # (n,) P^{-1} H u
    before, after = jnp.sqrt(jnp.vdot(u, P * u)), jnp.sqrt(jnp.vdot(turned, P * turned))
    return flow.speed(y) * after / before, turned / after


class _Stage(NamedTuple):
    """The last two stages, and T_j, T_j' and T_j'' at w0 of both."""

    now: FlowState
    before: FlowState
    T: Float[Array, "2 3"]


class Chebyshev(dfx.AbstractAdaptiveSolver):
    """Runge-Kutta-Chebyshev of second order with as many stages as the spectral radius asks for."""

    term_structure: ClassVar = dfx.ODETerm
    interpolation_cls: ClassVar = dfx.ThirdOrderHermitePolynomialInterpolation.from_k

    def init(self, terms, t0, t1, y0: FlowState, args: StableFlow) -> Memory:
        """Not used: `solver_state` is always passed, since the fastest mode comes from an observation."""
        raise NotImplementedError("pass solver_state=Memory(...) to diffeqsolve")

    def func(self, terms, t0, y0, args):
        """Return the drift."""
        return terms.vf(t0, y0, args)

    def order(self, terms):
        """Return 2."""
        return 2

    def step(self, terms, t0, t1, y0: FlowState, args: StableFlow, solver_state: Memory, made_jump):
        """Take one step."""
        return self._step(terms, t0, t1, y0, args, solver_state)

    @eqx.filter_jit
    def _step(self, terms: Any, t0: Any, t1: Any, y0: FlowState, args: StableFlow, solver_state: Memory) -> Any:
        """Take one step; compiled, so that it is traced once."""
        h = jnp.asarray(t1 - t0, y0.w.dtype)
        rate, u = fastest_rate(args, y0, solver_state.u)
        s = jnp.clip(jnp.ceil(jnp.sqrt(1 + SAFETY * h * rate / REACH)), 2, MOST_STAGES).astype(jnp.int32)
        f0 = terms.vf(t0, y0, args)
        w0 = 1 + DAMPING / s.astype(h.dtype) ** 2
        first = jnp.array([[w0, 1, 0], [1, 0, 0]], h.dtype)                   # T_1 and T_0
        at_s = jax.lax.fori_loop(1, s, lambda _, T: _next(T, w0), first)[0]
        w1 = at_s[1] / at_s[2]
        b2 = 4 / (4 * w0) ** 2                                                # T_2''/T_2'^2, also of T_0 and T_1

        def weight(j: Array, T: Float[Array, " 3"]) -> Float[Array, ""]:
            return jnp.where(j < 2, b2, T[2] / jnp.where(j < 2, 1, T[1]) ** 2)

        def advance(j: Array, stage: _Stage) -> _Stage:
            new = _next(stage.T, w0)
            b = weight(j, new[0]), weight(j - 1, stage.T[0]), weight(j - 2, stage.T[1])
            mu, nu, mu1 = 2 * w0 * b[0] / b[1], -b[0] / b[2], 2 * w1 * b[0] / b[1]
            gamma = -(1 - b[1] * stage.T[0, 0]) * mu1
            f = terms.vf(t0, stage.now, args)
            now = jax.tree.map(
                lambda y, a, c, f, f0: (1 - mu - nu) * y + mu * a + nu * c + h * (mu1 * f + gamma * f0),
                y0, stage.now, stage.before, f, f0,
            )  # fmt: skip
            return _Stage(now, stage.now, new)

        one = jax.tree.map(lambda y, f: y + h * b2 * w1 * f, y0, f0)
        y1 = jax.lax.fori_loop(2, s + 1, advance, _Stage(one, y0, first)).now
        f1 = terms.vf(t1, y1, args)
        error = jax.tree.map(lambda y, z, f, k: 0.8 * (y - z) + 0.4 * h * (f + k), y0, y1, f0, f1)
        k = jax.tree.map(lambda a, b: h * jnp.stack([a, b]), f0, f1)
        taken = solver_state.n_gradients + s.astype(h.dtype) + 3                # one Hessian-vector product is two
        result = dfx.RESULTS.where(taken > MOST_GRADIENTS, dfx.RESULTS.max_steps_reached, dfx.RESULTS.successful)
        return y1, error, dict(y0=y0, y1=y1, k=k), Memory(u, taken), result


def _next(T: Float[Array, "2 3"], x: Array) -> Float[Array, "2 3"]:
    """Return T_{j+1} and T_j with their first two derivatives at x from T_j and T_{j-1}."""
    a, b = T
    new = 2 * x * a - b + jnp.stack([jnp.zeros_like(x), 2 * a[0], 4 * a[1]])
    return jnp.stack([new, a])

"""The error budget: what the central flow drops, evaluated along a run next to what it keeps.

Averaging expands the gradient in the oscillation and keeps second order. Here the same averages are taken without
expansion, over the two sides of the oscillation along each eigenvector of Sigma, with the problem's own gradients and
the optimizer's own functions; the difference is what was dropped. Each term is given relative to the term kept, and
summed over time into the distance that it alone would move the weights (no term feeds back on another).

The same terms as expressions: `Derivation.remainders`. Sources: theory of the averaged gradient in arXiv 2410.24206;
the budget is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import Moments

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..linalg.exponential import phi1
from ..record.variables import DISTANCE, INTEGRATOR, OFF_THRESHOLD, PUSH, RELATIVE, TERMS, TOTAL
from .log import Log


class Budget(NamedTuple):
    """What the dropped terms have done since the start.

    `apart`: by term, how far the weights would be moved, `(n,)`; `states`: how far the slow states would be;
    `first`, `last (n,)`: how far the flow moved in its first unit of time (nan before) and in the one last looked at.
    """

    apart: dict[str, Float[Array, " n"]]
    states: dict[str, Array]
    first: Float[Array, " n"]
    last: Float[Array, " n"]


def opened(y: FlowState) -> Budget:
    """Return the budget at the start: nothing dropped yet.

    >>> sorted(opened(FlowState(jnp.ones(2), {"t": jnp.ones(())})).apart)
    ['alternating', 'finite_step', 'gradient', 'squared_gradient']
    """
    nothing, unknown = jnp.zeros_like(y.w), jnp.full_like(y.w, jnp.nan)
    states = jax.tree.map(jnp.zeros_like, slow_of(y))
    return Budget(dict.fromkeys(TERMS, nothing), states, unknown, unknown)


class _Dropped(NamedTuple):
    """Sums over the eigenvectors of Sigma."""

    even: Float[Array, " n"]  # E[grad L] - g - T[Sigma]/2
    moments: Moments
    states: dict[str, Array]  # E[rate] - rate of each slow state, or of where it is at rest
    alternating: Float[Array, " n"]  # E[step of the weights] - the step from the averages
    off_threshold: Float[Array, ""]  # largest |u'Hu / c - 1|
    push: Float[Array, " k"]  # |P^-1 T[v, v]/2| of each eigenvector v of Sigma


def evaluated(
    flow: CentralFlow, y: FlowState, log: Log, moved: Float[Array, " n"], since: Array | int, budget: Budget
) -> tuple[Budget, dict[str, Array]]:
    """Return the budget at y, `since` units of time after the last one, and what is recorded of it.

    **Arguments:**

    - `log`: of the step that ended at y; its Sigma is what is averaged over.
    - `moved`: how far the flow moved in that step, `(n,)`.

    Recorded are for each of `TERMS` its size relative to the term kept and its distance so far, the distance of their
    sum, the critical eigenvalues' largest relative deviation from the threshold, and how fast a unit of variance along
    each eigenvector of Sigma moves the weights (`budget_push`, for the closure's share). About five gradients for each
    critical eigenvalue.
    """
    opt, hp = flow.optimizer, flow.hp
    P = opt.preconditioner(y.slow, hp)                                        # () or (n,)
    g = flow.gradient(y.w)                                                    # (n,)
    speed = flow.speed(y)                                                     # ()
    dropped = what_is_dropped(flow, y, log, g)
    shift = dropped.moments.gradient_shift                                    # (n,)
    kept = what_is_kept(flow, y, g, dropped.moments)
    missing = {name: dropped.states[name] - kept[name] for name in kept}
    states = _states(flow, y, g, missing, since, budget.states)
    dP = opt.preconditioner_drift(y.slow, states | {"t": jnp.zeros_like(y.slow["t"])}, hp)  # () or (n,)
    drive = speed * (g + shift) / P                                           # (n,) -dw/dt, decay apart
    rates = {
        "gradient": -speed * dropped.even / P,
        "squared_gradient": drive * dP / P,
        "alternating": dropped.alternating,
    }
    apart = {name: budget.apart[name] + since * rate for name, rate in rates.items()}
    last = jnp.where(jnp.isnan(budget.last), moved, budget.last)
    # a leapfrog step of length one is a step of the optimizer; a unit of flow differs by half its acceleration
    halves = 0 if flow.STAGGERED else 1 / 2
    apart["finite_step"] = -halves * (moved - budget.first)
    relative = {
        "gradient": _ratio(dropped.even / jnp.sqrt(P), shift / jnp.sqrt(P)),
        "squared_gradient": jnp.max(
            jnp.stack([jnp.zeros((), g.dtype), *[_ratio(missing[name], kept[name]) for name in missing]])
        ),
        "alternating": _ratio(dropped.alternating, drive),
        "finite_step": _ratio(halves * (moved - last) / since, moved),
    }
    recorded = {RELATIVE.format(name): x for name, x in relative.items()}
    recorded |= {DISTANCE.format(name): jnp.linalg.norm(x) for name, x in apart.items()}
    recorded[TOTAL] = jnp.linalg.norm(jax.tree.reduce(jnp.add, apart))
    recorded[OFF_THRESHOLD] = dropped.off_threshold
    recorded[INTEGRATOR] = log.estimate
    recorded[PUSH] = speed * dropped.push
    return budget._replace(apart=apart, states=states, last=moved), recorded


def what_is_dropped(flow: CentralFlow, y: FlowState, log: Log, g: Float[Array, " n"]) -> _Dropped:
    """Return the averages over the two sides of the oscillation along each eigenvector of Sigma, less what is kept."""
    opt, hp = flow.optimizer, flow.hp
    P = opt.preconditioner(y.slow, hp)                                        # () or (n,)
    c = jnp.asarray(opt.threshold(y.slow, hp), g.dtype)                       # ()
    x = log.sigma_eigenvalues                                                 # (k,) falling
    delta = jnp.sqrt(jnp.maximum(x, 0)) * (log.sigma_covectors.T / P).T       # (n, k)
    rate = partial(_rates, flow, y, slow_of(y))
    here, kicked = rate(g), alternating_step(flow, y, g)

    def add(i: Array, sums: _Dropped) -> _Dropped:
        d = jax.lax.dynamic_index_in_dim(delta, i, axis=1, keepdims=False)    # (n,)
        up, down = flow.gradient(y.w + d), flow.gradient(y.w - d)             # (n,), (n,)
        kick = flow.hessian_vectors(y.w, d[:, None])[:, 0]                    # (n,)
        half = flow.problem.third_derivative(y.w, d) / 2                      # (n,)
        mean = jax.tree.map(lambda a, b, f: (a + b) / 2 - f, rate(up), rate(down), here)
        return _Dropped(
            sums.even + (up + down) / 2 - g - half,
            Moments(sums.moments.gradient_shift + half, sums.moments.gradient_variance + kick**2),
            jax.tree.map(jnp.add, sums.states, mean),
            sums.alternating + kicked(kick),
            jnp.maximum(sums.off_threshold, jnp.abs(jnp.vdot(d, kick) / x[i] / c - 1)),
            sums.push.at[i].set(jnp.linalg.norm(half / P) / x[i]),
        )

    zero = jnp.zeros_like(g)
    nothing = _Dropped(
        zero, Moments(zero, zero), jax.tree.map(jnp.zeros_like, here), zero, jnp.zeros((), g.dtype), x * jnp.nan
    )
    count = jnp.sum(x > 1e-9 * jnp.maximum(x[0], jnp.finfo(x.dtype).tiny))
    return jax.lax.fori_loop(0, count, add, nothing)


def _rates(flow: CentralFlow, y: FlowState, states: dict[str, Array], g: Float[Array, " n"]) -> dict[str, Array]:
    """Return the rates of slow states, or where those without memory are at rest."""
    opt, hp = flow.optimizer, flow.hp
    found = opt.slow_drift(y.slow | states, g, hp)
    if opt.MEMORYLESS:
        rest = opt.stationary_state(y.slow | states, g, hp)
        found = found | {name: rest[name] for name in opt.MEMORYLESS}
    return {name: found[name] for name in states}


def what_is_kept(flow: CentralFlow, y: FlowState, g: Float[Array, " n"], moments: Moments) -> dict[str, Array]:
    """Return what the flow keeps of the oscillation in the rates of the slow states."""
    opt, hp = flow.optimizer, flow.hp
    found = opt.slow_drift_moments(y.slow, g, moments, hp)
    if opt.MEMORYLESS:
        rest = opt.stationary_state_moments(y.slow, g, moments, hp)
        found = found | {name: rest[name] for name in opt.MEMORYLESS}
    return {name: found[name] for name in slow_of(y)}


def _states(
    flow: CentralFlow,
    y: FlowState,
    g: Float[Array, " n"],
    missing: dict[str, Array],
    since: Array | int,
    before: dict[str, Array],
) -> dict[str, Array]:
    """Return how far the slow states would be moved by what is missing in their rates; their memory fades."""
    fading = _own(lambda states: _rates(flow, y, states, g), slow_of(y))
    moved = {}
    for name, e in before.items():
        if name in flow.optimizer.MEMORYLESS:
            moved[name] = missing[name]
            continue
        z = -since * fading[name]
        moved[name] = jnp.exp(-z) * e + since * phi1(z) * missing[name]
    return moved


def alternating_step(flow: CentralFlow, y: FlowState, g: Float[Array, " n"]):
    """Return the function kick -> what states that alternate with the gradient add to the mean step of the weights.

    The alternating part B of a state solves B = -F_s B + F_g[kick], F its update: it is in phase with the gradient.
    Averages of the gradient are states like others, at rest where the gradient stands still; that one state feels
    another's alternation is left out.
    """
    opt, hp = flow.optimizer, flow.hp
    names, t = opt.FILTERED_STATES, {"t": y.slow["t"]}
    steady = opt.leapfrog(y.slow, hp, 1.0).steady if names else ()            # (F,)
    here = slow_of(y) | {name: steady[i] * g for i, name in enumerate(names)}

    def update(states: dict[str, Array], g: Array) -> dict[str, Array]:
        found = opt.update_state(states | t, g, hp)
        return {name: found[name] for name in states}

    own = _own(lambda states: update(states, g), here)

    def added(kick: Float[Array, " n"]) -> Float[Array, " n"]:
        _, felt = jax.jvp(lambda g: update(here, g), (g,), (kick,))
        B = jax.tree.map(lambda f, o: f / (1 + o), felt, own)

        def step(sign: int) -> Array:
            states = jax.tree.map(lambda s, b: s + sign * b, here, B)
            return opt.update_weights(jnp.zeros_like(g), states | t, g + sign * kick, hp)

        return (step(1) + step(-1)) / 2 - step(0)

    return added


def slow_of(y: FlowState) -> dict[str, Array]:
    """Return the slow states without the counter.

    >>> list(slow_of(FlowState(jnp.ones(2), {"nu": jnp.ones(()), "t": jnp.ones(())})))
    ['nu']
    """
    return {name: s for name, s in y.slow.items() if name != "t"}


def _own(fn: Callable[[dict[str, Array]], dict[str, Array]], states: dict[str, Array]) -> dict[str, Array]:
    """Return the derivative of each state's value of fn by that state, entry by entry."""

    def of(name: str) -> Array:
        s = states[name]
        return jax.jvp(lambda s: fn(states | {name: s})[name], (s,), (jnp.ones_like(s),))[1]

    return {name: of(name) for name in states}


def _ratio(a: Array, b: Array) -> Float[Array, ""]:
    """Return |a| / |b|, 0 where there is nothing."""
    size = jnp.linalg.norm(jnp.atleast_1d(b))
    return jnp.where(size > 0, jnp.linalg.norm(jnp.atleast_1d(a)) / jnp.where(size > 0, size, 1), 0)

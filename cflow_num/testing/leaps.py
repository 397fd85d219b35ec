"""What must hold of a leapfrog step with an oscillation, of its start, and of the reduced flow, by dense evaluation.

The truth is the optimizer's own step: averaged over the two points of an oscillation, run to its steady state, or fed
with a gradient that moves at a constant rate.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_sym.interface import CompiledFlow, Moments

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..flows.leapfrog import LeapfrogFlow
from ..flows.phase_space import PhaseSpace
from .phase_space import DT, Pairs, with_averages
from .witnesses import Case, Edge, N, close, local_problem

STEP = 0.37  # of a leapfrog that starts: neither 1 nor a half
LAST = 0.3  # size of the last covariance, in units of the inverse metric


def _phase(e: Edge) -> tuple[LeapfrogFlow, FlowState]:
    flow = LeapfrogFlow(e.flow.problem, e.flow.hp, e.flow.optimizer, e.flow.capacity)
    k = e.flow.optimizer.leapfrog(e.y.slow, e.flow.hp, DT)
    return flow, e.y._replace(filtered=jnp.linspace(0.5, 1.5, k.rate.size)[:, None] * jnp.asarray(e.b))


@eqx.filter_jit
def _foreseen(flow: LeapfrogFlow, y: FlowState, V: Array, X: Array, dt: Array, shift: Array, variance: Array) -> tuple:
    tangent = flow.linearize(y, V)
    d = flow.displacement(y, tangent, X, dt)
    x = X[jnp.triu_indices(len(X))] * jnp.where(jnp.eye(len(X), dtype=bool), 1, jnp.sqrt(2))[jnp.triu_indices(len(X))]
    rates = jax.tree.map(lambda f0, f1: f0 + jnp.tensordot(x, f1, axes=1), d.still, d.moved)
    dense = flow.leap(y, tangent.g, shift, Moments(shift, variance), dt)
    end, found, _ = flow.step(y, tangent, X, dt)
    return rates, dense, end, found, tangent.frame.U


@eqx.filter_jit
def _leap(flow: LeapfrogFlow, y: FlowState, g: Array, shift: Array, variance: Array, dt: Array) -> FlowState:
    return flow.leap(y, g, shift, Moments(shift, variance), dt)


def the_step_is_the_one_foreseen(e: Edge, seed: int) -> None:
    """What complementarity is asked of, with a given covariance, is the step that is taken with it, T and H dense."""
    flow, y = _phase(e)
    K, dt = flow.capacity, jnp.asarray(DT)
    factor = np.random.default_rng(seed).normal(size=(e.k, e.k))
    X = np.zeros((K, K))
    X[: e.k, : e.k] = LAST * factor @ factor.T
    nothing = jnp.zeros(N)
    U = np.asarray(_foreseen(flow, y, e.V, jnp.asarray(X), dt, nothing, nothing)[4])
    shift, variance = _dense_moments(e, U @ X @ U.T)
    rates, dense, end, found, _ = _foreseen(flow, y, e.V, jnp.asarray(X), dt, shift, variance)
    close("the weights' displacement", y.w + DT * rates.w, dense.w, 1e-8)
    for name, value in rates.slow.items():
        close(f"the displacement of {name}", y.slow[name] + DT * value, dense.slow[name], 1e-8)
    shift, variance = _dense_moments(e, U @ np.asarray(found) @ U.T)
    taken = _leap(flow, y, jnp.asarray(e.b), shift, variance, dt)
    close("the weights after a step at the edge", end.w, taken.w, 1e-7)
    assert end.filtered is not None
    assert taken.filtered is not None
    close("the averages after a step at the edge", end.filtered, taken.filtered, 1e-7)
    for name, value in end.slow.items():
        close(f"{name} after a step at the edge", value, taken.slow[name], 1e-7)


def _dense_moments(e: Edge, Sigma: np.ndarray) -> tuple[Array, Array]:
    return jnp.asarray(np.einsum("ijk,ij->k", e.T, Sigma) / 2), jnp.asarray(np.diag(e.H @ Sigma @ e.H))


# One step, by the optimizer's own


def steps_of_the_optimizer(opt: CompiledFlow, case: Case) -> None:
    """The averaged step, the start, what slow states read and the reduced flow are those of the optimizer itself."""
    for pairs in _pairs(opt, case):
        for what, (found, expected) in pairs.items():
            close(what, found, expected, 1e-8)


@eqx.filter_jit
def _pairs(opt: CompiledFlow, case: Case) -> list[Pairs]:
    small = local_problem(np.zeros(N), np.zeros(N), np.zeros((N, N)), np.zeros((N, N, N)), 0.0)
    constant = case.g - opt.l2_penalty(case.hp) * case.w  # so that the gradient at w is g
    flow = PhaseSpace(eqx.tree_at(lambda p: p.data["b"], small, constant), case.hp, opt)
    return [_averaged_step(opt, flow, case), _start(opt, flow, case), _reading(opt, flow, case), _reduced(opt, case)]


def _averaged_step(opt: CompiledFlow, flow: PhaseSpace, case: Case) -> Pairs:
    """At dt = 1 a step is the optimizer's own, fed with the averaged gradient, at the slow states that it finds."""
    before = with_averages(opt, case)
    shift = 0.3 * case.kick[::-1]
    middle = case.g + shift
    driven = opt.update_state(before, middle, case.hp)
    averages = {n: driven[n] for n in opt.FILTERED_STATES}
    k = opt.leapfrog(driven, case.hp, 1.0)
    raw = [before[name] for name in opt.FILTERED_STATES]
    own = jnp.stack([*raw, *[case.g] * (k.rate.size - len(raw))]) / k.steady[:, None]
    y = FlowState(case.w, {name: before[name] for name in opt.SLOW_STATES}, own)
    leaped = flow.leap(y, case.g, shift, Moments(0 * shift, case.kick**2), 1.0)
    assert leaped.filtered is not None
    # slow states that read averages see the shift as well, of which the published order keeps less
    own_weights = opt.update_weights(case.w, leaped.slow | averages, middle, case.hp)
    pairs: Pairs = {"the weights of the averaged step": (leaped.w, own_weights)}
    pairs["the count of the averaged step"] = leaped.slow["t"], driven["t"]
    return pairs | {
        f"{n} of the averaged step": (k.steady[i] * leaped.filtered[i], averages[n])
        for i, n in enumerate(opt.FILTERED_STATES)
    }


def _start(opt: CompiledFlow, flow: PhaseSpace, case: Case) -> Pairs:
    """With the drive held, later deviations add up to the optimizer's own; the middle of its step has its count."""
    before = with_averages(opt, case)
    g = case.g
    begun = flow.started(case.w, before, STEP)
    assert begun.filtered is not None
    pairs: Pairs = {"the count in the middle of a step": (begun.slow["t"] + STEP / 2 + 0.5, before["t"] + 1)}
    own, leap = [before], [begun]
    for _ in range(2):
        own.append(opt.update_state(own[-1], g, case.hp))
    for _ in range(2):
        leap.append(flow.leap(leap[-1], g, 0 * g, Moments(0 * g, 0 * g), STEP))
    k = opt.leapfrog(before, case.hp, STEP)
    for i, name in enumerate(opt.FILTERED_STATES):
        total = _sum_of(own[1][name] - k.steady[i] * g, own[2][name] - k.steady[i] * g)
        found = [x.filtered[i] - g for x in leap[1:]]  # type: ignore[index]
        pairs[f"the total deviation of {name}"] = STEP * _sum_of(*found) * k.steady[i], total
    return pairs


def _sum_of(first: Array, second: Array) -> Array:
    """Return the sum of a geometric sequence; 0 where it begins with 0."""
    ratio = jnp.where(first == 0, 0.0, second / jnp.where(first == 0, 1.0, first))
    return first / (1 - ratio)


def _reading(opt: CompiledFlow, flow: PhaseSpace, case: Case) -> Pairs:
    """On a gradient that moves at a constant rate slow states read what they would of the optimizer, at any step."""
    g, ramp = case.g, case.kick
    f = opt.filter_coefficients(case.slow, case.hp)
    k = opt.leapfrog(case.slow, case.hp, STEP)
    lag = jnp.stack([ramp * (1 / k.rate[i] - STEP) for i in range(k.rate.size)])  # of m_+, in the steady state
    read = flow.read(k, g, lag)
    pairs: Pairs = {}
    for i, name in enumerate(opt.FILTERED_STATES):
        value = f.a[i] / (1 - f.b[i]) * (g - f.b[i] / (1 - f.b[i]) * ramp)  # m' = b m + a g is solved by this
        check = f.b[i] * (value - f.a[i] / (1 - f.b[i]) * ramp) + f.a[i] * g
        pairs[f"the average {name} on a ramp"] = value, check
        pairs[f"{name} as slow states read it on a ramp"] = read[name], value
    return pairs


def _reduced(opt: CompiledFlow, case: Case) -> Pairs:
    """In the reduced flow averages stand at their steady values, and alternate about them with the gradient."""
    f = opt.filter_coefficients(case.slow, case.hp)
    late = case.slow | {"t": jnp.asarray(1e6)}
    k = opt.leapfrog(late, case.hp, 1.0)
    steady = {n: k.steady[i] * case.g for i, n in enumerate(opt.FILTERED_STATES)}
    ends = []
    for sign in (1.0, -1.0):
        moved = {n: steady[n] - sign * f.a[i] / (1 + f.b[i]) * case.kick for i, n in enumerate(opt.FILTERED_STATES)}
        ends.append(opt.update_state(late | moved, case.g + sign * case.kick, case.hp))
    pairs: Pairs = {}
    after = {n: (ends[0][n] + ends[1][n]) / 2 for n in opt.SLOW_STATES}
    still = opt.slow_drift(after, case.g, case.hp)
    more = opt.slow_drift_moments(after, case.g, Moments(0 * case.g, case.kick**2), case.hp)
    for n in set(opt.SLOW_STATES) - {"t"}:
        pairs[f"the reduced flow's update of {n}"] = after[n] - still[n] - more[n], late[n]
    small = local_problem(np.zeros(N), np.zeros(N), np.eye(N), np.zeros((N, N, N)), 0.0)
    reduced = CentralFlow(small, case.hp, opt, 1)
    own = opt.update_weights(case.w, late | steady, case.g, case.hp) - case.w
    pairs["the speed of the reduced flow"] = reduced.weights_drift(FlowState(case.w, late), case.g), own
    return pairs

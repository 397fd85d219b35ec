"""What must hold for every optimizer with momentum, as functions that assert it at one random state.

The leapfrog at step 1 is held against the optimizer's own step, its averages against the oscillating optimizer, the
threshold against the spectral radius of the differentiated step, and one step at the edge against dense matrices.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_sym.interface import CompiledFlow, Moments

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..flows.leapfrog import LeapfrogFlow
from ..flows.phase_space import PhaseSpace, no_moments
from .witnesses import Case, Edge, N, at_least, close, drifts_of_the_edge, local_problem, symmetry, turned

DT = 0.5
Pairs = dict[str, tuple[Any, Any]]


def with_averages(opt: CompiledFlow, case: Case) -> dict[str, Array]:
    """Return the case's states before an update, its averages drawn around their steady values."""
    k = opt.leapfrog(case.slow, case.hp, 1.0)
    drawn = {name: k.steady[i] * (case.g + (i + 1) * case.kick) for i, name in enumerate(opt.FILTERED_STATES)}
    return case.slow | drawn


def the_leapfrog_of_step_one_is_the_optimizer(opt: CompiledFlow, case: Case) -> None:
    """Without oscillation and with dt = 1 weights, averages and slow states are those of the optimizer's own step."""
    for pairs in _agreement(opt, case):
        for what, (found, expected) in pairs.items():
            close(what, found, expected, 1e-9)


@eqx.filter_jit
def _agreement(opt: CompiledFlow, case: Case) -> list[Pairs]:
    return [_step_one(opt, case), _averaged(opt, case), drifts_of_the_edge(opt, case)]


def _flow(opt: CompiledFlow, case: Case) -> PhaseSpace:
    small = local_problem(np.zeros(N), np.zeros(N), np.eye(N), np.zeros((N, N, N)), 0.0)
    return PhaseSpace(small, case.hp, opt)


def _phase(opt: CompiledFlow, case: Case, before: dict[str, Array]) -> FlowState:
    k = opt.leapfrog(before, case.hp, 1.0)
    raw = [before[name] for name in opt.FILTERED_STATES]
    own = jnp.stack([*raw, *[case.g] * (k.rate.size - len(raw))]) / k.steady[:, None]
    return FlowState(case.w, {name: before[name] for name in opt.SLOW_STATES}, own)


def _step_one(opt: CompiledFlow, case: Case) -> Pairs:
    before = with_averages(opt, case)
    after = opt.update_state(before, case.g, case.hp)
    leaped = _flow(opt, case).leap(_phase(opt, case, before), case.g, 0 * case.g, no_moments(case.g), 1.0)
    assert leaped.filtered is not None
    k = opt.leapfrog(after, case.hp, 1.0)
    pairs: Pairs = {"the weights": (leaped.w, opt.update_weights(case.w, after, case.g, case.hp))}
    pairs |= {name: (leaped.slow[name], after[name]) for name in opt.SLOW_STATES}
    return pairs | {n: (k.steady[i] * leaped.filtered[i], after[n]) for i, n in enumerate(opt.FILTERED_STATES)}


def _averaged(opt: CompiledFlow, case: Case) -> Pairs:
    """Slow states average over gradients g + kick and g - kick with the averages alternating along."""
    before = with_averages(opt, case)
    f = opt.filter_coefficients(case.slow, case.hp)
    ends = []
    for sign in (1.0, -1.0):
        moved = {n: before[n] - sign * f.a[i] / (1 + f.b[i]) * case.kick for i, n in enumerate(opt.FILTERED_STATES)}
        ends.append(opt.update_state(before | moved, case.g + sign * case.kick, case.hp))
    after = opt.update_state(before, case.g, case.hp)
    read = {name: after[name] for name in opt.FILTERED_STATES}
    middle = case.slow | {"t": after["t"]} | read
    still = opt.leap_slow(middle, case.g, case.hp, 1.0)
    moved = opt.leap_slow_moments(middle, case.g, Moments(0 * case.g, case.kick**2), case.hp, 1.0)
    return {f"the average of {n}": (case.slow[n] + still[n] + moved[n], (ends[0][n] + ends[1][n]) / 2) for n in still}


def threshold_is_where_the_spectral_radius_passes_one(opt: CompiledFlow, case: Case) -> None:
    """The optimizer's own step on quadratics, differentiated in weights and averages, slow states frozen."""
    stated, found = _bisected(opt, case)
    close("the threshold", stated, found, 1e-6)


@eqx.filter_jit
def _bisected(opt: CompiledFlow, case: Case) -> tuple[Array, Array]:
    P = jnp.broadcast_to(opt.preconditioner(case.slow, case.hp), case.w.shape)
    names, slow = opt.FILTERED_STATES, dict(case.slow)

    def radius(h: Array) -> Array:
        def step(x: Array) -> Array:  # (1 + filters,): one weight, its averages
            w, averages = case.w.at[0].set(x[0]), {n: jnp.zeros(N).at[0].set(x[i + 1]) for i, n in enumerate(names)}
            g = h * P * w
            new = opt.update_state(slow | averages, g, case.hp)
            after = opt.update_weights(w, slow | {n: new[n] for n in names}, g, case.hp)
            return jnp.stack([after[0], *(new[n][0] for n in names)])

        return jnp.max(jnp.abs(jnp.linalg.eigvals(jax.jacobian(step)(jnp.ones(1 + len(names))))))

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.sqrt(low * high)
        up = radius(middle) > 1
        return jnp.where(up, low, middle), jnp.where(up, middle, high)

    found, _ = jax.lax.fori_loop(0, 60, halve, (jnp.asarray(1e-3), jnp.asarray(1e5)))
    return jnp.asarray(opt.threshold(case.slow, case.hp)), found


# One step of the central flow at the edge


def _state(e: Edge) -> tuple[LeapfrogFlow, FlowState]:
    """Return the flow in phase space and the edge's state with averages off their steady values."""
    flow = LeapfrogFlow(e.flow.problem, e.flow.hp, e.flow.optimizer, e.flow.capacity)
    k = e.flow.optimizer.leapfrog(e.y.slow, e.flow.hp, DT)
    ratio = jnp.linspace(0.5, 1.5, k.rate.size)[:, None]
    return flow, e.y._replace(filtered=ratio * jnp.asarray(e.b))


@eqx.filter_jit
def _stepped(flow: LeapfrogFlow, y: FlowState, V: Array) -> tuple:
    tangent = flow.linearize(y, V)
    X0 = jnp.zeros((flow.capacity, flow.capacity))
    d = flow.displacement(y, tangent, X0, jnp.asarray(DT))
    nothing = jax.tree.map(jnp.zeros_like, y._replace(filtered=None))
    rates, X, info = CentralFlow.equilibrium(flow, d, nothing, jnp.asarray(DT), X0)
    return flow.step(y, tangent, X0, jnp.asarray(DT))[0], rates, X, info, tangent.frame.pairs.U, d.slack


@eqx.filter_jit
def _small_step(flow: LeapfrogFlow, y: FlowState, V: Array, b: Array, dt: Array) -> tuple:
    after, X, _ = flow.step(y, flow.linearize(y, V), jnp.zeros((flow.capacity, flow.capacity)), dt)
    return after, X, flow.leap(y, b, 0 * b, no_moments(b), dt), flow.stable_drift(y)


def complementarity_holds_after_a_step(e: Edge) -> None:
    """X >= 0, A >= 0 and <X, A> = 0 at the end of the step, with A's change from dense T and differentiated c P."""
    flow, y = _state(e)
    _, rates, X, info, U, slack = _stepped(flow, y, e.V)
    opt, hp, k = flow.optimizer, flow.hp, e.k
    U, X, A0 = np.asarray(U[:, :k]), np.asarray(X)[:k, :k], np.diag(np.asarray(slack)[:k])
    edge = lambda s: jnp.broadcast_to(opt.threshold(s, hp) * opt.preconditioner(s, hp), (N,))  # noqa: E731
    edge_dot = np.asarray(jax.jvp(edge, (y.slow,), (rates.slow,))[1])
    A = A0 + DT * U.T @ (np.diag(edge_dot) - np.einsum("ijk,k->ij", e.T, np.asarray(rates.w))) @ U
    scale = float(np.abs(A).max() + np.linalg.norm(X) * np.linalg.norm(e.T) + e.c)
    at_least("the smallest eigenvalue of X", np.linalg.eigvalsh(X)[0], -1e-12 * np.abs(X).max())
    at_least("the smallest eigenvalue of A", np.linalg.eigvalsh(A)[0], -1e-7 * scale)
    at_least("minus |<X, A>|", -abs(float(np.trace(X @ A))), -1e-7 * (float(np.linalg.norm(X)) + 1e-12) * scale)
    at_least("minus the solver's residual", -float(info.residual), -1e-8)


def below_the_edge_a_step_has_no_oscillation(e: Edge) -> None:
    """Below the threshold X = 0 and a step is the leapfrog with the gradient itself, whose limit is the stable flow."""
    flow, y = _state(e)
    small = 1e-6
    after, X, alone, stable = _small_step(flow, y, e.V, jnp.asarray(e.b), jnp.asarray(small))
    close("X", X, jnp.zeros_like(X))
    close("the weights", after.w, alone.w)
    close("dw/dt", (after.w - y.w) / small, stable.w, 1e-3)
    for name in set(flow.optimizer.SLOW_STATES) - {"t"}:
        close(f"d{name}/dt", (after.slow[name] - y.slow[name]) / small, stable.slow[name], 1e-3)


def symmetries_of_a_step(e: Edge, seed: int) -> None:
    """A step in turned coordinates is the turned step."""
    R = symmetry(e.flow.optimizer, np.random.default_rng(seed))
    there, z = turned(e, R)
    slow = {n: jnp.asarray(np.abs(R) @ np.asarray(s)) if s.shape == (N,) else s for n, s in e.y.slow.items()}
    flow, y = _state(e)
    turned_flow, turned_y = _state(e._replace(flow=there, y=z._replace(slow=slow), b=R @ e.b))
    after, _, X, *_ = _stepped(flow, y, e.V)
    after_there, _, X_there, *_ = _stepped(turned_flow, turned_y, jnp.asarray(R) @ e.V)
    close("the weights", after_there.w, R @ after.w, 1e-6)
    close("tr X", jnp.trace(X_there), jnp.trace(X), 1e-6)
    assert after.filtered is not None
    assert after_there.filtered is not None
    close("the averages", after_there.filtered, after.filtered @ R.T, 1e-6)

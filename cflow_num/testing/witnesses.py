"""What must hold for every optimizer at every state, as functions that assert it at one random state.

The generated functions are held against automatic differentiation of the optimizer's own step, and the central flow
against a dense evaluation of its conditions on a cubic loss whose Hessian and third derivative are chosen, so that
any number of eigenvalues sits at the threshold. `battery.py` searches for states at which they fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cflow_sym.interface import CompiledFlow, Moments

from ..flows.base import FlowState
from ..flows.central import CentralFlow
from ..linalg.eigenpairs import block_size
from ..loss.problem import Problem
from ..optimizer.hyperparameters import as_arrays

N = 6  # weights, in two blocks of 4 and 2
BLOCKS = (4, 2)
CAPACITY = 3


class Case(NamedTuple):
    """A random state of an optimizer: slow states with rates, gradient, weights, a kick, hyperparameters."""

    slow: dict[str, Array]
    slow_dot: dict[str, Array]
    g: Float[Array, " n"]
    w: Float[Array, " n"]
    kick: Float[Array, " n"]
    hp: dict[str, Any]


class Edge(NamedTuple):
    """A flow at a state with k critical eigenvalues: gradient b, Hessian H, third derivative T (with any penalty)."""

    flow: CentralFlow
    y: FlowState
    V: Array
    b: np.ndarray
    H: np.ndarray
    T: np.ndarray
    P: np.ndarray
    c: float
    k: int


# Random states


def hyperparameter_functions(opt: CompiledFlow, values: Mapping[str, float]) -> dict[str, Any]:
    """Return values by name; those that may depend on time rise slowly from theirs."""
    return {
        h.name: Rising(jnp.asarray(values[h.name])) if h.schedulable else values[h.name] for h in opt.HYPERPARAMETERS
    }


class Rising(eqx.Module):
    """A schedule that rises slowly by a tenth."""

    start: Array

    def __call__(self, count: Array) -> Array:
        """Return the value after so many steps."""
        return self.start * (1 + 0.1 * jnp.tanh(count / 20))


def draw_slow(opt: CompiledFlow, rng: np.random.Generator) -> dict[str, Array]:
    """Return positive slow states, each of its kind's shape, and a count."""
    shapes = {"scalar": (), "elementwise": (N,), "blockwise": (len(BLOCKS),)}
    return {
        name: jnp.asarray(float(rng.integers(2, 50)))
        if kind == "counter"
        else jnp.asarray(np.exp(rng.normal(size=shapes[kind]) * 0.7))
        for name, kind in opt.SLOW_STATES.items()
    }


def local_problem(w0: np.ndarray, b: np.ndarray, H: np.ndarray, T: np.ndarray, rho: float) -> Problem:
    """Return the cubic loss with these derivatives at w0 once the penalty rho/2 |w|^2 is added."""
    data = {"w0": w0, "b": b - rho * w0, "H": H - rho * np.eye(N), "T": T}
    data = {key: jnp.asarray(x, jnp.result_type(float)) for key, x in data.items()}
    return eqx.tree_at(lambda p: (p.w0, p.data), _template(data["w0"].dtype), (data["w0"], data))


@lru_cache
def _template(dtype: Any) -> Problem:
    params = {"first": jnp.zeros(BLOCKS[0], dtype), "second": jnp.zeros(BLOCKS[1], dtype)}
    data = {"w0": jnp.zeros(N), "b": jnp.zeros(N), "H": jnp.zeros((N, N)), "T": jnp.zeros((N, N, N))}
    return Problem(_cubic, params, data=data)


def _cubic(params: dict[str, Array], d: dict[str, Array]) -> Array:
    x = jnp.concatenate([params["first"], params["second"]]) - d["w0"]
    return d["b"] @ x + x @ d["H"] @ x / 2 + jnp.einsum("ijk,i,j,k", d["T"], x, x, x) / 6


def random_case(opt: CompiledFlow, seed: int, values: Mapping[str, float]) -> Case:
    """Return a random state at which generated functions can be evaluated, with these hyperparameters."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=N)
    hp = as_arrays(opt, hyperparameter_functions(opt, values), local_problem(w, w, np.eye(N), np.zeros((N, N, N)), 0.0))
    slow, slow_dot = draw_slow(opt, rng), draw_slow(opt, rng)
    g, kick = rng.normal(size=(2, N))
    return Case(slow, slow_dot | {"t": jnp.asarray(1.0)}, jnp.asarray(g), jnp.asarray(w), jnp.asarray(kick), hp)


def edge_state(
    opt: CompiledFlow, seed: int, k: int, at: float, values: Mapping[str, float], schedules: bool = True
) -> Edge:
    """Return a state at which k effective eigenvalues are `at` times the threshold and the others lie below."""
    rng = np.random.default_rng(seed)
    w0 = rng.normal(size=N)
    hp = as_arrays(
        opt,
        hyperparameter_functions(opt, values) if schedules else dict(values),
        local_problem(w0, w0, np.eye(N), np.zeros((N, N, N)), 0.0),
    )
    rho = float(opt.l2_penalty(hp))
    slow = draw_slow(opt, rng)
    P, c = np.broadcast_to(opt.preconditioner(slow, hp), (N,)), float(opt.threshold(slow, hp))
    lam = np.concatenate([np.full(k, at * c), rng.uniform(-0.25 * c, 0.4 * at * c, N - k)])
    Q, root = np.linalg.qr(rng.normal(size=(N, N)))[0], np.sqrt(P)
    T = rng.normal(size=(N, N, N))
    T = sum(np.transpose(T, p) for p in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]) / 6
    T = T * P.mean()
    b, H = rng.normal(size=N), root[:, None] * (Q * lam) @ Q.T * root
    flow = CentralFlow(local_problem(w0, b, H, T, rho), hp, opt, CAPACITY, at_rest=opt.MEMORYLESS)
    V = jnp.asarray(Q[:, : block_size(CAPACITY, N)] / root[:, None])
    return Edge(flow, FlowState(jnp.asarray(w0), slow), V, b, H, T, P, c, k)


@eqx.filter_jit
def _solve(flow: CentralFlow, y: FlowState, V: Array, weight: Array, relief: Array) -> tuple:
    tangent = flow.linearize(y, V)
    offset = jax.tree.map(jnp.zeros_like, y)
    rates, X, info = flow.equilibrium(tangent, offset, weight, jnp.zeros((CAPACITY, CAPACITY)), relief)
    return rates, X, info, tangent.frame.pairs.U[:, :CAPACITY]


def solve(flow: CentralFlow, y: FlowState, V: Array, weight: float = 1.0, relief: float = np.inf) -> tuple:
    """Return rates, X, the solver's report and U at a state."""
    return _solve(flow, y, V, jnp.asarray(weight), jnp.asarray(relief))


def turned(e: Edge, R: np.ndarray) -> tuple[CentralFlow, FlowState]:
    """Return the same flow and state in the coordinates R w (elementwise states are left to the caller)."""
    T = np.einsum("ai,bj,ck,ijk", R, R, R, e.T)
    rho = float(e.flow.optimizer.l2_penalty(e.flow.hp))
    there = eqx.tree_at(
        lambda f: f.problem, e.flow, local_problem(R @ np.asarray(e.y.w), R @ e.b, R @ e.H @ R.T, T, rho)
    )
    return there, FlowState(jnp.asarray(R @ np.asarray(e.y.w)), e.y.slow)


# Generated functions against automatic differentiation of the step: pairs (found, expected) by what they are

Pairs = dict[str, tuple[Any, Any]]


def slope_of_the_step(opt: CompiledFlow, case: Case) -> Pairs:
    """P = -1 / (dw'/dg), the same at every gradient."""
    jacobian = jax.jacobian(lambda g: opt.update_weights(case.w, case.slow, g, case.hp))(case.g)
    inverse = jnp.broadcast_to(1 / opt.preconditioner(case.slow, case.hp), case.g.shape)
    return {"the slope of the step": (-jnp.diag(inverse), jacobian)}


def drifts_of_the_edge(opt: CompiledFlow, case: Case) -> Pairs:
    """`preconditioner_drift` and `threshold_drift` are derivatives of P and c along the rates of the states."""
    _, dP = jax.jvp(lambda s: opt.preconditioner(s, case.hp), (case.slow,), (case.slow_dot,))
    _, dc = jax.jvp(lambda s: jnp.asarray(opt.threshold(s, case.hp)), (case.slow,), (case.slow_dot,))
    return {
        "dP/dt": (opt.preconditioner_drift(case.slow, case.slow_dot, case.hp), dP),
        "dc/dt": (opt.threshold_drift(case.slow, case.slow_dot, case.hp), dc),
    }


def implicit_update(opt: CompiledFlow, case: Case) -> Pairs:
    """Implicit Euler of the slow drift with step 1 is the optimizer's update of its states."""
    after = opt.update_state(case.slow, case.g, case.hp)
    drift = opt.slow_drift(after, case.g, case.hp)
    own = [name for name in after if name not in opt.MEMORYLESS]
    return {f"the update of {name}": (after[name] - drift[name], case.slow[name]) for name in own}


def second_derivative(opt: CompiledFlow, case: Case) -> Pairs:
    """What an oscillation adds to the slow drift is half its second derivative by the gradient, and linear."""
    drift = lambda x: opt.slow_drift(case.slow, case.g + x * case.kick, case.hp)  # noqa: E731
    one, zero, still = jnp.asarray(1.0), jnp.asarray(0.0), jnp.zeros_like(case.g)
    _, expected = jax.jvp(lambda x: jax.jvp(drift, (x,), (one,))[1], (zero,), (one,))
    once, thrice = (
        opt.slow_drift_moments(case.slow, case.g, Moments(still, x * case.kick**2), case.hp) for x in (1.0, 3.0)
    )
    averaged = opt.averaged_squared_gradient(case.g, Moments(still, case.kick**2))
    pairs: Pairs = {f"the oscillation's part of d{n}/dt": (once[n], expected[n] / 2) for n in once}
    pairs |= {f"three times the oscillation's part of d{n}/dt": (thrice[n], 3 * once[n]) for n in once}
    return pairs | {"the averaged squared gradient": (averaged, case.g**2 + case.kick**2)}


def rest(opt: CompiledFlow, case: Case) -> Pairs:
    """The slow drift vanishes at the value at rest, with and without oscillation."""
    pairs: Pairs = {}
    for strength in (0.0, 1.0):
        moments = Moments(strength * case.g, strength * case.kick**2)
        quiet = opt.stationary_state(case.slow, case.g, case.hp)
        more = opt.stationary_state_moments(case.slow, case.g, moments, case.hp)
        settled = case.slow | {n: quiet[n] + more[n] for n in quiet}
        still = opt.slow_drift(settled, case.g, case.hp)
        moved = opt.slow_drift_moments(settled, case.g, moments, case.hp)
        for name in quiet:
            what = f"{name} at rest, oscillation {strength:g}"
            if name in opt.MEMORYLESS:  # there at once: the update itself is the value at rest
                pairs[what] = quiet[name], opt.update_state(case.slow, case.g, case.hp)[name]
            else:
                pairs[what] = settled[name] + still[name] + moved[name], settled[name]
    return pairs


def balanced_edge(opt: CompiledFlow, case: Case) -> Pairs:
    """The closed form of the variance keeps d/dt (c P - S) = 0, P differentiated automatically."""
    if jnp.ndim(opt.preconditioner(case.slow, case.hp)) or opt.MEMORYLESS:
        return {}
    slow, hp, g, grad_S = case.slow, case.hp, case.g, case.kick
    S = opt.threshold(slow, hp) * opt.preconditioner(slow, hp)  # at the edge
    u = jnp.eye(g.size)[0]
    decay = opt.filter_coefficients(slow, hp).decay

    def rate(sigma_squared: Array) -> Array:
        moments = Moments(sigma_squared * grad_S / 2, sigma_squared * S**2 * u**2)
        still, moved = opt.slow_drift(slow, g, hp), opt.slow_drift_moments(slow, g, moments, hp)
        slow_dot = jax.tree.map(jnp.add, still, moved)
        _, edge_dot = jax.jvp(lambda s: opt.threshold(s, hp) * opt.preconditioner(s, hp), (slow,), (slow_dot,))
        w_dot = -(g + moments.gradient_shift) / opt.preconditioner(slow, hp) - decay * case.w
        return edge_dot - jnp.vdot(grad_S, w_dot)

    at_zero, at_one = rate(jnp.asarray(0.0)), rate(jnp.asarray(1.0))  # the rate is affine in the variance
    stated = opt.sigma_squared(S, g @ grad_S, g @ g, grad_S @ grad_S, hp, slow["t"], case.w @ grad_S)
    return {"the variance": (stated, -at_zero / (at_one - at_zero))}


AUTODIFF = (slope_of_the_step, drifts_of_the_edge, implicit_update, second_derivative, rest, balanced_edge)


@eqx.filter_jit
def _autodiff(opt: CompiledFlow, case: Case) -> list[Pairs]:
    return [witness(opt, case) for witness in AUTODIFF]


def agrees_with_automatic_differentiation(opt: CompiledFlow, case: Case) -> None:
    """Assert that every generated function is what automatic differentiation of the step makes of it."""
    for pairs in _autodiff(opt, case):
        for what, (found, expected) in pairs.items():
            close(what, found, expected, 1e-9)


# The threshold, by running the optimizer


def threshold_is_where_the_optimizer_starts_to_grow(opt: CompiledFlow, case: Case) -> None:
    """On a quadratic with curvature h P the weights shrink for h < c and grow for h > c (bisection)."""
    stated, found = _bisected(opt, case)
    close("the threshold", stated, found, 1e-6)


@eqx.filter_jit
def _bisected(opt: CompiledFlow, case: Case) -> tuple[Array, Array]:
    P = jnp.broadcast_to(opt.preconditioner(case.slow, case.hp), case.w.shape)

    def grows(h: Array) -> Array:
        def step(w: Array, _: None) -> tuple[Array, None]:
            return opt.update_weights(w, case.slow, h * P * w, case.hp), None

        w, _ = jax.lax.scan(step, jnp.ones_like(case.w), None, length=60)
        return jnp.linalg.norm(w) > jnp.sqrt(1.0 * case.w.size)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        up = grows(middle)
        return jnp.where(up, low, middle), jnp.where(up, middle, high)

    # from h = 1, where a step without decay ends at the minimum
    found, _ = jax.lax.fori_loop(0, 40, halve, (jnp.asarray(1.0), jnp.asarray(50.0)))
    return jnp.asarray(opt.threshold(case.slow, case.hp)), found


# The central flow at the edge


def complementarity_holds(e: Edge) -> None:
    """X >= 0, A + dA >= 0 and <X, A + dA> = 0, with dA from dense H, T and automatic differentiation of c P."""
    rates, X, info, U = solve(e.flow, e.y, e.V)
    opt, hp, w, k = e.flow.optimizer, e.flow.hp, np.asarray(e.y.w), e.k
    U, X = np.asarray(U[:, :k]), np.asarray(X)[:k, :k]
    Sigma = U @ X @ U.T
    decay = float(opt.filter_coefficients(e.y.slow, hp).decay)
    moments = Moments(jnp.asarray(np.einsum("ijk,ij->k", e.T, Sigma) / 2), jnp.asarray(np.diag(e.H @ Sigma @ e.H)))
    close("dw/dt", rates.w, -(e.b + moments.gradient_shift) / e.P - decay * w, 1e-7)
    b = jnp.asarray(e.b)
    if opt.MEMORYLESS:
        quiet = opt.stationary_state(e.y.slow, b, hp)
        more = opt.stationary_state_moments(e.y.slow, b, moments, hp)
        expected = {n: quiet[n] + more[n] - e.y.slow[n] for n in opt.MEMORYLESS}
    else:
        still, moved = opt.slow_drift(e.y.slow, b, hp), opt.slow_drift_moments(e.y.slow, b, moments, hp)
        expected = {n: still[n] + moved[n] for n in still}
    for name, value in expected.items():
        close(f"d{name}/dt", rates.slow[name], value, 1e-6)
    edge = lambda s: jnp.broadcast_to(opt.threshold(s, hp) * opt.preconditioner(s, hp), (N,))  # noqa: E731
    edge_dot = np.asarray(jax.jvp(edge, (e.y.slow,), (rates.slow,))[1])
    dA = U.T @ (np.diag(edge_dot) - np.einsum("ijk,k->ij", e.T, np.asarray(rates.w))) @ U
    still_part = U.T @ np.einsum("ijk,k->ij", e.T, e.b / e.P + decay * w) @ U  # what the oscillation balances
    scale = float(np.linalg.norm(dA) + np.linalg.norm(still_part) + e.c)
    at_least("the smallest eigenvalue of X", np.linalg.eigvalsh(X)[0], -1e-12 * np.abs(X).max())
    at_least("the smallest eigenvalue of dA/dt", np.linalg.eigvalsh(dA)[0], -1e-7 * scale)
    product = abs(float(np.trace(X @ dA)))
    at_least("minus |<X, dA/dt>|", -product, -1e-7 * (float(np.linalg.norm(X)) + 1e-12) * scale)
    at_least("minus the solver's residual", -float(info.residual), -1e-8)


def below_the_edge_the_flow_is_the_stable_flow(e: Edge) -> None:
    """Below the threshold X = 0 and every rate is the stable flow's."""
    rates, X, *_ = solve(e.flow, e.y, e.V, weight=1e-4)
    close("X", X, jnp.zeros_like(X))
    stable = e.flow.stable_drift(e.y)
    close("dw/dt", rates.w, e.flow.weights_drift(e.y, jnp.asarray(e.b)))
    for name in set(stable.slow) - set(e.flow.optimizer.MEMORYLESS):
        close(f"d{name}/dt", rates.slow[name], stable.slow[name])


def symmetry(opt: CompiledFlow, rng: np.random.Generator) -> np.ndarray:
    """Return a random transformation of the weights that the optimizer must not see.

    Rotations for scalar states; permutations (inside a block for blockwise states) with changes of sign otherwise.
    """
    kinds = set(opt.SLOW_STATES.values())
    if kinds <= {"scalar", "counter"}:
        return np.linalg.qr(rng.normal(size=(N, N)))[0]
    blocks = [list(range(BLOCKS[0])), list(range(BLOCKS[0], N))] if "blockwise" in kinds else [list(range(N))]
    order = np.concatenate([rng.permutation(block) for block in blocks])
    return np.eye(N)[order] * rng.choice([-1.0, 1.0], size=N)


def symmetries_are_kept(e: Edge, seed: int) -> None:
    """Rates in turned coordinates are the turned rates."""
    opt = e.flow.optimizer
    R = symmetry(opt, np.random.default_rng(seed))
    there, y = turned(e, R)

    def carried(slow: dict[str, Array]) -> dict[str, Array]:
        return {n: jnp.asarray(np.abs(R) @ np.asarray(s)) if s.shape == (N,) else s for n, s in slow.items()}

    rates, X, *_ = solve(e.flow, e.y, e.V)
    rates_there, X_there, *_ = solve(there, y._replace(slow=carried(e.y.slow)), jnp.asarray(R) @ e.V)
    close("dw/dt", rates_there.w, R @ rates.w, 1e-6)
    close("tr X", jnp.trace(X_there), jnp.trace(X), 1e-6)
    for name, value in carried(rates.slow).items():
        close(f"d{name}/dt", rates_there.slow[name], value, 1e-5)


def close(what: str, found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Raise `AssertionError` unless they agree to `tolerance`, relative to the largest expected entry.

    `what` names the quantity.
    """
    found, expected = (np.asarray(x, float) for x in (found, expected))
    error = float(np.max(np.abs(found - expected), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0)) + 1e-3
    if not error <= tolerance * scale:  # no assert: `python -O` must not pass everything
        raise AssertionError(f"{what} is {_shown(found)}, expected {_shown(expected)}")


def at_least(what: str, found: float, least: float) -> None:
    """Raise `AssertionError` below a lower bound (`what` names the quantity)."""
    if not found >= least:
        raise AssertionError(f"{what} is {found:.3g}, it must be at least {least:.3g}")


def _shown(x: np.ndarray) -> str:
    return np.array2string(x, precision=6, threshold=8).replace("\n", "")

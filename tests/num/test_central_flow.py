"""The central flow at single states: complementarity, symmetries, closed forms, and what published codes got wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_num.flows.central import CentralFlow
from cflow_num.testing import witnesses
from cflow_num.testing.witnesses import Edge, N, local_problem, solve
from cflow_sym.generated import load

OPTIMIZERS = {
    "gradient_descent": (),
    "scalar_rmsprop": (),
    "scalar_rmsprop bias": ("bias_correction",),
    "adagrad_norm": (),
    "rmsprop": ("bias_correction",),
    "adagrad": ("eps_in_sqrt",),
    "blockwise_rmsprop": (),
}
SCALAR = [name for name in OPTIMIZERS if name.split()[0] not in ("rmsprop", "adagrad", "blockwise_rmsprop")]
SEEDS = st.integers(0, 100_000)


def edge_state(seed: int, k: int, name: str, at: float = 1.0) -> Edge:
    """Return a flow and a state at which k effective eigenvalues are `at` times the threshold, others lie below."""
    rng = np.random.default_rng(seed)
    optimizer = load(name.split()[0], OPTIMIZERS[name])
    values = {
        "learning_rate": np.exp(rng.normal()),
        "beta2": rng.uniform(0.5, 0.999),
        "epsilon": rng.choice([0.0, 0.1]),
        "weight_decay": rng.uniform(0.0, 0.1),
        "l2": rng.uniform(0.0, 0.1),
        "initial_accumulator": 0.0,
    }
    hp = {h.name: values[h.name] for h in optimizer.HYPERPARAMETERS}
    return witnesses.edge_state(optimizer, seed, k, at, hp, schedules=False)


@pytest.mark.parametrize("name", SCALAR)
@given(seed=SEEDS)
def test_one_critical_eigenvalue_gives_the_closed_form(name, seed):
    e = edge_state(seed, 1, name)
    _, X, info, U = solve(e.flow, e.y, e.V)
    u = U[:, 0] / jnp.linalg.norm(U[:, 0])
    S, grad_S = u @ e.H @ u, jnp.einsum("ijk,i,j", e.T, u, u)
    further = e.y.slow["t"], e.y.w @ grad_S
    sigma = e.flow.optimizer.sigma_squared(S, e.b @ grad_S, e.b @ e.b, grad_S @ grad_S, e.flow.hp, *further)
    assert float(X[0, 0]) / e.P[0] == pytest.approx(max(float(sigma), 0.0), rel=1e-7, abs=1e-12)
    assert float(info.residual) < 1e-8


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=40)
@given(seed=SEEDS, k=st.integers(1, 3))
def test_complementarity_against_a_dense_evaluation(name, seed, k):
    """A wrong weight of off-diagonals would show; the averaged squared gradient needs H U, not U."""
    e = edge_state(seed, k, name)
    witnesses.complementarity_holds(e)
    if "nu" not in e.y.slow:
        return
    opt, hp = e.flow.optimizer, e.flow.hp
    rates, X, _, U = solve(e.flow, e.y, e.V)
    U, X = np.asarray(U[:, :k]), np.asarray(X)[:k, :k]
    squared = e.b**2 + np.diag(e.H @ U @ X @ U.T @ e.H)
    total = {
        "scalar": np.sum,
        "elementwise": np.asarray,
        "blockwise": hp["blocks"].total if "blocks" in hp else None,
    }
    averaged = total[opt.SLOW_STATES["nu"]](jnp.asarray(squared))
    kappa = (1 - hp["beta2"]) / hp["beta2"] if "beta2" in hp else 1.0
    forgotten = e.y.slow["nu"] if "beta2" in hp else 0.0
    np.testing.assert_allclose(rates.slow["nu"], kappa * (averaged - forgotten), rtol=1e-7, atol=1e-9)


@settings(max_examples=60)
@given(seed=SEEDS, k=st.integers(1, 3))
def test_the_loss_never_rises_along_gradient_descents_central_flow(seed, k):
    e = edge_state(seed, k, "gradient_descent")
    flow = eqx.tree_at(lambda f: f.hp["weight_decay"], e.flow, jnp.asarray(0.0))
    H = e.H * (2 / e.c)  # without decay the edge is at 2 P
    flow = eqx.tree_at(lambda f: f.problem, flow, local_problem(np.asarray(e.y.w), e.b, H, e.T, 0.0))
    rates, *_ = solve(flow, e.y, e.V)
    slope, speed = float(e.b @ rates.w), float(rates.w @ rates.w)
    assert slope <= 0
    assert slope == pytest.approx(-e.P[0] * speed, rel=1e-6, abs=1e-7 * e.P[0] * speed + 1e-12)


@settings(max_examples=30)
@given(seed=SEEDS, k=st.integers(1, 3), a=st.floats(0.01, 100.0))
def test_scaling_law_of_gradient_descent(seed, k, a):
    """(eta, L, gamma) -> (eta/a, a L, a gamma) leaves the path of the weights alone."""
    e = edge_state(seed, k, "gradient_descent")
    scaled = local_problem(np.asarray(e.y.w), a * e.b, a * e.H, a * e.T, 0.0)
    hp = {"learning_rate": e.flow.hp["learning_rate"] / a, "weight_decay": e.flow.hp["weight_decay"] * a}
    there = CentralFlow(scaled, hp, e.flow.optimizer, 3)
    rates, *_ = solve(e.flow, e.y, e.V)
    rates_there, *_ = solve(there, e.y, e.V)
    step = np.abs(e.b / e.P).max()  # the oscillation may balance all of it
    np.testing.assert_allclose(rates_there.w, rates.w, rtol=1e-6, atol=1e-6 * step)


@pytest.mark.parametrize("name", ["scalar_rmsprop", "rmsprop", "adagrad"])
def test_the_ablated_flow_keeps_the_edge_without_reducing_sharpness(name):
    e = edge_state(11, 1, name)
    ablated = CentralFlow(e.flow.problem, e.flow.hp, e.flow.optimizer, 3, sharpness_reduction=False)
    rates, X, _, U = solve(ablated, e.y, e.V)
    opt, hp, w = e.flow.optimizer, e.flow.hp, np.asarray(e.y.w)
    decay = float(opt.filter_coefficients(e.y.slow, hp).decay)
    np.testing.assert_allclose(rates.w, -e.b / e.P - decay * w, rtol=1e-12)
    edge = lambda s: jnp.broadcast_to(opt.threshold(s, hp) * opt.preconditioner(s, hp), (N,))  # noqa: E731
    edge_dot, u = np.asarray(jax.jvp(edge, (e.y.slow,), (rates.slow,))[1]), np.asarray(U[:, 0])
    slack = u @ (edge_dot * u) - np.einsum("ijk,i,j,k", e.T, u, u, np.asarray(rates.w))
    assert slack >= -1e-6 * np.abs(edge_dot).max()
    assert abs(slack) * float(X[0, 0]) <= 1e-6


@settings(max_examples=30)
@given(seed=SEEDS)
def test_without_memory_the_state_is_where_the_averaged_gradient_puts_it(seed):
    """Normalized gradient descent: X keeps the displaced state at the edge, in closed form for one direction."""
    e = edge_state(seed, 1, "scalar_rmsprop")
    opt = load("normalized_gradient_descent")
    hp = {"learning_rate": jnp.asarray(0.5), "epsilon": jnp.asarray(0.0), "weight_decay": jnp.asarray(0.0)}
    H, S = e.H / e.H.max(), float(np.linalg.eigvalsh(e.H / e.H.max())[-1])
    b = e.b / np.linalg.norm(e.b) * 0.1 * S  # sigma^2 = eta^2/4 - |g|^2/S^2 > 0
    problem = local_problem(np.asarray(e.y.w), b, H, 0 * e.T, 0.0)
    flow = CentralFlow(problem, hp | {"l2": jnp.asarray(0.0)}, opt, 3, True, opt.MEMORYLESS)
    slow = {"nu": jnp.asarray((0.5 * S / 2) ** 2), "t": jnp.asarray(3.0)}  # at the edge: sqrt(nu)/eta = S/2
    rates, X, _, U = solve(flow, e.y._replace(slow=slow), e.V, weight=0.25)
    sigma_squared = float(X[0, 0]) * float(U[:, 0] @ U[:, 0])
    assert sigma_squared == pytest.approx(0.25 / 4 - 0.01, rel=1e-6)
    displaced = float(slow["nu"] + 0.25 * rates.slow["nu"])
    assert displaced == pytest.approx(b @ b + sigma_squared * S**2, rel=1e-6)


def test_an_infeasible_state_is_corrected_at_a_bounded_rate():
    e = edge_state(4, 1, "gradient_descent", at=1.5)
    flat = local_problem(np.asarray(e.y.w), 0 * e.b, e.H, e.T, 0.0)  # nothing but the excess drives the oscillation
    flow = eqx.tree_at(lambda f: (f.problem, f.hp["weight_decay"]), e.flow, (flat, jnp.asarray(0.0)))
    hard, soft = (solve(flow, e.y, e.V, weight=0.1, relief=relief)[1] for relief in (np.inf, 0.02))
    assert 0 < float(jnp.trace(soft)) < 0.5 * float(jnp.trace(hard))


def test_an_unknown_slack_is_no_solution():
    """nan makes every direction look inactive; the residual must tell."""
    e = edge_state(4, 1, "scalar_rmsprop")
    slow = e.y.slow | {"nu": jnp.asarray(jnp.nan)}
    *_, info, _ = solve(e.flow, e.y._replace(slow=slow), e.V)
    assert float(info.residual) == np.inf

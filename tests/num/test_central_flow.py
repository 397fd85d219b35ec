"""The central flow at single states: complementarity, symmetries, closed forms, and what published codes got wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_num.eigenpairs import block_size
from cflow_num.flows.base import FlowState
from cflow_num.flows.central import CentralFlow
from cflow_num.loss import Problem
from cflow_sym.generated import load

N = 6
OPTIMIZERS = {"gradient_descent": (), "scalar_rmsprop": (), "scalar_rmsprop bias": ("bias_correction",)}
SEEDS = st.integers(0, 100_000)


def _cubic(w, d):
    """Gradient b, Hessian H and third derivative T at w = 0, all free."""
    return d["b"] @ w + w @ d["H"] @ w / 2 + jnp.einsum("ijk,i,j,k", d["T"], w, w, w) / 6


def edge_state(seed: int, k: int, name: str, at: float = 2.0):
    """Return a flow and a state at which k effective eigenvalues equal `at`, others lie below."""
    rng = np.random.default_rng(seed)
    optimizer = load(name.split()[0], OPTIMIZERS[name])
    lam = np.concatenate([np.full(k, at), rng.uniform(-0.5, 0.8 * at, N - k)])
    Q = np.linalg.qr(rng.normal(size=(N, N)))[0]
    T = rng.normal(size=(N, N, N))
    T = sum(np.transpose(T, p) for p in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]) / 6
    hp = {"learning_rate": np.exp(rng.normal()), "beta2": rng.uniform(0.5, 0.999), "epsilon": 0.0}
    hp = {h.name: jnp.asarray(hp[h.name]) for h in optimizer.HYPERPARAMETERS}
    slow = {"nu": jnp.asarray(np.exp(rng.normal())), "t": jnp.asarray(float(rng.integers(1, 50)))}
    slow = {s: slow[s] for s in optimizer.SLOW_STATES}
    P = float(optimizer.preconditioner(slow, hp))
    data = {"b": rng.normal(size=N), "H": P * (Q * lam) @ Q.T, "T": P * T}
    problem = Problem(_cubic, jnp.zeros(N), data={key: jnp.asarray(x) for key, x in data.items()})
    flow = CentralFlow(problem, hp, optimizer, 3)
    return flow, FlowState(problem.w0, slow), jnp.asarray(Q[:, : block_size(3, N)]), data, P


@eqx.filter_jit
def _solve(flow, y, V, weight, relief):
    tangent = flow.linearize(y, V)
    offset = jax.tree.map(jnp.zeros_like, y)
    rates, X, info = flow.equilibrium(tangent, offset, weight, jnp.zeros((3, 3)), relief)
    return rates, X, info, tangent.pairs.U[:, :3]


def solve(flow, y, V, weight=1.0, relief=np.inf):
    return _solve(flow, y, V, jnp.asarray(weight), jnp.asarray(relief))


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(seed=SEEDS)
def test_one_critical_eigenvalue_gives_the_closed_form(name, seed):
    flow, y, V, data, P = edge_state(seed, 1, name)
    _, X, info, U = solve(flow, y, V)
    u = U[:, 0] / jnp.linalg.norm(U[:, 0])
    S, grad_S = u @ data["H"] @ u, jnp.einsum("ijk,i,j", data["T"], u, u)
    arguments = (S, data["b"] @ grad_S, data["b"] @ data["b"], grad_S @ grad_S, flow.hp)
    explicit_time = {"t": y.slow["t"]} if "bias" in name else {}
    expected = max(float(flow.optimizer.sigma_squared(*arguments, **explicit_time)), 0.0)
    assert float(X[0, 0]) / P == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert float(info.residual) < 1e-8


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=60)
@given(seed=SEEDS, k=st.integers(1, 3))
def test_complementarity_against_a_dense_evaluation(name, seed, k):
    """dA/dt from dense H, T and automatic differentiation of P: a wrong weight of off-diagonals would show."""
    flow, y, V, data, P = edge_state(seed, k, name)
    rates, X, _, U = solve(flow, y, V)
    U, X = np.asarray(U[:, :k]), np.asarray(X)[:k, :k]
    opt, hp = flow.optimizer, flow.hp
    Sigma = U @ X @ U.T
    gradient = data["b"] + np.einsum("ijk,ij->k", data["T"], Sigma) / 2
    np.testing.assert_allclose(rates.w, -gradient / P, rtol=1e-9, atol=1e-9)
    if "nu" in y.slow:  # the averaged squared gradient needs H U, not U
        averaged = data["b"] @ data["b"] + np.trace(data["H"] @ Sigma @ data["H"])
        kappa = (1 - float(hp["beta2"])) / float(hp["beta2"])
        assert float(rates.slow["nu"]) == pytest.approx(kappa * (averaged - float(y.slow["nu"])), rel=1e-8)
    P_dot = jax.jvp(lambda s: opt.preconditioner(s, hp), (y.slow,), (rates.slow,))[1]
    H_dot = np.einsum("ijk,k->ij", data["T"], np.asarray(rates.w))
    A_dot = U.T @ (2 * float(P_dot) * np.eye(N) - H_dot) @ U
    still = U.T @ np.einsum("ijk,k->ij", data["T"], data["b"] / P) @ U  # what the oscillation has to balance
    scale = np.linalg.norm(A_dot) + np.linalg.norm(still)
    assert np.linalg.eigvalsh(X)[0] >= -1e-12 * np.abs(X).max()
    assert np.linalg.eigvalsh(A_dot)[0] >= -1e-7 * scale
    assert abs(np.trace(X @ A_dot)) <= 1e-7 * (np.linalg.norm(X) * scale)


@settings(max_examples=60)
@given(seed=SEEDS, k=st.integers(1, 3))
def test_the_loss_never_rises_along_gradient_descents_central_flow(seed, k):
    flow, y, V, data, P = edge_state(seed, k, "gradient_descent")
    rates, *_ = solve(flow, y, V)
    slope, speed = float(data["b"] @ rates.w), float(rates.w @ rates.w)
    assert slope <= 0
    assert slope == pytest.approx(-P * speed, rel=1e-6, abs=1e-7 * P * speed + 1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=30)
@given(seed=SEEDS, k=st.integers(1, 3), at=st.floats(0.2, 1.7))
def test_no_oscillation_below_the_threshold(name, seed, k, at):
    flow, y, V, *_ = edge_state(seed, k, name, at=at)
    rates, X, *_ = solve(flow, y, V, weight=1e-4)
    assert float(jnp.abs(X).max()) == 0.0
    for a, b in zip(jax.tree.leaves(rates), jax.tree.leaves(flow.stable_drift(y)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=30)
@given(seed=SEEDS, k=st.integers(1, 3), turn=SEEDS)
def test_rotation_equivariance(name, seed, k, turn):
    flow, y, V, data, _ = edge_state(seed, k, name)
    R = np.linalg.qr(np.random.default_rng(turn).normal(size=(N, N)))[0]
    turned = {
        "b": R @ data["b"],
        "H": R @ data["H"] @ R.T,
        "T": np.einsum("ai,bj,ck,ijk", R, R, R, data["T"]),
    }
    other = Problem(_cubic, jnp.zeros(N), data={key: jnp.asarray(x) for key, x in turned.items()})
    there = eqx.tree_at(lambda f: f.problem, flow, other)
    rates, X, *_ = solve(flow, y, V)
    rates_there, X_there, *_ = solve(there, y, R @ V)
    scale = float(jnp.abs(rates.w).max())
    np.testing.assert_allclose(rates_there.w, R @ rates.w, atol=1e-6 * scale)
    assert float(jnp.trace(X_there)) == pytest.approx(float(jnp.trace(X)), rel=1e-6, abs=1e-9)


@settings(max_examples=30)
@given(seed=SEEDS, k=st.integers(1, 3), a=st.floats(0.01, 100.0))
def test_scaling_law_of_gradient_descent(seed, k, a):
    """(eta, L) -> (eta/a, a L) leaves the path of the weights alone."""
    flow, y, V, data, _ = edge_state(seed, k, "gradient_descent")
    scaled = Problem(_cubic, jnp.zeros(N), data={key: jnp.asarray(a * x) for key, x in data.items()})
    there = CentralFlow(scaled, {"learning_rate": flow.hp["learning_rate"] / a}, flow.optimizer, 3)
    rates, *_ = solve(flow, y, V)
    rates_there, *_ = solve(there, y, V)
    np.testing.assert_allclose(rates_there.w, rates.w, rtol=1e-6, atol=1e-6 * float(jnp.abs(rates.w).max()))


def test_the_ablated_flow_keeps_the_edge_without_reducing_sharpness():
    flow, y, V, data, P = edge_state(11, 1, "scalar_rmsprop")
    ablated = CentralFlow(flow.problem, flow.hp, flow.optimizer, 3, sharpness_reduction=False)
    rates, X, *_ = solve(ablated, y, V)
    np.testing.assert_allclose(rates.w, -data["b"] / P, rtol=1e-12)  # at the edge 1/P = 2/S
    if float(X[0, 0]) > 0:
        u = V[:, 0]
        S_dot = np.einsum("ijk,i,j,k", data["T"], u, u, np.asarray(rates.w))
        P_dot = jax.jvp(lambda s: flow.optimizer.preconditioner(s, flow.hp), (y.slow,), (rates.slow,))[1]
        assert 2 * float(P_dot) == pytest.approx(float(S_dot), rel=1e-6)


def test_an_infeasible_state_is_corrected_at_a_bounded_rate():
    flow, y, V, _, _ = edge_state(4, 1, "gradient_descent", at=3.0)
    hard, soft = (solve(flow, y, V, weight=0.1, relief=relief)[1] for relief in (np.inf, 0.02))
    assert 0 < float(jnp.trace(soft)) < 0.5 * float(jnp.trace(hard))

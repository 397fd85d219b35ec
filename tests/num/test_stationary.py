"""States at rest: the convex program against a conic solver, and the flow whose states are there at every time."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.preconditioner import conic_preconditioner, stationary_preconditioner
from cflow_num.loss.problem import Problem
from cflow_num.support.errors import InputError


def _quadratic(w, d):
    return w @ d["H"] @ w / 2 + d["g"] @ w


def random_quadratic(seed: int, n: int):
    """Return a quadratic at w = 0 with its Hessian, slightly indefinite, and its gradient."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n)) * np.geomspace(1, 0.1, n)
    H, g = A @ A.T / n - 0.05 * np.eye(n), rng.normal(size=n)
    return Problem(_quadratic, jnp.zeros(n), data={"H": jnp.asarray(H), "g": jnp.asarray(g)}), H, g


@settings(max_examples=6)
@given(st.integers(0, 10_000), st.floats(0.3, 30.0), st.booleans())
def test_the_iteration_solves_the_convex_program(seed, learning_rate, first_term_only):
    pytest.importorskip("clarabel")
    problem, H, g = random_quadratic(seed, 12)
    _P, value = conic_preconditioner(H, g, learning_rate, first_term_only=first_term_only)
    hp = {"learning_rate": learning_rate, "beta2": 0.9}
    found = stationary_preconditioner(
        problem, "rmsprop", hp, columns=8, first_term_only=first_term_only, tolerance=1e-7, max_iterations=20_000
    )
    a = 0.0 if first_term_only else np.abs(g) / learning_rate
    reached = found.P.sum() + np.sum(a**2 / found.P)
    assert reached == pytest.approx(value, rel=1e-5)
    assert found.largest_effective_eigenvalue <= 1 + 1e-4
    # the dual bound with multiplier Z = 2 Sigma / eta^2 certifies the value without the solver
    Z = 2 / learning_rate**2 * found.V @ found.V.T
    dual = np.sum(Z * H) + 2 * np.sum(a * np.sqrt(np.maximum(1 - 2 * np.diag(Z), 0)))
    assert dual == pytest.approx(reached, rel=1e-4)
    assert np.all(np.diag(Z) <= 0.5 + 1e-6)


def test_the_state_rests_where_the_averaged_squared_gradient_is():
    problem, H, g = random_quadratic(3, 12)
    found = stationary_preconditioner(problem, "rmsprop", {"learning_rate": 3.0, "beta2": 0.9}, columns=8)
    averaged = g**2 + np.diag(H @ found.V @ found.V.T @ H)
    np.testing.assert_allclose(found.P, np.sqrt(averaged) / 3.0, rtol=1e-3)
    assert found.optimization_speed == pytest.approx(np.sum(g**2 / found.P))
    assert found.edge_speed == pytest.approx(2 / np.linalg.eigvalsh(H)[-1] * (g @ g), rel=1e-4)


def test_scalar_states_rest_in_closed_form():
    run = cn.run(
        cn.problem("ramp", x0=0.0),
        "scalar_rmsprop",
        dict(learning_rate=0.1, beta2=0.95),
        steps=12,
        processes=("discrete", "stable", "central", "stationary"),
        quiet=True,
    )
    at_rest = run.tree["stationary"]
    S, p, eta = 10.0, 0.1, 0.1
    variance = at_rest["sigma_eigenvalues"].values[1:, 0] / (S / 2)  # in the P metric, P = S/2
    np.testing.assert_allclose(variance, eta**2 / 4 - p**2 / S**2, rtol=1e-6)
    np.testing.assert_allclose(at_rest["effective_eigenvalues"].values[1:, 0], 2.0, rtol=1e-8)
    np.testing.assert_allclose(at_rest["nu"].values[1:], (eta * S / 2) ** 2, rtol=1e-8)


def test_elementwise_states_at_rest_stay_on_the_edge_ahead_of_the_stable_flow():
    run = cn.run(
        cn.problem("digits-mlp", width=8, n=100),
        "rmsprop",
        dict(learning_rate=3e-3, beta2=0.95, epsilon=1e-8),
        steps=80,
        warm_start=300,
        processes=("discrete", "stable", "central", "stationary"),
        capture=3,
        quiet=True,
    )
    assert not run.reason
    at_rest, comparison = run.tree["stationary"], run.compare()
    assert comparison["stationary_ratio"].value < 0.5
    assert float(at_rest["effective_eigenvalues"][20:].max()) < 2.05
    squared = at_rest["predicted_squared_gradient"].values[20:]
    np.testing.assert_allclose(at_rest["nu"].values[20:], squared, rtol=0.3)  # at rest, up to one half step


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: stationary_preconditioner(p, "adagrad", {"learning_rate": 0.1}), "no state that can stand still"),
        (
            lambda p: stationary_preconditioner(p, "rmsprop", {"learning_rate": 0.1, "beta2": 0.9}, columns=0),
            "columns is",
        ),
        (
            lambda p: stationary_preconditioner(p, "rmsprop", {"learning_rate": lambda t: 0.1 + 0 * t, "beta2": 0.9}),
            "schedule has no value at rest",
        ),
        (lambda p: conic_preconditioner(np.eye(300), np.ones(300), 0.1), "too many for the conic solver"),
        (
            lambda p: cn.run(p, "adagrad", {"learning_rate": 0.1}, steps=2, processes=("stationary",), quiet=True),
            "stationary flow is not defined for adagrad",
        ),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call(random_quadratic(0, 6)[0])

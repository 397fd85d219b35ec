"""The stabilized method of the stable flow: stable for any step, of second order, cheap where the flow is stiff."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.flows.stable import StableFlow
from cflow_num.running.process import Process
from cflow_num.stepping.chebyshev import STIFF, Chebyshev, Memory, fastest_rate
from cflow_sym.generated import load

from .cases import arrays

N = 6
PROBLEM = cn.problem("quadratic", n=N, sharpness=1.0)
H = np.asarray(PROBLEM.hessian_vectors(PROBLEM.w0, jnp.eye(N)))
RATES, VECTORS = np.linalg.eigh(H)


def stable(rate):
    """Return the stable flow whose fastest mode has the rate."""
    return StableFlow(PROBLEM, arrays("gradient_descent", PROBLEM, learning_rate=rate), load("gradient_descent"))


def exact(w, time):
    return VECTORS @ (np.exp(-time * RATES) * (VECTORS.T @ w))


@eqx.filter_jit
def one_step(flow, w, h):
    y = FlowState(w, {"t": jnp.asarray(1.0)})
    memory = Memory(jnp.asarray(VECTORS[:, -1]), jnp.zeros(()))
    return Chebyshev().step(flow.term(), jnp.zeros(()), h, y, flow, memory, False)


@settings(max_examples=50)
@given(rate=st.floats(0.01, 5000), h=st.floats(0.01, 8), seed=st.integers(0, 1000))
def test_a_step_of_any_length_is_stable(rate, h, seed):
    """Every mode shrinks; the number of gradients grows with the root of the step times the rate."""
    w = np.random.default_rng(seed).normal(size=N)
    y, _, _, memory, _ = one_step(stable(rate), jnp.asarray(w), jnp.asarray(h))
    before, after = VECTORS.T @ w, VECTORS.T @ np.asarray(y.w)
    assert np.all(np.abs(after) <= np.abs(before) * (1 + 1e-9))
    assert float(memory.n_gradients) <= 6 + np.sqrt(2 * h * rate)


@settings(max_examples=25)
@given(rate=st.floats(0.1, 5), seed=st.integers(0, 1000))
def test_a_step_is_of_second_order_and_knows_its_error(rate, seed):
    w = np.random.default_rng(seed).normal(size=N)
    errors = []
    for z in (0.1, 0.05):  # of the fastest mode
        y, error, *_ = one_step(stable(rate), jnp.asarray(w), jnp.asarray(z / rate))
        errors.append(np.linalg.norm(np.asarray(y.w) - exact(w, z)))
        assert errors[-1] <= 2 * float(jnp.linalg.norm(error.w))
    assert 6 < errors[0] / errors[1] < 10


def test_the_fastest_rate_is_the_effective_sharpness():
    flow, y = stable(30.0), FlowState(PROBLEM.w0, {"t": jnp.asarray(1.0)})
    rate, u = fastest_rate(flow, y, jnp.asarray(VECTORS[:, -1]))
    assert float(rate) == pytest.approx(30.0)
    np.testing.assert_allclose(np.abs(VECTORS[:, -1] @ np.asarray(u)), np.linalg.norm(u))


def test_a_stiff_stable_flow_is_followed_at_a_cost_that_grows_with_the_root():
    costs = []
    for rate in (STIFF / 4, 4 * STIFF, 64 * STIFF):
        hp = arrays("gradient_descent", PROBLEM, learning_rate=rate)
        process = Process("stable", PROBLEM, load("gradient_descent"), hp, chunk=4)
        y = FlowState(PROBLEM.w0, {"t": jnp.asarray(1.0)})
        carry, _ = process.start(y)
        _, records = process.advance(carry)
        path = np.asarray(records.w)
        expected = np.stack([exact(np.asarray(PROBLEM.w0), rate * time) for time in range(1, 5)])
        np.testing.assert_allclose(path, expected, atol=1e-3 * float(np.linalg.norm(PROBLEM.w0)))
        costs.append(float(np.mean(records.n_gradients)))
    assert costs[2] < 8 * costs[1]

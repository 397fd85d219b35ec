"""Exponential short steps: exact where the flow is linear, and the functions that they are made of."""

from functools import cache

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.linalg.exponential import LinearPart, phi1, phi2
from cflow_num.running.process import Process
from cflow_num.stepping.short_steps import short_steps
from cflow_sym.generated import load

from .cases import arrays


@settings(max_examples=200)
@given(st.floats(-5, 50))
def test_functions_are_means_of_decay_over_a_step(z):
    """phi1 is the integral of exp(-z s) over [0, 1], phi2 the one weighted with 1 - s: Gauss-Legendre agrees."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    s, weights = (nodes + 1) / 2, weights / 2
    np.testing.assert_allclose(phi1(jnp.array(z)), weights @ np.exp(-z * s), rtol=1e-11)
    np.testing.assert_allclose(phi2(jnp.array(z)), weights @ ((1 - s) * np.exp(-z * (1 - s))[::-1]), rtol=1e-11)


@cache
def small(n=6):
    return cn.problem("quadratic", n=n, sharpness=1.0)


@eqx.filter_jit
def from_a_frame_at_zero(flow, y, h):
    """A frame of all coordinates at w = 0, and a short step without oscillation in it."""
    n = y.w.size
    frame = flow.frame(y._replace(w=jnp.zeros(n)), jnp.eye(n))
    return frame, short_steps(flow, frame, h).step(y, jnp.zeros((n, n)))


@settings(max_examples=25)
@given(rate=st.floats(0.05, 1.9), h=st.floats(1 / 16, 8), seed=st.integers(0, 20))
def test_a_short_step_is_exact_where_the_loss_is_quadratic(rate, h, seed):
    """Below the edge with all eigenvectors tracked: w(h) = exp(-h P^-1 H) w(0), for steps of any length."""
    n, problem = 6, small()
    hp = arrays("gradient_descent", problem, learning_rate=rate)
    flow = Process("central", problem, load("gradient_descent"), hp, capacity=n).flow()
    w = jnp.asarray(np.random.default_rng(seed).normal(size=n))
    frame, end = from_a_frame_at_zero(flow, FlowState(w, {"t": jnp.asarray(1.0)}), jnp.asarray(h))
    U, lam = frame.pairs.U, frame.pairs.eigenvalues
    exact = U @ (jnp.exp(-h * lam) * (U.T @ w)) / rate  # U'PU = I, P = 1/rate
    np.testing.assert_allclose(end.y.w, exact, atol=1e-12 * float(jnp.linalg.norm(w)))
    np.testing.assert_allclose(end.y.slow["t"], 1 + h)
    assert float(jnp.max(jnp.abs(end.X))) == 0


def test_what_is_not_tracked_counts_as_zero():
    """There the step is the method of Heun: 1 - z + z^2/2."""
    problem = cn.problem("quadratic", n=6, sharpness=1.0)
    flow = Process("central", problem, load("gradient_descent"), arrays("gradient_descent", problem, learning_rate=1.5))
    w = jnp.ones(6)
    y = FlowState(w, {"t": jnp.asarray(1.0)})
    flow = flow.flow()
    frame = flow.frame(y, jnp.eye(6))
    nothing = frame._replace(pairs=frame.pairs._replace(U=0 * frame.pairs.U))
    z = 1.5 * problem.gradient(w)
    end = short_steps(flow, nothing, jnp.asarray(1.0)).step(y, jnp.zeros((4, 4)))
    np.testing.assert_allclose(end.y.w, w * (1 - z + z**2 / 2), rtol=1e-12)
    Z = LinearPart(0 * frame.pairs.U, 0 * frame.pairs.U, frame.pairs.eigenvalues)
    np.testing.assert_allclose(Z.function(phi2, w), w / 2)


@eqx.filter_jit
def from_rest(flow, frame, y, h):
    """A short step without oscillation at its start, and the slack at its end."""
    end = short_steps(flow, frame, h).step(y, jnp.zeros((frame.near.size, frame.near.size)))
    return end, flow.tangent(frame, end.y).slack


@cache
def quadratic(n=20, k=8):
    """Return a flow for k critical eigenvalues on a quadratic, and a frame of k + 4 coordinates of its weights."""
    problem = cn.problem("quadratic", n=n, sharpness=1.0)
    hp = arrays("gradient_descent", problem, learning_rate=1.5)
    flow = Process("central", problem, load("gradient_descent"), hp, capacity=k).flow()
    y = FlowState(jnp.ones(n), {"t": jnp.asarray(1.0)})
    return flow, flow.frame(y, jnp.eye(n)[:, : k + 4])


def third_order(seed, near, size=0.1):
    """Return the flow, a state, and a frame with `near` eigenvalues at the edge and random third derivatives there."""
    flow, frame = quadratic()
    rng, (m, n), (i, j) = np.random.default_rng(seed), frame.D.shape, np.triu_indices(frame.near.size)
    D = np.where((np.maximum(i, j) < near)[:, None], size * rng.normal(size=(m, n)), 0)
    c = float(flow.optimizer.threshold(frame.y.slow, flow.hp))
    lam = c * jnp.concatenate([jnp.linspace(1.0, 0.995, near), jnp.full(frame.pairs.eigenvalues.size - near, 0.6)])
    y = frame.y._replace(w=jnp.asarray(rng.normal(size=n)))
    pairs, near = frame.pairs._replace(eigenvalues=lam), jnp.arange(frame.near.size) < near
    return flow, y, frame._replace(y=y, pairs=pairs, D=jnp.asarray(D), near=near)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), near=st.integers(1, 4), h=st.floats(0.25, 1))
def test_pairs_that_are_not_near_change_nothing(seed, near, h):
    """Short steps with the leading half of the pairs are those with all of them."""
    flow, y, frame = third_order(seed, near)
    (whole, _), (half, _) = (from_rest(flow, part, y, jnp.asarray(h)) for part in (frame, frame.leading(4)))
    assert float(jnp.max(jnp.abs(whole.X[4:]))) == 0
    np.testing.assert_allclose(half.X, whole.X[:4, :4], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(half.y.w, whole.y.w, rtol=1e-9, atol=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), near=st.integers(1, 8), h=st.floats(0.25, 1))
def test_a_short_step_ends_in_complementarity(seed, near, h):
    """With constant P the response at the frame's point is that everywhere: X >= 0, A >= 0, <X, A> = 0 at the end."""
    flow, y, frame = third_order(seed, near, size=0.003)  # so that none gets so far from the edge that it is left out
    end, A = from_rest(flow, frame, y, jnp.asarray(h))
    A, X = A[:near, :near], end.X[:near, :near]
    c, size = float(flow.optimizer.threshold(y.slow, flow.hp)), float(jnp.linalg.norm(X))
    assert float(end.residual) < 1e-8
    assert float(jnp.linalg.eigvalsh(A)[0]) > -1e-8 * c
    assert float(jnp.linalg.eigvalsh(X)[0]) >= -1e-9 * size
    assert abs(float(jnp.sum(A * X))) <= 1e-7 * c * size

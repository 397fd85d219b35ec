"""Whole flows against closed forms, orders of convergence, and the discrete optimizer against optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_num.flows.base import FlowState
from cflow_num.flows.discrete import DiscreteOptimizer, midpoints
from cflow_num.loss.problem import Problem
from cflow_num.problems import problem
from cflow_num.problems.ramp import ramp_central_flow
from cflow_num.problems.valley import valley_central_flow, valley_loss
from cflow_num.running.kinds import INTEGRATORS, Method
from cflow_num.running.process import Process
from cflow_num.stepping.half_explicit import HalfExplicitHeun
from cflow_sym.generated import load

from .cases import arrays, random_smooth, rotated, rotation


def integrate(process, y, steps):
    carry, _ = process.start(y)
    path, states, sigma = [np.asarray(y.w)], [y.slow], []
    for _ in range(steps // process.chunk):
        carry, records = process.advance(carry)
        assert process.failure(records) is None
        path.extend(np.asarray(records.w))
        states.append(carry.y.state.slow)
        sigma.extend(np.asarray(records.log.sigma_eigenvalues[:, 0]))
    return np.array(path), states, np.array(sigma)


def test_gradient_descent_in_the_valley():
    valley = problem("valley", x0=0.0)
    flow = Process("central", valley, load("gradient_descent"), arrays("gradient_descent", valley, learning_rate=1.0))
    path, _, X = integrate(flow, FlowState(valley.w0, {"t": jnp.asarray(1.0)}), 60)
    y, z, sigma_squared = valley_central_flow(np.arange(61.0), learning_rate=1.0)
    np.testing.assert_allclose(path[:, 1], y, atol=2e-4)
    np.testing.assert_allclose(path[:, 2], z, atol=2e-4)
    np.testing.assert_allclose(path[:, 0], 0, atol=1e-14)
    assert sigma_squared[-1] > 0.05
    np.testing.assert_allclose(X[30:], sigma_squared[31:], rtol=0.02)  # sigma^2 = eta X, mean of the last half unit


def test_scalar_rmsprop_on_the_ramp():
    ramp, hp = problem("ramp", x0=0.0), {"learning_rate": 0.1, "beta2": 0.95, "epsilon": 0.0}
    flow = Process("central", ramp, load("scalar_rmsprop"), arrays("scalar_rmsprop", ramp, **hp))
    start = FlowState(ramp.w0, {"nu": jnp.asarray(0.3), "t": jnp.asarray(1.0)})
    path, states, X = integrate(flow, start, 100)
    y, nu, sigma_squared = ramp_central_flow(np.arange(101.0), learning_rate=0.1, beta2=0.95, nu0=0.3)
    np.testing.assert_allclose(path[:, 1], y, atol=2e-4)
    np.testing.assert_allclose([float(s["nu"]) for s in states[1:]], nu[10::10], rtol=1e-3)
    P = np.sqrt(nu) / 0.1
    np.testing.assert_allclose(X[20:] / P[21:], sigma_squared[21:], rtol=1e-6)


@pytest.mark.parametrize("integrator", ["heun", "published"])
def test_an_infeasible_start_is_relieved_at_the_stated_rate(integrator):
    """The sharpness starts 20% above the threshold: it falls by RELIEF_RATE c a unit (published: within one step)."""
    valley = problem("valley", x0=0.0, z0=0.0)
    padded = Problem(_padded_valley_loss, jnp.zeros(30).at[1].set(1.4), data=valley.data)
    flow = Process(
        "central",
        padded,
        load("gradient_descent"),
        arrays("gradient_descent", padded, learning_rate=1.0),
        integrator=integrator,
    )
    carry, _ = flow.start(FlowState(padded.w0, {"t": jnp.asarray(1.0)}))
    _, records = flow.advance(carry)
    sharpness = np.asarray(records.seen.effective_eigenvalues[:4, 0])
    expected = [2.2, 2.0, 2.0, 2.0] if integrator == "heun" else [2.0, 2.0, 2.0, 2.0]
    np.testing.assert_allclose(sharpness, expected, atol=5e-3)


def _padded_valley_loss(w, c):
    return valley_loss(w[:3], c) + jnp.sum(w[3:] ** 2) / 20


def test_heun_is_second_order_on_the_edge(monkeypatch):
    """Between events: one critical eigenvalue from start to end."""
    valley = problem("valley", x0=0.0, z0=0.3)
    exact_y, exact_z, _ = valley_central_flow(np.arange(0.0, 60.0), learning_rate=1.0, z0=0.3)
    start = FlowState(jnp.array([0.0, exact_y[30], exact_z[30]]), {"t": jnp.asarray(1.0)})
    bent = _bent(valley)
    ends = []
    for dt in (1 / 2, 1 / 4, 1 / 8, 1 / 64):
        monkeypatch.setitem(INTEGRATORS, "shorter", Method(HalfExplicitHeun, dt))
        hp = arrays("gradient_descent", bent, learning_rate=1.0)
        process = Process("central", bent, load("gradient_descent"), hp, integrator="shorter")
        ends.append(integrate(process, start, 20)[0][-1])
    errors = [np.linalg.norm(e - ends[-1]) for e in ends[:-1]]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(orders > 1.7), (errors, orders)


def _bent(valley):
    """Return the valley with a curved third derivative, so that nothing is linear along the edge."""
    return Problem(bent_loss, valley.w0, data=valley.data)


def bent_loss(w, c):
    return valley_loss(w, c) + 0.3 * jnp.sin(2 * w[2]) * w[0] ** 2 + 0.02 * jnp.cos(w[2] + w[1])


def scale_by_scalar_rms(decay):
    """Scalar RMSProp's preconditioner written as an optax transformation: the reference."""

    def init(params):
        return jnp.zeros(())

    def update(g, nu, params=None):
        nu = decay * nu + (1 - decay) * optax.tree.norm(g, squared=True)
        return jax.tree.map(lambda x: x / jnp.sqrt(nu), g), nu

    return optax.GradientTransformation(init, update)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(1e-3, 0.2), st.floats(0.3, 0.999))
@pytest.mark.parametrize("name", ["gradient_descent", "scalar_rmsprop"])
def test_the_discrete_run_is_optax(name, seed, learning_rate, beta2):
    smooth = random_smooth(seed)
    if name == "gradient_descent":
        reference, hp = optax.sgd(learning_rate), {"learning_rate": learning_rate}
    else:
        reference = optax.chain(scale_by_scalar_rms(beta2), optax.scale(-learning_rate))
        hp = {"learning_rate": learning_rate, "beta2": beta2, "epsilon": 0.0}
    optimizer = DiscreteOptimizer(smooth, arrays(name, smooth, **hp), load(name))
    path = _path(optimizer, 15)
    w, state = smooth.w0, reference.init(smooth.w0)
    for t in range(16):
        np.testing.assert_allclose(path[t], w, rtol=1e-12, atol=1e-12)
        updates, state = reference.update(_gradient(smooth, w), state, w)
        w = optax.apply_updates(w, updates)


def test_scalar_rmsprop_of_one_weight_is_optax_rmsprop():
    """With one weight the squared norm is the elementwise square; optax adds epsilon where we do."""
    smooth = random_smooth(5, n=1)
    hp = {"learning_rate": 0.05, "beta2": 0.9, "epsilon": 1e-3}
    for switches, bias in (((), False), (("bias_correction",), True)):
        reference = optax.rmsprop(0.05, decay=0.9, eps=1e-3, eps_in_sqrt=False, bias_correction=bias)
        optimizer = DiscreteOptimizer(smooth, arrays("scalar_rmsprop", smooth, **hp), load("scalar_rmsprop", switches))
        path = _path(optimizer, 30)
        w, state = smooth.w0, reference.init(smooth.w0)
        for t in range(31):
            np.testing.assert_allclose(path[t], w, rtol=1e-12)
            updates, state = reference.update(_gradient(smooth, w), state, w)
            w = optax.apply_updates(w, updates)


@eqx.filter_jit
def _path(optimizer, steps):
    y = optimizer.first(optimizer.problem.w0)
    return jnp.concatenate([y.w[None], optimizer.steps(y, steps).w])


_gradient = eqx.filter_jit(lambda problem, w: problem.gradient(w))


@pytest.mark.parametrize("name", ["gradient_descent", "scalar_rmsprop"])
@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_discrete_run_is_rotation_equivariant(name, seed, turn):
    smooth, R = random_smooth(seed), rotation(turn, 5)
    hp = arrays(name, smooth, learning_rate=0.02, **({"beta2": 0.9} if "rmsprop" in name else {}))
    here, there = (_path(DiscreteOptimizer(p, hp, load(name)), 15) for p in (smooth, rotated(smooth, R)))
    np.testing.assert_allclose(there, here @ R.T, rtol=1e-8, atol=1e-8)


@given(st.integers(0, 10_000), st.integers(3, 20))
def test_midpoints_cancel_an_exact_oscillation_and_keep_straight_lines(seed, length):
    rng = np.random.default_rng(seed)
    start, slope, swing = rng.normal(size=(3, 4))
    t = np.arange(length)[:, None]
    path = start + slope * t + swing * (-1.0) ** t
    np.testing.assert_allclose(midpoints(jnp.asarray(path)), (start + slope * t)[1:-1], atol=1e-12)


def test_every_integrator_has_a_name():
    assert {"heun", "published"} <= set(INTEGRATORS)


def _chain(*parts, learning_rate, weight_decay=0.0, l2=0.0):
    """optax: coupled decay before the preconditioner, decoupled decay before the learning rate."""
    coupled, decoupled = optax.add_decayed_weights(l2), optax.add_decayed_weights(weight_decay)
    return optax.chain(coupled, *parts, decoupled, optax.scale_by_learning_rate(learning_rate))


def _halving(count):
    return 0.05 * 0.5 ** (jnp.asarray(count, jnp.float64) / 10)


FAMILY = {
    "rmsprop": ("rmsprop", (), dict(beta2=0.9, epsilon=1e-3), optax.scale_by_rms(0.9, 1e-3, eps_in_sqrt=False)),
    "rmsprop, root": ("rmsprop", ("eps_in_sqrt",), dict(beta2=0.9, epsilon=1e-3), optax.scale_by_rms(0.9, 1e-3)),
    "rmsprop, bias": (
        "rmsprop",
        ("bias_correction",),
        dict(beta2=0.9, epsilon=1e-3),
        optax.scale_by_rms(0.9, 1e-3, eps_in_sqrt=False, bias_correction=True),
    ),
    "adagrad": (
        "adagrad",
        ("eps_in_sqrt",),
        dict(epsilon=1e-7, initial_accumulator=0.1),
        optax.scale_by_rss(0.1, 1e-7),
    ),
    "gradient descent": ("gradient_descent", (), {}, optax.identity()),
    "normalized": ("normalized_gradient_descent", (), {}, optax.normalize_by_update_norm(eps=0.0)),
}


@pytest.mark.parametrize("learning_rate", [0.05, _halving], ids=["constant", "schedule"])
@pytest.mark.parametrize("title", FAMILY)
def test_the_family_is_optax_with_decay_and_schedule(title, learning_rate):
    name, switches, hp, part = FAMILY[title]
    decays = {"weight_decay": 0.1} if name == "gradient_descent" else {"weight_decay": 0.1, "l2": 0.2}
    smooth = random_smooth(3)
    reference = _chain(part, learning_rate=learning_rate, **decays)
    chosen = arrays(name, smooth, *switches, learning_rate=learning_rate, **hp, **decays)
    path = _path(DiscreteOptimizer(smooth, chosen, load(name, switches)), 15)  # later, rounding grows at the edge
    w, state = smooth.w0, reference.init(smooth.w0)
    for t in range(16):
        np.testing.assert_allclose(path[t], w, rtol=1e-12, atol=1e-12)
        updates, state = reference.update(_gradient(smooth, w), state, w)
        w = optax.apply_updates(w, updates)


def test_blockwise_rmsprop_has_one_step_size_for_each_array():
    def loss(params, _):
        return jnp.sum(jnp.cosh(params["a"])) + jnp.sum(params["b"] ** 4)

    problem = Problem(loss, {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[0.5], [1.5]])}, data=jnp.zeros(()))
    hp = arrays("blockwise_rmsprop", problem, learning_rate=0.05, beta2=0.9)
    path = _path(DiscreteOptimizer(problem, hp, load("blockwise_rmsprop")), 5)
    w, nu = np.asarray(problem.w0), np.zeros(2)
    for t in range(6):
        np.testing.assert_allclose(path[t], w, rtol=1e-12)
        g = np.concatenate([np.sinh(w[:2]), 4 * w[2:] ** 3])
        nu = 0.9 * nu + 0.1 * np.array([g[:2] @ g[:2], g[2:] @ g[2:]])
        w = w - 0.05 * g / np.sqrt(np.repeat(nu, 2))

"""Signs that the oscillation decides and states that read each other: Yogi, AMSGrad, averages of averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym.interface import Moments
from cflow_sym.notation import Frozen, state_symbol
from cflow_sym.reading.files import read_toml

s = cs.symbols
BETA2 = 0.99


def yogi():
    return cs.from_optax(optax.yogi, b2=BETA2)


def late_state(nu, like):
    return {"nu": jnp.full_like(like, nu), "mu": jnp.zeros_like(like), "t": jnp.asarray(1e5)}


def values(flow):
    given = {"learning_rate": 0.1, "beta1": 0.9, "beta2": BETA2, "epsilon": 1e-3}
    return {h.name: jnp.asarray(given[h.name]) for h in flow.HYPERPARAMETERS}


def mean_change(nu, g, kick):
    """What optax's Yogi does to nu, averaged over the two points of the oscillation."""
    optimizer = optax.yogi(0.1, b2=BETA2)
    changes = []
    for sign in (1, -1):
        state = optimizer.init(g)
        state = jax.tree.map(lambda x: x, state)
        inner = state[0]._replace(nu=jnp.full_like(g, nu))
        _, (after, *_) = optimizer.update(g + sign * kick, (inner, *state[1:]), g)
        changes.append(after.nu - nu)
    return sum(changes) / 2


@pytest.mark.parametrize(("nu", "g", "kick"), [(1.0, 0.1, 2.0), (1.0, 0.1, 0.2), (0.5, 2.0, 0.3), (9.0, 1.0, 1.5)])
def test_yogis_oscillation_moves_nu_as_optax_does(nu, g, kick):
    with jax.enable_x64(True):
        flow = yogi().compile()
        g, kick = jnp.array([g]), jnp.array([kick])
        moments, hp, state = Moments(jnp.zeros(1), kick**2), values(flow), late_state(nu, g)
        expected = mean_change(nu, g, kick)
        rates = [
            flow.slow_drift(state, g, hp)["nu"] + flow.slow_drift_moments(state, g, moments, hp)["nu"],
            flow.leap_slow(state, g, hp, 1.0)["nu"] + flow.leap_slow_moments(state, g, moments, hp, 1.0)["nu"],
        ]
        assert np.allclose(rates, expected, rtol=1e-9), (rates, expected)
    if (nu, kick) == (1.0, 2.0):
        assert np.isclose(expected, 0.0401)


def test_with_its_signs_held_the_rate_is_affine_in_the_moments():
    with jax.enable_x64(True):
        flow, g = yogi().compile(), jnp.array([0.1, 0.1])
        at = jnp.array([4.0, 0.01])
        rate = lambda v: flow.slow_drift_moments(  # noqa: E731
            late_state(1.0, g), g, Moments(0 * g, jnp.full_like(g, v), at), values(flow)
        )["nu"]
        slope = rate(3.0) - rate(2.0)
        assert np.allclose(rate(1.0) - rate(0.0), slope)
        assert np.allclose(slope, [1 - BETA2, -(1 - BETA2)])  # nu is below and above the averaged square


def test_the_notes_say_which_sign_is_meant():
    d = yogi().derive()
    nu = state_symbol("nu", "elementwise")
    assert d.ansatz["nu"].atoms(Frozen) == {Frozen(nu - s.g**2 - s.gradient_variance)}
    assert d.check()


READING = {
    "amsgrad": ("max(nu_max, nu_new)", "nu_max", 0),
    "an average of an average": ("beta2 * nu_max + (1 - beta2) * nu_new", "nu_max", 1),
    "an average of old values": ("beta2 * nu_max + (1 - beta2) * nu", "nu_max", 1),
}


@pytest.mark.parametrize("title", READING)
def test_a_slow_state_may_read_another(title):
    update, read, implicit = READING[title]
    spec = read_toml(
        'name = "reading"\nhyperparameters = ["eta", "beta2"]\n'
        f'update = "-eta * g / sqrt({read})"\n'
        f'[state]\nnu = "beta2 * nu + (1 - beta2) * g**2"\nnu_max = "{update}"\n'
    )
    d = spec.derive()
    assert d.check()
    flow = spec.compile()
    with jax.enable_x64(True):
        hp = {"learning_rate": jnp.asarray(0.1), "beta2": jnp.asarray(0.9)}
        hp = {h.name: hp.get(h.name, jnp.asarray(0.0)) for h in flow.HYPERPARAMETERS}
        g = jnp.array([0.5, 2.0])
        before = {"nu": jnp.array([1.0, 1.5]), "nu_max": jnp.array([1.2, 1.3]), "t": jnp.asarray(7.0)}
        after = flow.update_state(before, g, hp)
        leap = flow.leap_slow(before | {"t": after["t"]}, g, hp, 1.0)
        assert np.allclose(before["nu_max"] + leap["nu_max"], after["nu_max"], rtol=1e-12)  # at step 1 the optimizer
        if implicit:  # implicit Euler of step 1 is the optimizer
            drift = flow.slow_drift(after, g, hp)
            assert np.allclose(after["nu_max"] - drift["nu_max"], before["nu_max"], rtol=1e-12)
            assert np.allclose(after["nu"] - drift["nu"], before["nu"], rtol=1e-12)


def test_optax_amsgrad_derives():
    d = cs.from_optax(optax.amsgrad).derive()
    assert d.check()
    assert sp.simplify(d.threshold - 2 * (1 + s.beta1) / (1 - s.beta1)) == 0

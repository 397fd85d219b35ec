"""The onset: multipliers against the optimizer's own step, delays known in closed form, the delayed central flow."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.optimizer.multiplier import growth, multiplier, multipliers, rounding
from cflow_sym import generated
from cflow_sym.optimizers import names

FLOWS = {name: generated.load(name) for name in names()}
VALUES = {"learning_rate": 0.1, "epsilon": 1e-8, "weight_decay": 0.01, "alpha": 5.0}
N = 3


def hyperparameters(flow, beta1):
    hp = {}
    for info in flow.HYPERPARAMETERS:
        wide = 0.9 if not math.isfinite(info.upper) else 0.9 * info.upper
        value = beta1 if info.name == "beta1" else VALUES.get(info.name, 0.0 if info.default == 0 else wide)
        hp[info.name] = jnp.asarray(float(value))
    return hp | {"blocks": Blocks()}


class Blocks:
    def total(self, v):
        return jnp.sum(v)[None]

    def spread(self, x):
        return jnp.repeat(x, N, total_repeat_length=N)


def after_some_steps(flow, hp, seed):
    """Return states that the optimizer can be in."""
    w = jax.random.normal(jax.random.key(seed), (N,)) + 3
    state = flow.initial_state(w, hp)
    for i in range(4):
        state = flow.update_state(state, w + 0.1 * i, hp)
    return state, w


@pytest.mark.parametrize("name", FLOWS)
@settings(max_examples=3)
@given(st.floats(0.05, 0.8), st.floats(0.01, 0.03))
def test_oscillations_decay_below_the_threshold_and_grow_above(name, beta1, apart):
    flow, hp = FLOWS[name], hyperparameters(FLOWS[name], beta1)
    slow, _ = after_some_steps(flow, hp, 0)
    c = flow.threshold(slow, hp)
    assert abs(complex(multiplier(flow, slow, c, hp)) + 1) < 1e-9
    below, at, above = growth(multipliers(flow, slow, c * jnp.array([1 - apart, 1.0, 1 + apart]), hp)).tolist()
    assert below < 0 < above
    assert abs(at) < 1e-8
    eps = 1e-5
    slope = (growth(multipliers(flow, slow, jnp.array([c * (1 + eps)]), hp))[0] - at) / eps
    assert float(slope) == pytest.approx(float(flow.gain(slow, hp)), rel=1e-2)


@pytest.mark.parametrize("name", FLOWS)
@settings(max_examples=3)
@given(st.floats(0.05, 0.8), st.floats(0.05, 1.6), st.integers(0, 9))
def test_the_multiplier_is_that_of_the_optimizers_own_step(name, beta1, share, seed):
    flow, hp = FLOWS[name], hyperparameters(FLOWS[name], beta1)
    state, w = after_some_steps(flow, hp, seed)
    lam = share * flow.threshold(state, hp)
    P = jnp.broadcast_to(flow.preconditioner(state, hp), (N,))

    def step(w, averages):  # on the quadratic with H = lam P, slow states frozen
        g = lam * P * w
        new = flow.update_state(state | averages, g, hp)
        filtered = {name: new[name] for name in flow.FILTERED_STATES}
        return flow.update_weights(w, state | filtered, g, hp), filtered

    averages = {name: state[name] for name in flow.FILTERED_STATES}
    leaves, structure = jax.tree.flatten((w, averages))

    def flat(x):
        return jnp.concatenate(jax.tree.leaves(step(*jax.tree.unflatten(structure, jnp.split(x, len(leaves))))))

    roots = np.linalg.eigvals(np.asarray(jax.jacfwd(flat)(jnp.concatenate(leaves))))
    leftmost = roots[np.argmin(roots.real)]
    found = complex(multiplier(flow, state, lam, hp))
    assert abs(abs(found) - abs(leftmost)) < 1e-6
    assert abs(found.real - leftmost.real) < 1e-6


def made_up(rates, eps=2.0**-52, start=1e-3, lam=None):
    """Return a run whose stable flow has these rates of growth along one eigenvector."""
    rates = np.asarray(rates, float)
    lam = np.where(rates >= 0, 2.1, 1.9) if lam is None else lam
    one = np.ones(len(rates))
    stable = {"growth": rates[:, None], "offset": start * one[:, None], "effective_eigenvalues": lam[:, None]}
    data = {name: (("step", "eig"), x) for name, x in stable.items()}
    data |= {"rounding": ("step", eps * one), "threshold": ("step", 2 * one)}
    tree = xr.DataTree.from_dict({"stable": xr.Dataset(data)})
    tree.attrs = {"config": json.dumps({"optimizer": "made up"}), "reason": ""}
    return cn.Run(tree)


@settings(max_examples=30)
@given(st.floats(0.05, 0.2), st.floats(0.05, 0.2), st.floats(1e-3, 1e-1))
def test_from_the_floor_the_delay_is_logarithmic(decay, rise, amplitude):
    rates = np.r_[np.full(900, -decay), np.full(900, rise)]
    double = cn.predicted_onset(made_up(rates), amplitude)
    single = cn.predicted_onset(made_up(rates, eps=2.0**-23), amplitude)
    assert double.crossing == single.crossing == 900
    assert double.delay == pytest.approx(math.log(amplitude / 2.0**-52) / rise, abs=1)
    assert double.delay - single.delay == pytest.approx(math.log(2.0**29) / rise, abs=1)


@settings(max_examples=30)
@given(st.floats(0.02, 0.1), st.integers(10, 60))
def test_what_is_left_of_the_start_shortens_the_delay(rate, entry):
    # entry and exit: what decayed for some steps at a rate grows back in as many steps
    found = cn.predicted_onset(made_up(np.r_[np.full(entry, -rate), np.full(200, rate)], start=1e-2), 1e-2)
    assert found.delay == pytest.approx(entry, abs=1)


def test_what_counts_as_the_crossing():
    rates = np.array([0.1, -0.1, -0.1, 0.1, 0.1])
    assert cn.predicted_onset(made_up(rates), 1).crossing == 3  # from below
    assert cn.predicted_onset(made_up(np.full(5, 0.1)), 1).crossing == 0
    nowhere = cn.predicted_onset(made_up(np.full(5, -0.1)), 1e-30)
    assert (nowhere.crossing, nowhere.onset, nowhere.delay) == (None, None, None)


SHARPENING = dict(s0=1.6, a=0.0, p=0.004, z0=0.0, x0=1e-2)
STEPS = 260


@pytest.fixture(scope="module")
def delayed():
    valley = cn.problem("valley", **SHARPENING)
    return cn.run(valley, "gradient_descent", dict(learning_rate=1.0), steps=STEPS, onset="delayed", quiet=True)


def in_closed_form(amplitude):
    """Return the step at which the oscillation in the sharpening valley is that large again: x' = (1 - S) x."""
    t = np.arange(STEPS)
    S = SHARPENING["s0"] + SHARPENING["p"] * t
    x = SHARPENING["x0"] * np.cumprod(np.r_[1.0, np.abs(1 - S)])[:STEPS]
    return int(np.argmax((x >= amplitude) & (S > 2)))


@pytest.mark.parametrize("amplitude", [3e-3, 1e-2, 3e-2])
def test_the_delay_in_a_sharpening_valley(delayed, amplitude):
    expected = in_closed_form(amplitude)
    predicted, measured = cn.predicted_onset(delayed, amplitude), cn.measured_onset(delayed, amplitude)
    assert expected > predicted.crossing + 50
    assert predicted.onset == pytest.approx(expected, abs=1)
    assert measured.onset == pytest.approx(expected, abs=2)


def test_until_the_delayed_onset_the_central_flow_is_the_stable_one(delayed):
    central, stable = delayed.tree["central"], delayed.tree["stable"]
    sigma = np.nan_to_num(np.asarray(central["sigma_eigenvalues"]))[:, 0]
    first = int(np.argmax(sigma > 1e-8))
    crossing = cn.predicted_onset(delayed).crossing
    assert first - crossing > 50
    assert first == pytest.approx(in_closed_form(3e-2), abs=15)
    lam = np.asarray(central["effective_eigenvalues"])[:, 0]
    assert lam[crossing + 40 : first - 1].min() > 2.1
    np.testing.assert_allclose(lam[: first - 1], stable["effective_eigenvalues"][: first - 1, 0], atol=2e-3)
    assert np.abs(lam[first + 30 :] - 2).max() < 1e-3  # back at the edge, and held there
    window = slice(1, first - 1)
    near, same = (np.asarray(flow["distance_to_discrete"])[window] for flow in (central, stable))
    np.testing.assert_allclose(near, same, atol=2e-3)
    assert delayed.compare()["largest_eigenvalue"].passed is None


def test_rounding_follows_the_type():
    for dtype in (jnp.float32, jnp.float64):
        assert rounding(jnp.full((4,), 2.0, dtype)) == 2 * jnp.finfo(dtype).eps


def test_bad_input(delayed):
    valley = cn.problem("valley")
    with pytest.raises(cn.InputError, match=r'onset "late" is not one of published, delayed'):
        cn.run(valley, "gradient_descent", dict(learning_rate=1.0), steps=5, onset="late")
    with pytest.raises(cn.InputError, match=r'onset "delayed" is not defined for integrator "heun": use "published"'):
        cn.run(valley, "gradient_descent", dict(learning_rate=1.0), steps=5, onset="delayed", integrator="heun")
    with pytest.raises(cn.InputError, match="amplitude is -1, it must be a positive number"):
        cn.predicted_onset(delayed, -1)
    with pytest.raises(cn.InputError, match="mode is 99, it must be between 0"):
        cn.predicted_onset(delayed, mode=99)
    with pytest.raises(cn.InputError, match="the run has no discrete process"):
        cn.measured_onset(made_up(np.zeros(5)))

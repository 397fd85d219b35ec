"""Momentum: the leapfrog against optax, thresholds, the order of the centre flow, bad input, one step at the edge."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.flows.phase_space import PhaseSpace, no_moments
from cflow_num.flows.stable import PhaseSpaceStableFlow
from cflow_num.optimizer.filter import check_filter, refuse_other_periods
from cflow_num.optimizer.hyperparameters import Schedule, resolve
from cflow_num.running.run import run
from cflow_num.support.errors import GainWarning, InputError
from cflow_sym import generated
from cflow_sym.interface import Filter

from .cases import arrays, random_smooth

STEPS = 30


@dataclasses.dataclass(frozen=True)
class Falling:
    """A learning rate that swings and falls, as a function of the steps taken."""

    start: float

    def __call__(self, count):
        count = jnp.asarray(count, jnp.float64)
        return self.start * (1 + 0.3 * jnp.sin(count)) / (1 + count / 20)


def coupled(inner, decay):
    return optax.chain(optax.add_decayed_weights(decay), inner)


def qhm(lr, b, q):
    """Quasi-hyperbolic momentum from optax's parts: a mixture of the gradient and of its average."""
    average = optax.ema(b, debias=False)

    def update(updates, state, params=None):
        mean, state = average.update(updates, state, params)
        return jax.tree.map(lambda g, m: (1 - q) * g + q * m, updates, mean), state

    return optax.chain(optax.GradientTransformation(average.init, update), optax.scale_by_learning_rate(lr))


def aggmo(lr, decays):
    """The mean of optax's traces with these decays."""
    traces = [optax.trace(b) for b in decays]

    def init(params):
        return tuple(t.init(params) for t in traces)

    def update(updates, state, params=None):
        both = [t.update(updates, x, params) for t, x in zip(traces, state, strict=True)]
        return jax.tree.map(lambda *u: sum(u) / len(u), *(u for u, _ in both)), tuple(x for _, x in both)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(lr))


def scalar_adam(lr, b1, b2, eps):
    """Adam's parts of optax with one second moment for all weights."""

    def init(params):
        return optax.ema(b1, debias=True).init(params), jnp.zeros(()), jnp.zeros(())

    def update(g, state, params=None):
        mean, nu, t = state
        direction, mean = optax.ema(b1, debias=True).update(g, mean)
        nu, t = b2 * nu + (1 - b2) * optax.tree.norm(g, squared=True), t + 1
        scale = jnp.sqrt(nu / (1 - b2**t)) + eps
        return jax.tree.map(lambda m: m / scale, direction), (mean, nu, t)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(lr))


# name: optax's own optimizer of (learning rate, hyperparameters), and which hyperparameters are drawn
PAIRS = {
    "heavy_ball": (lambda lr, p: coupled(optax.sgd(lr, momentum=p["beta1"]), p["l2"]), ("beta1", "l2")),
    "heavy_ball_ema": (
        lambda lr, p: optax.chain(optax.ema(p["beta1"], debias=False), optax.scale_by_learning_rate(lr)),
        ("beta1",),
    ),
    "nesterov": (lambda lr, p: optax.sgd(lr, momentum=p["beta1"], nesterov=True), ("beta1",)),
    "qhm": (lambda lr, p: qhm(lr, p["beta1"], p["momentum_share"]), ("beta1", "momentum_share")),
    "aggmo": (lambda lr, p: aggmo(lr, (0.0, p["beta_b"], p["beta_c"])), ("beta_b", "beta_c")),
    "adam": (
        lambda lr, p: coupled(optax.adam(lr, p["beta1"], p["beta2"], eps=p["epsilon"]), p["l2"]),
        ("beta1", "beta2", "epsilon", "l2"),
    ),
    "adamw": (
        lambda lr, p: optax.adamw(lr, p["beta1"], p["beta2"], eps=p["epsilon"], weight_decay=p["weight_decay"]),
        ("beta1", "beta2", "epsilon", "weight_decay"),
    ),
    "nadam": (
        lambda lr, p: optax.nadam(lr, p["beta1"], p["beta2"], eps=p["epsilon"]),
        ("beta1", "beta2", "epsilon"),
    ),
    "scalar_adam": (lambda lr, p: scalar_adam(lr, p["beta1"], p["beta2"], p["epsilon"]), ("beta1", "beta2", "epsilon")),
    "adabelief": (
        lambda lr, p: optax.adabelief(lr, p["beta1"], p["beta2"], eps=p["epsilon"], eps_root=p["epsilon_root"]),
        ("beta1", "beta2", "epsilon", "epsilon_root"),
    ),
    "ademamix": (
        lambda lr, p: optax.contrib.ademamix(
            lr, p["beta1"], p["beta2"], p["beta3"], alpha=p["alpha"], eps=p["epsilon"], eps_root=0.0
        ),
        ("beta1", "beta2", "beta3", "alpha", "epsilon"),
    ),
}
DECAY = st.floats(0.05, 0.95)
RANGES = {
    "beta1": DECAY, "beta_b": DECAY, "beta_c": DECAY, "momentum_share": DECAY,
    "beta2": st.floats(0.5, 0.999), "beta3": st.floats(0.5, 0.999), "alpha": st.floats(0, 3),
    "epsilon": st.floats(1e-8, 1e-2), "epsilon_root": st.floats(1e-10, 1e-4),
    "l2": st.floats(0, 0.3), "weight_decay": st.floats(0, 0.3),
}  # fmt: skip
PROBLEM = random_smooth(3)


@eqx.filter_jit
def leapfrog_path(flow):
    """Return the weights of 30 steps of length 1 without oscillation."""

    def step(y, _):
        g = flow.gradient(y.w)
        y = flow.leap(y, g, 0 * g, no_moments(g), 1.0)
        return y, y.w

    y = flow.started(flow.problem.w0, flow.optimizer.initial_state(flow.problem.w0, flow.hp), 1.0)
    return jax.lax.scan(step, y, None, length=STEPS)[1]


def optax_path(make):
    """Return the weights of 30 steps of an optax optimizer, hyperparameters traced."""

    @jax.jit
    def path(start, values, w0):
        optimizer = make(Falling(start), values)

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(PROBLEM.gradient(w), state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), w

        return jax.lax.scan(step, (w0, optimizer.init(w0)), None, length=STEPS)[1]

    return path


@pytest.mark.parametrize("name", PAIRS)
def test_without_oscillation_a_step_of_one_is_optax(name):
    make, drawn = PAIRS[name]
    path = optax_path(make)

    @settings(max_examples=15)
    @given(values=st.fixed_dictionaries({h: RANGES[h] for h in drawn}), rate=st.floats(1e-3, 0.05))
    def agrees(values, rate):
        hp = arrays(name, PROBLEM, learning_rate=Falling(rate), **values)
        flow = PhaseSpace(PROBLEM, hp, generated.load(name))
        found = leapfrog_path(flow)
        given = {h: jnp.asarray(x) for h, x in values.items()}
        expected, nudged = (path(rate, given, PROBLEM.w0 * scale) for scale in (1, 1 + 1e-9))
        error, spread = (
            float((jnp.linalg.norm(w - expected, axis=1) / jnp.linalg.norm(expected, axis=1)).max())
            for w in (found, nudged)
        )
        # unless the optimizer itself multiplies a deviation at its start by more than a hundred
        assert error < max(1e-12, 1e-14 * spread / 1e-9)

    agrees()


def test_the_look_ahead_form_of_nesterov_is_the_other_one():
    """Textbook: v' = b v - eta grad L(w + b v), w' = w + v'; the flow follows w + b v."""
    hp = arrays("nesterov_lookahead", PROBLEM, learning_rate=0.02, beta1=0.8)
    found = leapfrog_path(PhaseSpace(PROBLEM, hp, generated.load("nesterov_lookahead")))
    w, v = PROBLEM.w0, 0 * PROBLEM.w0
    for k in range(STEPS):
        v = 0.8 * v - 0.02 * PROBLEM.gradient(w + 0.8 * v)
        w = w + v
        np.testing.assert_allclose(found[k], w + 0.8 * v, rtol=1e-12)


SETTINGS = {
    "heavy_ball": dict(beta1=0.9),
    "heavy_ball_ema": dict(beta1=0.5),
    "nesterov": dict(beta1=0.9),
    "qhm": dict(beta1=0.9, momentum_share=0.7),
    "aggmo": {},
    "adam": dict(beta1=0.9, beta2=0.99),
    "adamw": dict(beta1=0.9, beta2=0.99, weight_decay=0.3),
    "nadam": dict(beta1=0.9, beta2=0.99),
    "adabelief": dict(beta1=0.9, beta2=0.99, epsilon_root=1e-12),
    "ademamix": dict(beta1=0.9, beta2=0.99, beta3=0.99, alpha=2.0),
    "scalar_adam": dict(beta1=0.9, beta2=0.99),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_threshold_is_where_the_optimizer_begins_to_grow(name):
    """Bisection with the discrete optimizer, slow states frozen at late times, on a quadratic in one weight."""
    flow, hp = resolve(name, {"learning_rate": 0.1, **SETTINGS[name]})
    hp = {k: jnp.asarray(x) for k, x in hp.items()}
    slow = {
        n: jnp.asarray(1e5) if n == "t" else jnp.ones(() if k == "scalar" else 1) for n, k in flow.SLOW_STATES.items()
    }

    @jax.jit
    def growth(h):
        def step(carry, _):
            w, averages, size = carry
            g = h * flow.preconditioner(slow, hp) * w
            state = flow.update_state(slow | averages, g, hp)
            averages = {n: state[n] for n in flow.FILTERED_STATES}
            w = flow.update_weights(w, slow | averages, g, hp)
            norm = jnp.sqrt(sum(jnp.sum(x**2) for x in (w, *averages.values())))
            return (w / norm, {n: x / norm for n, x in averages.items()}, size + jnp.log(norm)), size

        start = jnp.ones(1), {n: -jnp.ones(1) for n in flow.FILTERED_STATES}, jnp.zeros(())
        sizes = jax.lax.scan(step, start, None, length=2000)[1]
        return sizes[-1] - sizes[1000]

    low, high = 0.05, 200.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if growth(middle) > 0 else (middle, high)
    assert float(flow.threshold(slow, hp)) == pytest.approx(low, rel=1e-3)


def test_the_centre_flow_is_of_second_order_in_the_step():
    """Halving learning rate and all memories' shares of time: the discrete path departs four times less."""
    error = []
    for refine in (1, 2, 4):
        b = 1 - 0.5 / refine
        hp = arrays("nesterov", PROBLEM, learning_rate=0.03 * (1 - b) / refine, beta1=b)
        flow = PhaseSpaceStableFlow(PROBLEM, hp, generated.load("nesterov"))
        discrete = DiscreteOptimizer(PROBLEM, hp, flow.optimizer)
        steps = 40 * refine
        path = discrete.steps(discrete.first(PROBLEM.w0), steps)
        before = flow.optimizer.initial_state(PROBLEM.w0, hp)
        y = flow.started(PROBLEM.w0, before, 0.02)
        for _ in range(steps * 50):
            y = small_step(flow, y)
        error.append(float(jnp.linalg.norm(y.w - path.w[-1])))
    assert error[0] / error[1] > 3
    assert error[1] / error[2] > 3


@eqx.filter_jit
def small_step(flow, y):
    g = flow.gradient(y.w)
    return flow.leap(y, g, 0 * g, no_moments(g), 0.02)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (([0.9], [0.1], [1.0], -0.05), r"unstable at the effective eigenvalue 2.222, before the threshold 760 .* root"),
        (([0.9], [0.1], [1.0], -0.1), r"G\(-1\) = -0.04737, which is not positive"),
        (([1.0], [0.1], [1.0], 0.0), "keeps 1 of its old value"),
        (([-0.2], [0.1], [1.0], 0.0), "keeps -0.2 of its old value"),
    ],
)
def test_a_filter_without_an_edge_of_period_two_is_refused(parts, says):
    with pytest.raises(InputError, match=says) as caught:
        refuse_other_periods(Filter(*(jnp.asarray(x) for x in (*parts, 0.0))), "fake with learning_rate 0.1")
    assert "\n" not in str(caught.value)


def test_a_high_gain_is_announced():
    quadratic = cn.problem("quadratic", n=4)
    with pytest.warns(GainWarning, match=r"gain of heavy_ball at the edge is 38 .* expect bursts"):
        result = run(quadratic, "heavy_ball", dict(learning_rate=0.1, beta1=0.9), steps=5, quiet=True)
    assert result.config["gain"] == pytest.approx(38)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(beta1=1.0), "beta1"),
        (dict(beta1=-0.1), "beta1"),
        (dict(beta1=0.5, integrator="published"), "published scheme is not defined for heavy_ball"),
        (dict(beta1=0.5, processes=("stationary",)), "stationary flow is not defined for heavy_ball"),
        (dict(beta1=0.5, average_start=True), "pass a warm_start of at least 1"),
    ],
)
def test_bad_input(options, says):
    options = dict(options)
    hp = dict(learning_rate=0.1, beta1=options.pop("beta1"))
    with pytest.raises(InputError, match=says):
        run(cn.problem("quadratic", n=4), "heavy_ball", hp, steps=5, quiet=True, **options)


def test_every_way_of_advancing_a_flow_agrees_below_the_edge():
    """Leapfrog and reduced flow of heavy ball, leapfrog and Heun of gradient descent: the same path but for the lag."""
    smooth = random_smooth(5, scale=0.2)
    ends = {}
    for name, hp in (("heavy_ball", dict(beta1=0.5)), ("gradient_descent", {})):
        for integrator in ("heun", "leapfrog"):
            result = run(smooth, name, dict(learning_rate=0.05, **hp), steps=20, integrator=integrator, quiet=True)
            assert not result.reason
            ends[name, integrator] = result.tree["central"]["distance_to_discrete"].values[-2]
            far = result.tree["discrete"]["distance_from_start"].values[-2]
            assert ends[name, integrator] < 0.05 * far
    assert ends["heavy_ball", "leapfrog"] < ends["heavy_ball", "heun"] / 5
    assert ends["gradient_descent", "leapfrog"] < ends["gradient_descent", "heun"] / 5


@pytest.mark.parametrize("name", ["adam", "nadam", "ademamix", "heavy_ball"])
def test_an_average_without_memory_is_allowed(name):
    more = {"adam": dict(beta2=0.9), "nadam": dict(beta2=0.9), "ademamix": dict(beta2=0.9, beta3=0.0, alpha=1.0)}
    hp = arrays(name, PROBLEM, learning_rate=0.01, beta1=0.0, **more.get(name, {}))
    flow = generated.load(name)
    path = leapfrog_path(PhaseSpace(PROBLEM, hp, flow))
    discrete = DiscreteOptimizer(PROBLEM, hp, flow)
    expected = discrete.steps(discrete.first(PROBLEM.w0), STEPS).w
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    state = discrete.first(PROBLEM.w0).slow
    rates = {n: jnp.ones_like(x) for n, x in state.items()}
    assert jnp.all(jnp.isfinite(flow.preconditioner_drift(state, rates, hp)))
    assert jnp.isfinite(flow.threshold_drift(state, rates, hp))


def test_a_schedule_is_not_read_beyond_the_run():
    ends = dict(learning_rate=lambda k: 0.1 * jnp.sqrt(1 - k / 40), weight_decay=0.1)
    flow, hp = resolve("gradient_descent", ends)
    edge = check_filter(flow, arrays("gradient_descent", PROBLEM, **ends), 30)
    assert edge.threshold == pytest.approx(2 - 0.1 * 0.1)
    assert edge.gain == pytest.approx(2, abs=0.02)
    assert hp["weight_decay"] == 0.1


def test_schedules_are_read_where_optax_reads_them():
    rate = Schedule(Falling(0.3))
    hp = arrays("heavy_ball", PROBLEM, learning_rate=Falling(0.3), beta1=0.5)
    flow = PhaseSpace(PROBLEM, hp, generated.load("heavy_ball"))
    y = flow.started(PROBLEM.w0, flow.optimizer.initial_state(PROBLEM.w0, hp), 0.5)
    g = flow.gradient(y.w)
    after = flow.leap(y, g, 0 * g, no_moments(g), 0.5)
    assert float(after.slow["t"]) == pytest.approx(0.75)  # count 1/2 + dt/2 in the middle of the first step
    moved = after.w - y.w
    expected = -0.5 * rate(jnp.asarray(0.75)) * 2 * after.filtered[0]
    np.testing.assert_allclose(moved, expected, rtol=1e-12)

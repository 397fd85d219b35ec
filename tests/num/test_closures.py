"""Closures: their formulas, what they are in known limits, what they are known to fail at, and whole runs with them."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.flows.closures.base import even_odd, plus
from cflow_num.flows.closures.edge import Edge, EdgeState
from cflow_num.flows.closures.envelope import Envelope, EnvelopeState
from cflow_num.flows.closures.rod import Rod, RodState
from cflow_num.flows.discrete import DiscreteOptimizer, midpoints
from cflow_num.flows.stable import StableFlow
from cflow_num.loss.problem import Problem
from cflow_num.problems.valley import valley_loss
from cflow_num.support.errors import InputError
from cflow_sym.generated import load

from .cases import arrays, random_smooth, rotated, rotation

GD = {"learning_rate": 0.3}
QUICK = settings(max_examples=4, deadline=None)
seeds = st.integers(0, 10**6)


def closure(kind, problem, name="gradient_descent", hp=None, **options):
    return kind(problem, arrays(name, problem, **(GD if hp is None else hp)), load(name), **options)


def before(flow):
    return FlowState(flow.problem.w0, flow.optimizer.initial_state(flow.problem.w0, flow.hp))


def warmed(flow):
    """Return a state before its update at which second moments are positive."""
    y = before(flow)
    return y._replace(slow=flow.optimizer.update_state(y.slow, flow.gradient(y.w), flow.hp))


def displacement(flow, y, seed, size=0.1):
    """Return a random displacement of the weights alone."""
    w = size * jnp.asarray(np.random.default_rng(seed).normal(size=y.w.size))
    return jax.tree.map(jnp.zeros_like, y)._replace(w=w)


@eqx.filter_jit
def follow(flow, start, length, h=0.25):
    return flow.steps(start, length, jnp.asarray(h, start.y.w.dtype))


@eqx.filter_jit
def increment(flow, y):
    return flow.increment(y)


@eqx.filter_jit
def rates(flow, state):
    return flow.rates(state)


@eqx.filter_jit
def step(flow, state, h):
    return flow.step(state, h)


@eqx.filter_jit
def rod_rates(flow, state):
    """Return the rates of the centre and of Sigma."""
    ends = flow.ends(state)
    block = flow.square(ends)
    return flow.centre_rate(state, ends), block.T @ block / 2 - 2 * state.factor.T @ state.factor


@eqx.filter_jit
def derivatives(flow, w):
    return flow.gradient(w), jax.hessian(flow.value)(w)


# formulas


@given(seed=seeds)
@QUICK
def test_the_rod_of_one_eigenvector_is_the_published_one(seed):
    flow, eta = closure(Rod, random_smooth(seed)), GD["learning_rate"]
    y = before(flow)
    d = displacement(flow, y, seed + 1).w
    state = RodState(y, jnp.zeros((3, d.size)).at[0].set(d))
    centre, covariance = rod_rates(flow, state)
    g, H = zip(*(derivatives(flow, y.w + sign * d) for sign in (1, -1)), strict=True)
    w = -eta / 2 * (g[0] + g[1]) - eta**2 / 8 * (H[0] + H[1]) @ (g[0] + g[1])
    np.testing.assert_allclose(centre.w, w, rtol=1e-9, atol=1e-12)
    Sigma_rate = eta**2 / 4 * sum(np.outer(x, x) for x in g) - 2 * np.outer(d, d)
    np.testing.assert_allclose(covariance, Sigma_rate, rtol=1e-9, atol=1e-12)


@given(seed=seeds, h=st.sampled_from([0.5, 0.25, 0.1]))
@QUICK
def test_the_rods_factor_follows_the_dense_covariance_which_stays_semidefinite(seed, h):
    flow = closure(Rod, random_smooth(seed), rank=5)
    factor = 0.2 * jnp.asarray(np.random.default_rng(seed).normal(size=(5, 5)))
    y = RodState(before(flow), factor)

    Sigma = factor.T @ factor
    centre, first = rod_rates(flow, y)
    x, V = jnp.linalg.eigh(Sigma + h * first)
    assert float(x.min()) > -1e-14
    middle = RodState(plus(y.y, centre, h), (V * jnp.sqrt(jnp.maximum(x, 0))).T[::-1])
    Sigma = Sigma + h / 2 * (first + rod_rates(flow, middle)[1])
    end = step(flow, y, jnp.asarray(h)).factor
    assert float(jnp.linalg.eigvalsh(Sigma).min()) > -1e-14
    # five of sixteen columns are all there are in five dimensions: nothing is cut off
    np.testing.assert_allclose(end.T @ end, Sigma, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "hp"), [("gradient_descent", GD), ("heavy_ball", GD | {"beta1": 0.5})])
def test_the_rod_at_time_step_1_without_correction_is_the_optimizer(name, hp):
    flow = closure(Rod, random_smooth(3), name, hp, rank=3, correction=False, euler=True)
    points = [before(flow)]
    for _ in range(21):
        points.append(plus(points[-1], increment(flow, points[-1])))
    rods = [even_odd(a, b)[0] for a, b in itertools.pairwise(points)]
    half = flow.flat(increment(flow, points[0])) / 2
    start = RodState(rods[0], jnp.zeros((3, half.size)).at[0].set(half))
    end, path, _ = follow(flow, start, 20, 1.0)
    np.testing.assert_allclose(path.w, [rod.w for rod in rods[1:]], rtol=1e-7)
    np.testing.assert_allclose(flow.flat(end.y), flow.flat(rods[20]), rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "hp"), [("gradient_descent", GD), ("nadam", {"learning_rate": 0.05, "beta1": 0.9, "beta2": 0.95})]
)
def test_the_envelope_at_time_step_1_without_correction_is_two_runs(name, hp):
    flow = closure(Envelope, random_smooth(4), name, hp, correction=False)
    y = warmed(flow)
    d = displacement(flow, y, 5)
    found = rates(flow, EnvelopeState(y, d))
    up, down = plus(plus(y, d), increment(flow, plus(y, d))), plus(plus(y, d, -1), increment(flow, plus(y, d, -1)))
    centre, half = even_odd(down, up)
    for moved, exact in ((plus(y, found.y), centre), (plus(d, found.d), half)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), moved, exact)


@given(seed=seeds, name=st.sampled_from(["gradient_descent", "scalar_rmsprop", "rmsprop"]))
@QUICK
def test_without_oscillation_closures_are_the_stable_flow_or_the_map_itself(seed, name):
    hp = GD if name == "gradient_descent" else {"learning_rate": 0.1, "beta2": 0.9}
    flow = closure(Edge, random_smooth(seed), name, hp)
    y = warmed(flow)
    zero = jnp.zeros(())
    found = rates(flow, EdgeState(y, jnp.ones_like(y.w), zero))
    stable = StableFlow(flow.problem, flow.hp, flow.optimizer).stable_drift(y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found.y, stable)
    still = jax.tree.map(jnp.zeros_like, y)
    for kind in (Rod, Envelope):
        flow = closure(kind, flow.problem, name, hp, correction=False)
        if kind is Rod:
            state = RodState(y, jnp.zeros((2, y.w.size)))
            rate = rod_rates(flow, state)[0]
        else:
            rate = rates(flow, EnvelopeState(y, still)).y
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), rate, increment(flow, y))


@given(seed=seeds, kind=st.sampled_from([Rod, Edge, Envelope]))
@settings(max_examples=4, deadline=None)
def test_rotated_coordinates_give_the_rotated_path(seed, kind):
    problem, Q = random_smooth(seed, n=4), rotation(seed, 4)
    paths = []
    for one, turn in ((problem, np.eye(4)), (rotated(problem, Q), Q)):
        flow = closure(kind, one)
        y = before(flow)
        d = displacement(flow, y, seed + 1)
        start = flow.started(y, y.slow, d._replace(w=turn @ d.w), jnp.asarray(turn)[:, :1])
        paths.append(follow(flow, start, 8)[1].w @ turn)
    np.testing.assert_allclose(*paths, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", [Rod, Edge, Envelope])
def test_a_smaller_step_changes_nothing_but_the_second_order(kind):
    flow = closure(kind, random_smooth(7))
    y = before(flow)
    start = flow.started(y, y.slow, displacement(flow, y, 8), jnp.eye(5)[:, :1])
    ends = [follow(flow, start, 4, h)[1].w[-1] for h in (1 / 4, 1 / 8, 1 / 16)]
    coarse, fine = (float(jnp.linalg.norm(a - b)) for a, b in itertools.pairwise(ends))
    assert coarse < 5e-3 * float(jnp.linalg.norm(ends[-1] - y.w))
    assert coarse / fine > 3


@pytest.mark.parametrize("kind", [Rod, Envelope])
def test_below_the_edge_the_correction_makes_the_map_a_flow(kind):
    """With -Df[f]/2 the centre is where the optimizer is, to second order in the step; without, to first."""
    problem, error = random_smooth(2), {}
    for correction in (True, False):
        flow = closure(kind, problem, hp={"learning_rate": 0.05}, correction=correction)
        discrete = DiscreteOptimizer(flow.problem, flow.hp, flow.optimizer)
        exact = jax.jit(lambda y, discrete=discrete: discrete.steps(y, 16).w[-1])(discrete.first(problem.w0))
        y = before(flow)
        start = flow.started(y, y.slow, jax.tree.map(jnp.zeros_like, y), jnp.eye(5)[:, :1])
        error[correction] = float(jnp.linalg.norm(follow(flow, start, 16)[1].w[-1] - exact))
    assert error[True] < error[False] / 5


# what they are known to fail at

TOY = {"s0": 1.2, "a": 0.5, "p": 0.004, "k": 0.1}
TURN = rotation(11, 3)


def _turned(v, data):
    return valley_loss(data[1].T @ v, data[0])


@pytest.fixture(scope="module")
def toy():
    """A valley whose sharpness passes the edge after 200 steps, in coordinates in which every number is rounded."""
    data = {name: jnp.asarray(value) for name, value in TOY.items()}
    return Problem(_turned, jnp.asarray(TURN @ [0.01, 0.0, 0.0]), data=(data, jnp.asarray(TURN)))


def sharpness(w):
    return TOY["s0"] + np.asarray(w) @ TURN @ [0, 1, TOY["a"]]


def onset(w):
    """Return the first step at which the sharpness falls beyond the edge; None if it does not."""
    S = sharpness(w)
    falls = np.flatnonzero((S[1:] < S[:-1]) & (S[1:] > 2))
    return int(falls[0]) if falls.size else None


@pytest.fixture(scope="module")
def passed(toy):
    def go(kind, **options):
        flow = closure(kind, toy, hp={"learning_rate": 1.0}, **options)
        y = before(flow)
        oscillation = jax.tree.map(jnp.zeros_like, y)._replace(w=toy.w0)
        start = flow.started(y._replace(w=0 * y.w), y.slow, oscillation, jnp.asarray(TURN)[:, :1])
        return onset(follow(flow, start, 450)[1].w)

    return go


@pytest.fixture(scope="module")
def real(toy):
    flow = DiscreteOptimizer(toy, arrays("gradient_descent", toy, learning_rate=1.0), load("gradient_descent"))
    path = jax.jit(lambda y: flow.steps(y, 450).w)(flow.first(toy.w0))
    return onset(midpoints(path))


def test_the_optimizer_meets_the_edge_late_and_closures_with_it(passed, real):
    assert real > 300  # the edge is at 200
    for kind in (Rod, Edge, Envelope):
        assert passed(kind) == pytest.approx(real, abs=45), kind


def test_the_rod_with_the_leading_eigenvector_alone_fails_after_a_stable_phase(passed, real):
    assert passed(Rod, points=1) is None
    assert passed(Rod) is not None


@pytest.mark.parametrize("kind", [Edge, Envelope])
def test_without_a_floor_the_onset_comes_late(kind, passed):
    assert passed(kind, floor=0.0) > passed(kind) + 40


def test_an_oscillation_below_rounding_errors_is_dead_in_differences_and_not_here(toy):
    """It is lost in y + d: the odd part vanishes, and what remains of dd/dt is -2 d at any curvature."""
    flow = closure(Envelope, toy, hp={"learning_rate": 1.0})
    y = before(flow)._replace(w=jnp.asarray(TURN @ [0.0, 1.6, 0.0]))  # sharpness 2.8
    d = jax.tree.map(jnp.zeros_like, y)._replace(w=1e-18 * jnp.asarray(TURN)[:, 0])
    assert not np.any(even_odd(increment(flow, plus(y, d)), increment(flow, plus(y, d, -1)))[1].w)
    np.testing.assert_allclose(rates(flow, EnvelopeState(y, d)).d.w, 0.8 * d.w, rtol=1e-9)


# runs


@pytest.fixture(scope="module")
def run():
    return cn.run(
        cn.problem("valley", s0=1.8, p=0.01, z0=0.0),
        "gradient_descent",
        {"learning_rate": 1.0},
        steps=96,
        warm_start=25,
        average_start=True,
        processes=("discrete", "stable", "central", "rod", "edge", "envelope"),
        quiet=True,
    )


def test_a_run_with_closures_compares_all_of_them(run):
    assert not run.reason
    assert run.config["closure_step"] == 0.25
    comparison = run.compare()
    for name, cost in (("rod", 144), ("edge", 24), ("envelope", 32)):
        group = run.tree[name]
        assert np.isfinite(group["predicted_loss"][1:]).all()
        np.testing.assert_allclose(np.diff(group["n_gradients"])[0], cost)
        assert 0 < comparison[f"{name}_ratio"].value < 1
        assert comparison[f"{name}_predicted_loss"].value is not None
        assert name in str(comparison)


def test_they_are_drawn_and_reported(run, tmp_path):
    text = run.report(tmp_path).read_text()
    assert "distance envelope / stable" in text


def test_float32_and_a_batch_give_the_same_paths():
    problem = cn.problem("valley", s0=1.8, p=0.01, z0=0.0)
    rates = [{"learning_rate": rate} for rate in (0.9, 1.0)]
    how = dict(steps=16, processes=("rod", "edge"), quiet=True)
    alone = cn.run(problem, "gradient_descent", rates[1], **how)
    single = cn.run(problem.astype("float32"), "gradient_descent", rates[1], **how)
    together = cn.run_batch(problem, "gradient_descent", rates, **how | {"processes": ("edge",)})
    for name in ("rod", "edge"):
        loss = alone.tree[name]["loss"].values
        np.testing.assert_allclose(single.tree[name]["loss"].values, loss, atol=1e-5)
    np.testing.assert_allclose(together[1].tree["edge"]["loss"].values, loss, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "hp", "kinds"),
    [
        ("rmsprop", {"learning_rate": 0.02, "beta2": 0.9, "epsilon": 1e-8}, ("rod", "edge", "envelope")),
        ("normalized_gradient_descent", {"learning_rate": 0.02}, ("edge", "envelope")),
        ("adam", {"learning_rate": 0.02, "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-8}, ("rod", "envelope")),
    ],
)
def test_adaptive_optimizers_with_a_weight_that_has_no_gradient(name, hp, kinds):
    problem = Problem(_only_some, jnp.array([0.3, 0.4, 1.0]))
    run = cn.run(problem, name, hp, steps=16, processes=("discrete", *kinds), quiet=True)
    assert not run.reason
    for kind in kinds:
        assert float(run.tree[kind]["distance_to_discrete"][-2]) < 0.05


def _only_some(w):
    return w[0] ** 2 + w[1] ** 4 + w[0] * w[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(processes=("discrete", "rods")), 'process "rods" is not one of .*rod.*did you mean "rod"'),
        (dict(processes=("edge",)), "not derived for heavy_ball, which has momentum: it is for optimizers without"),
        (dict(processes=("rod",), closure_step=1.0), "closure_step is 1.0, it must be one over a whole number"),
        (dict(processes=("rod",), closure_step=0.3), "closure_step is 0.3, it must be one over a whole number"),
    ],
)
def test_bad_input_is_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        cn.run(
            cn.problem("valley"), "heavy_ball", {"learning_rate": 0.1, "beta1": 0.5}, steps=2, quiet=True, **settings
        )

"""The anchored integrator: order, step control, cost; and batches of runs in one program."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.loss.problem import Problem
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.running.process import Process
from cflow_num.running.warm_start import warm_started
from cflow_num.stepping.log import LoggedState, empty_log
from cflow_num.stepping.pace import LEAP, LONGEST, SHORTEST, Pace, paced
from cflow_sym.generated import load

from .cases import arrays
from .test_flows_on_toys import bent_loss, integrate, valley_central_flow


@settings(max_examples=200)
@given(
    at=st.integers(0, 400),
    size=st.sampled_from([SHORTEST * 2**i for i in range(8)]),
    error=st.floats(1e-12, 1e6),
)
def test_steps_are_powers_of_two_at_multiples_of_themselves(at, size, error):
    assert SHORTEST * 2**7 == LONGEST
    flow = process().flow()
    controller = paced(flow, Pace()).wrap(1)
    w = FlowState(flow.problem.w0, {})
    y = LoggedState(w, empty_log(flow, w))
    y1 = y._replace(log=y.log._replace(n_gradients=y.log.n_gradients + 5))
    state = controller.begun(y)
    t0, t1 = at * size, (at + 1) * size
    wrong = y._replace(state=w._replace(w=jnp.zeros_like(w.w).at[0].set(error)))
    keep, start, end, _, after, _ = controller.adapt_step_size(t0, t1, y, y1, None, wrong, 2, state)
    step = float(end - start)
    assert step == float(after.size)
    assert float(after.wasted["n_gradients"]) == (0 if keep else 5)  # rejected steps cost too
    assert np.log2(step) == round(np.log2(step))
    assert SHORTEST <= step <= LONGEST
    assert float(start) % step == 0  # so that no step ever runs over a multiple of the longest
    assert float(start) == (t1 if keep else t0)
    assert bool(keep) or step < size or size == SHORTEST


def process(name="gradient_descent", problem=None, chunk=10, **hp):
    """Return a central process."""
    problem = problem or cn.problem("valley")
    return Process("central", problem, load(name), arrays(name, problem, **hp or {"learning_rate": 0.1}), chunk=chunk)


def curved():
    """Return a valley whose edge is curved, at the edge already."""
    valley = cn.problem("valley", x0=0.0, z0=0.3)
    y, z, _ = valley_central_flow(np.arange(0.0, 60.0), learning_rate=1.0, z0=0.3)
    start = FlowState(jnp.array([0.0, y[30], z[30]]), {"t": jnp.asarray(1.0)})
    return Problem(bent_loss, valley.w0, data=valley.data), start


def ends(longest):
    """Return the end of 32 units on the curved edge with steps of one length."""
    problem, start = curved()
    flow = process("gradient_descent", problem, chunk=16, learning_rate=1.0)
    flow.method = flow.method._replace(dt=1 / 16, pace=Pace(tolerance=1e9, longest=longest))
    return integrate(flow, start, 32)[0][-1]


def test_frames_in_the_middle_of_steps_are_second_order():
    """The short steps are held at 1/16: what changes is how often eigenvectors and curvature gradients are renewed."""
    fine, *coarse = (ends(longest) for longest in (1 / 2, 4, 8))
    errors = [np.linalg.norm(end - fine) for end in coarse]
    print(errors)
    assert errors[1] > 1e-9
    assert errors[0] < errors[1] / 3


def test_it_costs_a_fraction_of_heun_and_goes_the_same_way():
    problem = cn.problem("digits-mlp", n=100, width=8)
    hp, settings = (
        {"learning_rate": 0.8},
        dict(steps=48, warm_start=140, processes=("central",), eig_every=48, quiet=True),
    )
    runs = {name: cn.run(problem, "gradient_descent", hp, integrator=name, **settings) for name in ("anchored", "heun")}
    flows = {name: run.tree["central"] for name, run in runs.items()}
    assert flows["heun"]["sigma_eigenvalues"].values[-1, 0] > 1e-3
    for variable in ("loss", "predicted_loss"):
        a, b = (flow[variable].values for flow in flows.values())
        wrong = abs(a / b - 1)[8:] > 1e-3  # at an infeasible start both are coarse
        assert np.sum(wrong) <= 1  # where an eigenvalue arrives they may differ about the unit
    for count, least in (("n_hessian_vectors", 3), ("n_curvature_gradients", 3)):
        assert flows["anchored"][count].values[-1] * least < flows["heun"][count].values[-1]
    assert flows["anchored"]["n_gradients"].values[-1] <= 0.7 * flows["heun"]["n_gradients"].values[-1]


RUNS = {
    "from the first step": ("gradient_descent", dict(learning_rate=0.8), 0),
    "at the edge": ("gradient_descent", dict(learning_rate=0.8), 140),
    "a preconditioner for each weight": ("rmsprop", dict(learning_rate=0.001, beta2=0.99, epsilon=1e-8), 60),
}


def path(integrator, name, hp, start, dt=None):
    """Return 48 units of a central flow from a discrete step on."""
    problem = cn.problem("digits-mlp", n=100, width=8)
    optimizer, values = resolve(name, hp)
    values = as_arrays(optimizer, values, problem)
    flow = Process("central", problem, optimizer, values, integrator=integrator, chunk=16)
    flow.method = flow.method._replace(dt=dt or flow.method.dt)
    start = warm_started(DiscreteOptimizer(problem, values, optimizer), start)
    (carry, _), weights = flow.start(start.flows, start.before), [np.asarray(start.flows.w)[None]]
    for _ in range(3):
        carry, records = flow.advance(carry)
        weights.append(np.asarray(records.w))
    return np.concatenate(weights), carry


def distance(a, b):
    """Return the largest distance of two paths, relative to how far they go."""
    return np.linalg.norm(a - b, axis=1).max() / np.linalg.norm(b[-1] - b[0])


@pytest.mark.parametrize("name", RUNS)
def test_single_precision_of_frames_does_not_show(name):
    (single, carry), (full, other) = (path(integrator, *RUNS[name]) for integrator in ("anchored", "anchored-full"))
    assert (carry.solver.V.dtype.name, other.solver.V.dtype.name) == ("float32", "float64")
    assert carry.solver.X.dtype == single.dtype == np.float64
    assert distance(single, full) < 1e-5, "measured: at most 3.1e-6"


def test_frames_keep_the_precision_of_few_weights_and_of_captured_data():
    n, captured = 500, jnp.ones(500)
    plain, few = (cn.Problem(lambda w: jnp.sum((1 + w) ** 2), jnp.zeros(k)) for k in (n, n - 1))
    fixed = cn.Problem(lambda w: jnp.sum(captured * (1 + w) ** 2), jnp.zeros(n))
    for problem, frames in ((plain, "float32"), (few, "float64"), (fixed, "float64")):
        start = FlowState(problem.w0, {"t": jnp.asarray(1.0)})
        assert process("gradient_descent", problem).start(start)[0].solver.V.dtype.name == frames


def test_a_preconditioner_need_not_have_a_square_in_single_precision():
    """With a gradient of 1e-30 and no epsilon, nu is 1e-60, which single precision does not know, and P = 1e-30."""
    n = 500
    scale = jnp.ones(n).at[0].set(1e-30)
    problem = cn.Problem(lambda w, scale: jnp.sum(scale * (1 + w) ** 2), jnp.zeros(n), data=scale)
    flow = process("rmsprop", problem, chunk=16, learning_rate=0.01, beta2=0.9, epsilon=0.0)
    state = {"nu": problem.gradient(problem.w0) ** 2, "t": jnp.asarray(1.0)}
    carry = flow.start(FlowState(problem.w0, state))[0]
    assert carry.solver.V.dtype.name == "float32"
    after, records = flow.advance(carry)
    assert flow.failure(records) is None
    np.testing.assert_allclose(after.y.state.w[0], after.y.state.w[1], rtol=1e-5)  # the scale changes nothing


def test_short_steps_are_shorter_where_the_path_bends():
    """At random weights the gradient turns within a unit; without the second stage's share in the estimate: 5e-3."""
    anchored, carry = path("anchored", *RUNS["from the first step"])
    assert distance(anchored, path("heun", *RUNS["from the first step"], dt=1 / 16)[0]) < 1e-3, "measured: 7.4e-4"
    assert float(carry.y.log.n_gradients) > 2 * 48


def test_momentum_keeps_the_length_of_its_short_steps():
    """States live half a short step before the weights, wherever the controller wants to go."""
    staggered, plain = process("heavy_ball_ema", learning_rate=1.0, beta1=0.5).flow(), process().flow()
    assert (paced(staggered, Pace()).shortest, paced(plain, Pace()).shortest) == (LEAP, SHORTEST)


@pytest.fixture(scope="module")
def rates():
    return [dict(learning_rate=1.0), dict(learning_rate=0.9), dict(learning_rate=1.05)]


SETTINGS = dict(steps=40, quiet=True, eig_every=4)


def test_a_batch_is_its_runs_one_by_one(rates):
    valley = cn.problem("valley", x0=1e-4, z0=-0.3)
    batch = cn.run_batch(valley, "gradient_descent", rates, **SETTINGS)
    assert batch[0].tree["central"]["sigma_eigenvalues"].values[-1, 0] > 0.01
    for hp, together in zip(rates, batch, strict=True):
        alone = cn.run(valley, "gradient_descent", hp, **SETTINGS)
        assert together.config == alone.config
        for name in ("discrete", "stable", "central"):
            assert set(together.tree[name]) == set(alone.tree[name])
            for variable in set(alone.tree[name]) - {"seconds"}:
                a, b = (np.asarray(run.tree[name][variable]) for run in (together, alone))
                if variable == "displacement":  # along eigenvectors, whose signs are arbitrary
                    a, b = abs(a), abs(b)
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=f"{name} {variable}")


def test_problems_of_a_batch_may_differ_in_weights_and_one_that_diverges_stops_alone():
    problems = [cn.problem("quadratic", n=6, sharpness=s) for s in (1.0, 1e5, 2.0)]
    batch = cn.run_batch(problems, "gradient_descent", dict(learning_rate=0.5), steps=48, quiet=True)
    assert [bool(run.reason) for run in batch] == [False, True, False]
    assert "diverges" in batch[1].reason
    assert [run.tree["discrete"].sizes["step"] for run in (batch[0], batch[2])] == [49, 49]
    assert batch[1].tree["discrete"].sizes["step"] < 49


@pytest.mark.parametrize(
    ("problems", "rates", "why"),
    [
        (["valley", "valley"], [0.1, 0.2, 0.3], "2 problems and 3 sets of hyperparameters"),
        (["valley", "ramp"], [0.1], "problem 2 of the batch"),
        ([], [0.1], "0 problems"),
    ],
)
def test_what_is_no_batch_is_refused(problems, rates, why):
    with pytest.raises(cn.InputError, match=why):
        cn.run_batch(
            [cn.problem(p) for p in problems], "gradient_descent", [dict(learning_rate=r) for r in rates], steps=5
        )
    falling = [dict(learning_rate=lambda t, T=T: 0.1 * jnp.exp(-t / T)) for T in (100, 200)]  # other programs
    with pytest.raises(cn.InputError, match="run 2 of the batch differs from the first in more than numbers"):
        cn.run_batch(cn.problem("valley"), "gradient_descent", falling, steps=5)
    with pytest.raises(cn.InputError, match=r'setting "step".*did you mean "steps"'):
        cn.run_batch(cn.problem("valley"), "gradient_descent", dict(learning_rate=0.1), step=5)
    with pytest.raises(cn.InputError, match="must have the same hyperparameters"):
        cn.run_batch(
            cn.problem("valley"),
            "scalar_rmsprop",
            [dict(learning_rate=0.1, beta2=0.9), dict(learning_rate=0.1)],
            steps=5,
        )

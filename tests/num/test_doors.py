"""What a user may pass for a problem: accepted with the right value, or refused in one sentence before any work.

Values are computed by hand: gradient descent with rate 0.1 on |w|^2/2 multiplies the loss by 0.81 a step.
"""

import os
import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cflow_num as cn
from cflow_num.optimizer.hyperparameters import as_arrays, check_schedules, resolve
from cflow_num.running.checkpoints import fingerprint
from cflow_num.support.errors import ChangedWarning, InputError, KinkWarning, PrecisionWarning, RunError

TWO = jnp.ones(2)
RATE = {"learning_rate": 0.1}


def half_square(w):
    return jnp.sum(w**2) / 2


def losses(problem, hyperparameters=RATE, steps=3, **settings):
    settings = {"processes": ("discrete",), "quiet": True} | settings
    run = cn.run(problem, "gradient_descent", hyperparameters, steps=steps, **settings)
    assert not run.reason
    return run.tree["discrete"]["loss"].values


def refused(what, *args, **kwargs):
    """Return the sentence with which something is refused."""
    with pytest.raises(InputError) as error:
        what(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def with_params(params):
    return refused(
        cn.Problem, lambda p: half_square(jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(p)])), params
    )


# What is a weight.


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"a": TWO, "b": 3.0}, "params['b'] is the Python float 3.0"),
        ([1.0, 2.0], "params[0] is the Python float 1.0"),
        ({"a": TWO, "b": TWO * 1j}, "params['b'] is complex128"),
        ({"a": TWO, "b": 1j}, "params['b'] is the Python complex 1j"),
        (jnp.ones(2, jnp.bfloat16), "bfloat16, but flows need weights in float32 or float64"),
        ({"a": TWO, "b": jnp.ones(2, jnp.float16)}, "params['b'] is float16"),
        (jnp.ones(2, jnp.float8_e4m3fn), "float8_e4m3fn"),
        (np.ma.masked_array(np.ones(2), [0, 1]), "masked array"),
        (jnp.zeros((0, 3)), "nothing to train"),
        (jnp.arange(3), "nothing to train"),
        (None, "nothing to train"),
        ("text", "nothing to train"),
        ({1: TWO, "a": TWO}, "keys can be sorted"),
    ],
)
def test_what_cannot_be_a_weight_is_refused_by_name(params, says):
    assert says in with_params(params)


@pytest.mark.parametrize(
    ("params", "n"),
    [
        (np.float64(3), 1),  # a NumPy number is an array
        (np.ones(2, ">f8"), 2),
        (np.ones((4, 4))[::2, ::2], 4),
        ({1: TWO, 2: [jnp.asarray(1.0), None], 3: 3}, 3),
        ({"a": TWO, "b": jnp.zeros((0, 3)), "c": np.array([True, False])}, 2),
    ],
)
def test_unusual_trees_have_the_right_weights(params, n):
    def loss(p):
        return sum(jnp.sum(x**2) / 2 for x in jax.tree.leaves(p) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating))

    problem = cn.Problem(loss, params)
    assert problem.n_weights == n
    np.testing.assert_allclose(problem.gradient(problem.w0), problem.w0)
    np.testing.assert_array_equal(problem.ravel(problem.params(2 * problem.w0)), 2 * problem.w0)


def test_arrays_are_copied_so_that_later_changes_change_nothing():
    params, data = {"a": np.ones(2), "k": np.array([2, 2])}, np.ones(2)
    problem = cn.Problem(lambda p, d: half_square(p["a"] * p["k"] * d), params, data=data)
    for array in (params["a"], params["k"], data):
        array[:] = 7
    assert float(problem.value(problem.w0)) == 4.0


def test_equinox_trains_arrays_that_are_no_state_and_no_numbers():
    class Model(eqx.Module):
        w: jax.Array
        count: eqx.nn.StateIndex
        share: float = 0.5

        def __init__(self):
            self.w, self.count = TWO, eqx.nn.StateIndex(jnp.asarray(1.0))

    problem = cn.Problem(lambda m: half_square(m.w) * m.share, Model())
    assert problem.n_weights == 2
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch", dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))

    def loss(pair, x):
        out, _ = jax.vmap(pair[0], axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, pair[1])
        return jnp.mean(jnp.sum(out**2, axis=1)) / 2

    normed = cn.Problem(loss, (model, state), data=x)
    assert normed.n_weights == 6  # scale and shift, no running statistics
    spread = x.var(0) / (x.var(0) + 1e-5)  # by hand: of the normalized batch, times the scale squared
    np.testing.assert_allclose(normed.value(normed.w0), jnp.sum(spread) / 2, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_a_static_array_of_one_model_does_not_stand_in_the_way_of_the_next():
    class Model(eqx.Module):
        w: jax.Array
        k: tuple = eqx.field(static=True)

    for k in (1.0, 2.0):
        problem = cn.Problem(lambda m: half_square(m.w * m.k[0]), Model(TWO, (np.array([k, 1.0]),)))
        first = (k**2 + 1) / 2
        second = (k**2 * (1 - 0.1 * k**2) ** 2 + 0.9**2) / 2
        np.testing.assert_allclose(losses(problem, steps=1), [first, second])


def test_flax_trains_its_parameters_only():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs, param_dtype=float)
            self.norm = nnx.BatchNorm(3, rngs=rngs, use_running_average=True, param_dtype=float)
            self.drop = nnx.Dropout(0.5, rngs=rngs, deterministic=True)
            self.scale = nnx.Variable(jnp.asarray(2.0))

        def __call__(self, x):
            return self.drop(self.norm(self.linear(x))) * self.scale

    x = jnp.ones((3, 2))
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    apart = cn.Problem(lambda p: jnp.mean(nnx.merge(graph, p, rest)(x) ** 2), params)
    graph, state = nnx.split(Net(nnx.Rngs(0)))
    whole = cn.Problem(lambda p: jnp.mean(nnx.merge(graph, p)(x) ** 2), state)
    module = cn.Problem(lambda net: jnp.mean(net(x) ** 2), Net(nnx.Rngs(0)))
    for problem in (whole, module):
        assert problem.n_weights == apart.n_weights == 15
        np.testing.assert_allclose(np.sort(problem.gradient(problem.w0)), np.sort(apart.gradient(apart.w0)), rtol=1e-6)


def test_flax_variables_and_training_states_are_refused_with_the_way_to_split():
    linen = pytest.importorskip("flax.linen")
    from flax.training.train_state import TrainState

    norm = linen.BatchNorm(use_running_average=True, param_dtype=float)
    x = jnp.ones((3, 2))
    variables = norm.init(jax.random.key(0), x)
    said = refused(cn.Problem, lambda v: jnp.mean(norm.apply(v, x) ** 2), variables)
    assert '"batch_stats"' in said
    assert 'variables["params"]' in said
    kept = cn.Problem(lambda p: jnp.mean(norm.apply({**variables, "params": p}, x) ** 2), variables["params"])
    np.testing.assert_allclose(kept.value(kept.w0), 1 / (1 + 1e-5), rtol=1e-6)
    state = TrainState.create(apply_fn=norm.apply, params=variables["params"], tx=optax.sgd(0.1))
    assert "state.params" in refused(cn.Problem, lambda s: half_square(s.params["scale"]), state)


def test_lost_digits_are_said():
    with pytest.warns(PrecisionWarning, match=r"float32 weights \(params\['a'\]\)"):
        mixed = cn.Problem(lambda p: half_square(p["a"]) + half_square(p["b"]), {"a": TWO.astype("float32"), "b": TWO})
    assert mixed.n_weights == 4
    with pytest.warns(PrecisionWarning, match=r"float32 weights \(params\)"):
        single = cn.Problem(half_square, TWO.astype("float32"))
    assert single.w0.dtype == jnp.float32
    with pytest.warns(PrecisionWarning, match=r"fewer digits at test_doors.py:\d+"):
        cn.Problem(lambda w: half_square(w.astype("float32")).astype(float), TWO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cn.Problem(half_square, TWO).astype("float32").w0.dtype == jnp.float32


# What a loss may be.


@jax.custom_vjp
def no_forward(x):
    return x**2


no_forward.defvjp(lambda x: (no_forward(x), x), lambda x, g: (2 * x * g,))


@jax.custom_vjp
def halved(x):
    return x**2


halved.defvjp(lambda x: (x**2, x), lambda x, g: (x * g,))

LEAKED = []


@jax.jit
def _leak(x):
    LEAKED.append(x)
    return x


_leak(1.0)


def growing(w):
    return jax.lax.while_loop(lambda s: jnp.sum(s) < 30, lambda s: s * 1.01, w)


REFUSED_LOSSES = {
    "shape (1,)": (lambda w: half_square(w)[None], "shape (1,)"),
    "a pair": (lambda w: (half_square(w), {"accuracy": "high"}), "lambda params: loss(params)[0]"),
    "None": (lambda w: None, "0 values"),
    "text": (lambda w: "text", "returns a str"),
    "whole": (lambda w: 3, "int64"),
    "complex": (lambda w: half_square(w) + 0j, "complex128"),
    "a constant": (lambda w: jnp.asarray(3.0), "does not depend on params"),
    "a number": (lambda w: 3.0, "does not depend on params"),
    "steps": (lambda w: jnp.sum(jnp.sign(w)), "sign at test_doors.py"),
    "NumPy": (lambda w: np.sum(np.sin(w)), "jax.numpy"),
    "float()": (lambda w: float(w[0]) ** 2, "jax.numpy"),
    "a branch": (lambda w: half_square(w) if w[0] > 0 else 0.0, "jnp.where"),
    "a tracer": (lambda w: half_square(w) * LEAKED[0], "UnexpectedTracerError"),
    "custom_vjp": (lambda w: jnp.sum(no_forward(w)), "custom_vjp, which has no forward mode at test_doors.py"),
    "a loop": (lambda w: half_square(growing(w)), "length is not known beforehand at test_doors.py"),
    "a callback": (
        lambda w: half_square(jax.pure_callback(np.sin, jax.ShapeDtypeStruct((2,), jnp.float64), w)),
        "calls Python with its weights (a callback) at test_doors.py",
    ),
    "a wrong rule": (lambda w: jnp.sum(halved(w)), "not that of the loss"),
    "straight through": (lambda w: half_square(w + jax.lax.stop_gradient(jnp.round(w) - w)), "stop_gradient"),
    "half stopped": (lambda w: jnp.sum(w * jax.lax.stop_gradient(w)), "stop_gradient"),
}


@pytest.mark.parametrize("name", REFUSED_LOSSES)
def test_a_loss_without_flows_is_refused(name):
    loss, says = REFUSED_LOSSES[name]
    assert says in refused(cn.Problem, loss, jnp.array([1.2, 0.7]))


def test_loops_callbacks_and_rules_that_do_no_harm_are_accepted():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))

    def count():
        return jax.lax.while_loop(lambda i: i < 3, lambda i: i + 1, 0)

    def sine(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def loss(w, x):
        return jnp.sum(square(w)) * count() / 6 + jnp.sum(sine(x)) + 0 * jax.lax.fori_loop(0, 3, jnp.multiply, w[0])

    problem = cn.Problem(loss, jnp.array([1.0, 2.0]), data=jnp.ones(2))
    np.testing.assert_allclose(problem.value(problem.w0), 2.5 + 2 * np.sin(1))
    np.testing.assert_allclose(problem.hessian_vectors(problem.w0, jnp.eye(2)), np.eye(2), atol=1e-14)


# Kinks.

SMOOTH = {
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "log-sum-exp": jax.nn.logsumexp,
    "own softmax": lambda w: jnp.exp(w - jnp.max(w)) / jnp.sum(jnp.exp(w - jnp.max(w))),
    "cross-entropy": lambda w: optax.softmax_cross_entropy_with_integer_labels(w, jnp.asarray(0)),
    "norm": jnp.linalg.norm,
    "guarded norm": lambda w: w / jnp.maximum(jnp.linalg.norm(w), 1e-12),
    "guarded root": lambda w: jnp.where(jnp.sum(w**2) > 0, jnp.sqrt(jnp.sum(w**2)), 0.0),
    "even power": lambda w: jnp.abs(w) ** 2,
    "layer norm": eqx.nn.LayerNorm(3, dtype=jnp.float64),
    "batch statistics": lambda w: jax.nn.standardize(w),
    "matrix exponential": lambda w: jax.scipy.linalg.expm(jnp.diag(w)),
    "hypotenuse": lambda w: jnp.hypot(w[0], w[1]),
    "complex inside": lambda w: jnp.abs(jnp.fft.fft(w)) ** 2,
    "determinant": lambda w: jnp.linalg.slogdet(jnp.diag(w))[1],
    "maximum of data": lambda w: w * jnp.max(jnp.arange(3.0)),
    "mask": lambda w: jnp.where(jnp.arange(3) > 0, w, -1e9) * 1e-9,
    "root of a square and more": lambda w: jnp.sqrt(w**2 + 1e-3),
    "root of a fourth power": lambda w: jnp.sqrt(w**4),
    "fifth power": lambda w: (w**2) ** 2.5,
    "power of 3.5": lambda w: (w**2) ** 1.75,
}
KINKED = {
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,  # its second derivative jumps
    "max over an axis": jnp.max,
    "max": lambda w: jnp.maximum(w, 0.0),  # a ReLU written by hand
    "max over an axis (without slope at the start)": lambda w: (jnp.max(w) - 2.5) ** 2 + w**4,
    "scatter-max": lambda w: jax.ops.segment_max(w, jnp.array([0, 0, 1]), 2),
    "abs": jnp.abs,
    "where": lambda w: w * (w > 0),
    "sort": lambda w: jnp.sort(w)[0],
    "clip": lambda w: jnp.clip(w, -1, 1),
    "remainder": lambda w: w % 1.0,
    "sign": lambda w: w * jnp.sign(w),
    "max-pooling": lambda w: eqx.nn.MaxPool1d(2)(w[None]),
    "the root of a square": lambda w: jnp.sqrt(w**2),
    "the root of a square (moved)": lambda w: jnp.sqrt(jnp.square(w)[:, None].T),
    "the root of a square (cubed)": lambda w: (w * w) ** 1.5,
    "eigvalsh": lambda w: jnp.linalg.eigvalsh(jnp.outer(w, w)),
    "norm": lambda w: jnp.linalg.norm(jnp.outer(w, w) + jnp.diag(w), "nuc"),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_pass_without_a_word(name):
    problem = cn.Problem(lambda w: jnp.sum(SMOOTH[name](w) ** 2), jnp.array([1.0, 2.5, 0.3]))  # warnings are errors
    assert problem.n_weights == 3


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_is_named_with_its_place(name):
    with pytest.warns(KinkWarning, match=rf"{name.partition(' (')[0]} at test_doors.py:\d+"):
        cn.Problem(lambda w: jnp.sum(KINKED[name](w)), jnp.array([1.0, 2.5, 0.3]))


@pytest.mark.parametrize("loop", ["scan", "map", "cond"])
def test_a_maximum_in_a_loop_or_branch_is_no_shift(loop):
    xs = jnp.arange(1.0, 4.0)
    losses_in = {
        "scan": lambda w: jax.lax.scan(lambda c, x: (c + jnp.max(w * x), None), 0.0, xs)[0],
        "map": lambda w: jnp.sum(jax.lax.map(lambda x: jnp.max(w * x), xs)),
        "cond": lambda w: jax.lax.cond(xs[0] > 0, jnp.max, jnp.sum, w),
    }
    with pytest.warns(KinkWarning, match=r"max over an axis at test_doors.py:\d+"):
        cn.Problem(losses_in[loop], jnp.array([1.0, 2.5, 0.3]))


def test_a_kink_within_loops_calls_and_layers_is_found():
    class Net(eqx.Module):
        first: eqx.nn.Linear

        def __call__(self, x):
            return jax.nn.relu(self.first(x))

    net = Net(eqx.nn.Linear(2, 2, key=jax.random.key(0), dtype=jnp.float64))

    def scanned(net, x):
        return jnp.sum(jax.lax.scan(lambda h, x: (net(h + x), None), x[0], x)[0])

    for loss in (scanned, jax.jit(scanned), jax.checkpoint(lambda net, x: jnp.mean(jax.vmap(net)(x)))):
        with pytest.warns(KinkWarning, match=r"relu at test_doors.py:\d+ \(.*Net.__call__\)"):
            cn.Problem(loss, net, data=jnp.ones((3, 2)))


# Data.


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"x": TWO, "name": "abc"}, "data['name'] is a str"),
        (np.array([1, None], object), "array of object"),
        (np.array(["a", "b"]), "array of <U1"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (half_square, "data is a function"),
        (object(), "data is a object"),
        (2**70, "too many digits"),
        (np.ma.masked_array(np.ones(2), [0, 1]), "masked"),
    ],
)
def test_data_that_are_no_numbers_are_refused_by_name(data, says):
    assert says in refused(cn.Problem, lambda w, d: half_square(w), TWO, data=data)


def test_random_keys_in_the_data_can_be_checkpointed(tmp_path):
    def noisy(w, key):
        return half_square(w - jax.random.normal(key, (2,)))

    problem = cn.Problem(noisy, TWO, data=jax.random.key(3))
    run = losses(problem, steps=20, checkpoints=tmp_path, checkpoint_every=0)
    start = float(jnp.sum((1 - jax.random.normal(jax.random.key(3), (2,))) ** 2) / 2)
    np.testing.assert_allclose(run, start * 0.81 ** np.arange(21))
    assert list(tmp_path.glob("checkpoint-*.npz"))
    assert fingerprint(jax.random.key(3)) != fingerprint(jax.random.key(4))


# The start, and gradients that do not exist.


def test_what_is_not_finite_is_named_at_the_start():
    def start(loss, params, **data):
        return refused(losses, cn.Problem(loss, params, **data))

    assert "params['b'] holds nan" in start(lambda p: half_square(p["a"]), {"a": TWO, "b": TWO * jnp.nan})
    assert "data holds nan" in start(lambda w, x: half_square(w * x), TWO, data=jnp.array([1, jnp.nan]))
    said = start(lambda p: half_square(p["a"]) + jnp.linalg.norm(p["b"]), {"a": TWO, "b": jnp.zeros(3)})
    assert "gradient is not finite at the start (its part for params['b'] holds nan)" in said
    assert "smaller learning rate" not in said


def _sudden(w):
    """Fall at unit speed; below 0.65 the loss is finite and its gradient is not."""

    def lost(w):
        return jnp.sqrt(jnp.sum((w - jax.lax.stop_gradient(w)) ** 2))

    return jax.lax.cond(w[0] < 0.65, lambda w: jnp.sum(w) + 0 * lost(w), jnp.sum, w)


def test_a_gradient_that_is_lost_on_the_way_is_named():
    with pytest.warns(KinkWarning):
        problem = cn.Problem(_sudden, TWO)
    run = cn.run(problem, "gradient_descent", RATE, steps=8, processes=("discrete",), quiet=True)
    assert "its gradient is nan where its loss is finite" in run.reason
    np.testing.assert_allclose(run.tree["discrete"]["loss"].values[:4], [2, 1.8, 1.6, 1.4])
    with pytest.raises(RunError, match="gradient is nan at warm-start step 4"):
        cn.run(problem, "gradient_descent", RATE, steps=2, warm_start=8, processes=("discrete",), quiet=True)


# Hyperparameters, schedules and settings.


@pytest.mark.parametrize("rate", [np.array(0.1), jnp.asarray(0.1), np.float64(0.1), "0.1"])
def test_arrays_with_one_number_and_texts_that_are_one_are_numbers(rate):
    assert resolve("gradient_descent", {"learning_rate": rate})[1]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learning_rate": True}, "learning_rate is True, it must be a number"),
        ({"learning_rate": np.True_}, "learning_rate is True, it must be a number"),
        ({"learning_rate": np.array([0.1])}, "must be a number"),
        ({"learning_rate": "-0.1"}, "learning_rate is -0.1, it must be greater than 0"),
        ({"learning_rate": "0.1*exp(-n)"}, "learning_rate is neither a number nor an expression in t"),
        ({"learning_rate": ""}, "learning_rate is neither a number nor an expression in t"),
        ({"learning_rate": "0.1", "weight_decay": "0.1*t"}, "weight_decay is a function"),
        ({"learning_rate": 10**400}, "learning_rate is inf"),
        ({"learning_rate": lambda t: 0.1 if t < 2 else 0.05}, "jnp.where in place of if"),
        ({"learning_rate": lambda t: 0.1 * np.exp(-t)}, "jax.numpy in place of NumPy"),
        ({"learning_rate": lambda t: jnp.ones(2)}, "shape (2,)"),
        ({"learning_rate": lambda t: None}, "cannot be traced"),
        ({"learning_rate": lambda: 0.1}, "cannot be traced"),
    ],
)
def test_hyperparameters_of_other_kinds_are_refused(values, says):
    assert says in refused(resolve, "gradient_descent", values)


def test_a_schedule_as_text_is_the_function_that_it_says():
    problem, rates = cn.Problem(half_square, TWO), ["0.1 / (1 + t)", lambda t: 0.1 / (1 + t)]
    arguments = dict(steps=4, processes=("discrete", "central"), quiet=True)
    as_text, as_function = (cn.run(problem, "gradient_descent", {"learning_rate": x}, **arguments) for x in rates)
    assert as_text.config["hyperparameters"]["learning_rate"] == "schedule 0.1 / (1 + t), 0.1 at first"
    for name in arguments["processes"]:
        ends = [run.array(name, "loss") for run in (as_text, as_function)]
        np.testing.assert_allclose(*ends, rtol=1e-12)
    assert as_text.more(2, quiet=True).size("central") == 7


@pytest.mark.parametrize(
    ("optimizer", "values", "says"),
    [
        ("gradient_descent", {"learning_rate": 1e200}, "learning_rate is 1e+200, which float32 rounds to inf"),
        ("gradient_descent", {"learning_rate": 1e-60}, "learning_rate is 1e-60, which float32 rounds to 0"),
        ("rmsprop", {"learning_rate": 0.1, "beta2": 1 - 1e-9}, "beta2 is 0.999999999, which float32 rounds to 1"),
    ],
)
def test_numbers_that_single_precision_moves_out_of_their_range_are_refused(optimizer, values, says):
    with pytest.warns(PrecisionWarning, match="float32 weights"):
        single = cn.Problem(half_square, TWO.astype("float32"))
    assert says in refused(cn.run, single, optimizer, values, steps=2, quiet=True)
    double = cn.Problem(half_square, TWO)
    flow, hp = resolve(optimizer, values)
    assert float(as_arrays(flow, hp, double)[says.split()[0]]) == values[says.split()[0]]


def test_a_schedule_may_be_zero_where_no_step_is_taken_with_it():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6)  # zero at steps 0 and 6
    settings = {"steps": 4, "warm_start": 2, "processes": ("discrete", "stable"), "quiet": True}
    run = cn.run(cn.Problem(half_square, TWO), "gradient_descent", {"learning_rate": schedule}, **settings)
    rates = np.array([0, 0.05, 0.1, *(0.05 * (1 + np.cos(np.pi * np.arange(1, 4) / 4)))])
    expected = np.cumprod(np.append(1.0, (1 - rates) ** 2))[2:]
    np.testing.assert_allclose(run.tree["discrete"]["loss"], expected, rtol=1e-13)
    fallen = expected[0] * np.exp(-2 * 0.05 * 4)  # twice the integral of the rate from step 2 to 6
    # the schedule's curvature jumps at step 6, within a step of the solver
    np.testing.assert_allclose(run.tree["stable"]["loss"][-1], fallen, rtol=3e-5)
    warm_up = {"learning_rate": lambda t: 0.1 * jnp.minimum(t / 2, 1)}
    flow, hp = resolve("gradient_descent", warm_up)
    assert "is 0 at step 0" in refused(check_schedules, flow, hp, 0, 6)
    flow, hp = resolve("gradient_descent", {"learning_rate": lambda t: 0.1 - 0.05 * t})
    assert "is 0 at step 2" in refused(check_schedules, flow, hp, 0, 6)
    flow, hp = resolve("gradient_descent", {"learning_rate": lambda t: 0.1 * jnp.cos(2 * jnp.pi * t)})
    assert "at step 0.5" in refused(check_schedules, flow, hp, 0, 6)  # flows need what lies between the steps
    assert float(as_arrays(flow, {"learning_rate": 0.1}, cn.Problem(half_square, TWO))["learning_rate"]) == 0.1


OTHER_KINDS = """
import json
import jax.numpy as jnp
import numpy as np
import cflow_num as cn
square, two = lambda w: jnp.sum(w**2) / 2, jnp.ones(2)
calls = [lambda given=given: cn.Problem(**({"loss": square, "params": two} | given)) for given in (
    {"loss": 3}, {"examples": "yes"}, {"name": 3}, {"description": None},
)]
problem = cn.Problem(square, two)
calls += [lambda given=given: cn.run(**({
    "problem": problem, "optimizer": "gradient_descent", "hyperparameters": {"learning_rate": 0.1}, "quiet": True
} | given)) for given in (
    {"problem": square}, {"optimizer": 3}, {"hyperparameters": None}, {"hyperparameters": [0.1]},
    {"hyperparameters": {1: 2}}, {"processes": (1,)}, {"processes": None}, {"capture": None}, {"capture": 1.5},
    {"integrator": 3}, {"onset": 3}, {"budget": "yes"}, {"steps": 3.0}, {"warm_start": "2"}, {"memory": [1]},
    {"closure_step": None}, {"checkpoints": "unused", "checkpoint_every": "a"},
    {"checkpoints": "unused", "checkpoint_every": float("nan")},
)]
for call in calls:
    try:
        call()
    except cn.InputError as error:
        print(error)
named = cn.Problem(square, two, name="a\\udcff\\0")  # neither text nor files can hold these
numbers = {"steps": np.int32(3), "eig_every": np.int8(2), "processes": iter(["discrete"]), "memory": np.int64(10**9)}
run = cn.run(named, "gradient_descent", {"learning_rate": np.array(0.1)}, quiet=True, **numbers)
print(json.dumps([run.config[name] for name in ("problem", "steps", "eig_every", "processes", "memory_budget")]))
print([round(float(loss), 4) for loss in run.tree["discrete"]["loss"]])
"""
SAID = """
loss cannot be evaluated on params: TypeError: 'int' object is not callable
examples is 'yes', it must be True or False
name is 3, it must be a text
description is None, it must be a text
problem is a function, it must be a Problem
optimizer is a int, it must be a name
hyperparameters is None, it must be a dictionary
hyperparameters is [0.1], it must be a dictionary
gradient_descent has no hyperparameter "1"
process is 1, it must be one of discrete
processes is None, it must list at least one
capture is None, it must be a number of weights
capture is 1.5, it must be a number of weights
integrator is 3, it must be one of anchored
onset is 3, it must be one of published
budget is 'yes', it must be True or False
steps is 3.0, it must be a whole number
warm_start is '2', it must be a whole number
memory is "[1]", it must be a size
closure_step is None, it must be one over
checkpoint_every is 'a', it must be a number of seconds
checkpoint_every is nan, it must be a number of seconds
["a\\\\udcff\\\\0", 3, 2, ["discrete"], 1000000000]
[1.0, 0.81, 0.6561, 0.5314]
"""


def test_arguments_of_other_kinds_are_refused_or_stored():
    done = subprocess.run([sys.executable, "-c", OTHER_KINDS], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said, expected = done.stdout.splitlines(), SAID.strip().splitlines()
    assert len(said) == len(expected)
    for sentence, begins in zip(said, expected, strict=True):
        assert sentence.startswith(begins)


def test_a_run_within_a_transformation_is_refused():
    with pytest.raises(InputError, match=r"the weights are traced.* outside jit"):
        jax.jit(lambda w: losses(cn.Problem(half_square, w)))(TWO)
    with pytest.raises(InputError, match=r"the loss is traced.* outside jit"):
        jax.vmap(lambda x: losses(cn.Problem(lambda w: x * half_square(w), TWO)))(TWO)
    with pytest.raises(InputError, match=r"the hyperparameters are traced.* outside jit"):
        jax.vmap(lambda rate: losses(cn.Problem(half_square, TWO), {"learning_rate": rate}))(TWO)


def test_what_changes_after_the_problem_was_made_is_examined_again():
    held = [1.0]
    problem = cn.Problem(lambda w: held[0] * half_square(w), TWO)
    for value, says in [
        ("text", "TypeError"),
        (jnp.ones(2), "loss returns shape (2,)"),
        (0.0, None),
        (jnp.nan, "the loss is nan at the start"),
    ]:
        held[0] = value
        if says is None:
            with pytest.warns(ChangedWarning):
                assert losses(problem)[-1] == 0
        else:
            assert says in refused(losses, problem)
    held.clear()
    assert "IndexError" in refused(losses, problem)
    halves = [half_square]
    problem = cn.Problem(lambda w: halves[0](w), TWO)
    halves[0] = lambda w: jnp.sum(jax.lax.stop_gradient(w) * w)
    assert "the gradient that JAX computes is not that of the loss" in refused(losses, problem)


def test_data_that_were_deleted_are_refused():
    data = jnp.array([1.0, 2.0])
    problem = cn.Problem(lambda w, d: half_square(w * d["x"]), TWO, data={"x": data})
    data.delete()
    assert "data['x'] was deleted since" in refused(losses, problem)
    assert "data was deleted" in refused(cn.Problem, lambda w, d: half_square(w * d), TWO, data=data)


def test_a_warm_start_that_does_not_end_is_refused():
    assert "warm_start is 1000" in refused(losses, cn.Problem(half_square, TWO), warm_start=10**20)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # JAX's own
def test_a_problem_of_another_precision_is_refused():
    problem = cn.Problem(half_square, TWO)
    with jax.enable_x64(False):
        assert "jax_enable_x64" in refused(losses, problem)


def test_parts_on_which_the_loss_fails_are_refused():
    problem = cn.Problem(lambda w, d: jnp.mean((w @ d) ** 2), TWO, data=np.ones((2, 6)), examples=True)
    assert "the first axis of every array of the data must count examples" in refused(problem.in_chunks, 1)


# JAX's settings and Python's.


def test_stricter_settings_of_jax_change_nothing():
    strict = {"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict", "jax_debug_nans": True}
    before = {name: getattr(jax.config, name) for name in strict}
    for name, value in strict.items():
        jax.config.update(name, value)
    try:
        small = cn.problem("digits-mlp", n=10, width=2)
        assert small.gradient(small.w0).shape == (small.n_weights,)
        found = losses(cn.Problem(half_square, TWO), processes=("discrete", "central"), capture=1)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    np.testing.assert_allclose(found, 0.81 ** np.arange(4.0), rtol=1e-12)


SCRIPT = """
import sys
from cflow_num.loss.parts import parse_memory
from cflow_num.support.errors import InputError
from cflow_num.testing.witnesses import at_least, close
assert False, "python -O leaves this out"
for check in (lambda: close("x", 1.0, 2.0), lambda: at_least("x", 1.0, 2.0), lambda: parse_memory("many")):
    try:
        check()
    except (AssertionError, InputError) as error:
        print(error)
"""


def test_checks_hold_under_python_with_optimizations():
    done = subprocess.run([sys.executable, "-O", "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "x is 1., expected 2." in done.stdout
    assert "it must be at least 2" in done.stdout
    assert 'memory is "many"' in done.stdout


def test_a_run_survives_arguments_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    arguments = "run --optimizer gradient_descent --problem quadratic:n=2 --learning-rate 0.1 --steps 2 --quiet"
    command = [
        sys.executable,
        "-m",
        "cflow_num.cli.main",
        *arguments.split(),
        "--processes",
        "discrete",
        "--out",
        folder,
    ]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "\\udcff" in cn.load(os.path.join(os.fsdecode(folder), "run.nc")).tree.attrs["command"]


def test_nothing_can_be_given_twice(capsys):
    from cflow_num.cli.main import main
    from cflow_num.optimizer.words import hyperparameters
    from cflow_num.problems import parsed

    assert '"n" is given twice' in refused(parsed, "quadratic:n=3,n=4")
    assert "gives beta2 twice" in refused(hyperparameters, ("beta2=0.9", "beta2=0.99"), "--set")
    flags = "--optimizer gradient_descent --learning-rate 0.1 --set learning_rate=0.2 --out unused"
    assert main(["run", *flags.split()]) == 1
    assert "learning_rate is given twice" in capsys.readouterr().err

"""Networks on data: exact third derivatives, means over examples, shared programs, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.problems.architectures import ARCHITECTURES, architecture
from cflow_num.problems.architectures.layers import Attention, Conv, GroupNorm, LayerNorm, average_pool, halved, patches
from cflow_num.problems.datasets.base import Images, Tokens, Vectors
from cflow_num.problems.losses import LOSSES, cross_entropy, logistic, targets_of
from cflow_num.running.batch import alike
from cflow_num.support.errors import InputError

N = 4  # examples


def small(name, **options):
    return cn.problem(name, **{"n": N} | options)


def direction(problem, seed):
    v = np.random.default_rng(seed).normal(size=problem.n_weights)
    return jnp.asarray(v / np.linalg.norm(v))


@eqx.filter_jit
def exact_and_difference(problem, w, v, steps):
    """Return D^3 L[v, v, .] and central differences of Hessian-vector products along v, one for each step."""

    def product(t):
        return problem.hessian_vectors(w + t * v, v[:, None])[:, 0]

    ahead, behind = jnp.split(jax.lax.map(product, jnp.concatenate([steps, -steps])), 2)
    return problem.third_derivative(w, v), (ahead - behind) / (2 * steps[:, None])


def extrapolated(differences):
    """Return the limit of differences at steps h, h/2 and h/4, their errors being series in h^2."""
    a, b, c = np.asarray(differences)
    a, b = (4 * b - a) / 3, (4 * c - b) / 3
    return (16 * b - a) / 15


CASES = {name: {} for name in ARCHITECTURES} | {"mlp on sorting": {"data": "sorting"}}


@pytest.mark.parametrize("case", CASES)
def test_third_derivatives_are_exact(case):
    problem = small(case.split()[0], loss="cross-entropy", **CASES[case])
    w = problem.w0 + 0.1 * np.sqrt(problem.n_weights) * direction(problem, 1)  # norms not at 1 and 0
    for seed in (2, 3):
        h = 0.02 * 2.0 ** -np.arange(3)
        T, differences = exact_and_difference(problem, w, direction(problem, seed), jnp.asarray(h))
        assert float(jnp.linalg.norm(T)) > 0
        np.testing.assert_allclose(extrapolated(differences), T, rtol=1e-5, atol=1e-6 * np.abs(T).max())


LAYERS = {
    "layer norm": (LayerNorm(4), (3, 4)),
    "group norm": (GroupNorm(4, groups=2), (3, 3, 4)),
    "convolution": (Conv(2, 3, rng=np.random.default_rng(0)), (3, 3, 2)),
    "attention": (Attention(4, heads=2, causal=False, rng=np.random.default_rng(0)), (3, 4)),
    "causal attention": (Attention(4, heads=2, causal=True, rng=np.random.default_rng(0)), (3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("constant", [False, True])
def test_layers_have_exact_third_derivatives_in_their_inputs(name, constant):
    """Also at a constant input, where a norm divides by a variance of zero."""
    layer, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = jnp.ones(shape) if constant else jnp.asarray(rng.normal(size=shape))
    v, c = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
    out = jax.eval_shape(layer, x).shape
    c = jnp.asarray(rng.normal(size=out))

    def along(t):
        return jnp.sum(c * layer(x + t * v))

    scale = 1e-3 if constant and "norm" in name else 0.1  # the width of a norm's curve is the root of its epsilon
    h = scale * 2.0 ** -np.arange(3)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(along))))
    differences = (second(jnp.asarray(h)) - second(jnp.asarray(-h))) / (2 * h)
    exact = float(jax.grad(jax.grad(jax.grad(along)))(0.0))
    size = float(jnp.abs(second(jnp.asarray(h))[0])) / h[0]
    assert extrapolated(differences) == pytest.approx(exact, rel=1e-5, abs=1e-4 * size)


def test_a_convolution_is_that_of_lax():
    layer, x = Conv(2, 3, rng=np.random.default_rng(0)), np.random.default_rng(1).normal(size=(5, 4, 2))
    kernel = layer.linear.weight.reshape(3, 3, 2, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)[0]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-13)


def test_attention_is_that_of_equinox_where_it_is_not_causal():
    layer, x = (
        Attention(6, heads=2, causal=False, rng=np.random.default_rng(0)),
        np.random.default_rng(1).normal(size=(5, 6)),
    )
    other = eqx.nn.MultiheadAttention(2, 6, key=jax.random.key(0))
    q, k, v = jnp.split(layer.into.weight, 3, axis=1)
    where = lambda m: [p.weight for p in (m.query_proj, m.key_proj, m.value_proj, m.output_proj)]  # noqa: E731
    other = eqx.tree_at(where, other, [q.T, k.T, v.T, layer.out.weight.T])
    np.testing.assert_allclose(layer(jnp.asarray(x)), other(x, x, x), atol=1e-13)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_pools_of_any_size(height, width, grid):
    x = jax.ShapeDtypeStruct((height, width, 2), float)
    for side, length in zip(jax.eval_shape(lambda x: average_pool(x, grid), x).shape, (height, width), strict=False):
        assert min(grid, length) <= side < 2 * grid
    assert min(jax.eval_shape(halved, x).shape) >= 1


def test_averages_are_means_and_patches_keep_every_pixel():
    x = jnp.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    np.testing.assert_allclose(average_pool(x, 1)[0], [jnp.mean(x, (0, 1))])
    tiles = patches(x, 2)
    np.testing.assert_array_equal(tiles[1].reshape(2, 2, 2), x[:2, 2:4])
    np.testing.assert_array_equal(jnp.sort(tiles.reshape(-1)), x.reshape(-1))


def test_what_reads_from_left_to_right_does_not_look_ahead():
    tokens, inputs = jnp.array([3, 0, 1, 2, 2]), Tokens(5, 4, 5)
    for name in ("lstm", "transformer", "mamba"):
        model = architecture(name, inputs, 4)
        changed = tokens.at[3].set(0)
        one, other = jax.jit(jax.vmap(lambda x, model=model: model(x)))(jnp.stack([tokens, changed]))
        np.testing.assert_allclose(one[:3], other[:3], atol=1e-14)
        assert float(jnp.abs(one[3:] - other[3:]).min()) > 0
    model = architecture("mlp", Tokens(5, 4, 3), 4)  # sees the first three: the others are answers
    np.testing.assert_array_equal(model(tokens), model(tokens.at[3:].set(0)))


@pytest.fixture(scope="module", params=["cnn", "lstm"])
def seven(request):
    return cn.problem(request.param, n=7, loss="cross-entropy")


@eqx.filter_jit
def value_and_gradient(problem):
    return problem.value_and_gradient(problem.w0)


def assert_equal_functions(one, other):
    for x, y in zip(value_and_gradient(one), value_and_gradient(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13)


@given(st.permutations(range(7)))
@settings(max_examples=20)
def test_a_loss_does_not_depend_on_the_order_of_examples(seven, order):
    shuffled = jax.tree.map(lambda x: x[np.array(order)], seven.data)
    assert_equal_functions(seven, seven.with_numbers(seven.w0, shuffled))


def test_a_loss_is_a_mean_over_chunks(seven):
    assert_equal_functions(seven, seven.in_chunks(examples=3))


def test_equal_networks_share_compiled_code():
    for name in ARCHITECTURES:
        one, other = (small(name, seed=seed) for seed in (0, 1))
        assert len(alike([one, other])) == 2
        assert not np.array_equal(one.w0, other.w0)
        with pytest.raises(InputError, match="not the first one with other numbers"):
            alike([one, small(name, loss="cross-entropy")])
    one, other, calls = small("resnet"), small("resnet", seed=1), []

    @eqx.filter_jit
    def value(p, w):
        calls.append(p)  # while it is traced
        return p.value(w)

    assert float(value(one, one.w0)) != float(value(other, other.w0))
    assert len(calls) == 1


@given(st.integers(0, 10_000), st.floats(-100, 100))
def test_cross_entropy_is_positive_and_blind_to_shifts(seed, shift):
    rng = np.random.default_rng(seed)
    outputs = jnp.asarray(rng.normal(size=(6, 3)) * 10.0 ** rng.integers(-2, 3))
    targets = jnp.asarray(targets_of("cross-entropy", rng.integers(0, 3, 6), 3))
    value = float(cross_entropy(outputs, targets))
    assert value >= 0
    assert float(cross_entropy(outputs + shift, targets)) == pytest.approx(value, abs=1e-11)


@given(st.integers(0, 10_000))
def test_the_logistic_loss_is_cross_entropy_of_two_classes(seed):
    rng = np.random.default_rng(seed)
    outputs, labels = rng.normal(size=(6, 1)) * 3, rng.integers(0, 2, 6)
    both = np.concatenate([np.zeros((6, 1)), outputs], axis=1)
    expected = cross_entropy(jnp.asarray(both), jnp.asarray(targets_of("cross-entropy", labels, 2)))
    value = logistic(jnp.asarray(outputs), jnp.asarray(targets_of("binary", labels, 2)))
    assert float(value) == pytest.approx(float(expected), rel=1e-12)


def test_the_logistic_loss_has_exact_derivatives_where_its_argument_is_zero():
    third = jax.grad(jax.grad(jax.grad(lambda x: logistic(x[None, None], jnp.ones((1, 1))))))
    second = jax.grad(jax.grad(lambda x: logistic(x[None, None], jnp.ones((1, 1)))))
    assert float(second(jnp.asarray(0.0))) == pytest.approx(0.25)
    assert float(third(jnp.asarray(0.0))) == pytest.approx(0.0, abs=1e-15)


def test_every_loss_and_noise():
    for loss in LOSSES:
        problem = small("mlp", loss=loss, noise=0.5, n=20)
        assert np.isfinite(float(problem.value(problem.w0)))
        assert "50% of the labels random" in problem.description
    clean, noise = small("mlp", n=20).data[1], small("mlp", n=20, noise=0.5).data[1]
    assert 5 <= int(jnp.sum(jnp.any(clean != noise, axis=1))) <= 10


def test_a_network_in_single_precision_stays_there():
    for name in ("cnn", "mamba"):
        problem = small(name).astype("float32")
        value, outputs = eqx.filter_eval_shape(lambda p: (p.value(p.w0), p.outputs(p.w0)), problem)
        assert (value.dtype, outputs.dtype) == ("float32", "float32")


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "vit"])
@pytest.mark.parametrize("image", [Images(32, 32, 3), Images(5, 7, 2), Images(1, 1, 1)])
def test_images_of_any_size(name, image):
    model = architecture(name, image, 3)
    assert jax.eval_shape(model, jnp.ones((image.height, image.width, image.channels))).shape == (3,)


BAD = {
    "unknown loss": (("cnn", {"loss": "mes"}), 'did you mean "mse"'),
    "unknown size": (("cnn", {"size": "papre"}), 'did you mean "paper"'),
    "unknown data": (("cnn", {"data": "digit"}), 'did you mean "digits"'),
    "images for tokens": (("lstm", {"data": "digits"}), "takes sequences of tokens"),
    "tokens for images": (("cnn", {"data": "sorting"}), "takes images"),
    "too many": (("cnn", {"n": 2000}), "1797"),
    "negative": (("cnn", {"n": -1}), "n is -1"),
    "seed": (("cnn", {"n": 5, "seed": -1}), "seed is -1"),
    "noise": (("cnn", {"n": 5, "noise": 2.0}), "noise is 2.0"),
    "option": (("cnn", {"path": "x.npz"}), "has no option path"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused_in_one_sentence(name):
    (problem, options), says = BAD[name]
    with pytest.raises(InputError) as error:
        cn.problem(problem, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_network_and_vectors():
    with pytest.raises(InputError, match='did you mean "resnet"'):
        architecture("resent", Images(8, 8, 1), 2)
    assert architecture("mlp", Vectors(3), 2)(jnp.ones(3)).shape == (2,)


def test_a_network_on_the_command_line():
    from cflow_num.problems import parsed

    name, options = parsed("cnn:data=digits,loss=cross-entropy,n=20")
    assert "cross-entropy" in cn.problem(name, **options).description

"""What people write for an optimizer: each works with the right step, or one true sentence says what does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import cflow_sym as cs
from cflow_num.loss.problem import Blocks
from cflow_sym.derivation.derivation import DerivationError
from cflow_sym.optimizers import UnknownOptimizerError
from cflow_sym.reading.files import read_toml
from cflow_sym.spec.parts import SpecError

RNG = np.random.default_rng(0)
SHAPES = {"dense": {"bias": (3,), "kernel": (4, 3)}, "head": (3, 2)}
PARAMS = jax.tree.map(lambda n: jnp.asarray(RNG.normal(size=n)), SHAPES, is_leaf=lambda x: isinstance(x, tuple))
BY_AXES = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
RATE = lambda f: lambda learning_rate: f(learning_rate)  # noqa: E731
WORKS = {
    "adam": optax.adam,
    "adamw, masked": lambda learning_rate, weight_decay=0.1: optax.adamw(
        learning_rate, eps=1e-4, weight_decay=weight_decay, mask=BY_AXES
    ),
    "masked scale": RATE(lambda rate: optax.chain(optax.masked(optax.scale(2.0), BY_AXES), optax.sgd(rate))),
    "frozen": RATE(lambda rate: optax.chain(optax.sgd(rate), optax.freeze(BY_AXES))),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
    "if finite": RATE(lambda rate: optax.apply_if_finite(optax.sgd(rate), 5)),
    "normalized": RATE(lambda rate: optax.chain(optax.normalize_by_update_norm(), optax.sgd(rate))),
    "normalized, guarded": RATE(lambda rate: optax.chain(optax.contrib.normalize(), optax.sgd(rate))),
    "beta = 1 is no decay": lambda learning_rate, beta=1.0: optax.sgd(beta * learning_rate),
    "traces by the name c": RATE(lambda rate: optax.chain(named_state("c"), optax.scale(-rate))),
    "traces by the name z": RATE(lambda rate: optax.chain(named_state("z"), optax.scale(-rate))),
    "traces by the name g_mean": RATE(lambda rate: optax.chain(named_state("g_mean"), optax.scale(-rate))),
    "traces by the name rate": RATE(lambda rate: optax.chain(named_state("rate"), optax.scale(-rate))),
}


def named_state(name):
    """Return momentum whose state has a given name."""
    init = lambda params: {name: jax.tree.map(jnp.zeros_like, params)}  # noqa: E731

    def update(grads, state, params=None):
        average = jax.tree.map(lambda m, g: 0.5 * m + g, state[name], grads)
        return average, {name: average}

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("title", WORKS)
def test_the_step_is_the_programs(title):
    spec = cs.from_optax(WORKS[title], params=PARAMS)
    step, moves = spec.compile_step(), lambda path: jax.tree_util.keystr(path) not in spec.frozen
    leaves = lambda tree: [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if moves(path)]  # noqa: E731
    flat = lambda tree: jnp.concatenate([x.ravel() for x in leaves(tree)])  # noqa: E731
    blocks = Blocks(tuple(x.size for x in leaves(PARAMS)))
    hp = {h.name: jnp.asarray(0.1 if h.default is None else h.default) for h in step.HYPERPARAMETERS}
    hp |= {h.name: blocks.spread(jnp.array(h.values)) for h in step.HYPERPARAMETERS if h.values}
    optimizer = WORKS[title](**({"learning_rate": 0.1} if "learning_rate" in hp else {}))
    params, theirs, ours = PARAMS, optimizer.init(PARAMS), step.initial_state(flat(PARAMS), hp | {"blocks": blocks})
    for _ in range(4):
        grads = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), params)
        updates, theirs = optimizer.update(grads, theirs, params)
        w, g = flat(params), flat(grads) + step.l2_penalty(hp) * flat(params)
        ours = step.update_state(ours, g, hp | {"blocks": blocks})
        moved = step.update_weights(w, ours, g, hp | {"blocks": blocks}) - w
        np.testing.assert_allclose(moved, flat(updates), rtol=1e-12, atol=1e-14)
        params = optax.apply_updates(params, updates)


COSINE = optax.cosine_decay_schedule(0.1, 100)
REFUSED = {
    "cosine inside": (lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=COSINE), {}, "learning_rate=schedule"),
    "cosine": (optax.sgd, dict(learning_rate=COSINE), "learning_rate=schedule"),
    "linear": (lambda: optax.sgd(optax.linear_schedule(0.1, 0.01, 100)), {}, "learning_rate=schedule"),
    "polynomial": (lambda: optax.sgd(optax.polynomial_schedule(0.1, 0.01, 2, 100)), {}, "learning_rate=schedule"),
    "piecewise": (
        lambda: optax.adam(optax.piecewise_constant_schedule(0.1, {50: 0.1})),
        {},
        "learning_rate=schedule",
    ),
    "exponential": (
        lambda: optax.sgd(optax.exponential_decay(0.1, 10, 0.9, staircase=True)),
        {},
        "learning_rate=schedule",
    ),
    "warm-up": (
        lambda: optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)),
        {},
        "learning_rate=schedule",
    ),
    "dog": (optax.contrib.dog, {}, "keeps the initial weights"),
    "lamb": (optax.lamb, {}, "depends on the weights w"),
    "polyak": (optax.polyak_sgd, {}, "knows the gradient alone, and this update also asks for 'value'"),
    "lion": (optax.lion, {}, "is not smooth"),
    "schedule-free": (optax.contrib.schedule_free_sgd, {}, "depends on the weights w"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_refused_says_what_works(title):
    factory, values, reason = REFUSED[title]
    for params in (None, PARAMS):
        with pytest.raises(SpecError, match=reason) as caught:
            cs.from_optax(factory, params=params, **values)
        assert "\n" not in str(caught.value)


def test_an_exponential_schedule_is_derived():
    spec = cs.from_optax(lambda: optax.sgd(optax.exponential_decay(0.1, 1, 0.9)))
    at_third_step = spec.update.subs({cs.symbols.g: 1, cs.symbols.t: 3})
    assert abs(float(at_third_step) + 0.1 * 0.9**2) < 1e-15


def in_toml(update, state):
    return read_toml(f"""
        name = "x"
        hyperparameters = ["eta", "beta2"]
        update = "{update}"
        [state]
        nu = "{state}"
    """)


@pytest.mark.parametrize(
    ("update", "state", "error", "reason"),
    [
        ("-eta * g / sqrt(nu + g**2)", "beta2 * nu + (1 - beta2) * g**2", SpecError, "states that remember past"),
        ("-eta * g / nu**(1/3)", "beta2 * nu + (1 - beta2) * abs(g)**3", SpecError, "g.*3 is twice differentiable"),
        (
            "-eta * g / sqrt(max(1, nu))",
            "beta2 * nu + (1 - beta2) * norm2(g)",
            DerivationError,
            "cannot be solved for nu",
        ),
    ],
)
def test_toml_refusals_are_true(update, state, error, reason):
    with pytest.raises(error, match=reason):
        in_toml(update, state).derive()


def test_other_names_are_understood():
    with pytest.raises(UnknownOptimizerError, match="did you mean 'gradient_descent'"):
        cs.optimizer("sgd")
    with pytest.raises(SpecError, match=r"cflow_sym\.from_optax\(optax\.adamw\)"):
        cs.derive(optax.adamw)

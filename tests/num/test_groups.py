"""Optimizers that treat groups of arrays differently: nothing runs that is not the step of the program itself."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cflow_num as cn
import cflow_sym as cs
from cflow_num.errors import InputError
from cflow_num.hyperparameters import as_arrays, resolve
from cflow_num.original import check_original

X = np.random.default_rng(0).normal(size=(7, 3))
PARAMS = {
    "dense": {"kernel": 0.3 * jnp.ones((3, 2)), "bias": 0.1 * jnp.ones(2)},
    "head": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)},
}
RATE = dict(learning_rate=0.01)


def loss(p, x):
    hidden = jnp.tanh(x @ p["dense"]["kernel"] + p["dense"]["bias"])
    return jnp.mean((hidden @ p["head"]["kernel"] + p["head"]["bias"] - x[:, :1] ** 2) ** 2)


def check(flow, values, problem=None):
    problem = PROBLEM if problem is None else problem
    flow, hp = resolve(flow, values)
    check_original(flow, as_arrays(flow, hp, problem), problem)


def named(word):
    """Return the mask of the arrays whose path contains a word."""
    return lambda p: jax.tree_util.tree_map_with_path(lambda path, _: word in jax.tree_util.keystr(path), p)


PROBLEM = cn.Problem(loss, PARAMS, data=X)
MASKED = lambda learning_rate, weight_decay=0.1: optax.chain(  # noqa: E731
    optax.add_decayed_weights(weight_decay, mask=named("kernel")), optax.sgd(learning_rate)
)


def test_what_the_trace_does_not_see_is_refused_with_the_array():
    compiled = cs.from_optax(MASKED).compile()  # traced on arrays without such a name: nothing decays
    with pytest.raises(InputError, match=r"array \['dense'\]\['kernel'\] otherwise than its flow: step 1 has"):
        cn.run(PROBLEM, compiled, RATE, steps=2, quiet=True)


def test_late_steps_are_compared_too():
    compiled = cs.from_optax(optax.sgd, momentum=0.5).compile()
    program = compiled.REFERENCE

    def counting(update):
        def late(grads, state, params, hp):
            count, state = state
            updates, state = update(grads, state, params, hp)
            return jax.tree.map(lambda x: x * jnp.where(count > 5000, 1 + 1e-8, 1.0), updates), (count + 1, state)

        return late

    other = dataclasses.replace(
        program, init=lambda params, hp: (jnp.zeros((), int), program.init(params, hp)), update=counting(program.update)
    )
    changed = types.ModuleType("changed")
    vars(changed).update({**vars(compiled), "REFERENCE": other})
    check(compiled, RATE)
    with pytest.raises(InputError, match=r"step 10005 has entries up to .* differs by up to"):
        check(changed, RATE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_right_runs_in_both_precisions(dtype):
    compiled = cs.from_optax(optax.adamw, eps_root=1e-8).compile()
    schedule = optax.cosine_decay_schedule(0.01, 20)
    check(compiled, dict(learning_rate=schedule), PROBLEM.astype(dtype))


def test_a_program_that_fails_on_the_parameters_says_so():
    by_name = lambda learning_rate: optax.multi_transform(  # noqa: E731
        {"a": optax.sgd(learning_rate)}, lambda p: {"array_1": "a", "array_2": "a"}
    )
    with pytest.raises(InputError, match=r"fails on the parameters of custom \(ValueError"):
        cn.run(PROBLEM, cs.from_optax(by_name).compile(), RATE, steps=2, quiet=True)

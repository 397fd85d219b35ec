"""Optimizers that treat groups of arrays differently: nothing runs that is not the step of the program itself."""

import dataclasses
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cflow_num as cn
import cflow_sym as cs
from cflow_num.flows.base import FlowState
from cflow_num.flows.central import CentralFlow
from cflow_num.flows.leapfrog import LeapfrogFlow
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.optimizer.original import check_original
from cflow_num.support.errors import InputError

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


@pytest.mark.parametrize("rate", [1e-5, 1e-8, 1e-12])
def test_rounding_of_large_weights_under_small_steps_is_no_difference(rate):
    params = jax.tree.map(lambda x: 1e3 * x, PARAMS)
    check(cs.from_optax(optax.sgd), {"learning_rate": rate}, cn.Problem(loss, params, data=X))


def test_flags_of_several_arrays_are_no_coordinates():
    check(cs.from_optax(lambda learning_rate: optax.chain(optax.zero_nans(), optax.sgd(learning_rate))), RATE)


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


CHAINED = lambda learning_rate, decay=0.1: optax.chain(  # noqa: E731
    optax.add_decayed_weights(decay, mask=named("kernel")), optax.rmsprop(learning_rate, 0.9, eps=1e-3)
)
ADAMW = lambda learning_rate, b1=0.9, b2=0.99, eps=1e-3: optax.adamw(  # noqa: E731
    learning_rate, b1, b2, eps, weight_decay=0.2, mask=named("kernel")
)
LABELS = lambda p: jax.tree.map(lambda head: "head" if head else "rest", named("head")(p))  # noqa: E731
TWO_RATES = lambda learning_rate: optax.multi_transform(  # noqa: E731
    {"head": optax.adam(10 * learning_rate, eps=1e-3), "rest": optax.adam(learning_rate, 0.9, 0.9, eps=1e-4)}, LABELS
)
FREEZE = lambda learning_rate: optax.chain(optax.sgd(learning_rate, 0.9), optax.freeze(named("head")))  # noqa: E731
STILL = lambda learning_rate: optax.multi_transform(  # noqa: E731
    {"head": optax.sgd(learning_rate), "rest": optax.set_to_zero()}, LABELS
)


@pytest.mark.parametrize("factory", [MASKED, CHAINED, ADAMW, TWO_RATES, FREEZE, STILL])
def test_the_discrete_step_is_optaxs(factory):
    spec = cs.from_optax(factory, params=PARAMS)
    step, problem = spec.compile_step(), PROBLEM.holding(spec.frozen)
    hp = {h.name: jnp.asarray(h.default or 0.0) for h in step.HYPERPARAMETERS} | RATE
    hp |= {h.name: problem.blocks.spread(jnp.array(h.values)) for h in step.HYPERPARAMETERS if h.values}
    w, ours, path = problem.w0, step.initial_state(problem.w0, hp), []
    for _ in range(5):
        g = problem.gradient(w) + step.l2_penalty(hp) * w
        ours = step.update_state(ours, g, hp)
        w = step.update_weights(w, ours, g, hp)
        path.append(w)
    params, optimizer = PARAMS, factory(**RATE)
    state = optimizer.init(params)
    for w in path:
        updates, state = optimizer.update(jax.grad(loss)(params, X), state, params)
        params = optax.apply_updates(params, updates)
        for a, b in zip(jax.tree.leaves(problem.params(w)), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def edge_of(p):
    """Return a loss that drifts to the edge and stays there."""
    return 0.5 * p[0] ** 2 * jnp.exp(p[1]) - 0.1 * p[1]


def edge_start(c, S):
    """Return weights at which the curvature c P of an optimizer with 1/P = S is the edge."""
    return jnp.array([1e-6, np.log(c / S)])


@eqx.filter_jit
def advanced(central, w, momentum):
    """Return rates (with momentum: weights after a step), X, the residual of the complementarity and the threshold."""
    one, V = jnp.ones(()), jnp.eye(w.size)
    y = FlowState(w, {"t": one}, central.gradient(w)[None] if momentum else None)
    tangent = central.linearize(y, V, all_pairs=True)
    nothing, X0 = jax.tree.map(jnp.zeros_like, y._replace(filtered=None)), jnp.zeros((central.capacity,) * 2)
    if momentum:
        y, X, info = central.step(y, tangent, X0, one)
        return y.w, X, info.residual, tangent.c
    rates, X, info = central.equilibrium(tangent, nothing, 1e-3 * one, X0)
    return rates.w, X, info.residual, tangent.c


@pytest.mark.parametrize(("momentum", "edge"), [(None, 2.0), (0.5, 3.0)])
def test_arrays_that_do_not_feel_each_other_move_as_if_alone(momentum, edge):
    """The central flow of a sum of losses, each of one array with its own rate and decay, is that of each by itself."""
    rates, decays = dict(a=1.0, b=0.8), dict(a=0.0, b=0.04)
    # decoupled: the step shrinks the weights of b by 0.04, so that its threshold is 0.98 times that of a
    one = lambda k, rate: optax.chain(optax.sgd(rates[k] * rate, momentum), optax.add_decayed_weights(-decays[k]))  # noqa: E731
    both = lambda learning_rate: optax.multi_transform(  # noqa: E731
        {k: one(k, learning_rate) for k in "ab"}, lambda p: {"a": "a", "b": "b"}
    )
    starts = {k: edge_start((1 - decays[k] / 2) * edge, rates[k]) for k in "ab"}

    def step(factory, loss, params):
        """Return rates of the weights and tr(Sigma H) at the edge, and the threshold."""
        problem = cn.Problem(loss, params)
        flow, hp = resolve(cs.from_optax(factory, params=params), dict(learning_rate=1.0), problem)
        kind = CentralFlow if momentum is None else LeapfrogFlow
        central = kind(problem, as_arrays(flow, hp, problem), flow, capacity=len(problem.blocks.sizes))
        w, X, residual, c = advanced(central, problem.w0, momentum is not None)
        assert residual < 1e-9
        return problem.params(w), jnp.trace(X), float(c)

    together, trace, c = step(both, lambda p: edge_of(p["a"]) + edge_of(p["b"]), starts)
    alone = {k: step(lambda learning_rate, k=k: one(k, learning_rate), edge_of, starts[k]) for k in "ab"}
    assert (c, alone["a"][2]) == (edge, edge)
    np.testing.assert_allclose(alone["b"][2], 0.98 * edge, rtol=1e-12)
    for k in "ab":
        np.testing.assert_allclose(together[k], alone[k][0], rtol=1e-9, atol=1e-9)
        assert alone[k][1] > 1e-3  # it oscillates
    np.testing.assert_allclose(trace, alone["a"][1] + 0.98 * alone["b"][1], rtol=1e-9)  # in units of c P at decay 0


def test_what_needs_one_decay_says_so():
    with pytest.raises(InputError, match="decays of its own for groups of arrays, with which rod is not defined"):
        cn.run(PROBLEM, cs.from_optax(MASKED), RATE, steps=2, processes=("discrete", "rod"), quiet=True)


def test_a_spec_is_traced_again_on_the_problems_parameters():
    """The masks see the problem's names: a run decays the kernels and holds the head."""
    both = lambda learning_rate: optax.chain(MASKED(learning_rate), optax.freeze(named("head")))  # noqa: E731
    spec = cs.from_optax(both)  # traced without names: nothing decays, nothing is held
    assert (spec.decay, spec.frozen) == (0, ())
    d = spec.derive().on(PARAMS)
    assert d.spec.frozen == ("['head']['bias']", "['head']['kernel']")
    run = cn.run(PROBLEM, spec, RATE, steps=3, processes=("discrete",), quiet=True)
    assert run.config["n_weights"] == 8
    params, optimizer = PARAMS, both(**RATE)
    state, losses = optimizer.init(params), []
    for _ in range(4):
        losses.append(loss(params, X))
        updates, state = optimizer.update(jax.grad(loss)(params, X), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(run.tree["discrete"]["loss"], losses, rtol=1e-12)


def test_a_program_that_fails_on_the_parameters_says_so():
    by_name = lambda learning_rate: optax.multi_transform(  # noqa: E731
        {"a": optax.sgd(learning_rate)}, lambda p: {"array_1": "a", "array_2": "a"}
    )
    with pytest.raises(InputError, match=r"fails on the parameters of custom \(ValueError"):
        cn.run(PROBLEM, cs.from_optax(by_name).compile(), RATE, steps=2, quiet=True)


def test_a_state_that_takes_its_form_in_the_first_step():
    watched = lambda learning_rate: optax.chain(  # noqa: E731
        optax.monitor({"size": lambda updates, **_: optax.tree.norm(updates)}), optax.sgd(learning_rate)
    )
    check(cs.from_optax(watched), RATE)
    wrong = dataclasses.replace(cs.from_optax(watched), update=2 * cs.from_optax(optax.sgd).update)
    with pytest.raises(InputError, match="otherwise than its flow: step 1 has"):
        check(wrong.compile(), RATE)

"""Chunks of examples and of vectors: nothing changes but rounding and memory; budgets are kept, or refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.loss.parts import VECTORS, Chunks, choose, memory_of, parse_memory, show_memory, traced_memory
from cflow_num.problems.digits_mlp import Mlp, mlp_params
from cflow_num.support.errors import InputError

N, K = 11, 5


def small(**options):
    rng = np.random.default_rng(0)
    data = (jnp.asarray(rng.normal(size=(N, 3))), jnp.asarray(rng.normal(size=(N, 2))))
    return cn.Problem(Mlp(jnp.tanh).loss, mlp_params([3, 4, 2], scale=1.0, seed=0), data=data, **options)


@eqx.filter_jit
def derivatives(problem, w, V, n_active):
    return (
        problem.value(w),
        problem.gradient(w),
        problem.value_and_gradient(w),
        problem.hessian_vectors(w, V),
        problem.curvature_gradients(w, V[:, :3], n_active),
        problem.third_derivative(w, V[:, 0]),
    )


WHOLE = small(examples=True)
BLOCK = jnp.asarray(np.random.default_rng(1).normal(size=(WHOLE.n_weights, K)))


@settings(max_examples=8)
@given(
    st.one_of(st.none(), st.integers(1, N + 2)),
    st.one_of(st.none(), st.integers(1, K + 1)),
    st.integers(0, 3),
    st.integers(0, 100),
)
def test_chunks_of_any_size_change_nothing_but_rounding(examples, vectors, n_active, seed):
    w = WHOLE.w0 + 0.3 * jnp.asarray(np.random.default_rng(seed).normal(size=WHOLE.n_weights))
    cut = WHOLE.in_chunks(examples, vectors)
    for a, b in zip(
        jax.tree.leaves(derivatives(WHOLE, w, BLOCK, jnp.asarray(n_active))),
        jax.tree.leaves(derivatives(cut, w, BLOCK, jnp.asarray(n_active))),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13 * max(1.0, float(jnp.abs(a).max())))


def test_the_value_in_chunks_can_be_differentiated_from_outside():
    w, cut = WHOLE.w0, WHOLE.in_chunks(4)
    H = jax.jit(jax.hessian(cut.value))(w)
    np.testing.assert_allclose(H @ BLOCK, WHOLE.hessian_vectors(w, BLOCK), atol=1e-13)


def test_without_chunks_the_traced_program_is_the_plain_one():
    plain, loss = small(), Mlp(jnp.tanh).loss

    def value(w):
        return loss(plain.params(w), plain.data)

    def products(w, V):
        return jax.vmap(lambda v: jax.jvp(jax.grad(value), (w,), (v,))[1], in_axes=1, out_axes=1)(V)

    args = (plain.w0, BLOCK)
    expected = [str(e.primitive) for e in jax.make_jaxpr(products)(*args).eqns]
    for problem in (plain, WHOLE):
        assert [str(e.primitive) for e in jax.make_jaxpr(problem.hessian_vectors)(*args).eqns] == expected


@pytest.fixture(scope="module")
def digits():
    return cn.problem("digits-mlp", n=1500, width=10)


def test_the_memory_that_the_compiler_reports_falls_as_asked(digits):
    fixed = sum(x.nbytes for x in jax.tree.leaves(digits.data))
    whole, some, few = (digits.in_chunks(size, VECTORS).memory() - fixed for size in (None, 150, 15))
    assert whole > 5 * some > 10 * few
    one = digits.in_chunks(150, 1).memory() - fixed
    assert one < some / 2


def test_a_budget_is_kept_and_used(digits):
    whole, least = digits.memory(), digits.in_chunks(1, 1).memory()
    budget = (whole + least) // 3
    cut = digits.within(budget)
    assert least < cut.memory() <= budget < whole
    assert cut.memory() - least > (budget - least) / 2
    with pytest.raises(InputError) as error:
        digits.within(least - 1)
    enough = str(error.value).split("need ")[1].split(":")[0]
    assert least <= parse_memory(enough) < 1.02 * least


@given(st.integers(1, 10_000), st.integers(1, 300), st.integers(0, 500), st.integers(1, 9), st.booleans())
def test_the_choice_fits_or_names_the_least(budget, n, fixed, each, examples):
    def needed(parts):
        return fixed + each * min(parts.examples or n, n) * parts.vectors

    least = needed(Chunks(1 if examples else None, 1))
    if least > budget:
        with pytest.raises(InputError, match=show_memory(least)):
            choose(budget, n if examples else None, needed)
    else:
        chosen, used = choose(budget, n if examples else None, needed)
        assert used == needed(chosen) <= budget
        assert examples or chosen.examples is None


@given(st.integers(1, 10**14))
def test_a_size_that_is_shown_is_enough_and_not_much_more(size):
    assert size <= parse_memory(show_memory(size)) <= 1.011 * size + 1


def test_where_the_compiler_says_nothing_the_traced_program_bounds_the_memory(monkeypatch):
    def products(V):
        return WHOLE.hessian_vectors(WHOLE.w0, V)

    reported, traced = memory_of(products, BLOCK), traced_memory(jax.make_jaxpr(products)(BLOCK))
    assert traced >= reported
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    assert memory_of(products, BLOCK) == traced
    assert WHOLE.in_chunks(1, 1).memory() < WHOLE.memory()


class Started(Exception):
    """Ends a run once its configuration is known."""


def test_a_run_chooses_its_chunks_before_it_starts():
    problem, seen = cn.problem("digits-mlp", n=60, width=3), []
    budget = problem.memory() - 1000

    def stop(config):
        seen.append(config)
        raise Started

    for memory in (None, budget):
        with pytest.raises(Started):
            cn.run(problem, "gradient_descent", {"learning_rate": 1.0}, quiet=True, memory=memory, on_start=stop)
    assert [config["memory_budget"] for config in seen] == [None, budget]
    assert seen[0]["examples_at_once"] is None
    assert 1 <= seen[1]["examples_at_once"] < 60
    assert seen[1]["vectors_at_once"] <= VECTORS


X = jnp.ones((4, 2))
BAD = {
    "no size": (lambda: WHOLE.within("lots"), 'memory is "lots", it must be a size such as 500MB'),
    "no number": (lambda: WHOLE.within("1.2.3GB"), "it must be a size"),
    "negative": (lambda: WHOLE.within("-2GB"), "memory is -2GB, it must be positive"),
    "nothing": (lambda: WHOLE.within(0), "must be positive"),
    "not finite": (lambda: WHOLE.within(float("inf")), "must be a size"),
    "true": (lambda: WHOLE.within(True), "must be a size"),
    "too small": (lambda: WHOLE.within("1kB"), "one example and one vector at a time need"),
    "too small, vectors only": (lambda: small().within("1kB"), "examples=True"),
    "no mean": (lambda: small().in_chunks(3), "pass examples=True to Problem"),
    "a sum": (
        lambda: cn.Problem(lambda w, x: jnp.sum((x @ w) ** 2), jnp.ones(2), data=X, examples=True).in_chunks(2),
        "it must be a mean over examples",
    ),
    "no data": (lambda: cn.Problem(lambda w: jnp.sum(w), jnp.ones(2), examples=True), "found none"),
    "scalar data": (
        lambda: cn.Problem(lambda w, x: jnp.sum(w), jnp.ones(2), data=(X, jnp.ones(())), examples=True),
        "found (4, 2), ()",
    ),
    "lengths that differ": (
        lambda: cn.Problem(lambda w, x: jnp.sum(w), jnp.ones(2), data=(X, jnp.ones(3)), examples=True),
        "found (4, 2), (3,)",
    ),
    "none at a time": (lambda: WHOLE.in_chunks(0), "at least 1"),
    "half a vector": (lambda: Chunks(None, 0), "vectors at a time is 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    call, says = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_large_problems_are_cut_for_the_caches_without_changing_a_derivative():
    large, small = cn.problem("cnn"), cn.problem("digits-mlp", n=50)
    assert small.chunks == Chunks()
    assert large.chunks.vectors == 1
    assert large.chunks.examples is not None
    whole = large.in_chunks()
    V = jnp.asarray(np.random.default_rng(0).normal(size=(large.n_weights, 2)))
    for name, args in (("gradient", ()), ("hessian_vectors", (V,)), ("curvature_gradients", (V,))):
        ours, plain = (eqx.filter_jit(getattr(p, name))(p.w0, *args) for p in (large, whole))
        np.testing.assert_allclose(ours, plain, atol=1e-12 * float(jnp.max(jnp.abs(plain))))

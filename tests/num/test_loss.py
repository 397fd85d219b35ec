"""Derivatives against dense automatic differentiation; pytrees; captured arrays; bad losses."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cflow_num.linalg.symmetric import smat, svec
from cflow_num.loss.problem import Problem
from cflow_num.problems import problem
from cflow_num.support.errors import InputError

from .cases import random_smooth


@eqx.filter_jit
def curvature_gradients(problem, U, n_active, n_coupled):
    H = jax.hessian(problem.value)
    dense = jax.jacobian(lambda w: svec(U.T @ H(w) @ U))(problem.w0)
    return problem.curvature_gradients(problem.w0, U, n_active, n_coupled), dense


@eqx.filter_jit
def hessian_and_third(problem, V):
    w = problem.w0
    H, T = jax.hessian(problem.value)(w), jax.jacobian(jax.hessian(problem.value))(w)
    third = jnp.einsum("ijk,i,j->k", T, V[:, 0], V[:, 0])
    return problem.hessian_vectors(w, V), H @ V, problem.third_derivative(w, V[:, 0]), third


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4))
def test_curvature_gradients_are_the_gradients_of_the_projected_hessian(seed, k, n_active, n_coupled):
    problem, U = random_smooth(seed), jnp.asarray(np.random.default_rng(seed).normal(size=(5, k)))
    n_active = min(n_active, k)
    n_coupled = min(n_coupled, n_active)
    D, dense = curvature_gradients(problem, U, jnp.asarray(n_active), jnp.asarray(n_coupled))
    mask = np.diag(np.arange(k) < n_active).astype(float)
    mask[:n_coupled, :n_coupled] = 1
    expected = np.asarray(dense) * (np.asarray(svec(jnp.asarray(mask))) > 0)[:, None]
    np.testing.assert_allclose(D, expected, rtol=0, atol=1e-11 * max(1, np.abs(dense).max()))


@given(st.integers(0, 10_000))
def test_hessian_vectors_and_third_derivative(seed):
    problem = random_smooth(seed)
    HV, HV_dense, T, T_dense = hessian_and_third(problem, jnp.asarray(np.random.default_rng(seed).normal(size=(5, 3))))
    np.testing.assert_allclose(HV, HV_dense, atol=1e-11)
    np.testing.assert_allclose(T, T_dense, atol=1e-10)


def test_the_averaged_gradient_needs_the_curvature_gradients_of_sigma():
    problem = random_smooth(3)
    rng = np.random.default_rng(0)
    U, X = jnp.asarray(rng.normal(size=(5, 3))), rng.normal(size=(3, 3))
    X = jnp.asarray(X @ X.T)
    D = problem.curvature_gradients(problem.w0, U)
    H = jax.hessian(problem.value)
    expected = jax.grad(lambda w: jnp.sum(H(w) * (U @ X @ U.T)))(problem.w0)
    np.testing.assert_allclose(svec(X) @ D, expected, atol=1e-10)
    np.testing.assert_allclose(smat(svec(X)), X, atol=1e-14)


def test_any_pytree_and_captured_arrays():
    X = jnp.asarray(np.random.default_rng(0).normal(size=(30, 4)))
    params = {"layer": [(jnp.ones(4), 3), jnp.zeros(())], "name": jnp.tanh}

    def loss(p):
        (weight, power), bias = p["layer"]
        return jnp.mean(p["name"](X @ weight + bias) ** power)

    problem = Problem(loss, params)
    assert problem.n_weights == 5
    assert float(problem.value(problem.w0)) == pytest.approx(float(loss(params)), rel=1e-14)
    moved = problem.params(problem.w0 + 1.0)
    assert moved["layer"][0][1] == 3
    np.testing.assert_array_equal(problem.ravel(moved), problem.w0 + 1.0)
    arrays = [x.shape for x in jax.tree.leaves(eqx.filter(problem.traced(), eqx.is_array))]
    assert (30, 4) in arrays, "the captured array is not an argument"


def test_an_equinox_model_and_outputs():
    model = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.tanh, key=jax.random.key(0))
    x = jnp.ones((4, 2))
    problem = Problem(lambda m, x: jnp.mean(jax.vmap(m)(x) ** 2), model, data=x, outputs=lambda m, x: jax.vmap(m)(x))
    assert problem.outputs(problem.w0).shape == (4, 1)
    assert float(problem.value(problem.w0)) == pytest.approx(float(jnp.mean(problem.outputs(problem.w0) ** 2)))


BAD = {
    "vector": (lambda w: w, jnp.ones(3), "shape (3,)"),
    "complex": (lambda w: jnp.sum(w) * 1j, jnp.ones(3), "real"),
    "pair": (lambda w: (jnp.sum(w), jnp.sum(w)), jnp.ones(3), "2 values"),
    "complex weights": (lambda w: jnp.sum(jnp.abs(w)), jnp.ones(3) * 1j, "weights are real"),
    "no weights": (lambda w: 0.0, {"a": 1}, "no floating-point array"),
    "fails": (lambda w: w @ jnp.ones(7), jnp.ones(3), "cannot be evaluated"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_loss_is_refused_in_one_sentence(name):
    loss, params, says = BAD[name]
    with pytest.raises(InputError) as error:
        Problem(loss, params)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_equal_problems_share_compiled_code():
    count = itertools.count()

    @eqx.filter_jit
    def value(problem, w):
        next(count)
        return problem.value(w)

    def loss(w, d):
        return jnp.sum(d * w**2)

    for start in (1.0, 2.0):
        problem = Problem(loss, jnp.full(3, start), data=jnp.ones(3))
        value(problem, problem.w0)
    assert next(count) == 1


def test_problems_that_differ_in_their_description_only_share_compiled_code():
    one, other = (problem("digits-mlp", n=20, width=4, seed=seed) for seed in (1, 2))
    assert one.description != other.description
    calls = []

    @eqx.filter_jit
    def value(p, w):
        calls.append(p)  # while it is traced
        return p.value(w)

    assert float(value(one, one.w0)) != float(value(other, other.w0))
    assert len(calls) == 1

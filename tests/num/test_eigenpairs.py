"""Leading eigenpairs against dense ones: clusters, diagonal preconditioners, warm starts, certificates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_num.linalg.eigenpairs import block_size, leading_eigenpairs, start_block


def spectrum(kind: str, n: int, rng) -> np.ndarray:
    tail = rng.uniform(-0.5, 1.2, size=n)
    tail[: {"cluster": 4, "pair": 2, "spread": 0}[kind]] = 2.0
    return tail


@partial(jax.jit, static_argnames=("K",))
def refined(H, P, seed, K):
    return leading_eigenpairs(
        lambda V: H @ V,
        P,
        jax.random.normal(jax.random.key(seed), (H.shape[0], K), H.dtype),
        capacity=4,
        wanted_above=-10.0,
        tolerance=1e-6,
        max_iterations=300,
    )


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["cluster", "pair", "spread"]),
    st.booleans(),
    st.sampled_from([6, 60]),
)
def test_agrees_with_dense_eigenvalues(seed, kind, diagonal, n):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    P = np.exp(rng.normal(size=n)) if diagonal else np.full(n, np.exp(rng.normal()))
    root = np.sqrt(P)
    H = root[:, None] * (Q * spectrum(kind, n, rng)) @ Q.T * root
    K = block_size(4, n)
    P_given = jnp.asarray(P) if diagonal else jnp.asarray(P[0])
    pairs = refined(jnp.asarray(H), P_given, seed, K)
    dense = scipy.linalg.eigh(H, np.diag(P), eigvals_only=True)[::-1][:4]
    assert bool(pairs.converged)
    np.testing.assert_allclose(pairs.eigenvalues[:4], dense, atol=1e-8)
    U, HU = np.asarray(pairs.U), np.asarray(pairs.HU)
    np.testing.assert_allclose(U.T @ (P[:, None] * U), np.eye(K), atol=1e-9)
    np.testing.assert_allclose(HU, H @ U, atol=1e-9 * np.abs(H @ U).max())
    true = np.linalg.norm((H @ U - P[:, None] * U * np.asarray(pairs.eigenvalues)) / root[:, None], axis=0)
    np.testing.assert_allclose(pairs.residuals, true, atol=1e-9)


def test_a_warm_start_costs_one_product_per_vector():
    rng = np.random.default_rng(0)
    M = rng.normal(size=(50, 50))
    H = jnp.asarray(M + M.T)
    cold = leading_eigenpairs(
        lambda V: H @ V,
        jnp.asarray(1.0),
        start_block(50, 8, H.dtype),
        capacity=4,
        tolerance=1e-8,
        max_iterations=300,
    )
    warm = leading_eigenpairs(lambda V: H @ V, jnp.asarray(1.0), cold.U, capacity=4, tolerance=1e-3)
    assert int(warm.iterations) == 0
    assert int(warm.n_hessian_vectors) == 8
    assert int(cold.iterations) > 5


def test_unconverged_pairs_are_a_value_not_an_exception():
    H = jnp.diag(jnp.linspace(0.0, 1.0, 200))
    pairs = leading_eigenpairs(
        lambda V: H @ V, jnp.asarray(1.0), start_block(200, 3, H.dtype), tolerance=1e-10, max_iterations=2
    )
    assert not bool(pairs.converged)
    nothing = leading_eigenpairs(lambda V: V * jnp.nan, jnp.asarray(1.0), start_block(20, 3, H.dtype))
    assert not bool(nothing.converged)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_and_vmap(dtype):
    H = jnp.stack([jnp.diag(jnp.arange(1.0, 41.0, dtype=dtype)), jnp.diag(jnp.arange(2.0, 42.0, dtype=dtype))])
    V = start_block(40, 6, dtype)
    found = jax.vmap(
        lambda H: leading_eigenpairs(
            lambda V: H @ V, jnp.asarray(1.0, dtype), V, capacity=2, tolerance=1e-4, max_iterations=100
        )
    )(H)
    assert found.eigenvalues.dtype == dtype
    np.testing.assert_allclose(found.eigenvalues[:, :2], [[40, 39], [41, 40]], rtol=1e-5)

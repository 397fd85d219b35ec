"""The isometry between symmetric matrices and vectors, against dense algebra."""

import jax.numpy as jnp
import numpy as np
import pytest

from cflow_num.linalg.symmetric import congruence, matrix_size, smat, svec, svec_basis, svec_size, symmetric_part

SIZES = (1, 2, 3, 5, 8)


def symmetric(k, seed, batch=()):
    M = np.random.default_rng([seed, k]).normal(size=(*batch, k, k))
    return jnp.asarray(M + np.swapaxes(M, -1, -2))


@pytest.mark.parametrize("k", SIZES)
def test_inner_products_are_kept(k):
    A, B = symmetric(k, 1), symmetric(k, 2)
    np.testing.assert_allclose(svec(A) @ svec(B), jnp.trace(A @ B), rtol=1e-12)


@pytest.mark.parametrize("k", SIZES)
def test_smat_inverts_svec_in_batches(k):
    M = symmetric(k, 3, batch=(2, 4))
    assert svec(M).shape == (2, 4, svec_size(k))
    np.testing.assert_allclose(smat(svec(M)), M, rtol=1e-14)
    np.testing.assert_allclose(svec(smat(svec(M))), svec(M), rtol=1e-14)


@pytest.mark.parametrize("k", SIZES)
def test_basis_is_orthonormal_and_complete(k):
    E, M = svec_basis(k), symmetric(k, 4)
    np.testing.assert_allclose(jnp.einsum("aij,bij->ab", E, E), np.eye(svec_size(k)), atol=1e-14)
    np.testing.assert_allclose(svec(E), np.eye(svec_size(k)), atol=1e-14)
    np.testing.assert_allclose(jnp.einsum("a,aij->ij", svec(M), E), M, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("k", SIZES)
def test_congruence_equals_the_dense_product(k):
    M, G = symmetric(k, 5), jnp.asarray(np.random.default_rng(6).normal(size=(k, k)))
    np.testing.assert_allclose(congruence(G) @ svec(M), svec(G.T @ M @ G), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(congruence(G).T @ svec(M), svec(G @ M @ G.T), rtol=1e-11, atol=1e-12)


def test_congruence_of_a_tall_matrix():
    M, G = symmetric(5, 7), jnp.asarray(np.random.default_rng(8).normal(size=(5, 2)))
    np.testing.assert_allclose(congruence(G) @ svec(M), svec(G.T @ M @ G), rtol=1e-11)


@pytest.mark.parametrize("k", SIZES)
def test_congruence_by_an_orthogonal_matrix_is_orthogonal(k):
    Q, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(k, k)))
    C = congruence(jnp.asarray(Q))
    np.testing.assert_allclose(C @ C.T, np.eye(svec_size(k)), atol=1e-13)


def test_asymmetric_input_counts_as_its_symmetric_part():
    M = jnp.asarray(np.random.default_rng(10).normal(size=(3, 3)))
    np.testing.assert_allclose(svec(M), svec(symmetric_part(M)), rtol=1e-14)


def test_single_precision_stays_single():
    M = symmetric(3, 11).astype(jnp.float32)
    assert svec(M).dtype == smat(svec(M)).dtype == congruence(M).dtype == jnp.float32


def test_sizes():
    assert [matrix_size(svec_size(k)) for k in range(1, 40)] == list(range(1, 40))
    with pytest.raises(ValueError, match="5 is not"):
        matrix_size(5)

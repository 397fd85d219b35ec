"""Semidefinite complementarity: the defining conditions, the laws of the solution, independent oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_num.linalg.complementarity import complementarity_residual, solve_sdcp

# --- numpy helpers, independent of cflow_num.linalg.symmetric ---


def svec(M):
    i, j = np.triu_indices(len(M))
    return np.asarray(M)[i, j] * np.where(i == j, 1, np.sqrt(2))


def smat(v, k):
    M, (i, j) = np.zeros((k, k)), np.triu_indices(k)
    M[i, j] = M[j, i] = v * np.where(i == j, 1, np.sqrt(0.5))
    return M


def congruence(Q):
    """Matrix of svec(M) -> svec(Q^T M Q), column by column."""
    k = len(Q)
    return np.stack([svec(Q.T @ smat(e, k) @ Q) for e in np.eye(k * (k + 1) // 2)], axis=1)


def positive_part(M):
    d, Q = np.linalg.eigh(M)
    return Q * np.maximum(d, 0) @ Q.T


def residual(A, B, X):
    """Relative natural residual, as the docstring of `complementarity_residual` defines it."""
    A, X = np.asarray(A), np.asarray(X)
    Y = A + smat(B @ svec(X), len(A))
    x, y = np.linalg.norm(X), max(np.linalg.norm(A), np.linalg.norm(Y))
    X, Y = X / (x or 1), Y / (y or 1)
    return np.linalg.norm(X - positive_part(X - Y))


# --- families of monotone problems: name -> (rng, k) -> (A, B) ---


def symmetric(rng, k):
    M = rng.normal(size=(k, k))
    return (M + M.T) / 2


def orthogonal(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def gram(rng, m, n):
    D = rng.normal(size=(m, n))
    return D @ D.T / n


def skew(rng, m):
    S = rng.normal(size=(m, m))
    return (S - S.T) / (2 * np.sqrt(m))


def size(k):
    return k * (k + 1) // 2


def planted(rng, k, B, x_rank, y_rank):
    """An A for which X of rank x_rank and Y of rank y_rank with orthogonal ranges are a solution."""
    Q = orthogonal(rng, k)
    x, y = np.zeros(k), np.zeros(k)
    x[:x_rank], y[k - y_rank :] = rng.uniform(0.1, 2, x_rank), rng.uniform(0.1, 2, y_rank)
    return Q * y @ Q.T - smat(B @ svec(Q * x @ Q.T), k), B


def strict(rng, k, B):
    rank = int(rng.integers(0, k + 1))
    return planted(rng, k, B, rank, k - rank)


def nonsymmetric(rng, k):
    return symmetric(rng, k), gram(rng, size(k), 3 * size(k)) + 2 * skew(rng, size(k))


def congruent(rng, k, G):
    A, B = nonsymmetric(rng, k)
    A, C = G.T @ A @ G, congruence(G)
    return (A + A.T) / 2, C @ B @ C.T


def overall_scales(rng, k):
    A, B = nonsymmetric(rng, k)
    return A * 10 ** rng.uniform(-6, 6), B * 10 ** rng.uniform(-6, 6)


def degenerate(rng, k):
    B = gram(rng, size(k), 2 * size(k)) + rng.integers(0, 2) * skew(rng, size(k))
    x_rank = int(rng.integers(0, k))
    return planted(rng, k, B, x_rank, int(rng.integers(0, k - x_rank)))


def nearly_infeasible(rng, k):
    ridge = 10 ** rng.uniform(-6, -3)
    return symmetric(rng, k), gram(rng, size(k), max(1, size(k) // 2)) + ridge * np.eye(size(k))


def rank_one(rng, k):
    one = svec(np.eye(k))
    return symmetric(rng, k), np.outer(one, one)


def blind_direction(rng, k):
    """B acts on the first direction weakly (by 1e-16) or not at all."""
    B = gram(rng, size(k), 2 * size(k))
    weight = np.where(np.triu_indices(k)[0] == 0, rng.choice([0, 1e-8]), 1) if k > 1 else np.ones(1)
    return strict(rng, k, weight[:, None] * B * weight)


FAMILIES = {
    "gram": lambda rng, k: (symmetric(rng, k), gram(rng, size(k), 3 * size(k))),
    "square gram": lambda rng, k: (symmetric(rng, k), gram(rng, size(k), size(k))),
    "nonsymmetric": nonsymmetric,
    "skew": lambda rng, k: strict(rng, k, skew(rng, size(k))),
    "scales 1e-6 to 1e6": lambda rng, k: congruent(rng, k, np.diag(10 ** rng.uniform(-6, 6, k))),
    "rotated scales": lambda rng, k: congruent(rng, k, 10 ** rng.uniform(-1, 1, (k, 1)) * orthogonal(rng, k)),
    "overall scales": overall_scales,
    "degenerate": degenerate,
    "rank-deficient X": lambda rng, k: strict(rng, k, gram(rng, size(k), 2 * size(k))),
    "rank-deficient B": lambda rng, k: strict(rng, k, gram(rng, size(k), int(rng.integers(1, max(2, size(k)))))),
    "rank-one B": rank_one,
    "blind direction": blind_direction,
    "nearly infeasible": nearly_infeasible,
}
SIZES = (1, 2, 3, 5, 8)
PROBLEMS = 2000


def problems(family, k, count):
    rng = np.random.default_rng([2024, k, list(FAMILIES).index(family)])
    A, B = zip(*(FAMILIES[family](rng, k) for _ in range(count)), strict=True)
    return np.stack(A), np.stack(B)


@pytest.mark.parametrize("k", SIZES)
def test_random_monotone_problems(k):
    count = -(-PROBLEMS // len(SIZES) // len(FAMILIES))
    failed, total = [], 0
    for family in FAMILIES:
        A, B = problems(family, k, count)
        for n in range(count):
            X, info = solve_sdcp(A[n], B[n])
            r = residual(A[n], B[n], X)
            assert np.linalg.eigvalsh(X).min() >= -1e-13 * np.linalg.norm(X)
            total += 1
            if not (r < 1e-8 and info.residual < 1e-8):
                failed.append((family, n, r, float(info.residual)))
    print(f"k={k}, seeds [2024, {k}, family]: {total - len(failed)} of {total} below 1e-8; failed: {failed}")
    assert len(failed) <= 1e-3 * total, failed


def well_posed(seed, k):
    rng = np.random.default_rng(seed)
    return symmetric(rng, k), gram(rng, size(k), 3 * size(k)) + skew(rng, size(k)), rng


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([2, 3, 5]),
    log_s=st.floats(-5, 5),
    log_t=st.floats(-5, 5),
)
def test_laws_of_the_solution(seed, k, log_s, log_t):
    A, B, rng = well_posed(seed, k)
    X, info = solve_sdcp(A, B)
    X = np.asarray(X)
    Y = A + smat(B @ svec(X), k)
    assert info.converged
    assert np.linalg.eigvalsh(X).min() >= -1e-14 * np.linalg.norm(X)
    assert np.linalg.eigvalsh(Y).min() >= -1e-10 * np.linalg.norm(A)
    assert np.linalg.norm(X @ Y) <= 1e-10 * np.linalg.norm(X) * np.linalg.norm(A)

    s, t = 10**log_s, 10**log_t
    scaled, _ = solve_sdcp(s * A, t * B)
    np.testing.assert_allclose(scaled * t / s, X, atol=1e-9 * (1 + np.linalg.norm(X)))

    Q = orthogonal(rng, k)
    C = congruence(Q)
    turned, _ = solve_sdcp(Q.T @ A @ Q, C @ B @ C.T)
    np.testing.assert_allclose(Q @ turned @ Q.T, X, atol=1e-9 * (1 + np.linalg.norm(X)))

    if k == 3:  # one size: every size compiles anew
        guess = symmetric(rng, k)
        warm, _ = solve_sdcp(A, B, guess @ guess)
        np.testing.assert_allclose(B @ svec(warm - X), 0, atol=1e-9 * (1 + np.linalg.norm(Y)))

    zero, info = solve_sdcp(A @ A, B)
    assert not np.any(zero)
    assert info.converged
    assert info.iterations == 0


@given(a=st.floats(-1e6, 1e6), b=st.floats(0, 1e6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_one_dimension_is_the_closed_form(a, b):
    a, b = (0.0 if abs(z) < 1e-100 else z for z in (a, b))  # keeps clear of denormal numbers
    X, info = solve_sdcp(np.array([[a]]), np.array([[b]]))
    if b > 0:
        assert X[0, 0] == max(0.0, -a / b)
        assert info.converged
    else:
        assert X[0, 0] == 0
        assert info.converged == (a >= 0)


def test_scaling_one_svec_side_only_is_a_different_problem():
    """B = D D^T needs sqrt 2 in the unknowns and in the curvature gradients d_ij, not in one of them."""
    k, n = 3, 10
    wrong = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        d = rng.normal(size=(k, k, n))
        d = (d + d.swapaxes(0, 1)) / 2
        A = symmetric(rng, k) - np.eye(k)
        i, j = np.triu_indices(k)
        D = np.where(i == j, 1, np.sqrt(2))[:, None] * d[i, j]

        def violation(B, A=A, d=d):
            X = np.asarray(solve_sdcp(A, B)[0])
            Y = A + np.einsum("ijn,kln,kl->ij", d, d, X)  # dense: no svec anywhere
            X, Y = X / np.linalg.norm(X), Y / max(np.linalg.norm(A), np.linalg.norm(Y))
            return np.linalg.norm(X - positive_part(X - Y)), np.linalg.matrix_rank(X, 1e-6)

        right, rank = violation(D @ D.T)
        assert right < 1e-9
        if rank < k:
            wrong.append(violation(d[i, j] @ D.T)[0])
    assert len(wrong) >= 3
    assert min(wrong) > 0.01


def projected_gradient(A, B):
    """min <A, X> + <X, B X>/2 over X >= 0, accelerated, restarted; B symmetric positive definite."""
    k, step = len(A), 1 / np.linalg.norm(B, 2)
    X = Z = np.zeros((k, k))
    t = 1.0
    for _ in range(3000):
        new = positive_part(Z - step * (A + smat(B @ svec(Z), k)))
        if np.sum((Z - new) * (new - X)) > 0:
            t = 1.0
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        X, Z, t = new, new + (t - 1) / t_new * (new - X), t_new
    return X


@pytest.mark.parametrize("k", [2, 3, 5])
def test_against_projected_gradient(k):
    for seed in range(3):
        rng = np.random.default_rng([seed, k])
        A, B = symmetric(rng, k), gram(rng, size(k), 3 * size(k))
        X, _ = solve_sdcp(A, B)
        np.testing.assert_allclose(X, projected_gradient(A, B), atol=1e-7)


def test_rank_one_b_has_a_known_solution():
    A = symmetric(np.random.default_rng(5), 3)
    one = svec(np.eye(3))
    X, info = solve_sdcp(A, np.outer(one, one))  # Y = A + tr(X) 1
    assert info.converged
    np.testing.assert_allclose(np.trace(X), -np.linalg.eigvalsh(A)[0], rtol=1e-9)


def test_warm_start_saves_iterations():
    cold, warm = [], []
    for seed in range(20):
        A, B, rng = well_posed(seed, 3)
        X, info = solve_sdcp(A, B)
        _, again = solve_sdcp(A + 1e-4 * symmetric(rng, 3), B, np.asarray(X))
        cold.append(int(info.iterations))
        warm.append(int(again.iterations))
    assert np.median(warm) <= 2 < np.median(cold)


def test_batches_equal_the_loop():
    A, B = problems("nonsymmetric", 3, 12)
    hard = problems("nearly infeasible", 3, 4)  # some lanes need the fallback, others do not
    A, B = np.concatenate([A, hard[0]]), np.concatenate([B, hard[1]])
    X, info = jax.jit(jax.vmap(solve_sdcp))(A, B)
    assert info.converged.all()
    X, used_fallback = np.asarray(X), np.asarray(info.used_fallback)
    assert 0 < used_fallback.sum() < len(A)
    for n in range(len(A)):
        one, info_one = solve_sdcp(A[n], B[n])
        np.testing.assert_allclose(B[n] @ svec(X[n] - one), 0, atol=1e-9)
        assert used_fallback[n] == info_one.used_fallback


@pytest.mark.parametrize("k", [1, 2])
def test_masked_directions_are_absent(k):
    A, B, rng = well_posed([11, k], 3)
    A = A - 3 * np.eye(3)
    active = np.zeros(3, bool)
    active[rng.permutation(3)[:k]] = True
    i, j = np.triu_indices(3)
    both = active[i] & active[j]
    X, info = solve_sdcp(A, B, np.eye(3), active)
    small, _ = solve_sdcp(A[np.ix_(active, active)], B[np.ix_(both, both)])
    assert info.converged
    assert not np.any(np.asarray(X)[~active])
    np.testing.assert_allclose(np.asarray(X)[np.ix_(active, active)], small, atol=1e-10)


def test_everything_masked():
    A, B, _ = well_posed(12, 3)
    X, info = solve_sdcp(A - 5 * np.eye(3), B, np.eye(3), np.zeros(3, bool))
    assert not np.any(X)
    assert info.converged


@pytest.mark.parametrize("k", [1, 3])
def test_single_precision(k):
    for family in ("gram", "nonsymmetric", "degenerate", "rank-deficient X"):
        for A, B in zip(*(M.astype(np.float32) for M in problems(family, k, 30)), strict=True):
            X, info = solve_sdcp(A, B)
            assert X.dtype == info.residual.dtype == jnp.float32
            assert info.converged
            assert residual(A, B, X) < 2e-4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_failure_is_a_value(k):
    A, B, _ = well_posed(13, k)
    for a, b in [(A * np.nan, B), (A, B * np.nan), (-np.eye(k), 0 * B)]:
        X, info = solve_sdcp(a, b)
        assert not info.converged
        assert np.isfinite(X).all()


def test_a_bad_guess_does_no_harm():
    A, B, _ = well_posed(13, 3)
    X, _ = solve_sdcp(A, B)
    for guess in (np.full((3, 3), np.nan), 1e8 * np.ones((3, 3)), -np.eye(3)):
        again, info = solve_sdcp(A, B, guess)
        assert info.converged
        np.testing.assert_allclose(again, X, atol=1e-9)


def test_residual_agrees_with_its_definition():
    A, B, rng = well_posed(14, 3)
    X = positive_part(symmetric(rng, 3))
    value = complementarity_residual(jnp.asarray(A), jnp.asarray(B), jnp.asarray(X))
    np.testing.assert_allclose(value, residual(A, B, X), rtol=1e-10)
    scaled = complementarity_residual(jnp.asarray(7 * A), jnp.asarray(3 * B), jnp.asarray(7 / 3 * X))
    np.testing.assert_allclose(scaled, value, rtol=1e-10)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"needs \(6, 6\)"):
        solve_sdcp(np.eye(3), np.eye(3))

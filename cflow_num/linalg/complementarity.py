"""The semidefinite complementarity problem: X >= 0, Y = A + B[X] >= 0, <X, Y> = 0.

B is monotone, ``<X, B[X]> >= 0``, and need not be symmetric: it is never symmetrized. Everything is in the
isometric coordinates of `cflow_num.linalg.symmetric`, so x = svec(X), y = svec(A) + B x.

Two methods share the work. A semismooth Newton method on ``X + Y - |X - Y| = 0`` takes three to five
iterations and carries almost every problem. Where it stalls (a nearly singular B, a badly conditioned one) an
infeasible interior-point method with the Nesterov-Todd scaling finds the region of the solution, and Newton
polishes it.

References:
    D. Sun, J. Sun, "Semismooth matrix-valued functions", Math. Oper. Res. 27 (2002).
    Yu. Nesterov, M. Todd, "Primal-dual interior-point methods for self-scaled cones", SIAM J. Optim. 8
    (1998).
    K. Toh, M. Todd, R. Tutuncu, "SDPT3", Optim. Methods Softw. 11 (1999): step and centring rules.
"""

from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from cflow_num.linalg.symmetric import congruence, matrix_size, smat, svec, svec_size, symmetric_part
from cflow_num.support.typed import cholesky, cond, eigh, finfo, fori_loop, jit, norm, tree_map

__all__ = ["SdcpInfo", "complementarity_residual", "solve_sdcp"]

NEWTON_CAP = 12
INTERIOR_CAP = 60
STEP_LENGTHS = (1.0, 0.5, 0.2, 0.05, 0.01)  # all tried where the full one does not do
ENOUGH = 0.5  # the full step does if the merit falls to that part
REGULARIZATION = 100  # times eps, in a problem scaled to |B| = 1


class SdcpInfo(NamedTuple):
    """How a complementarity problem was solved.

    Attributes:
        residual: `complementarity_residual` of the X returned, or that of the balanced problem if larger.
        iterations: linear systems solved, Newton and interior-point together.
        used_fallback: whether the interior-point method ran.
        converged: residual <= tolerance; false for infeasible problems and for nan.
    """

    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    used_fallback: Bool[Array, ""]
    converged: Bool[Array, ""]


class _Problem(NamedTuple):
    a: Float[Array, " m"]
    B: Float[Array, "m m"]


_Iterate: TypeAlias = tuple[Array, Array, Array, Array, Array]  # of Newton's method: x, F, d, Q, merit


def _eigh(M: Float[Array, "*batch k k"]) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k k"]]:
    return eigh(M, symmetrize_input=False)


def _positive_part(x: Float[Array, " m"]) -> Float[Array, " m"]:
    d, Q = _eigh(smat(x))
    return svec(Q * jnp.maximum(d, 0) @ Q.T)


def _nonzero(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.where(z > 0, z, 1)


def _qr_solve(factors: tuple[Float[Array, "m m"], Float[Array, "m m"]], b: Float[Array, " m"]) -> Float[Array, " m"]:
    Q, R = factors
    return solve_triangular(R, Q.T @ b)


def _natural(x: Float[Array, " m"], y: Float[Array, " m"], y_scale: Float[Array, ""]) -> Float[Array, ""]:
    sx, sy = norm(x), jnp.maximum(norm(y), y_scale)
    x, y = x / _nonzero(sx), y / _nonzero(sy)
    r = norm(x - _positive_part(x - y))
    return jnp.where(jnp.isfinite(r), r, jnp.inf)


def complementarity_residual(
    A: Float[Array, "k k"], B: Float[Array, "m m"], X: Float[Array, "k k"]
) -> Float[Array, ""]:
    """Return the relative natural residual of X: zero exactly at a solution, infinite if anything is nan.

    It is ``|X^ - (X^ - Y^)_+|`` (Frobenius), the distance from X^ to the point that complementarity asks for,
    with ``X^ = X/|X|`` and ``Y^ = Y/max(|A|, |Y|)``. It bounds the relative negative parts of X and Y and, up
    to a factor of two, ``|X^ Y^|``; it does not change under A -> sA, B -> tB, X -> (s/t)X.

    >>> A, B = jnp.diag(jnp.array([-1.0, 1.0])), jnp.eye(3)
    >>> float(complementarity_residual(A, B, jnp.diag(jnp.array([1.0, 0.0]))))
    0.0
    >>> round(float(complementarity_residual(A, B, jnp.zeros((2, 2)))), 3)
    0.707
    """
    x, a = svec(X), svec(A)
    return _natural(x, a + B @ x, norm(a))


def _newton(p: _Problem, x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Int[Array, ""]]:
    """Semismooth Newton on F = X + Y - |X - Y|; the best of all step lengths where the full one does not do.

    The start is the first trial, of a step from nowhere: one place for the eigendecomposition, which is compiled once.
    """
    m, dtype = len(x), x.dtype
    eps = float(finfo(dtype).eps)
    lengths = jnp.array(STEP_LENGTHS, dtype)
    i, j = np.triu_indices(matrix_size(m))
    I = jnp.eye(m, dtype=dtype)

    def evaluate(x: Float[Array, " m"]) -> _Iterate:
        y = p.a + p.B @ x  #                                                           (m,)
        d, Q = _eigh(smat(x - y))  #                                                   (k,), (k, k)
        F = x + y - svec(Q * jnp.abs(d) @ Q.T)  #                                      (m,)
        merit = norm(F)
        return x, F, d, Q, jnp.where(jnp.isfinite(merit), merit, jnp.inf)

    def newton_step(x: Array, F: Array, d: Array, Q: Array, merit: Array) -> Float[Array, " m"]:
        w = (d[i] + d[j]) / _nonzero(jnp.abs(d)[i] + jnp.abs(d)[j])  #                 (m,)
        C = congruence(Q)  #                                                           (m, m)
        B = C @ p.B @ C.T + REGULARIZATION * eps * I  #                                (m, m)
        J = jnp.diag(1 - w) + (1 + w)[:, None] * B  #                                  (m, m)
        return -C.T @ _qr_solve(jnp.linalg.qr(J), C @ F)  #                            (m,)

    def no_step(x: Array, F: Array, d: Array, Q: Array, merit: Array) -> Float[Array, " m"]:
        return jnp.zeros_like(x)

    def unfinished(state: tuple[_Iterate, Array, Array]) -> Bool[Array, ""]:
        (x, *_, merit), improved, n = state
        return improved & (n <= NEWTON_CAP) & ((n == 0) | (merit > 50 * eps * (1 + norm(x))))

    def iterate(state: tuple[_Iterate, Array, Array]) -> tuple[_Iterate, Array, Array]:
        here, _, n = state
        dx = cond(n > 0, newton_step, no_step, *here)

        def not_enough(trials: tuple[_Iterate, Array]) -> Bool[Array, ""]:
            best, tried = trials
            return (tried == 0) | ((tried < len(STEP_LENGTHS)) & ~enough(best, tried))

        def enough(best: _Iterate, tried: Array) -> Bool[Array, ""]:
            return (tried == 1) & (best[-1] < ENOUGH * here[-1])

        def attempt(trials: tuple[_Iterate, Array]) -> tuple[_Iterate, Array]:
            best, tried = trials
            new = evaluate(here[0] + lengths[tried] * dx)
            better = (tried == 0) | (new[-1] < best[-1])
            return tree_map(lambda a, b: jnp.where(better, a, b), new, best), tried + 1

        found, _ = lax.while_loop(not_enough, attempt, (here, jnp.array(0)))
        return found, found[-1] < here[-1], n + 1

    k = matrix_size(m)
    nowhere = (x, jnp.zeros_like(x), jnp.zeros(k, dtype), jnp.zeros((k, k), dtype), jnp.asarray(jnp.inf, dtype))
    (x, *_), _, n = lax.while_loop(unfinished, iterate, (nowhere, jnp.array(True), jnp.array(0)))
    return x, n - 1


def _interior_point(
    p: _Problem, wanted: Bool[Array, ""], goal: float
) -> tuple[Float[Array, " m"], Int[Array, ""]]:
    """Infeasible predictor-corrector with the Nesterov-Todd scaling and one step length for X and Y.

    With R^T L = U diag(s) V^T from the Cholesky factors of X and Y, G = L V diag(s)^(-1/2) makes both
    diag(s): X~ = G^-1 X G^-T, Y~ = G^T Y G. The linear system (1 + C B C^T) dx~ = ... is monotone, so never
    singular.
    """
    m, dtype = len(p.a), p.a.dtype
    k = matrix_size(m)
    I, Im = jnp.eye(k, dtype=dtype), jnp.eye(m, dtype=dtype)

    def longest(s: Array, dx: Array, dy: Array) -> Float[Array, ""]:
        D = smat(jnp.stack([dx, dy])) / jnp.sqrt(s[:, None] * s)  #                    (2, k, k)
        return 1 / jnp.maximum(-_eigh(D)[0].min(), 1e-10)

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        _, _, error, n = state
        return wanted & (n < INTERIOR_CAP) & (error > goal)

    def iterate(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        x, y, error, n = state
        L, R = cholesky(smat(jnp.stack([x, y])), symmetrize_input=False)
        _, s, Vt = jnp.linalg.svd(R.T @ L)  #                                          (k,), (k, k)
        C = congruence(L @ Vt.T / jnp.sqrt(s))  #                                      (m, m)
        factors = jnp.linalg.qr(Im + C @ p.B @ C.T)  #                                 (m, m)
        gap = p.a + p.B @ x - y  #                                                     (m,)
        S, mean, mu = jnp.diag(s), (s[:, None] + s) / 2, s @ s / k

        def direction(target: Float[Array, "k k"]) -> tuple[Array, Array]:
            c = svec(target / mean)  #                                  dx~ + dy~ = c  (m,)
            dx = _qr_solve(factors, c - C @ gap)  #                                    (m,)
            return dx, c - dx

        dx, dy = direction(-S * S)
        step = jnp.minimum(longest(s, dx, dy), 1)
        ahead = (svec(S) + step * dx) @ (svec(S) + step * dy) / k
        centre = jnp.clip(ahead / mu, 0, 1) ** 3 * mu
        dx, dy = direction(centre * I - S * S - symmetric_part(smat(dx) @ smat(dy)))
        step = jnp.minimum((0.9 + 0.09 * step) * longest(s, dx, dy), 1)
        dx = C.T @ dx  #                                                               (m,)
        x1, y1 = x + step * dx, y + step * (p.B @ dx + gap)
        sx, sy = norm(x1), norm(y1)
        error = jnp.maximum((1 - step) * norm(gap) / (1 + sy), jnp.abs(x1 @ y1) / (sx * sy))
        good = jnp.isfinite(error)  # a failed Cholesky factorization: the accuracy is used up
        return jnp.where(good, x1, x), jnp.where(good, y1, y), jnp.where(good, error, 0), n + 1

    one = svec(I)
    x, _, _, n = lax.while_loop(unfinished, iterate, (one, one, jnp.asarray(jnp.inf, dtype), jnp.array(0)))
    return x, n


def _balance(
    A: Float[Array, "k k"], B: Float[Array, "m m"], on: Bool[Array, " k"]
) -> tuple[_Problem, Float[Array, " m"], Float[Array, " m"]]:
    """Scale the directions, A' = DAD/|DAD|, B' = TBT/max, until every direction's rows have maxima near one.

    A' counts squared, as it is of second and B' of fourth order in D. Directions of which B knows nothing are
    thus scaled by A. The exponent -1/3 contracts for rank-one, diagonal and decoupled B alike. Inactive
    directions: A'_ii = 1.

    Returns the problem in X', and factors with X = x_factor * X', Y = y_factor * Y' entry by entry.
    """
    k = len(A)
    i, j = np.triu_indices(k)
    has = jnp.asarray((i == np.arange(k)[:, None]) | (j == np.arange(k)[:, None]))  #  (k, m)

    a = svec(A)  #                                                                     (m,)

    def equilibrate(_: Array, d: Float[Array, " k"]) -> Float[Array, " k"]:
        t = d[i] * d[j]  #                                                             (m,)
        a_rows, b_rows = t * jnp.abs(a), t * (t * jnp.abs(B)).max(1)  #                (m,)
        a_rows, b_rows = a_rows / _nonzero(a_rows.max()), b_rows / _nonzero(b_rows.max())
        rows = jnp.where(has, jnp.maximum(a_rows**2, b_rows), 0)  #                    (k, m)
        return d * _nonzero(rows.max(1)) ** (-1 / 3)

    d = fori_loop(0, 8, equilibrate, jnp.ones(k, A.dtype))
    t = d[i] * d[j]  #                                                                 (m,)
    DAD, TBT = t * a, t[:, None] * B * t  #                                            (m,), (m, m)
    a_size, b_size = _nonzero(norm(DAD)), _nonzero(jnp.abs(TBT).max())
    idle = svec(jnp.diag(jnp.where(on, 0, 1).astype(A.dtype)))
    return _Problem(DAD / a_size + idle, TBT / b_size), a_size / b_size * t, a_size / t


@partial(jit, static_argnames="tolerance")
def solve_sdcp(
    A: Float[Array, "k k"],
    B: Float[Array, "m m"],
    X0: Float[Array, "k k"] | None = None,
    active: Bool[Array, " k"] | None = None,
    *,
    tolerance: float | None = None,
) -> tuple[Float[Array, "k k"], SdcpInfo]:
    """Solve X >= 0, Y = A + B[X] >= 0, <X, Y> = 0 for a monotone B.

    Semismooth Newton from X0; if that fails an infeasible Nesterov-Todd interior-point method and Newton from
    there; both on a problem balanced by a diagonal scaling (k = 1: X = max(0, -A/B)). Pure, jittable, batched
    by `jax.vmap`. Failure is told in the second result, never raised. Newton's iterations go to rounding
    whatever the tolerance. Where B is singular X may not be unique; Y is unique if B is symmetric.

    Args:
        A: symmetric matrix (k, k).
        B: monotone matrix (m, m), m = k(k+1)/2, acting on `svec` vectors; need not be symmetric.
        X0: a guess, such as the X of the previous time step; if missing, the positive part of -A, scaled.
        active: mask (k,); inactive directions are taken out of the problem, X is zero there.
        tolerance: largest relative residual called converged; if missing, 1e-9 in double and 1e-4 in single
            precision.

    Returns:
        X (k, k), positive semidefinite, and an `SdcpInfo`.

    >>> A = jnp.array([[-1.0, 0.0], [0.0, 2.0]])
    >>> X, info = solve_sdcp(A, 2 * jnp.eye(3))
    >>> bool(jnp.allclose(X, jnp.diag(jnp.array([0.5, 0.0])))), bool(info.converged)
    (True, True)
    """
    k, dtype = len(A), A.dtype
    if B.shape != (svec_size(k), svec_size(k)):
        raise ValueError(f"B has shape {B.shape}; a {k} x {k} problem needs ({svec_size(k)}, {svec_size(k)})")
    goal = (1e-9 if finfo(dtype).eps < 1e-10 else 1e-4) if tolerance is None else tolerance
    on = jnp.ones(k, bool) if active is None else active
    i, j = np.triu_indices(k)
    both = on[i] & on[j]  #                                                            (m,)
    A_on = jnp.where(on[:, None] & on, symmetric_part(A), 0)
    B_on = jnp.where(both[:, None] & both, B, 0).astype(dtype)

    if k == 1:
        X = jnp.where((A_on < 0) & (B_on > 0), -A_on / _nonzero(B_on), 0)
        r = complementarity_residual(A_on, B_on, X)
        return X, SdcpInfo(r, jnp.array(0), jnp.array(False), r <= goal)

    p, x_factor, y_factor = _balance(A_on, B_on, on)
    a_norms = jnp.stack([norm(p.a), norm(svec(A_on))])

    def measure(x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Float[Array, ""]]:
        x = _positive_part(x)
        y = p.a + p.B @ x
        xs, ys = jnp.stack([x, x_factor * x]), jnp.stack([y, y_factor * jnp.where(both, y, 0)])
        return x, jax.vmap(_natural)(xs, ys, a_norms).max()

    def unsolved(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        _, r, _, attempt = state
        return (attempt < 2) & (r > goal)

    def attempt(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        x, r, n, tried = state
        again = tried > 0
        x1, n1 = cond(
            again,
            lambda: _interior_point(p, again & (r > goal), max(goal**2, 1e-30)),
            lambda: (x0, jnp.array(0)),
        )
        x2, n2 = _newton(p, x1)
        found = jnp.stack([x2, x1])  #                                      what Newton began from may be better

        def compare(best: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, r, looked = best
            new, r_new = measure(found[looked])
            return jnp.where(r_new < r, new, x), jnp.minimum(r_new, r), looked + 1

        x, r, _ = lax.while_loop(lambda s: (s[2] == 0) | ((s[2] < 2) & (s[1] > goal)), compare, (x, r, jnp.array(0)))
        return x, r, n + n1 + n2, tried + 1

    if X0 is None:
        x0 = _positive_part(-p.a)
    else:
        x0 = jnp.where(both, svec(X0).astype(dtype), 0) / x_factor
    trivial = jnp.where(_eigh(smat(p.a))[0].min() >= 0, 0, jnp.inf).astype(dtype)
    start = (jnp.zeros_like(p.a), trivial, jnp.array(0), jnp.array(0))
    x, r, n, attempts = lax.while_loop(unsolved, attempt, start)
    return smat(jnp.where(both, x_factor * x, 0)), SdcpInfo(r, n, attempts > 1, r <= goal)

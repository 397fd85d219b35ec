"""What an adaptive optimizer's preconditioner aims at, and how fast each choice of it descends.

At given weights the slow states have a value at which they would stand still, and with it P. For RMSProp that is the
solution of a convex program (arXiv 2410.24206, part III):

    minimize  tr P + |g|^2_{1/P} / eta^2   over diagonal P >= 0   subject to  H <= 2 P,

and without the second term P would be as small as the curvature allows. The *optimization speed* of P is g' P^{-1} g,
to be compared with (c/S) |g|^2, that of gradient descent with the largest stable step size.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..linalg.eigenpairs import leading_eigenpairs, start_block
from ..loss.problem import Problem
from ..optimizer.hyperparameters import as_arrays, resolve
from ..optimizer.original import check_original
from ..support.errors import InputError
from .base import FlowState
from .discrete import DiscreteOptimizer
from .stationary import Rest, StationaryFlow

LARGEST_CONIC = 100  # weights: the cone has n(n+1)/2 rows; a hundred weights take about 20 s, and time grows like n^5


class StationaryPreconditioner(NamedTuple):
    """P at rest at given weights.

    - `P (n,)`, and `V (n, k)` with the covariance Sigma = V V' that belongs to it;
    - `largest_effective_eigenvalue`: of P^{-1} H relative to c; at most 1 up to the tolerance;
    - `optimization_speed`: g' P^{-1} g; `edge_speed`: (c/S) |g|^2;
    - `change`, `iterations`, `converged`: how the iteration ended.
    """

    P: Float[np.ndarray, " n"]
    V: Float[np.ndarray, "n k"]
    largest_effective_eigenvalue: float
    optimization_speed: float
    edge_speed: float
    change: float
    iterations: int
    converged: bool


def stationary_preconditioner(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    w: Float[Array, " n"] | None = None,
    *,
    first_term_only: bool = False,
    columns: int | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 3000,
) -> StationaryPreconditioner:
    """Return the preconditioner at rest at the weights w (the problem's own by default).

    Matrix-free: one iteration costs `columns` (16 by default) Hessian-vector products, so it serves networks; it
    must be at least the number of critical directions, or the constraint is left violated and
    `largest_effective_eigenvalue` says so.
    With `first_term_only` the gradient is left out: the smallest preconditioner that the curvature allows, which has
    many more critical directions (up to sqrt(2n)). Method: `flows/stationary.py`.

    **Raises:** `InputError` where the optimizer has no state that can stand still.

    >>> import cflow_num as cn
    >>> quadratic = cn.problem("quadratic", n=6, sharpness=3.0)
    >>> found = stationary_preconditioner(quadratic, "rmsprop", dict(learning_rate=0.1, beta2=0.9))
    >>> found.converged, round(found.largest_effective_eigenvalue, 3) <= 1.001
    (True, True)
    """
    opt, hp = resolve(optimizer, hyperparameters, problem)
    frozen = getattr(opt, "FROZEN", ())
    problem = problem.holding(frozen) if frozen else problem
    if not opt.STATIONARY:
        raise InputError(f"{opt.NAME} has no state that can stand still, so no stationary preconditioner: use rmsprop")
    n = problem.n_weights
    columns = min(16, n) if columns is None else columns
    if not 1 <= columns <= n:
        raise InputError(f"columns is {columns}, it must be between 1 and the number of weights, {n}")
    arrays = as_arrays(opt, hp, problem)
    check_original(opt, arrays, problem)
    w = problem.w0 if w is None else jnp.asarray(w, problem.w0.dtype)
    y = DiscreteOptimizer(problem, arrays, opt).first(w)
    y = y._replace(slow=y.slow | {"t": jnp.full_like(y.slow["t"], jnp.inf)})  # bias correction has died out
    if any(callable(x) for x in hp.values()):
        raise InputError("a schedule has no value at rest: pass numbers")
    flow = StationaryFlow(problem, arrays, opt, columns, not first_term_only)
    g = np.asarray(flow.gradient(w))
    block = start_block(n, columns, w.dtype, seed=1)
    rest, leading, S, c = _solve(flow, y, block, tolerance, max_iterations)
    P = np.asarray(jnp.broadcast_to(rest.P, (n,)))
    speed = float(np.sum(np.divide(g**2, P, out=np.zeros_like(g), where=g != 0)))
    return StationaryPreconditioner(
        P,
        np.asarray(rest.V),
        float(leading / c),
        speed,
        float(c / S * (g @ g)),
        float(rest.change),
        int(rest.iterations),
        bool(rest.converged),
    )


@eqx.filter_jit
def _solve(
    flow: StationaryFlow, y: FlowState, block: Float[Array, "n k"], tolerance: float, max_iterations: int
) -> tuple[Rest, Array, Array, Array]:
    rest = flow.rest(y, flow.seed(y, block, share=1.0), tolerance, max_iterations)
    c = flow.optimizer.threshold(y.slow, flow.hp)
    block = start_block(y.w.size, min(8, y.w.size), y.w.dtype)

    def leading(P: Array) -> Array:
        pairs = leading_eigenpairs(
            lambda B: flow.hessian_vectors(y.w, B), P, block, capacity=1, tolerance=1e-6, max_iterations=200
        )
        return pairs.eigenvalues[0]

    return rest, leading(rest.P), leading(jnp.ones((), y.w.dtype)), c


def conic_preconditioner(
    H: Float[np.ndarray, "n n"], g: Float[np.ndarray, " n"], learning_rate: float, *, first_term_only: bool = False
) -> tuple[Float[np.ndarray, " n"], float]:
    """Solve RMSProp's convex program with the conic solver Clarabel; return the diagonal of P and the optimal value.

    For dense Hessians of up to 100 weights: the oracle for `stationary_preconditioner`. Needs `pip install
    'cflow-jax[conic]'`.

    >>> P, value = conic_preconditioner(np.diag([4.0, 1.0]), np.array([0.0, 1.0]), 1.0)
    >>> [round(float(p), 4) for p in P], round(value, 4)
    ([2.0, 1.0], 4.0)
    """
    try:
        from scipy import sparse

        solver: Any = importlib.import_module("clarabel")
    except ImportError as error:
        raise InputError("the conic solver is missing: pip install 'cflow-jax[conic]'") from error
    H, n = np.asarray(H, float), len(g)
    if n > LARGEST_CONIC:
        raise InputError(
            f"{n} weights are too many for the conic solver, at most {LARGEST_CONIC}: use stationary_preconditioner"
        )
    a = np.zeros(n) if first_term_only else np.abs(np.asarray(g, float)) / learning_rate
    # x = (p, s): minimize sum p + sum s with s_i p_i >= a_i^2 as |(2 a_i, s_i - p_i)| <= s_i + p_i
    i, j = np.triu_indices(n)
    order = np.lexsort((i, j))  # Clarabel stacks the columns of the upper triangle
    i, j = i[order], j[order]
    scale = np.where(i == j, 1.0, np.sqrt(2.0))
    rows, columns = np.flatnonzero(i == j), np.arange(n)
    semidefinite = sparse.csc_matrix((np.full(n, -2.0), (rows, columns)), (len(i), 2 * n))
    p, s = sparse.identity(n, format="csc"), sparse.identity(n, format="csc")
    zero = sparse.csc_matrix((n, n))
    blocks = [sparse.hstack([-p, -s]), sparse.hstack([zero, zero]), sparse.hstack([p, -s])]
    second_order = sparse.vstack(blocks).tocsr()[np.arange(3 * n).reshape(3, n).T.ravel()]
    offsets = np.column_stack([np.zeros(n), 2 * a, np.zeros(n)]).ravel()
    nonnegative = sparse.hstack([-p, zero])
    A = sparse.vstack([nonnegative, second_order, semidefinite]).tocsc()
    b = np.concatenate([np.zeros(n), offsets, -scale * H[i, j]])
    cones = [solver.NonnegativeConeT(n), *[solver.SecondOrderConeT(3)] * n, solver.PSDTriangleConeT(n)]
    settings = solver.DefaultSettings()
    settings.verbose = False
    solution = solver.DefaultSolver(sparse.csc_matrix((2 * n, 2 * n)), np.ones(2 * n), A, b, cones, settings).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        raise InputError(f"the conic solver ended with {solution.status}: check that H is symmetric and finite")
    return np.array(solution.x[:n]), float(solution.obj_val)

"""Effective eigenvalues at every step of a chunk from few evaluations: often where they move, seldom where they do not.

An evaluation, a *look*, is a block of Hessian-vector products, ten times a step. So eigenvalues are evaluated at the
end of a chunk. Where they are what the three chunks before foretell, a cubic through all four ends gives those between;
else halves are looked at, and halves of these, until the middle is where the ends say. The optimizer's weights
alternate at an edge, and its eigenvalues with them: its even and odd steps are two series, looked at in pairs. Kinks,
arrivals and bursts are thus resolved as if every step were looked at, which `eig_every=1` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..flows.base import Flow, FlowState
from ..flows.discrete import DiscreteOptimizer
from ..linalg.eigenpairs import Eigenpairs

FORETOLD = 1e-3  # of c: how far off what the chunks before foretell an end may be for the chunk to be a cubic
BETWEEN = 3e-4  # of c: how far off a middle may be; of a kink near an end it shows a third

RESIDUAL = 1e-2  # of the largest eigenvalue: of pairs far below the threshold, whose eigenvalues are off by its square

Leading = Callable[[FlowState, Array, Array], Eigenpairs]


class Past(NamedTuple):
    """Effective eigenvalues at the ends of the last three chunks, and of the s - 1 steps before; nan if unknown."""

    eigenvalues: Float[Array, "3 s K"]

    @classmethod
    def begun(cls, flow: Flow, eigenvalues: Float[Array, " K"]) -> Past:
        """Return what is known at the start: one step."""
        nothing = jnp.full((3, series(flow), eigenvalues.size), jnp.nan, eigenvalues.dtype)
        return cls(nothing.at[-1, 0].set(eigenvalues))

    def grown(self, more: int) -> Past:
        """Return the memory for `more` eigenvalues, of which nothing is known: the next chunk is looked at anew."""
        old = self.eigenvalues
        return Past(jnp.full((*old.shape[:2], old.shape[2] + more), jnp.nan, old.dtype))


class Looks(NamedTuple):
    """Eigenvalues at the T steps of a chunk, in falling order, and at which of them they were evaluated.

    `V (n, K)` are the eigenvectors at the end, `converged ()` says whether every look has.
    """

    eigenvalues: Float[Array, "T K"]
    exact: Bool[Array, " T"]
    converged: Bool[Array, ""]
    V: Float[Array, "n K"]
    past: Past


class _Known(NamedTuple):
    """What is known at the nodes of a chunk: `at (M+1, s, K)`, and between which of them no more is to be done."""

    at: Float[Array, "M+1 s K"]
    known: Bool[Array, " M+1"]
    settled: Bool[Array, " M"]
    V: Float[Array, "n K"]
    end: Float[Array, "n K"]
    converged: Bool[Array, ""]


def series(flow: Flow) -> int:
    """Return how many smooth series the steps of a process are: two where they alternate."""
    return 2 if isinstance(flow, DiscreteOptimizer) else 1


def looked(
    leading: Leading, states: FlowState, V: Float[Array, "n K"], past: Past, certain: int, c: Float[Array, " T"]
) -> Looks:
    """Return the eigenvalues at the steps of a chunk, from V at its start; `c` is the threshold.

    `leading` are the eigenpairs at a state, from a block and with c there; the first `certain` of them decide where.
    """
    T, K = len(states.w), V.shape[1]
    s = past.eigenvalues.shape[1] if T % past.eigenvalues.shape[1] == 0 else 1
    M, some = T // s, min(certain, K)
    earlier = past.eigenvalues[:, :s]  # (3, s, K) the step itself comes first

    def look(V: Array, p: Array) -> tuple[Array, tuple[Array, Array]]:
        y = jax.tree.map(lambda x: x[p - 1], states)
        pairs = leading(y, V, c[p - 1])
        return pairs.U, (pairs.eigenvalues, pairs.converged)

    def off(found: Array, foretold: Array, j: Array) -> Array:
        return jnp.max(jnp.abs(found - foretold)[:, :some]) / c[s * j - 1]

    def nodes(now: _Known) -> _Nodes:
        before = jnp.array([-2 * M, -M], jnp.int32)
        return _Nodes(
            jnp.concatenate([before, jnp.arange(M + 1, dtype=jnp.int32)]),
            jnp.concatenate([jnp.all(jnp.isfinite(earlier[:2]), axis=(1, 2)), now.known]),
            jnp.concatenate([earlier[:2], now.at]),
        )

    def goes_on(now: _Known) -> Array:
        return ~(now.known[M] & jnp.all(now.settled))

    def more(now: _Known) -> _Known:
        e, there = jnp.argmin(now.settled), jnp.arange(M + 1)  # the first interval with more to do
        a = jnp.max(jnp.where(now.known & (there <= e), there, 0))
        b = jnp.min(jnp.where(now.known & (there > e), there, M))
        first = ~now.known[M]
        j = jnp.where(first, M, jnp.where(now.known[0] | now.known[1], (a + b) // 2, 1))
        V, (lam, good) = jax.lax.scan(look, now.V, s * j - jnp.arange(s)[::-1])
        found = lam[::-1]  # (s, K)
        near = off(found, nodes(now).at(j), j) <= jnp.where(first, FORETOLD, BETWEEN)  # () nan is not near
        known = now.known.at[j].set(True)
        inside = jnp.where(first, now.known[0], (there[:-1] >= a) & (there[:-1] < b))
        return _Known(
            now.at.at[j].set(found),
            known,
            now.settled | (near & inside) | (known[:-1] & known[1:]),
            V,
            jnp.where(first, V, now.end),
            now.converged & jnp.all(good),
        )

    begun = jnp.all(jnp.isfinite(earlier[2]))
    start = _Known(
        jnp.zeros((M + 1, s, K), V.dtype).at[0].set(earlier[2]),
        jnp.zeros(M + 1, bool).at[0].set(begun),
        jnp.zeros(M, bool).at[0].set(~begun | (M == 1)),  # without the one before, the first is looked at
        V,
        V,
        jnp.asarray(True),
    )
    now = jax.lax.while_loop(goes_on, more, start)
    between = jax.vmap(nodes(now).at)(jnp.arange(1, M + 1))  # (M, s, K)
    lam = jnp.where(now.known[1:, None, None], now.at[1:], between)
    lam = -jnp.sort(-lam[:, ::-1].reshape(T, K), axis=1)  # by step; what is interpolated may cross
    exact = jnp.repeat(now.known[1:], s)
    last = jnp.concatenate([earlier[1:], now.at[M:]])  # (3, s, K)
    if s < past.eigenvalues.shape[1]:  # an odd number of steps: no pair ends with them
        last = jnp.full(past.eigenvalues.shape, jnp.nan, V.dtype).at[-1, 0].set(now.at[M, 0])
    return Looks(lam, exact, now.converged, now.end, Past(last))


class _Nodes(NamedTuple):
    """Nodes in rising order, which of them are known, and the values there."""

    x: Int[Array, " N"]
    known: Bool[Array, " N"]
    values: Float[Array, "N s K"]

    def at(self, j: Array) -> Float[Array, "s K"]:
        """Return the value at j of the polynomial through the nearest known nodes, two on either side (Lagrange).

        Where one side has fewer, more of the other: beyond the last one it foretells, from three.
        """
        before, after = self.known & (self.x < j), self.known & (self.x > j)  # (N,), (N,)
        nearer = jnp.abs(self.x - j)[None] < jnp.abs(self.x - j)[:, None]  # (N, N)
        rank = jnp.where(before, jnp.sum(nearer & before, 1), jnp.sum(nearer & after, 1))
        order = jnp.where(before | after, 2 * rank + after, 4 * self.x.size)  # (N,)
        chosen = jax.lax.top_k(-order, 4)[1]  # (4,)
        there = (before | after)[chosen]  # (4,)
        x, values = self.x[chosen], jnp.where(there[:, None, None], self.values[chosen], 0)
        others = there & ~jnp.eye(4, dtype=bool)  # (4, 4)
        apart = jnp.where(others, x[:, None] - x, 1).astype(values.dtype)
        weight = jnp.prod(jnp.where(others, (j - x).astype(values.dtype) / apart, 1), axis=1)
        foretold = jnp.tensordot(jnp.where(there, weight, 0), values, axes=1)
        return jnp.where(jnp.sum(there) > 2, foretold, jnp.nan)  # from two nothing is known

"""What turns slowly along a central flow, evaluated at one point, and the products with it that the flow takes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cflow_sym.interface import Moments

from ..linalg.eigenpairs import Eigenpairs
from ..linalg.precision import product
from ..linalg.symmetric import leading_entries, smat, svec
from .base import FlowState


class Frame(NamedTuple):
    """What turns slowly, at the point y: eigenpairs and curvature gradients.

    With m = k(k+1)/2: curvature gradients `D (m, n)` of the eigenvalues that are `near (k,)` the threshold, between
    different ones where both are `coupled (k,)`, nearer; svec of the outer product of each row of U, and of HU, with
    itself in `UU`, `HUHU (m, n)`; `gram (k, k)` = U'U. Where the onset is delayed, `log_amplitude (k,)` is that of the
    oscillation along each eigenvector. Vectors may be in single precision where y and the eigenvalues are in double.
    """

    y: FlowState
    pairs: Eigenpairs
    D: Float[Array, "m n"]
    near: Bool[Array, " k"]
    coupled: Bool[Array, " k"]
    UU: Float[Array, "m n"]
    HUHU: Float[Array, "m n"]
    gram: Float[Array, "k k"]
    log_amplitude: Float[Array, " k"] | None = None

    @property
    def U(self) -> Float[Array, "n k"]:
        """The eigenvectors that X refers to."""
        return self.pairs.U[:, : self.near.size]

    @property
    def moments(self) -> Moments:
        """The moments of each svec-basis matrix E of X (leading axis m): d_ij/2 and diag(H U E U' H)."""
        return Moments(self.D / 2, self.HUHU)

    def moments_of(self, X: Float[Array, "k k"]) -> Moments:
        """Return the moments of Sigma = U X U'."""
        x = svec(X)                                                           # (m,)
        shift, variance = (product(q.T, x) for q in (self.D, self.HUHU))      # (n,), (n,)
        return Moments(shift / 2, variance)

    def turned(self, y: FlowState) -> Float[Array, "k k"]:
        """Return U'(H(y) - H)U, the Hessian linear from the frame's point on."""
        return smat(product(self.D, y.w - self.y.w))

    def inner(self, P: Float[Array, " n"] | Float[Array, ""]) -> Float[Array, "k k"]:
        """Return U' diag(P) U."""
        if jnp.ndim(P) == 0:
            return P * self.gram.astype(P.dtype)
        return smat(product(self.UU, P))

    def inners(self, P: Float[Array, "m n"] | Float[Array, " m"]) -> Float[Array, "m k k"]:
        """Return U' diag(P) U for each row of P, or for each number: one matrix product."""
        if jnp.ndim(P) == 1:
            return P[:, None, None] * self.gram.astype(P.dtype)
        return smat(product(self.UU, P.T).T)

    def leading(self, size: int) -> Frame:
        """Return the frame for X of the first `size` pairs alone; nothing is lost where no other is near."""
        rows = leading_entries(self.near.size, size)
        l = None if self.log_amplitude is None else self.log_amplitude[:size]
        near, coupled, gram = self.near[:size], self.coupled[:size], self.gram[:size, :size]
        D, UU, HUHU = self.D[rows], self.UU[rows], self.HUHU[rows]            # (m, n)
        return Frame(self.y, self.pairs, D, near, coupled, UU, HUHU, gram, l)

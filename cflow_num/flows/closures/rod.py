"""The rod closure: centre and covariance of two neighbouring iterates (Regis and Chewi, arXiv 2602.01480, 2605.06821).

One step of the optimizer is y -> y + F(y). A rod has the centre y = (y_t + y_{t+1})/2 and the half-difference
d = (y_{t+1} - y_t)/2; its covariance is Sigma = E[d d']. Published, with F+- = F(y +- d) and Sigma = d d':

    dy/dt = (F+ + F-)/2 - (DF+ + DF-)(F+ + F-)/8,   dSigma/dt = [F+ F+' + F- F-']/4 - 2 Sigma.

At time step 1 without the second term of dy/dt this *is* the optimizer; with small steps it is a flow.

Ours is what stands for F+- where Sigma is not of rank one: sigma points y +- d_i over all its eigenvectors,
Sigma = sum_i d_i d_i', each adding its own part,

    f = F(y) + sum_i ([F(y + d_i) + F(y - d_i)]/2 - F(y)),   o_i = [F(y + d_i) - F(y - d_i)]/2,
    dy/dt = f - Df[f]/2,   dSigma/dt = [f f' + sum_i o_i o_i']/2 - 2 Sigma,

which is the published form for one eigenvector and exact for linear F. With the leading eigenvector alone (`points` 1)
the rod fails after a stable phase: there Sigma holds f f'/4, the motion of the centre, and what grows at the edge is
smaller and not looked at. Sigma is kept as a factor of `rank` columns, cut back after every stage in the metric in
which weights weigh P and averages of the gradient 1/P. Weights and averages oscillate; other states are averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import FlowState
from .base import Closure, along, plus

RANK = 4


class RodState(NamedTuple):
    """Centre `y`: weights, all states before their update; `factor (r, N)`: Sigma = factor' factor, N = n (1 + F)."""

    y: FlowState
    factor: Float[Array, "r N"]


class Ends(NamedTuple):
    """A map at the sigma points: its average f, a `FlowState`, and its odd parts `odd (r, N)`."""

    average: FlowState
    odd: Float[Array, "r N"]


class Rod(Closure):
    """The rod closure, for every optimizer; Euler's method instead of Heun's with `euler`, for the exact case.

    >>> import jax, cflow_num as cn
    >>> valley = cn.problem("valley")
    >>> run = cn.run(valley, "gradient_descent", dict(learning_rate=1.0), steps=16, processes=("rod",), quiet=True)
    >>> run.tree["rod"]["loss"].size
    17
    """

    NAME: ClassVar[str] = "rod"
    LABEL: ClassVar[str] = "published; ours beyond one eigenvector"

    rank: int = RANK
    points: int | None = None
    correction: bool = True
    euler: bool = False

    @property
    def cost(self) -> int:
        """Gradients and Hessian-vector products of one time step: of every stage, at all sigma points."""
        return (2 - self.euler) * (1 + self.correction) * (1 + 2 * (self.points or self.rank))

    def started(
        self, y: FlowState, before: dict[str, Array], oscillation: FlowState, V: Float[Array, "n K"]
    ) -> RodState:
        """Return the start: half of the step that the optimizer takes from where it is displaced."""
        centre = FlowState(y.w, before)
        d = self.flat(self.increment(plus(centre, oscillation))) / 2         # (N,)
        rank = min(self.rank, d.size)
        return RodState(centre, jnp.zeros((rank, d.size), d.dtype).at[0].set(d))

    def step(self, y: RodState, h: Float[Array, ""]) -> RodState:
        """Return the state after a time h, of at most 1/2 by Heun's method, in which Sigma stays semidefinite."""
        first = self.ends(y)
        rate, metric, moved = self.centre_rate(y, first), self._metric(y, first), self.square(first)
        after_one = plus(y.y, rate, h), self._cut(metric, [(y.factor, 1 - 2 * h), (moved, h / 2)], len(y.factor))
        middle = RodState(*after_one)
        if self.euler:
            return middle
        second = self.ends(middle)
        parts = [
            (y.factor, 1 - 2 * h + 2 * h**2),
            (moved, h / 4 - h**2 / 2),
            (self.square(second), h / 4),
        ]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, rate, self.centre_rate(middle, second))
        return RodState(plus(y.y, mean, h), self._cut(metric, parts, len(y.factor)))

    def ends(self, state: RodState) -> Ends:
        """Return average and odd parts of the optimizer's increment over the sigma points."""
        y, factor = state.y, state.factor[: self.points]
        here, up, down = self._around(lambda d: self.increment(self._displaced(y, d)), factor)
        odd = jax.vmap(self.flat)(jax.tree.map(lambda a, b: (a - b) / 2, up, down))
        return Ends(_average(here, up, down), odd)

    def centre_rate(self, state: RodState, ends: Ends) -> FlowState:
        """Return dy/dt: the average, less half its change along itself."""
        f = ends.average
        if not self.correction:
            return f
        return plus(f, along(lambda y: self.ends(RodState(y, state.factor)).average, state.y, f), -0.5)

    def shown(self, y: RodState) -> tuple[FlowState, Float[Array, ""]]:
        """Return the centre with its states after their mean update, and the loss averaged over the sigma points."""

        def seen(d: Float[Array, " N"]) -> tuple[Float[Array, ""], dict[str, Array]]:
            end = self._displaced(y.y, d)
            loss, g = self.value_and_gradient(end.w)
            return loss, self.optimizer.update_state(end.slow, g, self.hp)

        loss, slow = _average(*self._around(seen, y.factor[: self.points]))
        return FlowState(y.y.w, self.slow_of(slow)), loss

    def flat(self, y: FlowState) -> Float[Array, " N"]:
        """Return what oscillates: weights and averages of the gradient."""
        return jnp.concatenate([y.w, *(y.slow[name] for name in self.optimizer.FILTERED_STATES)])

    def _displaced(self, y: FlowState, d: Float[Array, " N"]) -> FlowState:
        w, *averages = jnp.split(d, 1 + len(self.optimizer.FILTERED_STATES))
        moved = {name: y.slow[name] + m for name, m in zip(self.optimizer.FILTERED_STATES, averages, strict=True)}
        return FlowState(y.w + w, y.slow | moved)

    def _around(self, fn: Callable[[Array], Any], block: Float[Array, "r N"]) -> tuple[Any, Any, Any]:
        """Return fn at 0, at the rows and at minus the rows, as many at a time as the problem takes vectors."""
        points, vectors = jnp.concatenate([jnp.zeros_like(block[:1]), block, -block]), self.problem.chunks.vectors
        values = jax.vmap(fn)(points) if vectors is None else jax.lax.map(fn, points, batch_size=vectors)
        cuts = (slice(0, 1), slice(1, 1 + len(block)), slice(1 + len(block), None))
        here, up, down = (jax.tree.map(lambda x, cut=cut: x[cut], values) for cut in cuts)
        return jax.tree.map(lambda x: x[0], here), up, down

    def square(self, ends: Ends) -> Float[Array, "c N"]:
        """Return the block whose square is f f' + sum_i o_i o_i'."""
        return jnp.concatenate([self.flat(ends.average)[None], ends.odd])

    def _metric(self, state: RodState, ends: Ends) -> Float[Array, " N"]:
        """Return what coordinates are multiplied by before Sigma is cut: root P for weights, 1/root P for averages."""
        slow = plus(state.y.slow, ends.average.slow)
        P = jnp.broadcast_to(self.optimizer.preconditioner(slow, self.hp), state.y.w.shape)
        return jnp.concatenate([jnp.sqrt(P)] + [1 / jnp.sqrt(P)] * len(self.optimizer.FILTERED_STATES))

    def _cut(
        self, metric: Float[Array, " N"], parts: list[tuple[Float[Array, "_ N"], Float[Array, ""]]], rank: int
    ) -> Float[Array, "r N"]:
        """Return the factor of sum weight block' block, cut to the rank.

        By Euler's method weights may be negative, as at time step 1: then it is the factor of the positive part.
        """
        block = jnp.concatenate([a for a, _ in parts]) * metric               # (c, N)
        weights = jnp.concatenate([jnp.broadcast_to(x, (len(a),)) for a, x in parts])  # (c,)
        if not self.euler:
            _, size, Y = jnp.linalg.svd(jnp.sqrt(weights)[:, None] * block, full_matrices=False)
            return size[:rank, None] * Y[:rank] / metric
        Q, R = jnp.linalg.qr(block.T)                                         # (N, c'), (c', c)
        x, Y = jnp.linalg.eigh((R * weights) @ R.T)
        largest = jnp.argsort(-x)[:rank]
        return (jnp.sqrt(jnp.maximum(x[largest], 0)) * (Q @ Y[:, largest])).T / metric


def _average(here: Any, up: Any, down: Any) -> Any:
    """Return the average over the sigma points, each adding its own part to the value at the centre."""
    return jax.tree.map(lambda x, a, b: x + jnp.sum((a + b) / 2 - x, axis=0), here, up, down)

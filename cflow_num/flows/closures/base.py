"""What closures share: the optimizer as one map of weights and states, time steps, averages over an oscillation.

A closure carries the oscillation as a variable of its own, where the central flow fixes it by complementarity. It
needs no eigenvalues and no third derivatives: gradients at points displaced to both sides say what they would say.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import CompiledFlow

from ...support.errors import InputError
from ..base import Flow, FlowState
from ..phase_space import slow_states


class Closure(Flow):
    """A closed system for the centre of the oscillation, a `FlowState`, and what it keeps of the oscillation.

    `oscillation` at the start is the discrete optimizer, with its states before their update, minus the centre: zero
    where flows start from its iterate.
    """

    NAME: ClassVar[str] = ""
    LABEL: ClassVar[str] = ""  # published, reconstructed or ours

    @classmethod
    def check(cls, optimizer: CompiledFlow) -> None:
        """Raise `InputError` where the closure is not derived for an optimizer; here it is, for all."""

    @abc.abstractmethod
    def started(self, y: FlowState, before: dict[str, Array], oscillation: FlowState, V: Float[Array, "n K"]) -> Any:
        """Return where the closure starts.

        `y`: weights and updated states that flows start from; `before`: all states before their update; `V`: leading
        eigenvectors of P^{-1} H at y.
        """

    @abc.abstractmethod
    def step(self, y: Any, h: Float[Array, ""]) -> Any:
        """Return the state after a time h."""

    @abc.abstractmethod
    def shown(self, y: Any) -> tuple[FlowState, Float[Array, ""]]:
        """Return the centre, with slow states of which P is the optimizer's, and the predicted average loss."""

    @property
    @abc.abstractmethod
    def cost(self) -> int:
        """Gradients and Hessian-vector products of one time step, together."""

    def steps(self, y: Any, length: int, h: Float[Array, ""]) -> tuple[Any, FlowState, Float[Array, " T"]]:
        """Advance by `length` units in time steps of h; return the state, the centres `(T, ...)`, predicted losses."""
        per_unit = jnp.round(1 / h).astype(jnp.int32)

        def unit(y: Any, _: None) -> tuple[Any, tuple[FlowState, Array]]:
            y = jax.lax.fori_loop(0, per_unit, lambda _, y: self.step(y, h), y)
            return y, self.shown(y)

        y, (path, losses) = jax.lax.scan(unit, y, None, length=length)
        return y, path, losses

    def increment(self, y: FlowState) -> FlowState:
        """Return F(y): what one step of the optimizer adds to weights and states, those before their update."""
        g = self.gradient(y.w)                                                # (n,)
        slow = self.optimizer.update_state(y.slow, g, self.hp)
        return minus(FlowState(self.optimizer.update_weights(y.w, slow, g, self.hp), slow), y)

    def slow_of(self, slow: dict[str, Array]) -> dict[str, Array]:
        """Return the states without averages of the gradient."""
        return slow_states(self.optimizer, slow)


def heun(rates: Any, y: Any, h: Float[Array, ""]) -> Any:
    """Return y after a time h by Heun's method, with `rates(y)`.

    >>> float(heun(lambda y: y, jnp.asarray(1.0), jnp.asarray(0.5)))
    1.625
    """
    first = rates(y)
    second = rates(plus(y, first, h))
    return jax.tree.map(lambda y, a, b: y + h / 2 * (a + b), y, first, second)


def plus(y: Any, d: Any, factor: Any = 1) -> Any:
    """Return y + factor d, leaf by leaf."""
    return jax.tree.map(lambda y, d: y + factor * d, y, d)


def minus(y: Any, z: Any) -> Any:
    """Return y - z, leaf by leaf."""
    return jax.tree.map(jnp.subtract, y, z)


def scaled(factor: Any, y: Any) -> Any:
    """Return factor y, leaf by leaf."""
    return jax.tree.map(lambda y: factor * y, y)


def along(fn: Callable[[Any], Any], y: Any, d: Any) -> Any:
    """Return the derivative of fn at y along d, where fn(y) is a tree like y.

    The root of a second moment has none at zero, where a weight's gradient has always been zero: such weights stay, so
    what is undefined at a finite value counts as zero.

    >>> import jax.numpy as jnp
    >>> along(lambda y: jnp.sqrt(y), jnp.array([4.0, 0.0]), jnp.array([1.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    value, change = jax.jvp(fn, (y,), (d,))
    return jax.tree.map(lambda f, x: jnp.where(jnp.isnan(x) & jnp.isfinite(f), 0, x), value, change)


def even_odd(up: Any, down: Any) -> tuple[Any, Any]:
    """Return half the sum and half the difference.

    >>> even_odd(3.0, 1.0)
    (2.0, 1.0)
    """
    return jax.tree.map(lambda a, b: (a + b) / 2, up, down), jax.tree.map(lambda a, b: (a - b) / 2, up, down)


def refuse(name: str, optimizer: CompiledFlow, why: str, derived: str) -> InputError:
    """Return the error for a closure that is not derived for an optimizer."""
    return InputError(
        f"the {name} closure is not derived for {optimizer.NAME}, {why}: it is for {derived}; leave it out of the "
        "processes"
    )

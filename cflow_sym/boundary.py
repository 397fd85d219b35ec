"""Quotients, roots and powers where generated functions reach the boundary of their domain.

A weight without gradient keeps the state 0, an epsilon may be 0, an average may have no memory: there a formula may
read 0/0 although it has a limit. The generator finds that limit and writes it down; these functions return it, and
their derivatives hold nothing of the branch that is not taken. Away from the boundary they are the plain operations.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def quotient(a: Any, b: Any, limit: float = 0.0) -> Any:
    """Return a / b, and where b is 0 the limit that the generator has found, elementwise.

    >>> quotient(jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0])).tolist()
    [0.0, 0.5]
    """
    there = b == 0
    return jnp.where(there, limit, a / jnp.where(there, 1, b))


def root(x: Any) -> Any:
    """Return sqrt(x), elementwise, with the derivative 0 at 0 instead of an infinite one.

    So what x itself depends on has the derivative that it has for small x, 0 where x shrinks in proportion to it.

    >>> import jax
    >>> float(root(4.0)), float(jax.grad(root)(0.0))
    (2.0, 0.0)
    """
    there = x == 0
    return jnp.where(there, 0, jnp.sqrt(jnp.where(there, 1, x)))


def power(x: Any, exponent: float) -> Any:
    """Return x**exponent for an exponent between 0 and 1, elementwise, with the derivative 0 at 0 as `root` has it.

    >>> float(power(16.0, 1 / 4)), float(power(0.0, 1 / 4))
    (2.0, 0.0)
    """
    there = x == 0
    return jnp.where(there, 0, jnp.where(there, 1, x) ** exponent)


def decayed(beta: Any, t: Any) -> Any:
    """Return beta**t for a decay in [0, 1), 0 with all derivatives where t is infinite.

    >>> float(decayed(0.5, 2.0)), float(decayed(0.5, jnp.inf))
    (0.25, 0.0)
    """
    over = jnp.isinf(t)
    return jnp.where(over, 0, beta ** jnp.where(over, 1, t))

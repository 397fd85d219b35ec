"""Which effort of the compiler pays for a problem."""

from __future__ import annotations

import jax

from ..loss.problem import Problem
from .settings import AUTO

SMALL, LARGE = 2e5, 2e7  # weights times examples: below the one quick pays, above the other full


def effort_for(problem: Problem, effort: str = AUTO) -> str:
    """Return the compiler's effort for a problem: where it is left open, by what a gradient costs.

    It does not depend on the number of steps, so that a longer run is the same one to the last bit.

    >>> import jax.numpy as jnp
    >>> effort_for(Problem(lambda w: jnp.sum(w**2), jnp.ones(2)))
    'quick'
    """
    if effort != AUTO:
        return effort
    examples = max((x.shape[0] for x in jax.tree.leaves(problem.data) if getattr(x, "ndim", 0)), default=1)
    work = problem.n_weights * examples
    return "quick" if work < SMALL else "moderate" if work < LARGE else "full"

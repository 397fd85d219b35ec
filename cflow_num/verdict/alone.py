"""What can be said of a discrete optimizer alone, without a flow: whether it came to the edge, and stays there."""

from __future__ import annotations

import numpy as np

from ..record.measures import values
from ..record.run import Run
from ..record.titles import title
from ..record.variables import DISCRETE
from .definitions import LAST, NEAR, Comparison, Row
from .onset import crossing


def is_alone(run: Run) -> bool:
    """Return whether the run has the discrete optimizer and no flow."""
    return tuple(run.processes) == (DISCRETE,)


def compare_alone(run: Run) -> Comparison:
    """Return what a run without flows says; nothing in it is judged.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> alone = dict(steps=8, processes=["discrete"], quiet=True)
    >>> comparison = compare_alone(cn.run(problem, "gradient_descent", dict(learning_rate=1.9), **alone))
    >>> round(comparison["discrete_end"].value, 9), comparison["critical_end"].value, comparison.passed
    (0.95, 2.0, None)
    """
    relative = values(run, DISCRETE, "effective_eigenvalues") / values(run, DISCRETE, "threshold")[:, None]
    known = np.flatnonzero(np.isfinite(relative[:, 0]))[-LAST:]
    first, loss = crossing(run, DISCRETE), values(run, DISCRETE, "loss")
    mean = relative[known].mean(axis=0) if known.size else np.zeros(0)
    end = float(mean[0]) if known.size else None
    over = f"steps {known[0]}–{known[-1]}" if known.size else "not recorded"
    critical = int(np.sum(mean >= 1 - NEAR))
    every = critical == relative.shape[1] and bool(known.size)
    more = ", all that are tracked: there may be more" if every else ""
    asked = [f"of {run.config['steps']} asked for: {run.reason}"] if run.reason else []
    never = "the threshold is not reached" if known.size else "not recorded"
    rows = [
        Row("steps", float(run.size(DISCRETE) - 1), note="; ".join([*asked, *run.notes])),
        Row("threshold_crossing", None if first is None else float(first), note=never if first is None else ""),
        Row("discrete_end", end, note=over),
        Row("critical_end", float(critical) if known.size else None, note=f"{over}{more}"),
        Row("loss_end", float(loss[-1]) if np.isfinite(loss[-1]) else None, note=""),
    ]
    return Comparison(title(run), _verdict(run, first, end), None, tuple(rows))


def _verdict(run: Run, first: int | None, end: float | None) -> str:
    """Say that there is nothing to judge, what was seen, and how to see more."""
    early = f", ended early: {run.reason}" if run.reason else ""
    if end is None:
        seen = "no eigenvalues are known"
    elif first is None:
        seen = f"the threshold is not reached, the largest effective eigenvalue is {end:.1%} of it at the end"
    else:
        seen = (
            f"the threshold is reached at step {first}, the largest effective eigenvalue is {end:.1%} of it at the end"
        )
    return f"no flow to judge{early}: {seen}; run with the processes discrete, stable and central for a verdict"

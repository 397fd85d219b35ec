"""What an error budget says about a run: the largest dropped terms, and the share of the closure itself.

The terms of `budget` are what averaging dropped. The closure is what averaging assumes: that the oscillation always has
the covariance which keeps the edge. Where the discrete run's own variance along the eigenvectors of Sigma differs (it
starts late, it bursts), the flow's push on the weights differs too; summed over time this is the closure's distance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..record.measures import first_crossing, positive, smoothed, values
from ..record.run import Run
from ..record.variables import DISTANCE, PUSH, RELATIVE, TERMS, TOTAL
from ..support.errors import InputError

CLOSURE = "closure"
MEANINGS = TERMS | {CLOSURE: "measured variance of the oscillation against the one that keeps the edge"}


class Term(NamedTuple):
    """One line: its `name`, median size `relative` to what is kept at the edge, and its last known `distance`."""

    name: str
    relative: float
    distance: float


def has_budget(run: Run) -> bool:
    """Return whether an error budget was evaluated along the run."""
    return "central" in run.processes and bool(np.isfinite(values(run, "central", TOTAL)).any())


def budget_terms(run: Run) -> list[Term]:
    """Return the terms of a run's error budget and the closure, nan where a size is unknown.

    **Raises:** `InputError` where no budget was evaluated along the run.

    >>> import cflow_num as cn
    >>> problem, rate = cn.problem("quadratic", n=3), dict(learning_rate=0.1)
    >>> run = cn.run(problem, "gradient_descent", rate, steps=8, quiet=True, budget=True)
    >>> [term.name for term in budget_terms(run)]
    ['gradient', 'squared_gradient', 'alternating', 'finite_step', 'closure']
    """
    if not has_budget(run):
        raise InputError("the run has no error budget: run again with budget=True (--budget)")
    edge = slice(first_crossing(run) or 0, None)
    terms: list[Term] = []
    for name in TERMS:
        relative = values(run, "central", RELATIVE.format(name))[edge]
        terms.append(Term(name, _median(relative), _last(values(run, "central", DISTANCE.format(name)))))
    predicted, measured = _variances(run)
    averaged = smoothed(measured) if measured.size else measured
    off, size = np.abs(averaged - predicted).sum(axis=1), predicted.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(size > 0, off / size, np.nan)[edge]
    return [*terms, Term(CLOSURE, _median(relative), _last(closure_distance(run)))]


def largest_dropped(run: Run) -> Term:
    """Return the dropped term that is largest relative to what is kept; the closure drops nothing."""
    return max(budget_terms(run)[:-1], key=lambda term: np.nan_to_num(term.relative))


def closure_distance(run: Run) -> Float[np.ndarray, " step"]:
    """Return how far the closure's error alone would have moved the weights, by step.

    Along each eigenvector of Sigma: the sum over steps of (measured minus predicted variance) times the push of a unit
    of variance on the weights; pushes of different eigenvectors are taken as orthogonal.
    """
    predicted, measured = _variances(run)
    push = _carried(values(run, "central", PUSH))[:, : predicted.shape[1]]
    push = np.pad(push, ((0, 0), (0, predicted.shape[1] - push.shape[1])), constant_values=np.nan)
    moved = np.cumsum(np.nan_to_num((measured - predicted) * push), axis=0)
    known = np.isfinite(measured).any(axis=1) & np.isfinite(push).any(axis=1)
    return np.where(known, np.linalg.norm(moved, axis=1), np.nan)


def _variances(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and measured variances of the directions that are ever critical, (step, k) each."""
    ever = positive(run).any(axis=0)
    predicted = values(run, "central", "sigma_eigenvalues")[:, ever]
    if "discrete" not in run.processes:
        return predicted, np.full_like(predicted, np.nan)
    measured = values(run, "discrete", "displacement") ** 2
    more = max(ever.size - measured.shape[1], 0)
    measured = np.pad(measured, ((0, 0), (0, more)), constant_values=np.nan)[:, : ever.size][:, ever]
    return predicted[: len(measured)], measured[: len(predicted)]


def _carried(x: Float[np.ndarray, "step k"]) -> Float[np.ndarray, "step k"]:
    """Return the last known value at every step; before the first one, the first."""
    last = np.where(np.isfinite(x), np.arange(len(x))[:, None], -1)
    last = np.maximum.accumulate(last, axis=0)
    first = np.argmax(np.isfinite(x), axis=0)
    return np.take_along_axis(x, np.where(last < 0, first, last), axis=0)


def _median(x: np.ndarray) -> float:
    known = x[np.isfinite(x)]
    return float(np.median(known)) if known.size else float("nan")


def _last(x: np.ndarray) -> float:
    known = x[np.isfinite(x)]
    return float(known[-1]) if known.size else float("nan")

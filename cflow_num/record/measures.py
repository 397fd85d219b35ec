"""What verdict, figures and report read off a run: series by name, time averages, first crossing, cost."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from .run import Run
from .variables import DISCRETE

SMOOTHING = 20  # standard deviation in steps of the Gaussian
CRITICAL_GAP = 1e-3  # relative to the threshold: an effective eigenvalue that close is critical
POSITIVE = 1e-6  # relative to the run's largest Sigma-eigenvalue: larger ones count as positive


def values(run: Run, process: str, name: str) -> Float[np.ndarray, "step ..."]:
    """Return a variable of a process by step; all nan where it was not recorded."""
    found = run.array(process, name)
    if found is not None:
        return np.asarray(found, float)
    wide = name in ("effective_eigenvalues", "sigma_eigenvalues", "displacement", "budget_push")
    return np.full((run.size(process), 1) if wide else run.size(process), np.nan)


def smoothed(series: Float[np.ndarray, "step ..."], width: float = SMOOTHING) -> Float[np.ndarray, "step ..."]:
    """Return the Gaussian average over steps, of standard deviation `width`, renormalized over known steps.

    The kernel is cut at four standard deviations. At both ends the average is over the steps that exist,
    which leaves constants exact; where a value is nan, so is its average.

    >>> smoothed(np.array([1.0, 1.0, 1.0, np.nan])).tolist()
    [1.0, 1.0, 1.0, nan]
    """
    known = np.isfinite(series)
    reach = min(math.ceil(4 * width), max(len(series) - 1, 0))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    columns = np.where(known, series, 0.0).reshape(len(series), -1).T
    weights = known.astype(float).reshape(len(series), -1).T

    def average(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, kernel)[reach : reach + len(x)]

    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.stack([average(x) / average(weight) for x, weight in zip(columns, weights, strict=True)], axis=-1)
    return np.where(known, out.reshape(series.shape), np.nan)


def observed(run: Run, name: str) -> Float[np.ndarray, "step ..."]:
    """Return the time average of an observable along the discrete run, like what flows predict of it.

    The average (f[t-1] + 2 f[t] + f[t+1])/4, smoothed; nan where one of the three was not evaluated.
    """
    f = values(run, DISCRETE, name)
    middle = np.full(f.shape, np.nan)
    middle[1:-1] = (f[:-2] + 2 * f[1:-1] + f[2:]) / 4
    return smoothed(middle)


def ratio_of_sums(above: Float[np.ndarray, " step"], below: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """Return the ratio of two sums around each step, Gaussian like all time averages, over steps with both known.

    The sums fade out at both sides, or where they end would count: an oscillation is there at one phase.

    >>> ratio_of_sums(np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 1.0])).tolist()
    [0.5, 0.5, 0.5, nan]
    """
    unknown = ~(np.isfinite(above) & np.isfinite(below))
    top, bottom = (smoothed(np.where(unknown, np.nan, x)) for x in (above, below))
    return top / np.where(bottom == 0, np.nan, bottom)


def not_kept(change: Float[np.ndarray, " step"], promise: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """Return zeta around each step: the share of the decrease promised by the gradient that the loss does not keep."""
    return 1 + ratio_of_sums(change, promise)


def loss_changes(loss: Float[np.ndarray, " step"], of_flow: bool) -> Float[np.ndarray, " step"]:
    """Return the change of a loss in the step that leaves each step, for a flow in the one that leads there."""
    return np.diff(loss, prepend=np.nan) if of_flow else np.diff(loss, append=np.nan)


def zeta_over(run: Run, process: str, first: int) -> float | None:
    """Return zeta of all steps from `first` on; None where it was not recorded."""
    of_flow = process != DISCRETE
    loss = values(run, process, "predicted_loss" if of_flow else "loss")
    change, promise = loss_changes(loss, of_flow), values(run, process, "first_order_decrease")
    known = np.isfinite(change) & np.isfinite(promise)
    top, bottom = (np.nansum(smoothed(np.where(known, x, np.nan))[first:]) for x in (change, promise))
    return float(1 + top / bottom) if bottom else None


def positive(run: Run) -> np.ndarray:
    """Return which Sigma-eigenvalues of the central flow are positive, beyond rounding."""
    sigma = np.nan_to_num(values(run, "central", "sigma_eigenvalues"))
    return sigma > POSITIVE * max(sigma.max(initial=0.0), np.finfo(float).tiny)


def first_crossing(run: Run) -> int | None:
    """Return the first step at which the central flow's Sigma is positive; None if it never is."""
    crossed = positive(run).any(axis=1)
    return int(np.argmax(crossed)) if crossed.any() else None


def critical_count(run: Run) -> np.ndarray:
    """Return the number of critical eigenvalues of the central flow at every step."""
    close = values(run, "central", "effective_eigenvalues") >= (1 - CRITICAL_GAP) * threshold(run)[:, None]
    return np.maximum(close.sum(axis=1), positive(run).sum(axis=1))


def threshold(run: Run) -> Float[np.ndarray, " step"]:
    """Return the threshold c along the central flow."""
    return values(run, "central", "threshold")


def edge_step_size(run: Run) -> np.ndarray:
    """Return c/S(w) along the central flow: the effective step size at which it is at the edge."""
    leading = values(run, "central", "effective_eigenvalues")[:, 0]
    return threshold(run) * values(run, "central", "effective_step_size") / leading


def gradient_equivalents(run: Run, process: str) -> float | None:
    """Return gradients + Hessian-vector products + 2 x curvature gradients per unit of flow time."""
    counts = {name: values(run, process, f"n_{name}")[-1] for name in ("gradients", "hessian_vectors")}
    curvature = values(run, process, "n_curvature_gradients")[-1]
    steps = run.size(process) - 1
    if steps < 1 or not np.isfinite(counts["gradients"]):
        return None
    return float(
        (counts["gradients"] + np.nan_to_num(counts["hessian_vectors"]) + 2 * np.nan_to_num(curvature)) / steps
    )

"""The onset: when the optimizer's oscillation appears, later than the flow reaches the edge.

Below the threshold the mode of period two along an eigenvector decays by |mu(lambda)| a step, down to what rounding
adds in each; above it grows again. Until it is large the optimizer follows the stable flow beyond the threshold: the
entry-exit law of slow passage through a flip bifurcation, which makes the delay a property of the floating-point type.
Here the log-amplitude is carried along a stable flow that has been run, and the onset read off. Derived, nothing
fitted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..record.measures import values
from ..record.run import Run
from ..support.errors import InputError

AMPLITUDE = 0.3  # of the oscillation, relative to the root mean square of the weights: where it counts as visible
LASTING = 4  # steps for which an oscillation must be that large to be one


class Onset(NamedTuple):
    """When an oscillation appears: the step of the `crossing` of the threshold, and of the `onset` after it.

    None where a run does not get there. `log_amplitude (step,)` is the natural logarithm of the amplitude along the
    leading eigenvector, in units of the weights.
    """

    crossing: int | None
    onset: int | None
    log_amplitude: Float[np.ndarray, " step"]

    @property
    def delay(self) -> int | None:
        """Steps from the crossing to the onset; None where there is no onset."""
        return None if self.onset is None or self.crossing is None else self.onset - self.crossing


def crossing(run: Run, process: str = "stable", mode: int = 0) -> int | None:
    """Return the first step at which an effective eigenvalue of a process is at its threshold, coming from below.

    A process that begins above it crosses at step 0 if it is not below later. `mode` counts eigenvalues, the largest
    being 0. None where it never is.
    """
    above = _known(run, process, "effective_eigenvalues")[:, mode] >= _known(run, process, "threshold")
    rises = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    if rises.size:
        return int(rises[0])
    return 0 if above.size and above[0] else None


def predicted_onset(run: Run, amplitude: int | float | None = None, mode: int = 0) -> Onset:
    """Return when the oscillation appears, predicted from the stable flow of a run alone.

    The log-amplitude starts from the initial distance to where the gradient along the eigenvector vanishes, which is
    what starts to oscillate, and follows dl/dt = log|mu(lambda(t))|, never below what rounding adds in a step,
    eps |w| / sqrt(n). An initial oscillation may still be there at the crossing, and then there is little delay.

    **Arguments:**

    - `run`: a `Run` with the process `stable`.
    - `amplitude`: the size that counts as an oscillation, in units of the weights; by default 0.3 of their root mean
      square at each step.
    - `mode`: the eigenvalue, 0 for the largest, 1 for the second that arrives; eigenvectors are taken in the order of
      their eigenvalues.

    **Returns:** an `Onset`. **Raises:** `InputError` where the run has no stable process or is of an older version.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: (w[0] ** 2 + w[1] ** 2 / 2) / 2, jnp.ones(2))
    >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=1.9), steps=5, processes=("stable",), quiet=True)
    >>> found = predicted_onset(run)
    >>> found.delay, found.log_amplitude.round(2).tolist()[1:3]  # 0.9^t
    (None, [-0.11, -0.21])
    """
    _check(run, "stable", amplitude, mode)
    rates, floor = _known(run, "stable", "growth")[:, mode], np.log(_known(run, "stable", "rounding"))
    first = np.log(max(abs(_known(run, "stable", "offset")[0, mode]), np.finfo(float).tiny))
    l = np.empty(len(rates))                                                  # (step,)
    l[0] = max(first, floor[0])
    for t in range(len(l) - 1):
        l[t + 1] = max(l[t] + rates[t], floor[t + 1])
    return _onset(crossing(run, "stable", mode), l, _large(run, "stable", amplitude))


def measured_onset(run: Run, amplitude: int | float | None = None, mode: int = 0) -> Onset:
    """Return when the oscillation of the discrete optimizer appears, after the stable flow has crossed the threshold.

    Its amplitude is the part of period two, (x[t-1] - 2 x[t] + x[t+1])/4, of the distance x to where the gradient along
    the optimizer's own eigenvector vanishes. That series jumps where eigenvectors change places, so the amplitude must
    last for four steps.

    **Arguments:** as for `predicted_onset`; `run` has the processes `discrete` and `stable`.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: (w[0] ** 2 + w[1] ** 2 / 2) / 2, jnp.ones(2))
    >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=1.9), steps=9, quiet=True)
    >>> measured_onset(run).log_amplitude.round(2).tolist()[1:3]  # 0.9^t, but for a factor of 0.95^2 / 0.9
    [-0.1, -0.21]
    """
    _check(run, "stable", amplitude, mode)
    _check(run, "discrete", amplitude, mode)
    x = _known(run, "discrete", "offset")[:, mode]                            # (step,)
    a = np.full(len(x), np.nan)                                               # (step,)
    a[1:-1] = np.abs(x[:-2] - 2 * x[1:-1] + x[2:]) / 4
    l = np.log(np.maximum(a, np.finfo(float).tiny))
    windows = np.lib.stride_tricks.sliding_window_view(np.append(l, np.full(LASTING - 1, np.nan)), LASTING)
    lasting = np.fmin.reduce(windows, axis=1)                                 # (step,)
    lasting[len(l) - LASTING + 1 :] = -np.inf                                 # not seen to last
    found = _onset(crossing(run, "stable", mode), lasting, _large(run, "discrete", amplitude))
    return found._replace(log_amplitude=l)


def _large(run: Run, process: str, amplitude: int | float | None) -> Float[np.ndarray, " step"]:
    """Return the logarithm of the amplitude that counts, at each step; what rounding adds tells the weights' size."""
    rms = _known(run, process, "rounding") / np.finfo(run.config.get("dtype", "float64")).eps
    with np.errstate(divide="ignore"):
        return np.log(AMPLITUDE * rms if amplitude is None else np.full(len(rms), float(amplitude)))


def _onset(start: int | None, l: Float[np.ndarray, " step"], size: Float[np.ndarray, " step"]) -> Onset:
    """Return the first step from the crossing on at which the log-amplitude has a size."""
    large = np.flatnonzero(l[start:] >= size[start:]) if start is not None else np.array([], int)
    return Onset(start, int(large[0]) + start if large.size and start is not None else None, l)


def _known(run: Run, process: str, name: str) -> np.ndarray:
    """Return a variable of a process with steps at which it was not recorded filled in, linearly."""
    found = values(run, process, name)
    columns = found.reshape(len(found), -1)
    filled, t = np.empty_like(columns), np.arange(len(found))
    for i, column in enumerate(columns.T):
        known = np.isfinite(column)
        filled[:, i] = np.interp(t, t[known], column[known]) if known.any() else np.nan
    return filled.reshape(found.shape)


def _check(run: Run, process: str, amplitude: int | float | None, mode: int) -> None:
    """Raise `InputError` where a run has not got what an onset is read off, or the question makes no sense."""
    if process not in run.processes:
        raise InputError(f"the run has no {process} process: run again with the processes discrete and stable")
    if run.array(process, "growth") is None:
        raise InputError("the run was made by a version that did not record the growth of oscillations: run again")
    if amplitude is not None and not (np.isfinite(amplitude) and amplitude > 0):
        raise InputError(f"amplitude is {amplitude!r}, it must be a positive number, in units of the weights")
    tracked = run.size(process, "eig")
    if not 0 <= mode < tracked:
        raise InputError(f"mode is {mode!r}, it must be between 0, the largest eigenvalue, and {tracked - 1}")

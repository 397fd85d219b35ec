"""What figures share: series read off a run, and lines in the colours of every other figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..record.measures import first_crossing, smoothed, threshold, values
from ..record.run import Run
from ..report.canvas import AVERAGE, EDGE, FLOW, PREDICTED, RAW, SOFT, line, mark_crossing
from ..verdict.definitions import LAST

THRESHOLD: dict[str, Any] = dict(color=EDGE, linewidth=1.0, linestyle=(0, (1, 2)), zorder=4)
SERIES = ("#2f7ebc", "#a2449c", "#2e8b57", "#e8871e", "#7f8c99")  # runs, where there are several in one panel


def titled(ax: Axes, text: str, ylabel: str = "", xlabel: str = "step") -> Axes:
    """Name a panel and its axes; return it."""
    ax.set_title(text, fontsize=9, color=SOFT, loc="left")
    ax.set_ylabel(ylabel)
    ax.set_xlabel(xlabel)
    return ax


def only(y: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return a series that is known from step `first` to `last` only.

    >>> only(np.arange(4.0), 1, 2).tolist()
    [nan, 1.0, 2.0, nan]
    """
    steps = np.arange(len(y)).reshape(-1, *[1] * (y.ndim - 1))
    return np.where((steps >= first) & (steps <= last), y, np.nan)


def logarithmic(ax: Axes, *series: np.ndarray) -> None:
    """Give a panel a logarithmic axis where the positive values of the series span more than a factor of five."""
    known = np.concatenate([s[np.isfinite(s) & (s > 0)].ravel() for s in series])
    if not (known.size and known.max() > 5 * known.min()):
        return
    ax.set_yscale("log")
    if ax.dataLim.y1 < 200 * ax.dataLim.minposy:  # of all that is drawn: plain numbers at 1, 2 and 5 have room
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def effective_sharpness(run: Run, process: str) -> np.ndarray:
    """Return the largest effective eigenvalue."""
    return values(run, process, "effective_eigenvalues")[:, 0]


def sharpness(run: Run, process: str) -> np.ndarray:
    """Return S, the largest eigenvalue of the Hessian, for a scalar preconditioner."""
    return effective_sharpness(run, process) / values(run, process, "effective_step_size")


def crossing(run: Run) -> int:
    """Return the first crossing of the central flow; the start where it never crosses."""
    return first_crossing(run) or 0


def onset(run: Run) -> int:
    """Return the first step at which the optimizer's own effective sharpness is above the threshold; else the start."""
    above = effective_sharpness(run, "discrete") > values(run, "discrete", "threshold")
    return int(np.argmax(above))


def final(y: np.ndarray) -> float:
    """Return the mean of what is known over the last steps up to the last known one, however seldom that is.

    >>> final(np.array([1.0, 3.0, np.nan]))
    2.0
    >>> final(np.where(np.arange(101) % 25 == 0, np.arange(101.0), np.nan))  # 75 and 100 are within 40 steps
    87.5
    """
    known = np.flatnonzero(np.isfinite(y))
    return float(y[known[known > known[-1] - LAST]].mean()) if known.size else np.nan


def mean(y: np.ndarray) -> float:
    """Return the mean of the known values; nan without any."""
    known = y[np.isfinite(y)]
    return float(known.mean()) if known.size else np.nan


def learning_rate(run: Run) -> float:
    """Return the learning rate that the run was made with."""
    return float(run.config["hyperparameters"]["learning_rate"])


def verdict(run: Run, *names: str) -> dict[str, float]:
    """Return rows of the run's comparison by name; nan where there is nothing to judge."""
    comparison = run.compare()
    return {name: np.nan if (value := comparison[name].value) is None else value for name in names}


def relative_error(predicted: np.ndarray, measured: np.ndarray, first: int) -> float:
    """Return the root mean square of the relative deviation from step `first` on."""
    known = np.isfinite(predicted) & np.isfinite(measured) & (measured != 0) & (np.arange(len(measured)) >= first)
    return float(np.sqrt(np.mean((predicted[known] / measured[known] - 1) ** 2))) if known.any() else np.nan


def flows(ax: Axes, run: Run, name: str, shown: Sequence[str] = ("stable", "central")) -> None:
    """Draw a variable of flows."""
    for flow in shown:
        line(ax, values(run, flow, name), f"{flow} flow", **FLOW[flow])


def averaged(ax: Axes, run: Run, measured: np.ndarray, predicted: np.ndarray, name: str = "predicted average") -> None:
    """Draw what the optimizer shows, its time average from the first crossing on, and the prediction."""
    line(ax, measured, "optimizer", **RAW)
    line(ax, only(smoothed(measured), crossing(run), len(measured)), "time average", **AVERAGE)
    line(ax, only(predicted, crossing(run), len(predicted)), name, **PREDICTED)


def edge(ax: Axes, run: Run, scale: np.ndarray | float = 1.0) -> None:
    """Draw the threshold, times `scale`, and mark where the central flow reaches it."""
    line(ax, threshold(run) * scale, "threshold", **THRESHOLD)
    mark_crossing(ax, run)


def room_above(ax: Axes, top: float, bottom: float | None = None) -> None:
    """Cut a panel at `top`, which keeps what matters readable where a flow leaves the edge far behind."""
    low, high = ax.get_ylim()
    ax.set_ylim(low if bottom is None else bottom, min(high, top) if np.isfinite(top) else high)

"""Pictures of a run, one function each: `(run) -> Figure`, or None where the run lacks the quantities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..record.measures import critical_count, edge_step_size, positive, smoothed, threshold, values
from ..record.run import Run
from ..record.variables import DISCRETE, DISTANCE, TERMS
from ..verdict.alone import is_alone
from ..verdict.error_budget import CLOSURE, closure_distance, has_budget
from . import canvas
from .canvas import AVERAGE, EDGE, FLOW, PREDICTED, RAW, crossing_of, finished, line, look, single, styled
from .cuts import mark_cuts

PANELS = 6  # directions shown of the variance
GRADIENT_NORM = r"gradient norm, $\|\nabla L\|$ [loss/weight]"
EIGENVALUES = r"effective eigenvalues, $\lambda_i(P^{-1}H)$"


@styled
def loss(run: Run) -> Figure | None:
    """Training loss of every process, with the time average that the central flow predicts."""
    if DISCRETE not in run.processes or is_alone(run):
        return None
    ax = single(run, "Training loss", "training loss")
    draw_loss(ax, run, [run])
    return finished(ax, run)


def draw_loss(ax: Axes, run: Run, among: Sequence[Run]) -> None:
    """Draw the losses of a run on an axis that holds those of all runs `among` which it is."""
    if DISCRETE in run.processes:
        measured = values(run, DISCRETE, "loss")
        line(ax, measured, "optimizer", **RAW)
        line(ax, _at_edge(run, smoothed(measured)), "time average", **AVERAGE)
    _flows(ax, run, "loss", drawn(run))
    if "central" in run.processes:
        line(ax, values(run, "central", "predicted_loss"), "predicted average", **PREDICTED)
    shown = [(name, values(one, name, "loss")) for one in among for name in one.processes]
    every = np.concatenate([x[np.isfinite(x)] for _, x in shown])
    floor = min((np.nanmin(x, initial=np.inf) for name, x in shown if name != "stable"), default=np.inf)
    _loss_scale(ax, every.min(initial=np.inf), every.max(initial=-np.inf), floor)


@styled
def eigenvalues(run: Run) -> Figure | None:
    """Leading effective eigenvalues against the threshold."""
    if not has_eigenvalues(run) or is_alone(run):
        return None
    ax = single(run, "Effective eigenvalues", EIGENVALUES)
    draw_eigenvalues(ax, run)
    return finished(ax, run)


def has_eigenvalues(run: Run) -> bool:
    """Return whether the run knows eigenvalues, and their threshold."""
    known = any(np.isfinite(values(run, name, "effective_eigenvalues")).any() for name in run.processes)
    return bool(known and np.isfinite(_threshold(run)).any())


def _threshold(run: Run) -> np.ndarray:
    """Return the threshold along the central flow, or where there is none along another process."""
    names = sorted(run.processes, key=lambda name: (name != "central", name != DISCRETE))
    return next((c for name in names if np.isfinite(c := values(run, name, "threshold")).any()), np.full(1, np.nan))


def draw_eigenvalues(ax: Axes, run: Run) -> None:
    """Draw the eigenvalues of every process that were ever critical, and one more."""
    c, names = _threshold(run), [name for name in (DISCRETE, "stable", "central") if name in run.processes]
    names = names or drawn(run)
    leading = {name: values(run, name, "effective_eigenvalues") for name in names}
    if "central" in run.processes:
        count = int(critical_count(run).max(initial=0)) + 1
    else:
        count = int(max((x > c[:, None]).any(axis=0).sum() for x in leading.values())) + 1
    shown = {name: x[:, :count] for name, x in leading.items()}
    alone = {"alpha": 0.8, "linewidth": 0.8} if names == [DISCRETE] else {}
    looks = {DISCRETE: RAW | alone, "stable": FLOW["stable"] | {"linewidth": 1.1, "zorder": 1.9}}
    for name in names:
        line(ax, shown[name], "optimizer" if name == DISCRETE else f"{name} flow", **looks.get(name, look(name)))
    line(ax, c, "threshold", color=EDGE, linewidth=0.9, linestyle=(0, (1, 2)), zorder=4)
    rest = [x[np.isfinite(x)] for name, x in shown.items() if name != "stable" or names == ["stable"]]
    low, high = min(x.min(initial=np.inf) for x in rest), max(x.max(initial=0.0) for x in rest)
    top = float(np.clip(1.04 * high, 1.25 * np.nanmax(c), 1.6 * np.nanmax(c)))
    ax.set_ylim(max(0.0, low - 0.05 * top), top)


@styled
def variance(run: Run) -> Figure | None:
    """Eigenvalues of the covariance Sigma against the squared displacement along them, a panel each."""
    if not {"discrete", "central"} <= set(run.tree.children):
        return None
    measured, predicted = (
        values(run, "discrete", "displacement") ** 2,
        values(run, "central", "sigma_eigenvalues"),
    )
    ever = np.flatnonzero(positive(run).any(axis=0))[:PANELS]
    ever = ever[ever < measured.shape[1]]
    if not ever.size or not np.isfinite(measured[:, ever]).any():
        return None
    series = {"measured": measured, "time average": smoothed(measured), "predicted": predicted}
    labels = [f"direction {i + 1}" for i in ever]
    highest = 1.3 * max(np.nanmax(series[name][:, ever]) for name in ("time average", "predicted"))
    chosen = {name: x[:, ever] for name, x in series.items()}
    ylabel = r"variance [weight$^2\,P$]"
    return _panels(run, "Variance of the oscillation", ylabel, chosen, labels, (0.0, float(highest)))


@styled
def squared_gradients(run: Run) -> Figure | None:
    """Squared gradient of single weights with its predicted time average, a panel each."""
    has = [name for name in ("discrete", "central") if name in run.tree.children]
    if len(has) < 2 or any("squared_gradient" not in run.tree[name] for name in has):
        return None
    measured = values(run, "discrete", "squared_gradient")[:, :PANELS]
    predicted = values(run, "central", "predicted_squared_gradient")[:, :PANELS]
    series = {"measured": _logarithmic(measured), "time average": _logarithmic(smoothed(measured))}
    series["predicted"] = _logarithmic(predicted)
    labels = [f"weight {i}" for i in run.tree["central"].coords["coordinate"].values[:PANELS]]
    typical = series["time average"][np.isfinite(series["time average"])]
    if not typical.size:
        return None
    limits = 0.1 * float(typical.min()), 10 * float(typical.max())
    ylabel = r"squared gradient [loss$^2$/weight$^2$]"
    return _panels(run, "Squared gradient of single weights", ylabel, series, labels, limits, log=True)


def _panels(
    run: Run,
    heading: str,
    ylabel: str,
    series: dict[str, np.ndarray],
    labels: list[str],
    limits: tuple[float, float],
    log: bool = False,
) -> Figure:
    """Draw what was measured, its average and its prediction, a column of each to a panel."""
    columns = 1 if len(labels) == 1 else canvas.sheet().columns
    rows = -(-len(labels) // columns)
    fig = canvas.canvas(run, heading, canvas.rows_high(rows, 1.9))
    grid = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    if log:
        grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylim(*limits)
    looks = {"measured": RAW, "time average": AVERAGE, "predicted": PREDICTED}
    for i, (ax, text) in enumerate(zip(grid.flat, labels, strict=False)):
        for name, x in series.items():
            line(ax, x[:, i], name, **looks[name])
        if not log:
            ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        place: Any = dict(transform=ax.transAxes, ha="right", va="top", color=canvas.SOFT)
        ax.text(0.985, 0.95, text, **place).set_bbox(dict(facecolor="white", edgecolor="none", alpha=0.85, pad=1.5))
        canvas.mark_crossing(ax, run)
    for ax in grid.flat[: len(labels)]:
        mark_cuts(ax)
    for ax in grid.flat[len(labels) :]:
        ax.set_visible(False)
    for column in range(columns):
        lowest = grid[(len(labels) - 1 - column) // columns, column]
        lowest.set_xlabel("step")
        lowest.tick_params(labelbottom=True)
    fig.supylabel(ylabel, fontsize=canvas.sheet().text, color=canvas.LABEL)
    return canvas.legend(grid[0, 0])


@styled
def distances(run: Run) -> Figure | None:
    """Distance of every flow from the discrete optimizer's midpoint."""
    if not has_distances(run):
        return None
    ax = single(run, "Distance from the optimizer's midpoint", "distance [weight]")
    draw_distances(ax, run)
    return finished(ax, run)


def has_distances(run: Run) -> bool:
    """Return whether any flow is known to be apart from the optimizer."""
    return any((values(run, name, "distance_to_discrete") > 0).any() for name in drawn(run))


def draw_distances(ax: Axes, run: Run) -> None:
    """Draw the distances on a logarithmic axis."""
    if DISCRETE in run.processes:
        travelled = values(run, "discrete", "distance_from_start")
        line(ax, _logarithmic(travelled), "travelled by the optimizer", **AVERAGE | {"linewidth": 2.5})
    for name in drawn(run):
        line(ax, _logarithmic(values(run, name, "distance_to_discrete")), f"{name} flow", **look(name))
    ax.set_yscale("log")


@styled
def error_budget(run: Run) -> Figure | None:
    """Distances that dropped terms and the closure would move the weights, stacked, with the distance found."""
    if not has_budget(run):
        return None
    ax = single(run, "Error budget", "distance [weight]")
    moved = {name: values(run, "central", DISTANCE.format(name)) for name in TERMS} | {CLOSURE: closure_distance(run)}
    known = np.flatnonzero(np.all([np.isfinite(x) for x in moved.values()], axis=0))
    stacked = [x[known] for x in moved.values()]
    labels = [name.replace("_", " ") for name in moved]
    ax.stackplot(known, *stacked, labels=labels, colors=canvas.SHADES[: len(moved)], linewidth=0)
    line(ax, values(run, "central", "distance_to_discrete"), "central flow, found", **FLOW["central"])
    return finished(ax, run)


@styled
def effective_step_size(run: Run) -> Figure | None:
    """Effective step size against c/S, for optimizers with a scalar preconditioner."""
    if not {"discrete", "central"} <= set(run.tree.children):
        return None
    measured, central = (values(run, name, "effective_step_size") for name in ("discrete", "central"))
    if not np.isfinite(central).any():
        return None
    c = threshold(run)
    symbol = f"{np.nanmax(c):g}" if np.isfinite(c).any() and np.nanmax(c) == np.nanmin(c) else "c"
    ax = single(run, "Effective step size", "effective step size [weight²/loss]")
    line(ax, measured, "optimizer", **AVERAGE | {"linewidth": 2.5})
    line(ax, edge_step_size(run), f"{symbol}/S along the central flow", color=EDGE, linewidth=3, alpha=0.35)
    line(ax, central, "central flow", **PREDICTED)
    every = np.concatenate([measured, central])
    ax.set_ylim(0.7 * np.nanmin(every), 1.3 * np.nanmax(every))
    return finished(ax, run)


@styled
def optimization_speed(run: Run) -> Figure | None:
    """Optimization speed g' P^{-1} g of the flows, for optimizers with one step size for each weight."""
    if "central" not in run.tree.children or np.isfinite(values(run, "central", "effective_step_size")).any():
        return None
    ax = single(run, "Optimization speed", r"optimization speed, $g^\top P^{-1}g$ [loss/step]")
    for name in drawn(run):
        line(ax, _logarithmic(values(run, name, "optimization_speed")), f"{name} flow", **look(name))
    ax.set_yscale("log")
    return finished(ax, run)


@styled
def gradient_norm(run: Run) -> Figure | None:
    """Gradient norm of the discrete optimizer, and the root mean square that the central flow predicts."""
    if not {DISCRETE, "central"} <= set(run.processes):
        return None
    if not (values(run, "central", "predicted_squared_gradient_norm") > 0).any():
        return None
    ax = single(run, "Gradient norm", GRADIENT_NORM)
    draw_gradient_norm(ax, run)
    return finished(ax, run)


def draw_gradient_norm(ax: Axes, run: Run) -> None:
    """Draw the gradient norm of every process with its root mean square, on a logarithmic axis."""
    if DISCRETE in run.processes:
        measured = values(run, DISCRETE, "gradient_norm")
        line(ax, _logarithmic(measured), "optimizer", **RAW)
        line(ax, _at_edge(run, np.sqrt(smoothed(measured**2))), "root mean square", **AVERAGE)
    _flows(ax, run, "gradient_norm", ("stable", "central"))
    if "central" in run.processes:
        predicted = np.sqrt(values(run, "central", "predicted_squared_gradient_norm"))
        line(ax, _logarithmic(predicted), "predicted", **PREDICTED)
    ax.set_yscale("log")


def drawn(run: Run) -> list[str]:
    """Return the names of a run's flows, the central one last, on top."""
    return sorted((name for name in run.processes if name != DISCRETE), key=lambda name: name == "central")


def _flows(ax: Axes, run: Run, name: str, flows: Sequence[str]) -> None:
    for flow in flows:
        if flow in run.processes:
            line(ax, values(run, flow, name), f"{flow} flow", **look(flow))


def _at_edge(run: Run, average: np.ndarray) -> np.ndarray:
    """Return a time average from the first crossing on: before, there is no oscillation to average over."""
    crossing = crossing_of(run)
    return np.where(np.arange(len(average)) >= (len(average) if crossing is None else crossing), average, np.nan)


def _logarithmic(y: np.ndarray) -> np.ndarray:
    return np.where(y > 1 / canvas.LARGEST, y, np.nan)


def _loss_scale(ax: Axes, low: float, high: float, floor: float) -> None:
    """Choose a logarithmic axis over more than a factor 3, and cut what falls below a third of `floor`."""
    high = min(high, canvas.LARGEST)
    if not 0 < 3 * low < high:
        return
    ax.set_yscale("log")
    ax.set_ylim(max(low, floor / 3) / 1.15, high * 1.15)
    if high < 1e3 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())

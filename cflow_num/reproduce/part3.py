"""Part III: RMSProp, with one step size for each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..flows.preconditioner import stationary_preconditioner
from ..optimizer.hyperparameters import as_arrays, resolve
from ..record.measures import smoothed, values
from ..report.canvas import COLOURS, EDGE, FLOW, PALE, RAW, line, mark_crossing
from .following import followed
from .panels import averaged, crossing, final, flows, logarithmic, relative_error, titled
from .registry import Numbers, figure
from .runs import Made, Runs
from .shared import distances, eigenvalues_of, predicted_losses, variances_of

MOMENTS = 10  # at which the stationary preconditioner is solved for
COLUMNS = {"stationary": 24, "first_term": 48}  # of the factor of Sigma: more than critical directions
ITERATIONS = 400
SHOWN = 10  # coordinates


@figure("rmsprop-squared-gradients", rows=2, columns=2)
def squared_gradients(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Squared gradients of single weights, with predicted averages.

    The averaged squared gradient is (g^2 + diag(H Sigma H)) coordinate by coordinate. Over all {coordinates:.0f}
    weights that were kept, from step {settled:.0f} on, the mean of the predicted over the mean of the measured is
    between {low:.3g} and {high:.3g}, {middle:.3g} in the median; the gradient of the averaged weights alone would
    give {without:.3g} (median).
    """
    run = runs["rmsprop"]
    measured, predicted = (
        coordinates(runs, "discrete", "squared_gradient"),
        coordinates(runs, "central", "predicted_squared_gradient"),
    )
    alone = coordinates(runs, "central", "squared_gradient")
    for ax, i in zip(axes, _spread(measured.shape[1], len(axes)), strict=False):
        titled(ax, f"weight {_indices(runs)[i]}", r"$(\nabla L)_i^2$")
        averaged(ax, run, np.where(measured[:, i] > 0, measured[:, i], np.nan), predicted[:, i])
        line(
            ax,
            np.where(alone[:, i] > 0, alone[:, i], np.nan),
            "central flow, without oscillation",
            color=PALE,
            linewidth=1.2,
        )
        mark_crossing(ax, run)
        ax.set_yscale("log")
        typical = smoothed(measured[:, i])
        ax.set_ylim(0.03 * float(np.nanmin(typical)), 10 * float(np.nanmax(typical)))
    settled = min(crossing(run) + 50, len(measured) - 20)
    ratio = np.nanmean(predicted[settled:], axis=0) / np.nanmean(measured[settled:], axis=0)
    without = np.nanmean(alone[settled:], axis=0) / np.nanmean(measured[settled:], axis=0)
    return {
        "coordinates": measured.shape[1],
        "settled": settled,
        "low": float(ratio.min()),
        "high": float(ratio.max()),
        "middle": float(np.median(ratio)),
        "without": float(np.median(without)),
    }


@figure("rmsprop-nu", rows=2, columns=2)
def moving_averages(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """RMSProp's nu of single weights: optimizer and flows.

    Over all {coordinates:.0f} weights that were kept, from step {settled:.0f} on, nu along the central flow
    deviates from the optimizer's by {central:.1%} (root mean square, median over weights), along the stable flow by
    {stable:.1%}.
    """
    run = runs["rmsprop"]
    nu = {name: coordinates(runs, name, "nu") for name in ("discrete", "stable", "central")}
    looks = {"discrete": RAW | {"linewidth": 3.0}, "stable": FLOW["stable"], "central": FLOW["central"]}
    for ax, i in zip(axes, _spread(nu["central"].shape[1], len(axes)), strict=False):
        titled(ax, f"weight {_indices(runs)[i]}", r"$\nu_i$")
        for name, look in looks.items():
            line(ax, nu[name][:, i], "optimizer" if name == "discrete" else f"{name} flow", **look)
        mark_crossing(ax, run)
        logarithmic(ax, nu["discrete"][:, i], nu["central"][:, i])
    settled = min(crossing(run) + 50, len(nu["central"]) - 20)
    off = {
        name: [relative_error(nu[name][:, i], nu["discrete"][:, i], settled) for i in range(nu[name].shape[1])]
        for name in ("stable", "central")
    }
    return {
        "coordinates": nu["central"].shape[1],
        "settled": settled,
        "central": float(np.median(off["central"])),
        "stable": float(np.median(off["stable"])),
    }


@figure("rmsprop-eigenvalues")
def eigenvalues(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The eigenvalues of RMSProp's effective Hessian equilibrate at 2.

    Eigenvalues of P^-1 H, P = diag(sqrt(nu))/eta up to switches. Up to {most:.0f} of them are at {edge:.3g} at once
    along the central flow; {second:.0f} steps have two or more, {third:.0f} three or more. Where two are, the
    optimizer's second eigenvalue is {average:.3g} on average, with standard deviation {spread:.2g}.
    """
    return eigenvalues_of(runs, axes[0], "rmsprop")


@figure("rmsprop-variances", rows=2, columns=2)
def variances(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Generalized eigenvalues of Sigma against measured variances.

    Each panel compares an eigenvalue of Sigma in the P metric with the squared displacement along its generalized
    eigenvector. Pooled from 150 steps after the first crossing on: slope {slope:.3g} of predicted against measured,
    correlation {correlation:.3g}; {several:.0f} steps have two or more critical eigenvalues.
    """
    return variances_of(runs, axes, "rmsprop")


@figure("rmsprop-weight-distance")
def weight_distance(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The central flow stays with RMSProp in weights.

    Over the last steps the stable flow is {stable:.3g} away from the optimizer's average, the central flow
    {central:.3g}: {ratio:.3g} of that, and {travelled:.3g} of the distance that the optimizer has travelled. From
    {lag:.0f} steps after the first crossing on it is the closer one for good.
    """
    return distances(runs, axes[0], "rmsprop")


@figure("rmsprop-loss")
def loss(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The central flow predicts the time-averaged loss of RMSProp.

    The root mean square error of the predicted average is {error:.2%} from 150 steps after the first crossing on.
    The loss ends at {measured:.3g}, predicted {predicted:.3g}; the stable flow's ends at {stable:.3g}.
    """
    return predicted_losses(runs, axes[0], "rmsprop")


@figure("rmsprop-stationary-cosine")
def stationary_cosine(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """RMSProp's nu approaches its stationary value.

    At {moments:.0f} moments, nu is compared with the value at which it would stand still at the weights of the
    moment, a convex program. The cosine of the angle between them is {first:.3g} at step {begin:.0f}, {last:.4g} at
    the end and at least {least:.3g} from step {settled:.0f} on. Against the squared gradient at the same weights,
    which knows nothing of the oscillation, it is {plain:.3g} at the end.
    """
    run, (ax,) = runs["rmsprop"], axes
    data = runs.dataset("rmsprop-stationary", "rmsprop", at_rest)
    steps = data["moment"].values
    titled(ax, "", r"cosine of the angle to $\nu$")
    look: dict[str, Any] = dict(marker="o", markersize=3.5, linewidth=1.4)
    ax.plot(steps, data["cosine"], label=r"stationary $\bar\nu(w)$", color=COLOURS["stationary"], **look)
    ax.plot(steps, data["cosine_squared_gradient"], label=r"$g(w)^2$", color=COLOURS["stable"], **look)
    ax.set_ylim(min(0.0, float(data["cosine_squared_gradient"].min())), 1.03)
    mark_crossing(ax, run, "first crossing, step {}")
    settled = steps >= min(crossing(run) + 100, steps[-1])
    return {
        "moments": len(steps),
        "first": float(data["cosine"][0]),
        "begin": float(steps[0]),
        "last": float(data["cosine"][-1]),
        "least": float(data["cosine"].values[settled].min()),
        "settled": float(steps[settled][0]),
        "plain": float(data["cosine_squared_gradient"][-1]),
    }


@figure("rmsprop-stationary-coordinates", rows=5, columns=2, height=1.35)
def stationary_coordinates(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Ten coordinates of nu, and their stationary values.

    Of the ten, the median of nu over its stationary value is {middle:.3g} at the last moment (between {low:.3g} and
    {high:.3g}); at the first moment it is {early:.3g}. Both without the bias correction's factor.
    """
    data = runs.dataset("rmsprop-stationary", "rmsprop", at_rest)
    run, steps = runs["rmsprop"], data["moment"].values
    for ax, i in zip(axes, range(data.sizes["coordinate"]), strict=False):
        titled(ax, f"weight {data['coordinate'].values[i]}", r"$\nu_i$")
        ax.plot(steps, data["nu"][:, i], label=r"$\nu$ along the central flow", color=COLOURS["central"], linewidth=1.5)
        rest: dict[str, Any] = dict(color=COLOURS["stationary"], linestyle="none", marker="o", markersize=3.5)
        ax.plot(steps, data["nu_at_rest"][:, i], label=r"stationary $\bar\nu(w)$", **rest)
        mark_crossing(ax, run)
        logarithmic(ax, data["nu"].values[:, i], data["nu_at_rest"].values[:, i])
    ratio = data["nu"].values / data["nu_at_rest"].values
    return {
        "middle": float(np.median(ratio[-1])),
        "low": float(ratio[-1].min()),
        "high": float(ratio[-1].max()),
        "early": float(np.median(ratio[0])),
    }


@figure("rmsprop-speeds")
def speeds(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Optimization speeds of three preconditioners.

    The speed g' P^-1 g along the central flow, relative to that of gradient descent with the largest stable step
    size, (2/S) |g|^2. At the end RMSProp's P has {flow:.3g} of it, the stationary P {rest:.3g}, and the P that
    curvature alone would allow {first:.3g}; geometric means over all moments {mean_flow:.3g}, {mean_rest:.3g} and
    {mean_first:.3g}. The convex programs were solved to a largest effective eigenvalue of {above:.4g} thresholds or
    less.
    """
    run, (ax,) = runs["rmsprop"], axes
    data = runs.dataset("rmsprop-stationary", "rmsprop", at_rest)
    steps, edge = data["moment"].values, data["speed_edge"].values
    look: dict[str, Any] = dict(marker="o", markersize=3.5, linewidth=1.4)
    shown = {
        "flow": ("P of the run", COLOURS["central"]),
        "stationary": ("stationary P", COLOURS["stationary"]),
        "first_term": ("first term only", COLOURS["ablated"]),
    }
    relative = {name: data[f"speed_{name}"].values / edge for name in shown}
    titled(ax, "", r"$g^\top P^{-1}g\,/\,(2/S)\|g\|^2$")
    for name, (label, colour) in shown.items():
        ax.plot(steps, relative[name], label=label, color=colour, **look)
    ax.axhline(1, color=EDGE, linewidth=1, linestyle=(0, (1, 2)))
    logarithmic(ax, *relative.values())
    mark_crossing(ax, run, "first crossing, step {}")
    means = {name: float(np.exp(np.mean(np.log(r)))) for name, r in relative.items()}
    above = max(float(data[f"eigenvalue_{name}"].max()) for name in COLUMNS)
    return {
        "flow": float(relative["flow"][-1]),
        "rest": float(relative["stationary"][-1]),
        "first": float(relative["first_term"][-1]),
        "mean_flow": means["flow"],
        "mean_rest": means["stationary"],
        "mean_first": means["first_term"],
        "above": above,
    }


@figure("rmsprop-stationary-flow", rows=2)
def stationary_flow(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The stationary flow, with nu at rest at every time.

    Over the last steps it is {stationary:.3g} away from the optimizer's average, the central flow {central:.3g} and
    the stable flow {stable:.3g}. Of its distance {early:.3g} had come about by step {memory:.0f}, while nu still
    remembered the beginning. Its loss ends at {loss:.3g}, the optimizer's at {optimizer:.3g}.
    """
    run = runs["rmsprop-larger"]
    numbers = distances(runs, axes[0], "rmsprop-larger", ("stable", "stationary", "central"))
    titled(axes[1], "", "training loss")
    shown = values(run, "discrete", "loss")
    line(axes[1], shown, "optimizer", **RAW)
    flows(axes[1], run, "loss", ("stable", "stationary", "central"))
    mark_crossing(axes[1], run)
    logarithmic(axes[1], shown)
    last = final(values(run, "stationary", "loss"))
    D = values(run, "stationary", "distance_to_discrete")
    memory = min(round(1 / (1 - run.config["hyperparameters"]["beta2"])), len(D) - 2)
    return numbers | {"loss": last, "optimizer": final(shown), "memory": memory, "early": float(D[memory])}


@figure("rmsprop-ablated-flow", rows=2)
def ablated_flow(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """RMSProp without its reduction of curvature: the ablated flow.

    The ablated flow stays at the edge by nu alone. Its loss ends at {loss:.3g}, that of the central flow at
    {central:.3g} (a factor of {factor:.3g}), that of the optimizer at {optimizer:.3g}; its optimization speed g'
    P^-1 g ends at {speed:.3g} against {central_speed:.3g}.
    """
    run = runs["rmsprop-larger"]
    shown = values(run, "discrete", "loss")
    line(titled(axes[0], "", "training loss"), shown, "optimizer", **RAW)
    flows(axes[0], run, "loss", ("ablated", "central"))
    flows(titled(axes[1], "", r"speed, $g^\top P^{-1}g$"), run, "optimization_speed", ("ablated", "central"))
    logarithmic(axes[0], shown)
    logarithmic(axes[1], values(run, "central", "optimization_speed"))
    for ax in axes:
        mark_crossing(ax, run)
    ends = {name: final(values(run, name, "loss")) for name in ("ablated", "central")}
    return {
        "loss": ends["ablated"],
        "central": ends["central"],
        "factor": ends["ablated"] / ends["central"],
        "optimizer": final(shown),
        "speed": final(values(run, "ablated", "optimization_speed")),
        "central_speed": final(values(run, "central", "optimization_speed")),
    }


def coordinates(runs: Runs, process: str, name: str) -> np.ndarray:
    """Return a quantity of the weights that were kept, by step; (step, coordinate)."""
    return np.asarray(runs["rmsprop"].tree[process][name].values, float)


def _indices(runs: Runs) -> np.ndarray:
    return runs["rmsprop"].tree["central"].coords["coordinate"].values


def _spread(n: int, many: int) -> list[int]:
    return np.unique(np.linspace(0, n - 1, many).astype(int)).tolist()


def at_rest(made: Made) -> xr.Dataset:
    """Return nu along the central flow against its stationary value, and speeds, at some moments."""
    flow, hp = resolve(made.setting.optimizer, made.hyperparameters)
    arrays, n = as_arrays(flow, hp, made.problem), made.problem.n_weights
    every = max(1, made.setting.steps // MOMENTS)
    g0 = np.asarray(made.problem.gradient(made.problem.w0))
    felt = np.flatnonzero(g0)[np.linspace(0, np.count_nonzero(g0) - 1, min(SHOWN, n)).astype(int)]
    rows = []
    for first, records in followed(made, "central", tuple(range(n))):
        for j, w in enumerate(records.w):
            step = first + j
            if step % every:
                continue
            slow = {"nu": records.captured["nu"][j], "t": jnp.asarray(made.setting.warm_start + step + 1.0)}
            P = np.asarray(flow.preconditioner(slow, arrays))
            rows.append({"moment": step} | _moment(made, w, P, float(hp["learning_rate"]), float(hp["epsilon"]), felt))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    moments = columns.pop("moment")
    dims = {name: ("moment", "coordinate")[: x.ndim] for name, x in columns.items()}
    variables = {name: (dims[name], x) for name, x in columns.items()}
    return xr.Dataset(variables, coords={"moment": moments, "coordinate": felt})


def _moment(made: Made, w: jnp.ndarray, P: np.ndarray, eta: float, epsilon: float, felt: np.ndarray) -> dict[str, Any]:
    """Return one moment's row; nu is read off P, so that bias correction is out of it."""
    g = np.asarray(made.problem.gradient(w))
    nu = (eta * P - epsilon) ** 2
    row: dict[str, Any] = {
        "cosine_squared_gradient": _cosine(nu, g**2),
        "speed_flow": float(g @ (g / P)),
        "nu": nu[felt],
    }
    for name, columns in COLUMNS.items():
        found = stationary_preconditioner(
            made.problem,
            made.setting.optimizer,
            made.hyperparameters,
            w,
            first_term_only=name == "first_term",
            columns=min(columns, made.problem.n_weights),
            max_iterations=ITERATIONS,
        )
        row |= {f"speed_{name}": found.optimization_speed, f"eigenvalue_{name}": found.largest_effective_eigenvalue}
        row["speed_edge"] = found.edge_speed
        if name == "stationary":
            nu_bar = (eta * found.P - epsilon) ** 2
            row |= {"cosine": _cosine(nu, nu_bar), "nu_at_rest": nu_bar[felt]}
    return row


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

"""What figures of several optimizers show: distances, losses, gradient norms, eigenvalues and variances of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ..record.measures import critical_count, positive, smoothed, threshold, values
from ..report.canvas import AVERAGE, FLOW, PREDICTED, RAW, line, mark_crossing
from .panels import averaged, crossing, edge, final, flows, logarithmic, mean, only, titled, verdict
from .registry import Numbers
from .runs import Runs


def distances(runs: Runs, ax: Axes, key: str, names: Sequence[str] = ("stable", "central")) -> Numbers:
    """Draw distances of flows from the midpoint."""
    run = runs[key]
    titled(ax, "", "distance [weight]")
    travelled = values(run, "discrete", "distance_from_start")
    D = {name: values(run, name, "distance_to_discrete") for name in names}
    line(ax, np.where(travelled > 0, travelled, np.nan), "travelled by the optimizer", **AVERAGE | {"linewidth": 2.5})
    for name in names:
        line(ax, np.where(D[name] > 0, D[name], np.nan), f"{name} flow", **FLOW[name])
    mark_crossing(ax, run, "first crossing, step {}")
    ax.set_yscale("log")
    ax.set_ylim(bottom=1e-3 * float(np.nanmax(travelled)))
    rows = verdict(run, "distance_ratio", "distance_travelled", "onset_lag")
    ends: Numbers = {name: final(d) for name, d in D.items()}
    return ends | {
        "ratio": rows["distance_ratio"],
        "travelled": rows["distance_travelled"],
        "lag": rows["onset_lag"],
    }


def predicted_losses(runs: Runs, ax: Axes, key: str) -> Numbers:
    """Draw the training loss of optimizer and flows, with the predicted time average."""
    run = runs[key]
    loss, predicted = values(run, "discrete", "loss"), values(run, "central", "predicted_loss")
    titled(ax, "", "training loss")
    flows(ax, run, "loss")
    averaged(ax, run, loss, predicted)
    mark_crossing(ax, run, "first crossing, step {}")
    logarithmic(ax, loss)
    return {
        "error": verdict(run, "predicted_loss")["predicted_loss"],
        "measured": final(loss),
        "predicted": final(predicted),
        "stable": final(values(run, "stable", "loss")),
    }


def gradient_norms(runs: Runs, ax: Axes, key: str) -> Numbers:
    """Draw the gradient norm with its predicted root mean square."""
    run = runs[key]
    norm, predicted = (
        values(run, "discrete", "gradient_norm"),
        np.sqrt(values(run, "central", "predicted_squared_gradient_norm")),
    )
    rms = np.sqrt(smoothed(norm**2))
    titled(ax, "", r"gradient norm, $\|\nabla L\|$ [loss/weight]")
    line(ax, norm, "optimizer", **RAW)
    line(ax, only(rms, crossing(run), len(rms)), "root mean square", **AVERAGE)
    flows(ax, run, "gradient_norm")
    line(ax, only(predicted, crossing(run), len(rms)), "predicted", **PREDICTED)
    mark_crossing(ax, run, "first crossing, step {}")
    logarithmic(ax, norm, values(run, "stable", "gradient_norm"))
    name = "predicted_squared_gradient_norm"
    return {
        "measured": final(rms),
        "predicted": final(predicted),
        "central": final(values(run, "central", "gradient_norm")),
        "error": verdict(run, name)[name],
    }


def eigenvalues_of(runs: Runs, ax: Axes, key: str) -> Numbers:
    """Draw the leading effective eigenvalues of optimizer and central flow."""
    run, count = runs[key], critical_count(runs[key])
    most = int(count.max())
    measured = values(run, "discrete", "effective_eigenvalues")
    flow = values(run, "central", "effective_eigenvalues")[:, : most + 1]
    titled(ax, "", r"effective eigenvalues, $\lambda_i(P^{-1}H)$")
    line(ax, measured[:, : most + 1], "optimizer", **RAW)
    line(ax, flow, "central flow", **FLOW["central"] | {"linewidth": 1.2})
    edge(ax, run)
    c = mean(threshold(run))
    low = float(np.nanmin(flow[crossing(run) :]))
    ax.set_ylim(max(0.0, low - 0.1 * c), min(1.08 * float(np.nanmax(measured)), 1.8 * c))
    second = measured[count >= 2, 1] if measured.shape[1] > 1 else np.array([])
    rows = verdict(run, "critical_2", "critical_3")
    return {
        "most": most,
        "second": rows["critical_2"],
        "third": rows["critical_3"],
        "average": mean(second),
        "spread": float(np.nanstd(second)) if second.size else np.nan,
        "edge": c,
    }


def variances_of(runs: Runs, axes: Sequence[Axes], key: str) -> Numbers:
    """Draw measured and predicted variances by direction."""
    run = runs[key]
    measured, predicted = values(run, "discrete", "displacement") ** 2, values(run, "central", "sigma_eigenvalues")
    ever = [i for i in np.flatnonzero(positive(run).any(axis=0)) if i < measured.shape[1]][: len(axes)] or [0]
    average = smoothed(measured)
    for ax, i in zip(axes, ever, strict=False):
        titled(ax, f"direction {i + 1}", r"variance [weight$^2\,P$]")
        averaged(ax, run, measured[:, i], predicted[:, i], r"predicted, $\lambda_i(\Sigma)$")
        mark_crossing(ax, run)
        late = only(average[:, i], crossing(run), len(average))
        top = max(float(np.nanmax(late, initial=0)), float(np.nanmax(predicted[:, i], initial=0)))
        ax.set_ylim(0, 1.4 * top if top > 0 else None)
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    for ax in axes[len(ever) :]:
        ax.set_visible(False)
    rows = verdict(run, "variance_slope", "variance_correlation", "critical_2")
    return {
        "slope": rows["variance_slope"],
        "correlation": rows["variance_correlation"],
        "several": rows["critical_2"],
    }

"""Part I: gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..record.measures import critical_count, smoothed, threshold, values
from ..report.canvas import AVERAGE, COLOURS, FLOW, PREDICTED, RAW, line, mark_crossing
from . import architectures
from .following import followed
from .panels import (
    THRESHOLD,
    averaged,
    crossing,
    effective_sharpness,
    final,
    mean,
    only,
    onset,
    room_above,
    sharpness,
    titled,
)
from .registry import Numbers, figure
from .runs import Made, Runs
from .shared import distances, gradient_norms, predicted_losses, variances_of

CYCLE = 220  # steps shown of the first cycles
EXAMPLES = 3  # whose predictions are followed


@figure("gd-sharpness")
def sharpness_at_the_edge(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Sharpness of gradient descent: up to the edge, then about it in cycles.

    The sharpness S, the largest Hessian eigenvalue, rises until it passes 2/eta = {edge:.3g} at step {onset:.0f}.
    Gradient descent then goes through {cycles:.0f} upward crossings of that value, with S between {low:.3g} and
    {high:.3g}, {late:.3g} on average over the last steps. The stable flow, which does not oscillate, goes on to S =
    {stable:.3g}; the central flow stays at {central:.3g}.
    """
    run, (ax,) = runs["gd"], axes
    titled(ax, "", "sharpness, S")
    limit = threshold(run) / values(run, "central", "effective_step_size")
    S = sharpness(run, "discrete")
    line(ax, S, "optimizer", **RAW | {"linewidth": 1.0})
    for flow in ("stable", "central"):
        line(ax, sharpness(run, flow), f"{flow} flow", **FLOW[flow])
    line(ax, limit, r"threshold, $2/\eta$", **THRESHOLD)
    mark_crossing(ax, run, "first crossing of the central flow, step {}")
    room_above(ax, 1.2 * float(np.nanmax(S)))
    first = onset(run)
    above = limit < S
    return {
        "edge": float(limit[0]),
        "onset": first,
        "cycles": int(np.sum(above[1:] & ~above[:-1])),
        "low": float(np.nanmin(S[first:])),
        "high": float(np.nanmax(S[first:])),
        "late": final(S),
        "stable": final(sharpness(run, "stable")),
        "central": final(sharpness(run, "central")),
    }


@figure("gd-cycle", rows=2)
def cycle(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Gradient descent's first cycles: sharpness and displacement.

    While the sharpness is above its threshold the displacement along the top eigenvector grows, and a large
    displacement lowers the sharpness: on {agree:.0%} of the steps shown on which the oscillation is visible, it
    grows exactly when S_eff > {threshold:.3g}. The displacement is largest, {largest:.3g} in the P metric, at step
    {when:.0f}; the effective sharpness had its maximum, {peak:.3g}, at step {before:.0f}, before that.
    """
    run, (upper, lower) = runs["gd-parity"], axes
    x = np.abs(values(run, "discrete", "displacement")[:, 0])
    loud = np.nan_to_num(x[crossing(run) :]) > 0.01 * np.nanmax(x[crossing(run) :], initial=0)
    first = max(0, crossing(run) + int(np.argmax(loud)) - 20)
    last = first + CYCLE
    S = effective_sharpness(run, "discrete")
    titled(upper, "", r"effective sharpness, $\eta S$")
    line(upper, only(S, first, last), "optimizer", color=COLOURS["discrete"], linewidth=1.2)
    line(upper, only(effective_sharpness(run, "central"), first, last), "central flow", **FLOW["central"])
    line(upper, only(threshold(run), first, last), "threshold", **THRESHOLD)
    titled(lower, "", "displacement, |x|")
    line(lower, only(x, first, last), "optimizer", color=COLOURS["discrete"], linewidth=1.2)
    predicted = np.sqrt(np.maximum(values(run, "central", "sigma_eigenvalues")[:, 0], 0))
    line(lower, only(predicted, first, last), r"predicted, $\sigma$", **PREDICTED)
    shown = slice(first, min(last, len(x) - 2))
    x, above = np.nan_to_num(x), threshold(run) < S
    visible = x[shown] > 0.01 * x[shown].max(initial=0)
    grows = (np.append(x[2:], [0, 0]) > x)[shown]
    return {
        "agree": float(np.mean(grows[visible] == above[shown][visible])) if visible.any() else np.nan,
        "threshold": mean(threshold(run)),
        "largest": float(x[shown].max(initial=0)),
        "when": shown.start + int(np.argmax(x[shown])),
        "peak": float(np.nanmax(S[shown])),
        "before": shown.start + int(np.nanargmax(S[shown])),
    }


@figure("gd-weight-distance")
def weight_distance(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Gradient descent against gradient flow and the central flow, in weights.

    Distance of each flow from the optimizer's averaged iterate, its second-order midpoint. Gradient flow (the
    stable flow of gradient descent) leaves when the edge is reached; over the last steps it is {stable:.3g} away
    and the central flow {central:.3g}, {ratio:.3g} of that and {travelled:.3g} of the distance that gradient
    descent has travelled. From {lag:.0f} steps after the first crossing on the central flow is the closer one for
    good: before, the optimizer overshoots the edge until its oscillation has grown from rounding errors, which no
    flow here describes.
    """
    return distances(runs, axes[0], "gd")


@figure("gd-variance")
def total_variance(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Variance of gradient descent's oscillation, predicted and measured.

    Nothing is fitted: sigma^2 is what keeps the edge at equilibrium. It is the trace of Sigma where several
    eigenvalues are critical (up to {critical:.0f} here). Over the last steps the predicted variance is
    {predicted:.3g} and the time average of the squared displacement in the same directions is {measured:.3g}
    [weight^2]. From step {settled:.0f} on the mean of the predicted over the mean of the measured is {ratio:.3g}.
    """
    run, (ax,) = runs["gd"], axes
    step = values(run, "discrete", "effective_step_size")
    measured = step * np.nansum(values(run, "discrete", "displacement") ** 2, axis=1)
    predicted = step * np.nansum(values(run, "central", "sigma_eigenvalues"), axis=1)
    measured[[0, -1]] = np.nan
    titled(ax, "", r"$\sigma^2$ [weight$^2$]")
    averaged(ax, run, measured, predicted, r"predicted, tr $\Sigma$")
    mark_crossing(ax, run, "first crossing, step {}")
    average = smoothed(measured)
    ax.set_ylim(0, 1.5 * max(float(np.nanmax(only(average, crossing(run), len(step)))), float(np.nanmax(predicted))))
    settled = min(crossing(run) + 150, len(step) - 20)
    return {
        "critical": int(critical_count(run).max()),
        "predicted": final(predicted),
        "measured": final(average),
        "settled": settled,
        "ratio": mean(predicted[settled:]) / mean(average[settled:]),
    }


@figure("gd-variances", rows=2, columns=2)
def variances(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Eigenvalues of Sigma against the variances along its eigenvectors.

    With several critical eigenvalues the oscillation has a covariance, the solution of a semidefinite
    complementarity problem. Each panel compares one of its eigenvalues (in the P metric) with the squared
    displacement of gradient descent along that eigenvector. Pooled from 150 steps after the first crossing on:
    slope {slope:.3g} of predicted against measured, correlation {correlation:.3g}; {several:.0f} steps have two or
    more critical eigenvalues.
    """
    return variances_of(runs, axes, "gd")


@figure("gd-loss")
def loss(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The loss falls along the central flow, and predicts the average.

    Gradient descent's loss rises on {rises:.0f} of {steps:.0f} steps. Along the central flow it rises on
    {central_rises:.0f} steps, by at most {largest:.2g} of its value in one step. That loss plus what the
    oscillation adds, tr(Sigma)/eta, predicts the time-averaged loss of gradient descent with a root mean square
    error of {error:.1%} from 150 steps after the first crossing on. It does not predict the burst that the
    optimizer starts its oscillation with.
    """
    run = runs["gd"]
    shown, along = values(run, "discrete", "loss"), values(run, "central", "loss")
    return predicted_losses(runs, axes[0], "gd") | {
        "rises": int(np.sum(np.diff(shown) > 0)),
        "steps": len(shown) - 1,
        "central_rises": int(np.sum(np.diff(along) > 0)),
        "largest": max(0.0, float(np.nanmax(np.diff(along) / along[:-1]))),
    }


@figure("gd-gradient-norm")
def gradient_norm(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The gradient norm is mostly oscillation, which is predicted.

    Over the last steps the root mean square of the gradient norm is {measured:.3g}, predicted {predicted:.3g},
    while the gradient at the central flow itself has norm {central:.3g}: the difference is tr(H Sigma H), the
    oscillation. From 150 steps after the first crossing on the predicted squared norm is off by {error:.0%} (root
    mean square).
    """
    return gradient_norms(runs, axes[0], "gd")


@figure("gd-predictions", rows=3)
def predictions(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The network's predictions over time: optimizer and flows.

    The output that oscillates most for each of the first {examples:.0f} training examples. After the oscillation
    has set in, the central flow's output is {central:.3g} from the time average of the optimizer's (root mean
    square), {share:.2g} of the stable flow's {stable:.3g}; the optimizer's own output swings about its average by
    {swing:.3g}.
    """
    run = runs["gd"]
    data = runs.dataset("gd-predictions", "gd", outputs_over_time)
    first = min(crossing(run) + 150, data.sizes["step"] - 20)
    outputs = {name: data[name].values for name in ("discrete", "stable", "central")}
    average = smoothed(outputs["discrete"].reshape(data.sizes["step"], -1)).reshape(outputs["discrete"].shape)
    swing = np.std((outputs["discrete"] - average)[first:], axis=0)  # (examples, outputs)
    chosen = [(i, int(np.argmax(swing[i]))) for i in range(swing.shape[0])]
    for ax, (i, j) in zip(axes, chosen, strict=False):
        titled(ax, f"example {i + 1}, output {j + 1}", "output")
        line(ax, outputs["discrete"][:, i, j], "optimizer", **RAW)
        line(ax, only(average[:, i, j], crossing(run), len(average)), "time average", **AVERAGE)
        for name in ("stable", "central"):
            line(ax, outputs[name][:, i, j], f"{name} flow", **FLOW[name])
        mark_crossing(ax, run)
    rows, columns = np.array(chosen).T

    def away(name: str) -> float:
        return float(np.sqrt(np.mean((outputs[name] - average)[first:, rows, columns] ** 2)))

    return {
        "examples": len(chosen),
        "central": away("central"),
        "stable": away("stable"),
        "share": away("central") / away("stable"),
        "swing": float(np.sqrt(np.mean(swing[rows, columns] ** 2))),
    }


def outputs_over_time(made: Made) -> xr.Dataset:
    """Return the outputs for the first examples at every step of the discrete run and both flows."""

    @jax.jit
    def of_path(path: jax.Array) -> jax.Array:
        def one(w: jax.Array) -> jax.Array:
            out = jax.tree.leaves(made.problem.outputs(w))[0][:EXAMPLES]
            return out.reshape(out.shape[0], -1)

        return jax.lax.map(one, path)

    found = {}
    for name in ("discrete", "stable", "central"):
        chunks = [np.asarray(of_path(records.w)) for _, records in followed(made, name)]
        unknown = np.full_like(chunks[0][:1], np.nan)  # step 0
        found[name] = (("step", "example", "output"), np.concatenate([unknown, *chunks]))
    return xr.Dataset(found)


@figure("gd-architectures-mse", rows=4, columns=2)
def architectures_mse(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Gradient descent on several architectures, squared error.

    Loss of gradient descent with the average that the central flow predicts, for {made} of {asked} architectures.
    The central flow ends closer to the optimizer than gradient flow does on {closer} of the {judged} that were long
    enough at the edge to be judged; the ratio of distances is between {best:.3g} and {worst:.3g}, the error of the
    predicted loss at most {worst_error:.1%}. Learning rates put the start at half to nine tenths of the threshold.
    """
    return architectures.loss_curves(runs, axes, "gd", "mse")


@figure("gd-architectures-cross-entropy", rows=4, columns=2)
def architectures_cross_entropy(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Gradient descent on several architectures, cross-entropy.

    As with squared error, for {made} of {asked} architectures: the central flow is the closer one on {closer} of
    the {judged} judged, with ratios of distances between {best:.3g} and {worst:.3g} and an error of the predicted
    loss of at most {worst_error:.1%}. With cross-entropy the curvature falls again late in training, and a run may
    leave the edge.
    """
    return architectures.loss_curves(runs, axes, "gd", "ce")

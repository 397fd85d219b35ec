"""Part II: Scalar RMSProp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from ..flows.discrete import midpoints
from ..record.measures import threshold, values
from ..record.run import Run
from ..report.canvas import AVERAGE, COLOURS, EDGE, FLOW, RAW, line, mark_crossing
from . import architectures
from .panels import (
    SERIES,
    THRESHOLD,
    crossing,
    edge,
    effective_sharpness,
    final,
    logarithmic,
    mean,
    only,
    onset,
    room_above,
    sharpness,
    titled,
)
from .registry import Numbers, figure
from .runs import Runs
from .settings import LOSSES, beta
from .shared import distances, eigenvalues_of, gradient_norms, predicted_losses, variances_of

SOLID: dict[str, Any] = dict(color=COLOURS["discrete"], linewidth=1.2)


@figure("scalar-rmsprop-onset", rows=2)
def onset_of_oscillation(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Scalar RMSProp oscillates once its effective sharpness passes 2.

    The effective sharpness eta S / sqrt(nu) passes {edge:.3g} at step {onset:.0f}. In the {window:.0f} steps
    before, the gradient norm changes by a factor of at most {before:.3g} from one step to the next; in the
    {shown:.0f} steps after, by up to {after:.3g}, and the largest norm there is {spike:.3g} times the one at the
    onset.
    """
    run, (upper, lower) = runs["scalar-rmsprop"], axes
    first, shown = onset(run), 80
    last, window = min(first + shown, run.tree["discrete"].sizes["step"] - 1), min(first, 20)
    norm, S = values(run, "discrete", "gradient_norm"), effective_sharpness(run, "discrete")
    line(titled(upper, "", "gradient norm"), only(norm, 0, last), "optimizer", **SOLID)
    line(titled(lower, "", r"$S_{\mathrm{eff}}$"), only(S, 0, last), "optimizer", **SOLID)
    line(lower, only(threshold(run), 0, last), "threshold", **THRESHOLD)
    jumps = np.exp(np.abs(np.diff(np.log(norm))))
    for ax in axes:
        ax.axvline(first, color=EDGE, linewidth=0.8, alpha=0.5)
    return {
        "edge": mean(threshold(run)),
        "onset": first,
        "window": window,
        "shown": last - first,
        "before": float(jumps[first - window : first].max(initial=1)),
        "after": float(jumps[first:last].max(initial=1)),
        "spike": float(norm[first:last].max() / norm[first]),
    }


@figure("scalar-rmsprop-effective-sharpness")
def equilibrium(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The effective sharpness of Scalar RMSProp equilibrates at 2.

    From step {onset:.0f} on, where it passes {edge:.3g}, the effective sharpness of the optimizer is {average:.3g}
    on average, with standard deviation {spread:.2g}; over the last steps {late:.4g}. The stable flow ends at
    {stable:.3g}, the central flow at {central:.4g}.
    """
    run, (ax,) = runs["scalar-rmsprop"], axes
    S = effective_sharpness(run, "discrete")
    titled(ax, "", r"effective sharpness, $\eta S/\sqrt{\nu}$")
    line(ax, S, "optimizer", **RAW | {"linewidth": 0.9})
    line(ax, effective_sharpness(run, "stable"), "stable flow", **FLOW["stable"])
    line(ax, effective_sharpness(run, "central"), "central flow", **FLOW["central"])
    edge(ax, run)
    room_above(ax, max(1.1 * float(np.nanmax(S)), 1.3 * mean(threshold(run))), 0.0)
    first = onset(run)
    return {
        "onset": first,
        "edge": mean(threshold(run)),
        "average": mean(S[first:]),
        "spread": float(np.nanstd(S[first:])),
        "late": final(S),
        "stable": final(effective_sharpness(run, "stable")),
        "central": final(effective_sharpness(run, "central")),
    }


class Cycle(NamedTuple):
    """One fall of the effective sharpness: its steps, and the shares of sharpness and of nu in its logarithm."""

    peak: int
    trough: int
    by_sharpness: float
    by_nu: float


def first_cycle(run: Run) -> Cycle:
    """Return the first fall of the effective sharpness from above the edge to below it.

    Taken on second-order midpoints, in which the period-two part of nu cancels.
    """
    S_eff = np.asarray(midpoints(effective_sharpness(run, "discrete")))
    S = np.asarray(midpoints(sharpness(run, "discrete")))
    above = S_eff > values(run, "discrete", "threshold")[1:-1]
    start = int(np.argmax(above))
    end = start + int(np.argmin(above[start:])) if not above[start:].all() else len(above) - 1  # below again
    peak = start + int(np.argmax(S_eff[start : end + 1]))
    again = end + int(np.argmax(above[end:])) if above[end:].any() else len(above)
    trough = end + int(np.argmin(S_eff[end : max(again, end + 1)]))
    fall = np.log(S_eff[trough] / S_eff[peak])
    share = float(np.log(S[trough] / S[peak]) / fall) if fall < 0 else np.nan
    return Cycle(peak + 1, trough + 1, share, 1 - share)


@figure("scalar-rmsprop-mechanisms", rows=3)
def mechanisms(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Two mechanisms in one cycle: the sharpness falls, and nu grows.

    One cycle of S_eff = eta S / sqrt(nu): from its maximum at step {peak:.0f} to the minimum at step {trough:.0f}
    it falls by a factor of {fall:.3g}. In logarithms {by_sharpness:.0%} of that is the sharpness S, the numerator,
    and {by_nu:.0%} is nu, the denominator, which the oscillation's gradients make grow.
    """
    run, key = runs["scalar-rmsprop"], first_cycle(runs["scalar-rmsprop"])
    length = key.trough - key.peak
    first, last = max(0, key.peak - 2 * length), key.trough + 2 * length
    series = (
        (effective_sharpness(run, "discrete"), r"$S_{\mathrm{eff}}=\eta S/\sqrt{\nu}$"),
        (sharpness(run, "discrete"), r"numerator: $S$"),
        (1 / values(run, "discrete", "effective_step_size"), r"denominator: $\sqrt{\nu}/\eta$"),
    )
    for ax, (y, label) in zip(axes, series, strict=True):
        line(titled(ax, "", label), only(y, first, last), "optimizer", **SOLID)
        ax.axvspan(key.peak, key.trough, color=EDGE, alpha=0.07, linewidth=0)
    line(axes[0], only(threshold(run), first, last), "threshold", **THRESHOLD)
    S_eff = np.asarray(midpoints(series[0][0]))
    return {
        "peak": key.peak,
        "trough": key.trough,
        "fall": float(S_eff[key.peak - 1] / S_eff[key.trough - 1]),
        "by_sharpness": key.by_sharpness,
        "by_nu": key.by_nu,
    }


@figure("scalar-rmsprop-beta2", rows=2, columns=2)
def slower_average(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """With a larger beta2 the sharpness does more of the work.

    The first cycle with beta2 = 0.99 and with 0.999, from the same weights. Above, the effective sharpness; below,
    what numerator and denominator contribute to its logarithm since the maximum. The share of the sharpness in the
    fall is {fast:.0%} at beta2 = 0.99 and {slow:.0%} at 0.999; that of nu is {fast_nu:.0%} and {slow_nu:.0%}.
    """
    keys = []
    for i, beta2 in enumerate((0.99, 0.999)):
        run = runs[beta(beta2)]
        key = first_cycle(run)
        keys.append(key)
        upper, lower = axes[i], axes[2 + i]
        length = max(key.trough - key.peak, 1)
        first, last = max(0, key.peak - 2 * length), key.trough + length
        titled(upper, f"beta2 = {beta2:g}", r"$S_{\mathrm{eff}}$")
        line(upper, only(effective_sharpness(run, "discrete"), first, last), "optimizer", **SOLID)
        line(upper, only(threshold(run), first, last), "threshold", **THRESHOLD)
        titled(lower, "", "change of the logarithm")
        S, step = sharpness(run, "discrete"), values(run, "discrete", "effective_step_size")
        by_S, by_nu = np.log(S / S[key.peak]), np.log(step / step[key.peak])
        line(lower, only(by_S, first, last), r"sharpness, $\log S$", color=SERIES[1], linewidth=1.3)
        line(lower, only(by_nu, first, last), r"$-\frac{1}{2}\log\nu$", color=SERIES[2], linewidth=1.3)
        for ax in (upper, lower):
            ax.axvspan(key.peak, key.trough, color=EDGE, alpha=0.07, linewidth=0)
    return {
        "fast": keys[0].by_sharpness,
        "slow": keys[1].by_sharpness,
        "fast_nu": keys[0].by_nu,
        "slow_nu": keys[1].by_nu,
    }


@figure("scalar-rmsprop-beta2-long", rows=2)
def long_run(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Over the long run different beta2 give different trajectories.

    From the same weights with the same learning rate, the sharpness ends at {fast:.3g} for beta2 = 0.99 and at
    {slow:.3g} for 0.999 (optimizer, last steps), and the loss at {fast_loss:.3g} and {slow_loss:.3g}; the central
    flows end at {fast_flow:.3g} and {slow_flow:.3g} in sharpness.
    """
    numbers = {}
    for name, beta2, colour in zip(("fast", "slow"), (0.99, 0.999), SERIES, strict=False):
        run = runs[beta(beta2)]
        loss = values(run, "discrete", "loss")
        line(axes[0], sharpness(run, "discrete"), f"beta2 = {beta2:g}", color=colour, linewidth=0.7, alpha=0.6)
        line(axes[0], sharpness(run, "central"), f"central flow, {beta2:g}", color=colour, linewidth=1.8)
        line(axes[1], loss, f"beta2 = {beta2:g}", color=colour, linewidth=0.7, alpha=0.6)
        line(axes[1], values(run, "central", "predicted_loss"), f"central flow, {beta2:g}", color=colour, linewidth=1.8)
        numbers |= {name: final(sharpness(run, "discrete")), f"{name}_loss": final(loss)}
        numbers[f"{name}_flow"] = final(sharpness(run, "central"))
    logarithmic(titled(axes[0], "", "sharpness, S"), sharpness(runs[beta(0.99)], "discrete"))
    logarithmic(titled(axes[1], "", "training loss"), values(runs[beta(0.99)], "discrete", "loss"))
    return numbers


@figure("scalar-rmsprop-eigenvalues")
def several_eigenvalues(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Several eigenvalues reach the edge, and all are held there.

    Up to {most:.0f} eigenvalues are critical at once along the central flow; {second:.0f} steps have two or more,
    {third:.0f} three or more. Where two are critical, the optimizer's second eigenvalue is {average:.3g} on
    average, with standard deviation {spread:.2g}.
    """
    return eigenvalues_of(runs, axes[0], "scalar-rmsprop")


@figure("scalar-rmsprop-stable-flow", rows=2)
def stable_flow(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The stable flow follows to the edge, then takes another path.

    Until the first crossing at step {crossing:.0f} it is at most {before:.2g} of the distance travelled away from
    the optimizer's average; at the end {after:.3g} of it. Its effective sharpness ends at {sharpness:.3g}, far
    beyond the threshold, which it cannot notice.
    """
    run, (upper, lower) = runs["scalar-rmsprop"], axes
    D, travelled = values(run, "stable", "distance_to_discrete"), values(run, "discrete", "distance_from_start")
    line(titled(upper, "", "distance [weight]"), travelled, "travelled by the optimizer", **AVERAGE)
    line(upper, D, "stable flow, from the optimizer", **FLOW["stable"])
    mark_crossing(upper, run, "first crossing, step {}")
    S = effective_sharpness(run, "stable")
    titled(lower, "", r"$S_{\mathrm{eff}}$")
    line(lower, effective_sharpness(run, "discrete"), "optimizer", **RAW)
    line(lower, S, "stable flow, from the optimizer", **FLOW["stable"])
    edge(lower, run)
    logarithmic(lower, S[crossing(run) :])
    first = max(crossing(run), 2)
    return {
        "crossing": crossing(run),
        "before": float(np.nanmax((D / travelled)[1:first])),
        "after": final(D) / final(travelled),
        "sharpness": final(S),
    }


@figure("scalar-rmsprop-weight-distance")
def weight_distance(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The central flow stays with Scalar RMSProp in weights.

    Distance from the optimizer's averaged iterate. Over the last steps the stable flow is {stable:.3g} away, the
    central flow {central:.3g}: {ratio:.3g} of that, and {travelled:.3g} of the distance that the optimizer has
    travelled. From {lag:.0f} steps after the first crossing on it is the closer one for good.
    """
    return distances(runs, axes[0], "scalar-rmsprop")


@figure("scalar-rmsprop-loss")
def predicted_loss(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """The central flow predicts the time-averaged loss of Scalar RMSProp.

    The root mean square error of the predicted average is {error:.2%} from 150 steps after the first crossing on.
    The loss ends at {measured:.3g}, predicted {predicted:.3g}; the stable flow's ends at {stable:.3g}.
    """
    return predicted_losses(runs, axes[0], "scalar-rmsprop")


@figure("scalar-rmsprop-gradient-norm")
def gradient_norm(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Scalar RMSProp's gradient norm: root mean square, predicted.

    It is {measured:.3g} over the last steps, predicted {predicted:.3g}; the gradient at the central flow itself has
    norm {central:.3g}. The predicted squared norm is off by {error:.1%} from 150 steps after the first crossing on.
    """
    return gradient_norms(runs, axes[0], "scalar-rmsprop")


@figure("scalar-rmsprop-variances", rows=2, columns=2)
def variances(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Variances of Scalar RMSProp's oscillation by direction.

    Slope {slope:.3g} of predicted against measured (pooled, from 150 steps after the first crossing on),
    correlation {correlation:.3g}; {several:.0f} steps have two or more critical eigenvalues.
    """
    return variances_of(runs, axes, "scalar-rmsprop")


def _over_architectures(name: str, loss: str) -> None:
    """Register the figure for a loss, `name` in words."""

    def draw(runs: Runs, axes: Sequence[Axes]) -> Numbers:
        return architectures.loss_curves(runs, axes, "scalar-rmsprop", loss)

    draw.__doc__ = f"""Scalar RMSProp on several architectures, {name}.

    For {{made}} of {{asked}} architectures: the central flow ends closer to the optimizer than the stable flow on
    {{closer}} of the {{judged}} that were long enough at the edge to be judged, with ratios of distances between
    {{best:.3g}} and {{worst:.3g}} and an error of the predicted loss of at most {{worst_error:.1%}}.
    """
    figure(f"scalar-rmsprop-architectures-{LOSSES[loss]}", rows=4, columns=2)(draw)


_over_architectures("squared error", "mse")
_over_architectures("cross-entropy", "ce")

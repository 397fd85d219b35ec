"""Part II: Scalar RMSProp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from ..canvas import AVERAGE, COLOURS, EDGE, FLOW, PREDICTED, RAW, line, mark_crossing
from ..discrete import midpoints
from ..measures import critical_count, edge_step_size, smoothed, threshold, values
from ..run import Run
from . import architectures
from .panels import (
    SERIES,
    THRESHOLD,
    averaged,
    crossing,
    edge,
    effective_sharpness,
    final,
    flows,
    learning_rate,
    logarithmic,
    mean,
    only,
    onset,
    room_above,
    sharpness,
    titled,
    verdict,
)
from .part1 import distances, gradient_norms, variances_of
from .registry import Numbers, figure
from .runs import Runs
from .settings import RATES, VIT_RATIOS, at_rate, beta, vit

STEP = r"effective step size, $\eta/\sqrt{\nu}$"
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


def eigenvalues_of(runs: Runs, ax: Axes, key: str) -> Numbers:
    """Draw the leading effective eigenvalues of optimizer and central flow; shared with part III."""
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
    run, (ax,) = runs["scalar-rmsprop"], axes
    loss, predicted = values(run, "discrete", "loss"), values(run, "central", "predicted_loss")
    titled(ax, "", "training loss")
    flows(ax, run, "loss")
    averaged(ax, run, loss, predicted)
    mark_crossing(ax, run, "first crossing, step {}")
    logarithmic(ax, loss)
    error = verdict(run, "predicted_loss")["predicted_loss"]
    stable = final(values(run, "stable", "loss"))
    return {"error": error, "measured": final(loss), "predicted": final(predicted), "stable": stable}


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


@figure("scalar-rmsprop-architectures-mse", rows=4, columns=2)
def architectures_mse(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Scalar RMSProp on several architectures, squared error.

    For {made} of {asked} architectures: the central flow ends closer to the optimizer than the stable flow on
    {closer} of the {judged} that were long enough at the edge to be judged, with ratios of distances between
    {best:.3g} and {worst:.3g} and an error of the predicted loss of at most {worst_error:.1%}.
    """
    return architectures.loss_curves(runs, axes, "scalar-rmsprop", "mse")


@figure("scalar-rmsprop-architectures-cross-entropy", rows=4, columns=2)
def architectures_cross_entropy(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Scalar RMSProp on several architectures, cross-entropy.

    For {made} of {asked} architectures: the central flow ends closer to the optimizer than the stable flow on
    {closer} of the {judged} that were long enough at the edge to be judged, with ratios of distances between
    {best:.3g} and {worst:.3g} and an error of the predicted loss of at most {worst_error:.1%}.
    """
    return architectures.loss_curves(runs, axes, "scalar-rmsprop", "ce")


@figure("scalar-rmsprop-step-size")
def step_size(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """At the edge the effective step size is 2/S, the largest stable one.

    The optimizer's effective step size fluctuates; along the central flow it is smooth and equal to 2/S(w), to
    within {gap:.1g} at the edge. The optimizer's time average is within {error:.1%} of 2/S on average. From the
    first crossing to the end that value changes from {first:.3g} to {last:.3g}.
    """
    run, (ax,) = runs["scalar-rmsprop"], axes
    measured, central = (values(run, name, "effective_step_size") for name in ("discrete", "central"))
    best = edge_step_size(run)
    titled(ax, "", STEP)
    line(ax, measured, "optimizer", **RAW | {"linewidth": 0.8})
    line(ax, smoothed(measured), "time average", **AVERAGE)
    line(ax, best, r"$2/S$ along the central flow", color=EDGE, linewidth=3, alpha=0.35)
    line(ax, central, "central flow", **PREDICTED)
    mark_crossing(ax, run, "first crossing, step {}")
    first = crossing(run)
    room_above(ax, 1.3 * float(np.nanmax([measured, central])), 0.0)
    critical = critical_count(run) > 0
    gap = np.abs(central / best - 1)[critical]
    return {
        "gap": float(np.nanmax(gap)) if critical.any() else np.nan,
        "error": verdict(run, "effective_step_size")["effective_step_size"],
        "first": float(best[first]),
        "last": final(best),
    }


@figure("scalar-rmsprop-learning-rates")
def learning_rates(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Larger learning rates of Scalar RMSProp take a path of lower sharpness.

    The sharpness ends at {s0:.3g}, {s1:.3g} and {s2:.3g} along the central flows for learning rates {r0:g}, {r1:g}
    and {r2:g} from the same weights (optimizer: {d0:.3g}, {d1:.3g} and {d2:.3g}). The regularizer sigma^2(w; eta,
    beta2) grows with eta, which the derivation proves.
    """
    numbers: Numbers = {}
    titled(axes[0], "", "sharpness, S")
    shown = []
    for i, (key, colour) in enumerate(zip(RATES, SERIES, strict=False)):
        run = runs[at_rate(key)]
        rate, S = learning_rate(run), sharpness(run, "central")
        line(
            axes[0], sharpness(run, "discrete"), rf"optimizer, $\eta={rate:g}$", color=colour, linewidth=0.6, alpha=0.5
        )
        line(axes[0], S, rf"central flow, $\eta={rate:g}$", color=colour, linewidth=1.8)
        shown.append(S)
        numbers |= {f"r{i}": rate, f"s{i}": final(S), f"d{i}": final(sharpness(run, "discrete"))}
    logarithmic(axes[0], *shown)
    return numbers


@figure("scalar-rmsprop-acceleration", rows=3)
def acceleration(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Regularizing sharpness makes training faster.

    The ablated flow keeps the effective step size at 2/S but leaves the reduction of sharpness out. At the end its
    sharpness is {sharpness:.3g} against {central_sharpness:.3g} along the central flow, its effective step size
    {step:.3g} against {central_step:.3g}, and its loss {loss:.3g} against {central_loss:.3g}: a factor of
    {factor:.3g} (Scalar RMSProp itself, averaged and with its oscillation: {optimizer:.3g}).
    """
    run = runs[at_rate(RATES[-1])]
    names = ("discrete", "central", "ablated")
    series = {name: (values(run, name, "loss"), sharpness(run, name)) for name in names}
    series = {name: (*two, values(run, name, "effective_step_size")) for name, two in series.items()}
    looks = {"discrete": RAW, "central": FLOW["central"], "ablated": FLOW["ablated"]}
    for i, (ax, label) in enumerate(zip(axes, ("training loss", "sharpness, S", STEP), strict=True)):
        titled(ax, "", label)
        for name in names:
            line(ax, series[name][i], "optimizer" if name == "discrete" else f"{name} flow", **looks[name])
        logarithmic(ax, series["central"][i], series["ablated"][i])
        mark_crossing(ax, run)
    (loss, S, step), (c_loss, c_S, c_step) = ([final(y) for y in series[n]] for n in ("ablated", "central"))
    return {
        "loss": loss,
        "sharpness": S,
        "step": step,
        "central_loss": c_loss,
        "central_sharpness": c_S,
        "central_step": c_step,
        "factor": loss / c_loss,
        "optimizer": final(series["discrete"][0]),
    }


@figure("scalar-rmsprop-larger-steps")
def larger_steps(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """A larger learning rate takes larger effective steps, but later.

    At the edge the effective step size is 2/S whatever the learning rate. From learning rate {low:g} to {high:g}, a
    factor of {asked:.3g}, the effective step size of the central flow is {early:.3g} times as large at step
    {when:.0f}, when all have reached the edge, and {late:.3g} times at the end: the regularizer has led to lower
    sharpness by then.
    """
    titled(axes[0], "", STEP)
    steps, rates = [], []
    for key, colour in zip(RATES, SERIES, strict=False):
        run = runs[at_rate(key)]
        rate = learning_rate(run)
        rates.append(rate)
        steps.append(values(run, "central", "effective_step_size"))
        measured = values(run, "discrete", "effective_step_size")
        line(axes[0], measured, rf"optimizer, $\eta={rate:g}$", color=colour, linewidth=0.6, alpha=0.5)
        line(axes[0], steps[-1], rf"central flow, $\eta={rate:g}$", color=colour, linewidth=1.8)
    for key in RATES:
        line(axes[0], edge_step_size(runs[at_rate(key)]), "2/S", **THRESHOLD | {"linewidth": 1.3})
    when = max(crossing(runs[at_rate(key)]) for key in RATES)
    axes[0].axvline(when, color=EDGE, linewidth=0.8, alpha=0.4)
    logarithmic(axes[0], *steps)
    return {
        "low": rates[0],
        "high": rates[-1],
        "asked": rates[-1] / rates[0],
        "early": float(steps[-1][when] / steps[0][when]),
        "late": final(steps[-1]) / final(steps[0]),
        "when": when,
    }


@figure("scalar-rmsprop-vit", rows=2)
def vision_transformer(runs: Runs, axes: Sequence[Axes]) -> Numbers:
    """Scalar RMSProp on a vision transformer: sharpness.

    A referee of the paper doubted that its figures of a vision transformer show a reduction of sharpness. Here,
    from {start:.3g} at the start, the sharpness of the optimizer {moves} for the smallest learning rate, {r0:g}, to
    {s0:.3g}; it ends at {s1:.3g} for {r1:g} and at {s2:.3g} for {r2:g}. The regularizer is a statement about
    neighbouring paths, not about the sharpness in time: with learning rate {r1:g} the central flow ends at
    {central:.3g}, the ablated flow, which is the same without the regularizer, at {ablated:.3g}. So with it the
    sharpness is {relation} than without, and {order} in the learning rate.
    """
    numbers: Numbers = {}
    titled(axes[0], "optimizer and central flow", "sharpness, S")
    shown = []
    for i, (ratio, colour) in enumerate(zip(VIT_RATIOS, SERIES, strict=False)):
        run = runs[vit(ratio)]
        S, rate = sharpness(run, "discrete"), learning_rate(run)
        line(axes[0], S, rf"optimizer, $\eta={rate:g}$", color=colour, linewidth=0.6, alpha=0.5)
        line(axes[0], sharpness(run, "central"), rf"central flow, $\eta={rate:g}$", color=colour, linewidth=1.8)
        numbers |= {f"r{i}": rate, f"s{i}": final(S)}
        shown.append(S)
    run = runs[vit(VIT_RATIOS[1])]
    titled(axes[1], f"with and without the regularizer, learning rate {numbers['r1']:g}", "sharpness, S")
    for name in ("central", "ablated"):
        line(axes[1], sharpness(run, name), f"{name} flow", **FLOW[name])
    mark_crossing(axes[1], run)
    central, ablated = (final(sharpness(run, name)) for name in ("central", "ablated"))
    ends = [final(S) for S in shown]
    logarithmic(axes[0], *shown)
    return numbers | {
        "start": float(shown[0][0]),
        "moves": "rises" if ends[0] > shown[0][0] else "falls",
        "central": central,
        "ablated": ablated,
        "relation": "lower" if central < ablated else "not lower",
        "order": "falling" if ends == sorted(ends, reverse=True) else "not monotone",
    }

"""Part II: Scalar RMSProp takes the largest stable steps, and regularizing sharpness makes them larger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ..record.measures import critical_count, edge_step_size, smoothed, values
from ..report.canvas import AVERAGE, EDGE, FLOW, PREDICTED, RAW, line, mark_crossing
from .panels import (
    SERIES,
    THRESHOLD,
    crossing,
    final,
    learning_rate,
    logarithmic,
    room_above,
    sharpness,
    titled,
    verdict,
)
from .registry import Numbers, figure
from .runs import Runs
from .settings import RATES, VIT_RATIOS, at_rate, vit

STEP = r"effective step size, $\eta/\sqrt{\nu}$"


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
    labels = ("training loss", "sharpness, S", r"step size, $\eta/\sqrt{\nu}$")
    for i, (ax, label) in enumerate(zip(axes, labels, strict=True)):
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
    for ratio in VIT_RATIOS:  # all are asked for before one is needed: missing ones are made side by side
        runs.attempt(vit(ratio))
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

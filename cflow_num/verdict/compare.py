"""The verdict on a run: how closely its flows follow its discrete optimizer (`definitions.py` says of what)."""

from __future__ import annotations

import numpy as np

from ..record.measures import (
    critical_count,
    edge_step_size,
    gradient_equivalents,
    observed,
    positive,
    smoothed,
    threshold,
    values,
    zeta_over,
)
from ..record.run import Run
from ..record.titles import title
from ..record.variables import DISCRETE, FLOWS, PREDICTED, TOTAL
from ..support.errors import InputError
from .alone import compare_alone, is_alone
from .definitions import DEFINITIONS, LAST, LIMITS, ROUNDING, Comparison, Limits, Row
from .error_budget import closure_distance, has_budget, largest_dropped
from .window import Window

__all__ = ["DEFINITIONS", "LIMITS", "Comparison", "Limits", "Row", "compare", "require"]


SETTLES = ("distance_ratio", "predicted_loss")  # what a long stay at the edge brings below its limit, or is judged for


def compare(run: Run) -> Comparison:
    """Return the verdict on a run: every number of `DEFINITIONS` that it has, with its limit where `LIMITS` has one.

    A run that ended early is compared up to there; it passes only if it was merely interrupted. One of the discrete
    process alone has nothing to judge: then the numbers are what can be said without a flow.
    Raises `InputError` where of several processes the discrete, the stable or the central one is missing.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> result = cn.run(problem, "gradient_descent", dict(learning_rate=0.1), steps=10, quiet=True)
    >>> comparison = compare(result)
    >>> comparison.passed, comparison["first_crossing"].value
    (None, None)
    >>> print(comparison.verdict)
    no edge reached in 10 steps: the largest effective eigenvalue is 5.0% of the threshold; use ... more steps
    """
    if is_alone(run):
        return compare_alone(run)
    require(run)
    window = Window.of(run)
    rows = [_steps(run), _crossing(window), *_distances(run, window), *_predictions(run, window)]
    rows += [*_variance(run, window), _onset_lag(run, window), *_critical(run)]
    rows += [*_constraints(run, window), _effective_step_size(run, window), _discrete_sharpness(run, window)]
    rows += [*_observables(run, window), _zeta(run, window), *_budget(run), *_gain(run), _cost(run)]
    passed, verdict = _verdict(run, window, {row.name: row for row in rows})
    return Comparison(title(run), verdict, passed, tuple(rows))


def require(run: Run) -> None:
    """Raise `InputError` where the run lacks a process that a comparison needs."""
    has = list(run.processes)
    for name in ("discrete", "stable", "central"):
        if name not in has:
            raise InputError(
                f"the run has no {name} process (it has {', '.join(has) or 'none'}): "
                "run again with the processes discrete, stable and central"
            )


def _relative_rms(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    known = np.isfinite(predicted) & np.isfinite(measured) & (measured != 0)
    deviation = (predicted - measured)[known] / measured[known]
    return float(np.sqrt(np.mean(deviation**2))) if known.any() else None


def _steps(run: Run) -> Row:
    reached, asked = run.size("central") - 1, run.config["steps"]
    interrupted = run.reason.startswith("interrupted")
    passed = None if interrupted else reached == asked and not run.reason
    notes = [f"compared up to there: {run.reason}"] if run.reason else []
    return Row("steps", float(reached), f"= {asked}", passed, "; ".join([*notes, *run.notes]))


def _crossing(window: Window) -> Row:
    if window.crossing is None:
        return Row("first_crossing", None, note=window.unsettled)
    return Row("first_crossing", float(window.crossing))


def _remembered(run: Run, name: str) -> np.ndarray:
    """Return a prediction, with momentum smoothed over the filter's memory: its X has impulses, no variances."""
    series, memory = values(run, "central", name), run.config.get("memory", 0.5)
    return smoothed(series, memory) if memory > 0.5 else series


def _judged(name: str, value: float | None, limit: float, why: str = "", note: str = "") -> Row:
    """Return a row with an upper limit; `why` says that and why it cannot be judged."""
    if value is None and not why:
        why = "not recorded"
    return Row(name, value, f"≤ {limit:g}", None if why or value is None else value <= limit, why or note)


def _distances(run: Run, window: Window) -> list[Row]:
    flows = [name for name in run.processes if name != DISCRETE]
    D = {name: values(run, name, "distance_to_discrete") for name in flows}
    D["travelled"] = values(run, "discrete", "distance_from_start")
    last = np.flatnonzero(np.all([np.isfinite(d) for d in D.values()], axis=0))[-LAST:]
    mean = {name: float(d[last].mean()) if last.size else 0.0 for name, d in D.items()}

    def ratio(a: str, b: str) -> float | None:
        return mean[a] / mean[b] if mean[b] > 0 else None

    over = f"steps {last[0]}–{last[-1]}" if last.size else "not recorded"
    rows = [
        _judged("distance_ratio", ratio("central", "stable"), LIMITS.distance_ratio, window.unsettled, over),
        Row("distance_travelled", ratio("central", "travelled"), note=over),
    ]
    for name in flows:
        if name not in ("central", "stable"):
            rows.append(Row(f"{name}_ratio", ratio(name, "stable"), note=over))
    return rows


def _predictions(run: Run, window: Window) -> list[Row]:
    why = window.unsettled
    measured = {
        "predicted_loss": values(run, "discrete", "loss"),
        "predicted_squared_gradient_norm": values(run, "discrete", "gradient_norm") ** 2,
    }
    error = {
        name: None if why else _relative_rms(window.averaged(_remembered(run, name)), window.averaged(smoothed(m)))
        for name, m in measured.items()
    }
    others = [name for name in run.processes if name not in (DISCRETE, *FLOWS)]
    closures = [name for name in others if run.array(name, "predicted_loss") is not None]
    loss = window.averaged(smoothed(measured["predicted_loss"]))
    closed = {name: window.averaged(values(run, name, "predicted_loss")) for name in closures}
    return [
        _judged("predicted_loss", error["predicted_loss"], LIMITS.predicted_loss, why),
        *(
            Row(f"{name}_predicted_loss", None if why else _relative_rms(closed[name], loss), note=why)
            for name in closures
        ),
        Row("predicted_squared_gradient_norm", error["predicted_squared_gradient_norm"], note=why),
    ]


def _observables(run: Run, window: Window) -> list[Row]:
    """Return how well the time average of each observable is predicted, one of several numbers by its norm."""
    rows: list[Row] = []
    for name, kinks in run.config.get("observe", {}).items():
        if kinks:
            rows.append(Row(PREDICTED.format(name), None, note=f"not predicted, it is not smooth: {kinks}"))
            continue
        series = values(run, "central", PREDICTED.format(name)), observed(run, name)
        predicted, measured = (window.averaged(x.reshape(len(x), -1)) for x in series)
        off, size = np.linalg.norm(predicted - measured, axis=1), np.linalg.norm(measured, axis=1)
        error = None if window.unsettled else _relative_rms(off + size, size)
        note = window.unsettled or ("not recorded" if error is None else "")
        rows.append(Row(PREDICTED.format(name), error, note=note))
    return rows


def _zeta(run: Run, window: Window) -> Row:
    if window.unsettled:
        return Row("zeta", None, note=window.unsettled)
    measured, own = (zeta_over(run, name, window.settled) for name in (DISCRETE, "central"))
    return Row("zeta", measured, note="not recorded" if measured is None or own is None else f"central flow {own:.4g}")


def _variance(run: Run, window: Window) -> list[Row]:
    expected = "expected {:g}–{:g}".format(*LIMITS.variance_slope)
    why, slope, correlation = window.unsettled, None, None
    if not why:
        ever = np.any(window.averaged(positive(run)), axis=0)
        predicted = window.averaged(_remembered(run, "sigma_eigenvalues"))[:, ever]
        measured = window.averaged(smoothed(values(run, "discrete", "displacement") ** 2))[:, : ever.size]
        measured = measured[:, ever[: measured.shape[1]]]
        predicted = predicted[:, : measured.shape[1]]
        known = np.isfinite(predicted) & np.isfinite(measured)
        x, y = measured[known], predicted[known]
        if x.size > 1 and x.any():
            slope = float(x @ y / (x @ x))
        if x.size > 1 and np.ptp(x) > 0 and np.ptp(y) > 0:
            correlation = float(np.corrcoef(x, y)[0, 1])
        why = "" if slope is not None else "not recorded"
    note = why or expected
    return [
        Row("variance_slope", slope, note=note),
        Row(
            "variance_correlation",
            correlation,
            note=why or ("" if correlation is not None else "it is constant"),
        ),
    ]


def _onset_lag(run: Run, window: Window) -> Row:
    if window.crossing is None:
        return Row("onset_lag", None, note=window.unsettled)
    central, stable = (values(run, name, "distance_to_discrete")[window.crossing :] for name in ("central", "stable"))
    known = np.flatnonzero(np.isfinite(central) & np.isfinite(stable))
    if not known.size:
        return Row("onset_lag", None, note="not recorded")
    not_closer = known[central[known] >= stable[known]]
    if not_closer.size and not_closer[-1] == known[-1]:
        return Row("onset_lag", None, note="the stable flow is still the closer one at the end")
    return Row("onset_lag", float(known[known > not_closer[-1]][0]) if not_closer.size else 0.0)


def _budget(run: Run) -> list[Row]:
    """Return what the error budget says, if there is one."""
    if not has_budget(run):
        return []
    largest = largest_dropped(run)
    relative = largest.relative if np.isfinite(largest.relative) else None
    rows = [_judged("dropped_term", relative, LIMITS.dropped_term, note=largest.name.replace("_", " "))]
    apart = values(run, "central", "distance_to_discrete")
    for name, moved in (
        ("dropped_distance", values(run, "central", TOTAL)),
        ("closure_distance", closure_distance(run)),
    ):
        known = np.flatnonzero(np.isfinite(apart) & np.isfinite(moved) & (apart > 0))
        share = float(moved[known[-1]] / apart[known[-1]]) if known.size else None
        rows.append(Row(name, share, note="" if known.size else "not recorded"))
    return rows


def _critical(run: Run) -> list[Row]:
    count = critical_count(run)
    return [Row(f"critical_{k}", float(np.sum(count >= k))) for k in (1, 2, 3)]


def _constraints(run: Run, window: Window) -> list[Row]:
    relative = values(run, "central", "effective_eigenvalues") / threshold(run)[:, None]
    first = window.feasible(relative)
    largest = _extreme(relative[first:])
    above = f"it started above the edge and was on it at step {first}" if first > (window.crossing or 0) else ""
    edge = _judged("largest_eigenvalue", largest, LIMITS.largest_eigenvalue, note=above)
    if run.config.get("onset") == "delayed":  # eigenvalues are to pass the threshold
        edge = Row("largest_eigenvalue", largest, note="not judged: the onset is delayed")
    sigma = values(run, "central", "sigma_eigenvalues")
    low, high = _extreme(-sigma), _extreme(sigma)
    smallest = 0.0 - low / high if low is not None and high else None
    unknown = "" if smallest is not None else "Sigma is zero" if high is not None else "not recorded"
    rounding = float(f"{ROUNDING * np.finfo(run.config.get('dtype', 'float64')).eps:.0e}")
    lowest = min(LIMITS.smallest_sigma, -rounding)
    return [
        edge,
        _judged("residual", _extreme(values(run, "central", "residual")), max(LIMITS.residual, rounding)),
        Row(
            "smallest_sigma",
            smallest,
            f"≥ {lowest:g}",
            None if smallest is None else smallest >= lowest,
            unknown,
        ),
    ]


def _extreme(x: np.ndarray) -> float | None:
    """Return the largest known value."""
    known = x[~np.isnan(x)]
    return float(known.max()) + 0.0 if known.size else None


def _effective_step_size(run: Run, window: Window) -> Row:
    if window.crossing is None:
        return Row("effective_step_size", None, note=window.unsettled)
    measured = smoothed(values(run, "discrete", "effective_step_size"))
    error = np.abs(measured / edge_step_size(run) - 1)[window.crossing :]
    known = error[np.isfinite(error)]
    if not known.size:
        return Row("effective_step_size", None, note="defined for scalar preconditioners only")
    return Row("effective_step_size", float(known.mean()))


def _discrete_sharpness(run: Run, window: Window) -> Row:
    why = window.unsettled
    relative = values(run, "discrete", "effective_eigenvalues")[:, 0] / values(run, "discrete", "threshold")
    seen = window.averaged(relative)
    known = seen[np.isfinite(seen)]
    return Row("discrete_sharpness", None if why or not known.size else float(known.mean()), note=why)


def _gain(run: Run) -> list[Row]:
    gain, index = run.config.get("gain"), run.config.get("burst_index")
    if gain is None or gain <= 2:
        return []
    rows = [Row("gain", gain, note="expect bursts" if run.config.get("note") else "")]
    return rows if index is None else [*rows, Row("burst_index", index)]


def _cost(run: Run) -> Row:
    cost = gradient_equivalents(run, "central")
    return Row("cost", cost, note="" if cost is not None else "not recorded")


def _verdict(run: Run, window: Window, rows: dict[str, Row]) -> tuple[bool | None, str]:
    judged = [row for row in rows.values() if row.passed is not None]
    reached = run.size("central") - 1
    early = f", compared up to step {rows['steps'].value:g}: {run.reason}" if run.reason else ""
    failed = [f"{row.quantity} is {row.texts()[1]}, limit {row.limit}" for row in judged if not row.passed]
    if failed:
        with_time = any(rows[name].passed is False for name in SETTLES) and rows["steps"].passed is not False
        remedy = window.late(reached, failed=True) if with_time else ""
        return False, f"failed{early}: {'; '.join(failed)}{remedy}"
    if window.crossing is None:
        ratio = rows["largest_eigenvalue"].value
        seen = "" if ratio is None else f" the largest effective eigenvalue is {ratio:.1%} of the threshold;"
        return None, f"no edge reached in {reached} steps{early}:{seen} use a larger learning rate or more steps"
    for name in SETTLES:
        if rows[name].passed is None:
            return None, f"not judged{early}: {rows[name].quantity}: {rows[name].note}{window.late(reached)}"
    return True, f"passed{early}: all {len(judged)} limits are kept"

"""Measure how well the onset is predicted, and what a central flow with a delayed onset gains.

`python benchmarks/onset.py` (twenty minutes on one core) writes benchmarks/results/onset.json and onset.md. The
arguments `delays`, `flows`, `bursts` and `others` renew one of the parts, `page` what is written about them. Nothing is
fitted: amplitudes are set here, by how large the oscillation gets.
"""

import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
warnings.simplefilter("ignore")  # high gain: bursts are what is measured

import jax.numpy as jnp
import numpy as np

import cflow_num as cn
from cflow_num.record.measures import first_crossing
from cflow_num.support.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results"
NOISY = {"n": 200, "width": 24, "depth": 2, "noise": 0.4}  # the network of the momentum study
SETTINGS = {  # optimizer, problem, hyperparameters but the rate, rates, seeds, warm start, steps, amplitude, asked
    "gradient descent": ("gradient_descent", {}, {}, (0.75, 0.8, 0.85, 0.9), (0, 1, 3), 0, 460, 3e-2, 0.1),
    "Scalar RMSProp 0.99": ("scalar_rmsprop", {}, {"beta2": 0.99}, (0.05, 0.1, 0.15, 0.2), (0, 1), 5, 260, 1e-2, 0.1),
    "heavy ball 0.5": ("heavy_ball_ema", NOISY, {"beta1": 0.5}, (1.2, 1.5), (0, 1, 2), 0, 300, 3e-2, 0.2),
    "Adam 0.9/0.99": (
        "adam", NOISY, {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}, (0.005, 0.01), (0, 1, 2), 20, 160, 3e-3, 0.2,
    ),
}  # fmt: skip
DTYPES = ("float64", "float32")
FLOWS = (  # title, optimizer, problem, hyperparameters, warm start, steps, amplitude
    ("gradient descent 0.9", "gradient_descent", {}, {"learning_rate": 0.9}, 0, 400, 3e-2),
    ("heavy ball 0.5, 1.5", "heavy_ball_ema", NOISY, {"learning_rate": 1.5, "beta1": 0.5}, 0, 350, 3e-2),
)

OTHERS = {  # a rate, or before and after a drop at the step at which the run starts; that step, steps, eigenvalue
    "second eigenvalue": ((0.8, 0.85, 0.9), 0, 460, 1),
    "after a drop": (((0.9, 0.75), (0.9, 0.7), (1.0, 0.75)), 300, 400, 0),
}
AFTER = (-1, 10, 20, 30, 50, 100, 150, 200)  # steps after the measured onset


def delays() -> list[dict]:
    """Return predicted and measured onsets of every run."""
    rows = []
    for title, (optimizer, options, fixed, rates, seeds, start, steps, amplitude, _) in SETTINGS.items():
        for dtype in DTYPES:
            for rate in rates:
                for seed in seeds:
                    began = time.perf_counter()
                    problem = cn.problem("digits-mlp", seed=seed, **options).astype(dtype)
                    hp = {"learning_rate": rate, **fixed}
                    settings = dict(steps=steps, warm_start=start, quiet=True)
                    run = cn.run(problem, optimizer, hp, processes=("discrete", "stable"), **settings)
                    measured, first = cn.measured_onset(run, amplitude), cn.predicted_onset(run, amplitude)
                    row = {
                        "setting": title,
                        "dtype": dtype,
                        "learning_rate": rate,
                        "seed": seed,
                        "amplitude": amplitude,
                    }
                    row |= {"crossing": first.crossing, "measured": measured.onset, "predicted": first.onset}
                    if "beta1" not in fixed:  # flows with momentum are of second order already
                        stable = cn.run(
                            problem, optimizer, hp, processes=("stable",), integrator="leapfrog", **settings
                        )
                        row["second_order"] = cn.predicted_onset(stable, amplitude).onset
                    row |= {"reason": run.reason, "seconds": round(time.perf_counter() - began, 1)}
                    rows.append(row)
                    print(row, flush=True)
    return rows


def bursts() -> list[dict]:
    """Return distances after the onset of the closures, which carry the oscillation's amplitude through the burst."""
    rows = []
    for title, optimizer, options, hp, start, steps, amplitude in FLOWS:
        closures = ("rod", "envelope") if "beta1" in hp else ("rod", "edge", "envelope")
        run = cn.run(
            cn.problem("digits-mlp", **options), optimizer, hp, steps=steps, warm_start=start, quiet=True,
            processes=("discrete", "stable", "central", *closures),
        )  # fmt: skip
        measured = cn.measured_onset(run, amplitude).onset
        for flow in ("stable", "central", *closures):
            D = np.asarray(run.tree[flow]["distance_to_discrete"])
            by_step = {t: float(D[measured + t]) for t in AFTER if measured + t < steps}
            rows.append({"run": title, "flow": flow, "D by step": by_step, "D": float(np.nanmean(D[-41:]))})
            print(rows[-1], flush=True)
    return rows


def burst_table(rows: list[dict]) -> list[str]:
    """Return the table of distances after the onset."""
    lines = [
        "## Through the burst", "",
        "Distance from the discrete midpoint so many steps after the measured onset, all flows from the first step on;",
        "the closures carry the amplitude of the oscillation and so have an onset and a burst of their own.", "",
        "| run | flow | " + " | ".join(f"{t:+d}" for t in AFTER) + " | end |", "|---" * (len(AFTER) + 3) + "|",
    ]  # fmt: skip
    for r in rows:
        by_step = {int(t): d for t, d in r["D by step"].items()}
        cells = [_number(by_step.get(t)) for t in AFTER] + [_number(r["D"])]
        lines.append(f"| {r['run']} | {r['flow']} | " + " | ".join(cells) + " |")
    lines.append("")
    for title in dict.fromkeys(r["run"] for r in rows):
        D = {r["flow"]: r["D"] for r in rows if r["run"] == title}
        best = min((flow for flow in D if flow not in ("stable", "central")), key=D.__getitem__)
        gain = D["central"] / D[best]
        lines.append(f"- {title}: at the end {best} is {gain:.1f} times as close as the central flow.")
    return [*lines, ""]


def others() -> list[dict]:
    """Return onsets of a second eigenvalue, and of the first one after the learning rate has dropped."""
    rows = []
    for title, (rates, start, steps, mode) in OTHERS.items():
        for rate in rates:
            for seed in (0, 1, 3):
                dropped = isinstance(rate, tuple)
                before, after = rate if dropped else (rate, rate)

                def schedule(t, before=before, after=after, start=start):
                    return jnp.where(t < start, before, after)

                run = cn.run(
                    cn.problem("digits-mlp", seed=seed), "gradient_descent",
                    {"learning_rate": schedule if dropped else rate},
                    steps=steps, warm_start=start, processes=("discrete", "stable"), quiet=True,
                )  # fmt: skip
                measured, first = cn.measured_onset(run, mode=mode), cn.predicted_onset(run, mode=mode)
                row = {"setting": title, "learning_rate": rate, "seed": seed, "reason": run.reason}
                row |= {"crossing": first.crossing, "measured": measured.onset, "predicted": first.onset}
                row["first"] = cn.measured_onset(run).onset if mode else None
                rows.append(row)
                print(row, flush=True)
    return rows


def other_table(rows: list[dict]) -> list[str]:
    """Return the table of second eigenvalues and of drops, with medians."""
    lines = [
        "## Second eigenvalues, and drops of the learning rate", "",
        "Gradient descent, double precision, from the stable flow alone. A second eigenvalue can be foreseen like this",
        "only until the first one bursts (*first burst*), since the stable flow is then no longer where the optimizer",
        "is. After a drop, at step 0 of the run here, the threshold is higher and the oscillation dies, from what it",
        "was; it is back when the curvature has grown to the new threshold.", "",
        "| run | rate | seed | crossing | measured | predicted | first burst |", "|---" * 7 + "|",
    ]  # fmt: skip
    for r in rows:
        rate = " to ".join(f"{x:g}" for x in np.atleast_1d(r["learning_rate"]))
        cells = [_number(r.get(n)) for n in ("crossing", "measured", "predicted", "first")]
        lines.append(f"| {r['setting']} | {rate} | {r['seed']} | " + " | ".join(cells) + " |")
    lines.append("")
    for title in OTHERS:
        errors = [e for e in (error(r) for r in rows if r["setting"] == title) if e is not None]
        if errors:
            lines.append(f"- {title}: median error {statistics.median(errors):.1%} of the delay, {len(errors)} runs.")
    return [*lines, ""]


def error(row: dict, name: str = "predicted") -> float | None:
    """Return the error of the predicted onset relative to the measured delay; None where there is no delay."""
    found, measured, crossing = row.get(name), row["measured"], row["crossing"]
    if found is None or measured is None or crossing is None or measured <= crossing:
        return None
    return abs(found - measured) / (measured - crossing)


def summary(rows: list[dict]) -> list[str]:
    """Return the table of medians by optimizer."""
    lines = [
        "| optimizer | runs with a delay | of | median delay | median error | asked | worst | second order: median "
        "| worst | onset float64 − float32, measured | predicted |",
        "|---" * 11 + "|",
    ]
    for title, setting in SETTINGS.items():
        own = [r for r in rows if r["setting"] == title]
        judged = [r for r in own if error(r) is not None]
        errors = [error(r) for r in judged]
        second = [e for e in (error(r, "second_order") for r in judged) if e is not None]
        shifts = [_shifts(own, name) for name in ("measured", "predicted")]
        lag = statistics.median(r["measured"] - r["crossing"] for r in judged) if judged else None
        cells = [title, str(len(judged)), str(len(own)), _number(lag), *_medians(errors)[:1], f"{setting[-1]:.0%}"]
        cells += [
            _medians(errors)[1],
            *_medians(second),
            *(_number(statistics.median(s)) if s else "–" for s in shifts),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shifts(rows: list[dict], name: str) -> list[int]:
    """Return how much later the onset is in float64, run by run where both are known."""
    at = {(r["dtype"], r["learning_rate"], r["seed"]): r[name] for r in rows}
    pairs = [(at.get(("float64", *key)), x) for (dtype, *key), x in at.items() if dtype == "float32"]
    return [a - b for a, b in pairs if a is not None and b is not None]


def _medians(errors: list[float]) -> tuple[str, str]:
    return (f"{statistics.median(errors):.1%}", f"{max(errors):.1%}") if errors else ("–", "–")


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.4g}"


def flows() -> list[dict]:
    """Return distances of the central flow from the first step on, published and with the delayed onset."""
    rows = []
    for title, optimizer, options, hp, start, steps, amplitude in FLOWS:
        row = {"run": title, "steps": steps}
        for onset in ("published", "delayed"):
            problem = cn.problem("digits-mlp", **options)
            run = cn.run(problem, optimizer, hp, steps=steps, warm_start=start, onset=onset, quiet=True)
            central, stable = (np.asarray(run.tree[p]["distance_to_discrete"]) for p in ("central", "stable"))
            comparison, crossing = run.compare(), cn.predicted_onset(run).crossing
            measured = cn.measured_onset(run, amplitude).onset
            lag = slice(crossing, measured)
            row |= {
                f"{onset}: D in the lag": float(np.nanmean(central[lag])),
                "D_stable in the lag": float(np.nanmean(stable[lag])),
                "crossing": crossing,
                f"{onset}: D": float(np.nanmean(central[-41:])),
                f"{onset}: mean D": float(np.nanmean(central)),
                f"{onset}: lag": comparison["onset_lag"].value,
                f"{onset}: loss": comparison["predicted_loss"].value,
                f"{onset}: starts": first_crossing(run),
                f"{onset}: reason": run.reason,
                "measured": measured,
                f"{onset}: D by step": {t: float(central[measured + t]) for t in AFTER if measured + t < steps},
                "D_stable": float(np.nanmean(stable[-41:])),
                "mean D_stable": float(np.nanmean(stable)),
            }
        rows.append(row)
        print(row, flush=True)
    return rows


def report(found: dict) -> str:
    """Return the page: both tables and every run."""
    lines = ["# The onset", "", "<!-- written by benchmarks/onset.py; do not edit -->", ""]
    lines += [
        "Digits with the default network; heavy ball and Adam on the noisy one of the momentum study. Errors are those",
        "of the predicted step of the onset, relative to the measured delay after the stable flow's crossing; the",
        "prediction is from the stable flow alone. *Second order*: the same along the stable flow in phase space",
        '(`integrator="leapfrog"`), which the flows with momentum are in anyway.', "",
    ]  # fmt: skip
    lines += [*summary(found["delays"]), ""]
    if found.get("flows"):
        lines += flow_table(found["flows"])
    if found.get("bursts"):
        lines += burst_table(found["bursts"])
    if found.get("others"):
        lines += other_table(found["others"])
    lines += [
        "## Every run",
        "",
        "| optimizer | dtype | rate | seed | crossing | measured | predicted | second order |",
    ]
    lines.append("|---" * 8 + "|")
    for r in found["delays"]:
        cells = [r["setting"], r["dtype"], f"{r['learning_rate']:g}", str(r["seed"])]
        cells += [_number(r.get(n)) for n in ("crossing", "measured", "predicted", "second_order")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def flow_table(rows: list[dict]) -> list[str]:
    """Return the table of distances with and without the delay."""
    lines = [
        "## The central flow with a delayed onset", "",
        "Distance from the discrete midpoint, from the first step on: means over the steps between the stable flow's",
        "crossing and the measured onset, and over the last 40 steps.", "",
        "| run | steps | crossing | onset: measured | delayed flow | in the lag: D stable | published | delayed "
        "| at the end: D stable | published | delayed | lag published | lag delayed |", "|---" * 13 + "|",
    ]  # fmt: skip
    names = ("steps", "crossing", "measured", "delayed: starts")
    names += ("D_stable in the lag", "published: D in the lag", "delayed: D in the lag")
    names += ("D_stable", "published: D", "delayed: D", "published: lag", "delayed: lag")
    for r in rows:
        lines.append(f"| {r['run']} | " + " | ".join(_number(r[n]) for n in names) + " |")
    lines += [
        "",
        "The delayed flow is the stable flow until its oscillation is there; then it is pulled back to the edge, while",
        "the optimizer bursts and overshoots. What that leaves behind: the distance of the delayed flow so many steps",
        "after the measured onset.",
        "",
        "| run | " + " | ".join(f"{t:+d}" for t in AFTER) + " | end |",
        "|---" * (len(AFTER) + 2) + "|",
    ]
    for r in rows:
        by_step = {int(t): d for t, d in r["delayed: D by step"].items()}
        cells = [_number(by_step.get(t)) for t in AFTER] + [_number(r["delayed: D"])]
        lines.append(f"| {r['run']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def sentence(rows: list[dict]) -> str:
    """Return the sentence on the predicted delays, for the page on results."""
    parts = []
    for title in SETTINGS:
        errors = [e for e in (error(r) for r in rows if r["setting"] == title) if e is not None]
        if errors:
            parts.append(f"{title} {statistics.median(errors):.1%} ({len(errors)} runs)")
    descent = [r for r in rows if r["setting"] == "gradient descent"]
    measured, predicted = (_number(statistics.median(_shifts(descent, n))) for n in ("measured", "predicted"))
    medians = ", ".join(parts)
    return (
        f"Median error of the delay predicted from the stable flow alone: {medians};\ngradient descent's onset "
        f"in double precision is {measured} steps later than in single precision, predicted {predicted}."
    )


def main() -> None:
    """Measure what was asked for, keep the rest, write both files."""
    from pages import renew

    out = RESULTS / "onset.json"
    found = json.loads(out.read_text()) if out.is_file() else {}
    for name, measure in (("delays", delays), ("flows", flows), ("bursts", bursts), ("others", others)):
        if sys.argv[1:] in ([], [name]):
            found[name] = measure()
    found = {"command": "python benchmarks/onset.py", "versions": versions()} | found | {"versions": versions()}
    out.write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "onset.md").write_text(report(found))
    renew({"onset": sentence(found["delays"])})
    print(f"wrote {out.name} and onset.md")


if __name__ == "__main__":
    main()

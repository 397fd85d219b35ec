"""Compare the closures with the central flow on established edges: optimizers, three seeds of the weights each.

Run with `make closures` (a quarter of an hour on one core). Writes benchmarks/results/closures.json and closures.md.
Short runs on a small network: 200 digits, 40 % of the labels random, tanh 64-16-16-10. All flows start from the time
average of a discrete run that already oscillates, the closures with its displacement from there. With the first seed
the closures' time step is halved until no distance changes any more; the other seeds take that step.
"""

import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

import cflow_num as cn
from cflow_num.record.measures import gradient_equivalents, values
from cflow_num.record.variables import CLOSURES
from cflow_num.reproduce.panels import final
from cflow_num.running.kinds import KINDS
from cflow_num.support.errors import GainWarning
from cflow_num.support.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results"
PROBLEM = {"n": 200, "width": 16, "depth": 2, "noise": 0.4}
SEEDS = (0, 1, 2)
CASES = {  # optimizer, hyperparameters, discrete steps before the flows start, steps
    "gradient descent": ("gradient_descent", {"learning_rate": 0.5}, 400, 150),
    "Scalar RMSProp": ("scalar_rmsprop", {"learning_rate": 0.1, "beta2": 0.99}, 150, 120),
    "RMSProp": ("rmsprop", {"learning_rate": 0.005, "beta2": 0.99, "epsilon": 1e-8}, 150, 120),
    "heavy ball 0.5": ("heavy_ball_ema", {"learning_rate": 1.5, "beta1": 0.5}, 300, 150),
    "Adam 0.9/0.99": ("adam", {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}, 200, 120),
}
FLOWS = ("central", *CLOSURES)
LARGEST, SMALLEST = 1 / 4, 1 / 64  # time steps of the closures
MATTERS = 0.02  # relative change of a distance, from which on a time step is too long


def measure(title: str, seed: int, closure_step: float) -> dict:
    """Run one case with one seed; return its numbers by flow."""
    optimizer, hp, start, steps = CASES[title]
    momentum = "beta1" in hp
    closures = [name for name in CLOSURES if not (momentum and name == "edge")]
    run = cn.run(
        cn.problem("digits-mlp", **PROBLEM, seed=seed),
        optimizer,
        hp,
        steps=steps,
        warm_start=start,
        average_start=True,
        processes=("discrete", "stable", "central", *closures),
        closure_step=closure_step,
        quiet=True,
    )
    row = {"title": title, "seed": seed, "closure step": closure_step, "reason": run.reason, "flows": {}}
    stable = final(values(run, "stable", "distance_to_discrete"))
    comparison = run.compare()
    row["discrete sharpness / c"] = comparison["discrete_sharpness"].value
    predicted = {name: comparison[f"{name}_predicted_loss"].value for name in closures}
    predicted["central"] = comparison["predicted_loss"].value
    for name in FLOWS:
        if name not in run.tree.children:
            continue
        relative = values(run, name, "effective_eigenvalues")[:, 0] / values(run, name, "threshold")
        row["flows"][name] = {
            "distance / stable": final(values(run, name, "distance_to_discrete")) / stable,
            "predicted loss": predicted[name],
            "sharpness / c": final(relative),
            "gradients per unit": gradient_equivalents(run, name),
            "milliseconds per unit": 1e3 * float(values(run, name, "seconds")[-1]) / steps,
        }
    return row


def refined(rows: list[dict], title: str) -> dict[float, dict]:
    """Return the first seed's numbers by flow for each time step, the longest first."""
    found = {r["closure step"]: r["flows"] for r in rows if (r["title"], r["seed"]) == (title, SEEDS[0])}
    return dict(sorted(found.items(), reverse=True))


def change(rows: list[dict], title: str, step: float) -> float:
    """Return the largest relative change of a closure's distance when the time step is halved; nan if not known."""
    known = refined(rows, title)
    before, after = known.get(step, {}), known.get(step / 2, {})
    both = [name for name in CLOSURES if name in before and name in after]
    return max((abs(after[n]["distance / stable"] / before[n]["distance / stable"] - 1) for n in both), default=np.nan)


def settled(rows: list[dict], title: str) -> float | None:
    """Return the longest time step whose half changes no distance, the shortest there is, or None while unknown."""
    steps = refined(rows, title)
    known = (step for step in steps if change(rows, title, step) < MATTERS)
    return next(known, SMALLEST if SMALLEST in steps else None)


def medians(rows: list[dict], title: str, flow: str) -> dict:
    """Return the median over the seeds of every number that is known, with its range."""
    step = settled(rows, title)
    of_case = [r for r in rows if (r["title"], r["closure step"]) == (title, step) and flow in r["flows"]]
    found = {}
    for name in of_case[0]["flows"][flow] if of_case else ():
        known = [v for r in of_case if (v := r["flows"][flow][name]) is not None and np.isfinite(v)]
        found[name] = (statistics.median(known), min(known), max(known)) if known else None
    return found


def table(rows: list[dict]) -> str:
    """Return the tables as Markdown."""
    heads = (
        "optimizer",
        "flow",
        "D/D_stable (range)",
        "loss error",
        "sharpness / c",
        "gradients per unit",
        "ms per unit",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for title in CASES:
        for flow in FLOWS:
            if not (m := medians(rows, title, flow)):
                continue
            ratio, loss = m["distance / stable"], m["predicted loss"]
            cells = [title, f"{flow} ({KINDS[flow].closure.LABEL})" if flow in CLOSURES else f"**{flow}**"]
            cells += ["failed" if ratio is None else f"{ratio[0]:.3f} ({ratio[1]:.3f}–{ratio[2]:.3f})"]
            cells += ["—" if loss is None else f"{loss[0]:.1%}"]
            cells += ["—" if (x := m[name]) is None else form.format(x[0]) for name, form in SHOWN]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *best(rows), ""]
    lines += [f"- {r['title']}, seed {r['seed']}: {r['reason']}" for r in rows if r["reason"]]
    lines += ["", f"Time steps, first seed: D/D_stable. Halved until none changes by {MATTERS:.0%}.", ""]
    lines += ["| optimizer | time step | " + " | ".join(CLOSURES) + " | change with half of it |", "|---" * 6 + "|"]
    for title in CASES:
        for step, flows in refined(rows, title).items():
            cells = [title, f"1/{1 / step:.0f}" + (", taken" if step == settled(rows, title) else "")]
            cells += [f"{flows[name]['distance / stable']:.4f}" if name in flows else "—" for name in CLOSURES]
            cells += ["—" if np.isnan(moved := change(rows, title, step)) else f"{moved:.1%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


SHOWN = (("sharpness / c", "{:.3f}"), ("gradients per unit", "{:.0f}"), ("milliseconds per unit", "{:.0f}"))


def best(rows: list[dict]) -> list[str]:
    """Return one line for each optimizer: the closest closure, and how it stands against the central flow."""
    lines = []
    for title in CASES:
        ratios = {flow: m["distance / stable"] for flow in FLOWS if (m := medians(rows, title, flow))}
        known = {flow: r[0] for flow, r in ratios.items() if r is not None}
        if "central" not in known or len(known) < 2:
            continue
        closure = min((flow for flow in known if flow != "central"), key=known.__getitem__)
        margin = known[closure] / known["central"] - 1
        step = settled(rows, title)
        runs = [r for r in rows if (r["title"], r["closure step"]) == (title, step) and closure in r["flows"]]
        wins = sum(r["flows"][closure]["distance / stable"] < r["flows"]["central"]["distance / stable"] for r in runs)
        lines.append(
            f"- {title}: the best closure is {closure}, {abs(margin):.0%} {'closer' if margin < 0 else 'farther'} than "
            f"the central flow in the median (closer in {wins} of {len(runs)} seeds)."
        )
    return lines


def missing(rows: list[dict]) -> tuple[str, int, float] | None:
    """Return the next run to make: case, seed and time step of the closures."""
    done = {(r["title"], r["seed"], r["closure step"]) for r in rows}
    for title in CASES:
        step = settled(rows, title)
        if step is None:
            shortest = min(refined(rows, title), default=2 * LARGEST)
            return title, SEEDS[0], shortest / 2
        for seed in SEEDS:
            if (title, seed, step) not in done:
                return title, seed, step
    return None


def main() -> None:
    """Measure what is asked for and write the results after each run; `--table` writes the table of what is there."""
    file = RESULTS / "closures.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    warnings.simplefilter("ignore", GainWarning)
    while "--table" not in sys.argv and (job := missing(rows)):
        began = time.perf_counter()
        rows.append(measure(*job) | {"seconds": time.perf_counter() - began})
        print(json.dumps(rows[-1]), flush=True)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS)
        about = {"command": "python benchmarks/closures.py", "problem": PROBLEM, "cases": CASES}
        about |= {"versions": versions() | {"commit": commit.stdout.strip()}}
        file.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    text = (
        "# Closures on established edges\n\n"
        "Medians over three seeds of the weights; `make closures` renews this page. All flows start from the time\n"
        "average of a discrete run at its edge; the closures are told its oscillation there, the central flow is not.\n"
        "D is the distance from the discrete run's second-order midpoints over the last 40 steps, relative to the\n"
        "stable flow's; the loss error is the relative RMS of the predicted time average; sharpness is the largest\n"
        "eigenvalue along the flow over the threshold, at the end; costs are gradients, Hessian-vector products and\n"
        "twice the third derivatives in a unit of time.\n\n"
    )
    (RESULTS / "closures.md").write_text(text + table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()

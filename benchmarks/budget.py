"""The error budget against the distance found, and whether the cross term that is dropped would help.

Each row is one run of the discrete optimizer with its stable and its central flow on `digits-mlp`, the budget evaluated
every ten steps: the largest dropped term relative to what is kept, and the distances that the dropped terms together,
and the closure (measured variance against the one that keeps the edge) would have moved the weights by the end, next to
the distance found. The cost is the time of the central process over that without a budget. A second table has the same
runs with the cross term of the averaged squared gradient kept (`order="consistent"`).

`make budget` (half an hour on two cores) writes benchmarks/results/budget.json and .md.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

import cflow_num as cn
import cflow_sym as cs
from cflow_num.record.measures import values
from cflow_num.record.run import Run
from cflow_num.record.variables import DISTANCE, TOTAL
from cflow_num.support.provenance import versions
from cflow_num.verdict.error_budget import closure_distance, largest_dropped

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EVERY = 10
ADAM = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
RMS = {"learning_rate": 0.001, "beta2": 0.99, "epsilon": 1e-8, "bias_correction": True}
# title: optimizer, hyperparameters, discrete steps before, whether flows start from their average, steps
RUNS: dict[str, tuple[str, dict[str, Any], int, bool, int]] = {
    "gradient descent, before the onset": ("gradient_descent", {"learning_rate": 0.8}, 100, False, 200),
    "gradient descent, established edge": ("gradient_descent", {"learning_rate": 0.8}, 340, True, 200),
    "heavy ball 0.5": ("heavy_ball", {"learning_rate": 0.8, "beta1": 0.5}, 100, False, 300),
    "Scalar RMSProp": ("scalar_rmsprop", {"learning_rate": 0.1, "beta2": 0.99}, 5, False, 300),
    "Scalar RMSProp, bias correction: a burst": (
        "scalar_rmsprop",
        {"learning_rate": 0.1, "beta2": 0.99, "bias_correction": True},
        5,
        False,
        300,
    ),
    "RMSProp": ("rmsprop", RMS, 5, False, 300),
    "Adam, established edge": ("adam", ADAM, 150, True, 200),
}
ORDERS = ("Scalar RMSProp", "RMSProp", "Adam, established edge")  # gradient descent has no state, hence no cross term


def taken(title: str, *, budget: bool, order: str = "published") -> Run:
    """Return one run; eigenvalues are looked at as often as the budget."""
    name, hp, start, average, steps = RUNS[title]
    optimizer = name
    if order != "published":
        switches = {key: True for key, value in hp.items() if value is True}
        optimizer = cs.optimizer(name, **switches).with_options().derive(order=order)
        hp = {key: value for key, value in hp.items() if value is not True}
    return cn.run(
        cn.problem("digits-mlp"),
        optimizer,
        hp,
        steps=steps,
        warm_start=start,
        average_start=average,
        eig_every=EVERY,
        budget=budget,
        quiet=True,
    )


def seconds(run: Run) -> float:
    """Return the time of the central process, without compilation."""
    return float(values(run, "central", "seconds")[-1])


def row(title: str) -> dict[str, Any]:
    """Return what one run shows."""
    run, plain = taken(title, budget=True), taken(title, budget=False)
    found, largest = values(run, "central", "distance_to_discrete"), largest_dropped(run)
    last = int(np.flatnonzero(np.isfinite(values(run, "central", TOTAL)) & np.isfinite(found))[-1])
    verdict = run.compare()
    return {
        "title": title,
        "step": last,
        "largest": largest.name,
        "relative": largest.relative,
        "distance": float(found[last]),
        "dropped": float(values(run, "central", TOTAL)[last]),
        "finite_step": float(values(run, "central", DISTANCE.format("finite_step"))[last]),
        "closure": float(closure_distance(run)[last]),
        "distance_ratio": verdict["distance_ratio"].value,
        "slope": verdict["variance_slope"].value,
        "time": seconds(run) / seconds(plain),
    }


def orders(title: str) -> dict[str, Any]:
    """Return what both orders give for one run."""
    found: dict[str, Any] = {"title": title}
    for order in ("published", "consistent"):
        verdict = taken(title, budget=False, order=order).compare()
        found[order] = {name: verdict[name].value for name in ("distance_ratio", "predicted_loss")}
    return found


def number(x: float | None, form: str = ".2g") -> str:
    """Return a number as text."""
    return "—" if x is None or not np.isfinite(x) else format(x, form)


def tables(rows: list[dict[str, Any]], both: list[dict[str, Any]]) -> str:
    """Return both tables in Markdown."""
    lines = [
        "| run | D found | dropped terms | of these the finite step | closure | largest dropped term / kept "
        "| variance, slope | D_central/D_stable | time with budget |",
        "|---" * 9 + "|",
    ]
    for r in rows:
        size = f"{number(r['relative'], '.1g')} ({r['largest'].replace('_', ' ')})"
        lines.append(
            f"| {r['title']} | {number(r['distance'])} | {number(r['dropped'])} | {number(r['finite_step'])} | "
            f"{number(r['closure'])} | {size} | {number(r['slope'])} | {number(r['distance_ratio'])} | "
            f"{number(r['time'], '.2f')} |"
        )
    lines += ["", "| run | D_central/D_stable, published | consistent | loss error, published | consistent |"]
    lines += ["|---" * 5 + "|"]
    for r in both:
        cells = [
            number(r[o][n], ".3g") for n in ("distance_ratio", "predicted_loss") for o in ("published", "consistent")
        ]
        lines.append(f"| {r['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the tables."""
    warnings.simplefilter("ignore")
    rows, both = [], []
    for title in RUNS:
        rows.append(row(title))
        print(json.dumps(rows[-1]), flush=True)
    for title in ORDERS:
        both.append(orders(title))
        print(json.dumps(both[-1]), flush=True)
    write(rows, both)


def write(rows: list[dict[str, Any]], both: list[dict[str, Any]]) -> None:
    """Write results and tables."""
    known = {"rows": rows, "orders": both, "versions": versions(), "cores": os.cpu_count()}
    (RESULTS / "budget.json").write_text(json.dumps(known, indent=1) + "\n")
    text = tables(rows, both)
    (RESULTS / "budget.md").write_text("# Error budget\n\nMeasured by `make budget`, float64.\n\n" + text + "\n")


if __name__ == "__main__":
    main()

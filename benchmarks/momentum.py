"""How close the central flows of momentum are, over optimizers and seeds: established edges, and from the first step.

Run with `make study` (about half an hour on two cores). Writes benchmarks/results/momentum.json and the
table in docs/momentum.md.
Handwritten digits (200 images, 40 % of the labels random), a tanh network 64-24-24-10. Each row is one run of the
discrete optimizer with its stable and its central flow in phase space: *established edge*, where the discrete run is
already oscillating when the flows start, from its time average; *first step*, where all start together before there is
an edge. The numbers are those of `cflow compare`.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "results" / "momentum.json"
PROBLEM = {"n": 200, "width": 24, "depth": 2, "noise": 0.4}
SEEDS = (0, 1, 2)
EDGE = 4.0  # sharpness at which heavy ball and Nesterov are at their edge: learning rate c / 4


@dataclass(frozen=True)
class Case:
    """One setting: an optimizer, its hyperparameters, discrete steps before the flows start, steps, seeds."""

    title: str
    optimizer: str
    hp: tuple[tuple[str, float], ...]
    start: int
    steps: int
    seeds: tuple[int, ...] = SEEDS
    limit: float | None = None
    order: str = "published"
    refined: bool = False  # half the time step
    integrator: str | None = None


def at_edge(b: float, nesterov: bool = False) -> tuple[tuple[str, float], ...]:
    """Return hyperparameters of heavy ball (EMA) or Nesterov (trace) whose edge is at sharpness 4."""
    c = 2 * (1 + b) / (1 + 2 * b) if nesterov else 2 * (1 + b) / (1 - b)
    return (("learning_rate", c / EDGE), ("beta1", b))


def adaptive(rate: float, b1: float, b2: float, **more: float) -> tuple[tuple[str, float], ...]:
    """Return hyperparameters of Adam and its relatives."""
    return (("learning_rate", rate), ("beta1", b1), ("beta2", b2), ("epsilon", 1e-8), *more.items())


# The settings with a limit are those that the project has set itself; the others fill the table over the momentum.
CASES = [
    Case("heavy ball 0.5", "heavy_ball_ema", at_edge(0.5), 225, 200, limit=0.1),
    Case("Nesterov 0.5", "nesterov", at_edge(0.5, True), 290, 200, limit=0.2),
    Case("Adam 0.9/0.95", "adam", adaptive(1e-2, 0.9, 0.95), 128, 150, limit=0.15),
    Case("Adam 0.9/0.99", "adam", adaptive(1e-2, 0.9, 0.99), 200, 150, limit=0.15),
    Case("NAdam 0.9/0.99", "nadam", adaptive(5e-3, 0.9, 0.99), 120, 120, limit=0.15),
    Case("AdamW 0.9/0.99, decay 0.3", "adamw", adaptive(5e-3, 0.9, 0.99, weight_decay=0.3), 100, 120, limit=0.45),
    Case("heavy ball 0.9", "heavy_ball_ema", at_edge(0.9), 100, 150, limit=0.45),
    Case("Adam 0.9/0.99, before the edge", "adam", adaptive(1e-2, 0.9, 0.99), 60, 200, limit=0.3),
    Case("Adam 0.9/0.99, consistent order", "adam", adaptive(1e-2, 0.9, 0.99), 200, 150, (0,), order="consistent"),
    Case("Adam 0.9/0.99, half the time step", "adam", adaptive(1e-2, 0.9, 0.99), 200, 150, (0,), refined=True),
    Case("heavy ball 0.5, half the time step", "heavy_ball_ema", at_edge(0.5), 225, 200, (0,), refined=True),
    Case("Adam 0.9/0.99, a frame each step", "adam", adaptive(1e-2, 0.9, 0.99), 200, 150, (0,), integrator="leapfrog"),
    Case("gradient descent", "gradient_descent", (("learning_rate", 2 / EDGE),), 225, 200, (0,)),
    Case(
        "gradient descent, leapfrog",
        "gradient_descent",
        (("learning_rate", 2 / EDGE),),
        225,
        200,
        (0,),
        integrator="leapfrog",
    ),
    Case("Adam 0.5/0.99", "adam", adaptive(1e-2, 0.5, 0.99), 200, 150, (0,)),
    Case("NAdam 0.5/0.99", "nadam", adaptive(5e-3, 0.5, 0.99), 120, 120, (0,)),
    Case("AdamW 0.5/0.99, decay 0.3", "adamw", adaptive(5e-3, 0.5, 0.99, weight_decay=0.3), 100, 120, (0,)),
    Case("Nesterov 0.9", "nesterov", at_edge(0.9, True), 290, 200, (0,)),
    Case("heavy ball 0.5, first step", "heavy_ball_ema", at_edge(0.5), 0, 350, (0,)),
    Case("Nesterov 0.5, first step", "nesterov", at_edge(0.5, True), 0, 350, (0,)),
    Case("Nesterov 0.9, first step", "nesterov", at_edge(0.9, True), 0, 350, (0,)),
    Case("Adam 0.5/0.99, first step", "adam", adaptive(1e-2, 0.5, 0.99), 0, 250, (0,)),
    Case("Adam 0.9/0.99, first step", "adam", adaptive(1e-2, 0.9, 0.99), 0, 250, (0,)),
    Case("NAdam 0.9/0.99, first step", "nadam", adaptive(5e-3, 0.9, 0.99), 0, 250, (0,)),
]
ESTABLISHED = 100  # warm starts of at least as many steps end at an edge
NUMBERS = ("distance_ratio", "predicted_loss", "variance_slope", "discrete_sharpness", "gain", "onset_lag")


def measure(job: tuple[Case, int]) -> dict:
    """Run one case with one seed of the weights; return its numbers, or why there are none."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import cflow_num as cn
    import cflow_sym as cs
    from cflow_num.running import kinds

    case, seed = job
    if case.refined:
        kinds.LEAP = kinds.LEAP / 2
    plain = case.order == "published"
    optimizer = case.optimizer if plain else cs.optimizer(case.optimizer).with_options().derive(order=case.order)
    row = {"title": case.title, "seed": seed}
    warnings.simplefilter("ignore")
    try:
        result = cn.run(
            cn.problem("digits-mlp", **PROBLEM, seed=seed),
            optimizer,
            dict(case.hp),
            steps=case.steps,
            integrator=case.integrator,
            warm_start=case.start,
            average_start=case.start >= ESTABLISHED,
            quiet=True,
        )
        comparison = result.compare()
    except Exception as error:
        return row | {"reason": str(error)}
    found = {r.name: r.value for r in comparison.rows}
    return row | {name: found.get(name) for name in NUMBERS} | {"reason": result.reason}


def table(rows: list[dict], cases: list[Case]) -> str:
    """Return the medians over seeds as a Markdown table."""
    heads = ["setting", "start + steps", "runs", "D_central/D_stable", "limit", "loss error", "variance slope"]
    heads += ["S_eff/c", "gain"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for case in cases:
        of_case = [r for r in rows if r["title"] == case.title]
        if not of_case:
            continue
        good = [r for r in of_case if not r["reason"]]

        def median(name: str, form: str, good: list[dict] = good) -> str:
            known = [r[name] for r in good if r.get(name) is not None]
            return format(statistics.median(known), form) if known else "-"

        ran = f"{len(good)} of {len(of_case)}" if len(good) < len(of_case) else f"{len(of_case)}"
        limit = "" if case.limit is None else f"{case.limit:g}"
        cells = [case.title, f"{case.start}+{case.steps}", ran, median("distance_ratio", ".3f"), limit]
        cells += [median("predicted_loss", ".1%"), median("variance_slope", ".2f")]
        cells += [median("discrete_sharpness", ".3f"), median("gain", ".3g")]
        lines.append("| " + " | ".join(cells) + " |")
    failed = [f"- {r['title']}, seed {r['seed']}: {r['reason']}" for r in rows if r["reason"]]
    return "\n".join([*lines, "", *failed, ""])


def study(cases: list[Case], done: list[dict], workers: int = 2) -> Iterator[list[dict]]:
    """Measure what is not done yet, some at a time, each in a process of its own; yield all rows after each."""
    have = {(row["title"], row["seed"]) for row in done}
    jobs = [(case, seed) for case in cases for seed in case.seeds if (case.title, seed) not in have]
    context, rows = multiprocessing.get_context("spawn"), list(done)
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        for job in concurrent.futures.as_completed([pool.submit(measure, job) for job in jobs]):
            rows.append(job.result())
            print(json.dumps(rows[-1]), flush=True)
            yield rows


if __name__ == "__main__":
    settings = [asdict(case) for case in CASES]
    # A study that was interrupted goes on; delete the file to measure again.
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    workers = int(sys.argv[sys.argv.index("--workers") + 1]) if "--workers" in sys.argv else 2
    for so_far in study(CASES, rows, workers):
        rows = so_far
        FILE.write_text(json.dumps({"cases": settings, "rows": rows}, indent=1) + "\n")
    text = table(rows, CASES)
    print(text)
    from pages import renew

    renew({"momentum": text})

"""Measure full runs from the first step, each verdict number beside its limit.

Run with `make numbers` (about a quarter of an hour on two cores). Writes benchmarks/results/verdicts.json and the
tables between the markers in README.md and docs/; `python benchmarks/verdicts.py example` renews the new optimizer's
alone, `... tables` those of the results that are there.
"""

import dataclasses
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import cflow_num as cn
import cflow_sym as cs
from cflow_num import stationary_preconditioner
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.report.canvas import save
from cflow_num.report.plot import gradient_norm
from cflow_num.support.provenance import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = {
    "gradient descent, learning rate 0.8": ("gradient_descent", {"learning_rate": 0.8}, 800, 0),
    "Scalar RMSProp, learning rate 0.1, beta2 0.99": (
        "scalar_rmsprop",
        {"learning_rate": 0.1, "beta2": 0.99},
        500,
        5,
    ),
    "the same with bias correction": (
        "scalar_rmsprop",
        {"learning_rate": 0.1, "beta2": 0.99, "bias_correction": True},
        500,
        5,
    ),
    "RMSProp, learning rate 0.001, beta2 0.99, bias correction, epsilon 1e-8": (
        "rmsprop",
        {"learning_rate": 0.001, "beta2": 0.99, "epsilon": 1e-8, "bias_correction": True},
        600,
        5,
    ),
    "AdaGrad, learning rate 0.02, epsilon 1e-8": ("adagrad", {"learning_rate": 0.02, "epsilon": 1e-8}, 500, 5),
    "AdaGrad-norm, learning rate 1": ("adagrad_norm", {"learning_rate": 1.0}, 600, 5),
    "normalized gradient descent, learning rate 0.05": (
        "normalized_gradient_descent",
        {"learning_rate": 0.05},
        500,
        5,
    ),
    "blockwise RMSProp, learning rate 0.03, beta2 0.99, epsilon 1e-8": (
        "blockwise_rmsprop",
        {"learning_rate": 0.03, "beta2": 0.99, "epsilon": 1e-8},
        400,
        5,
    ),
}
TESTED = tuple(RUNS)[:4]  # the others are measured here only
SPEEDS = ("RMSProp, learning rate 0.001, beta2 0.99, bias correction, epsilon 1e-8", (100, 200, 300, 400, 500))
PICTURED = "Scalar RMSProp, learning rate 0.1, beta2 0.99"
# What the project asked of full runs before it measured them; the tests read these, too.
LIMITS = {
    "gradient_descent": {"distance_ratio": 0.22, "predicted_loss": 0.07},
    "scalar_rmsprop": {"distance_ratio": 0.025, "predicted_loss": 0.03},
    "rmsprop": {"distance_ratio": 0.12},
    "adagrad": {"distance_ratio": 1 / 3},
    "adagrad_norm": {"distance_ratio": 1 / 3},
}


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        return platform.processor()


def measure(integrator: str | None = None) -> dict:
    """Run everything and return the numbers by run."""
    found = {}
    RESULTS.mkdir(exist_ok=True)
    for title, (optimizer, hp, steps, warm_start) in RUNS.items():
        print(title, flush=True)
        run = cn.run(cn.problem("digits-mlp"), optimizer, hp, steps=steps, warm_start=warm_start, integrator=integrator)
        comparison = run.compare()
        print(comparison, flush=True)
        if integrator is None and title == PICTURED:
            save(gradient_norm(run), RESULTS / "scalar_rmsprop_gradient_norm.png")
        found[title] = comparison.to_dict() | {"steps": steps, "optimizer": optimizer}
    return found


def table(found: dict) -> str:
    """Return the table of all full runs."""
    columns = (
        "D_central/D_stable",
        "limit",
        "loss error",
        "limit",
        "onset lag [steps]",
        "steps with ≥ 3 critical",
        "eigenvalue / c",
        "residual",
    )
    lines = ["| run on `digits-mlp` | steps | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for title, row in found.items():
        limits = LIMITS.get(row["optimizer"], {})
        value = {r["name"]: r["value"] for r in row["rows"]}
        allowed = {name: f"{limits[name]:.3g}" if name in limits else "—" for name in value}
        percent = f"{100 * limits['predicted_loss']:.0f}%" if "predicted_loss" in limits else "—"
        lines.append(
            f"| {title} | {row['steps']} | {value['distance_ratio']:.4f} | {allowed['distance_ratio']} "
            f"| {100 * value['predicted_loss']:.1f}% | {percent} "
            f"| {_whole(value['onset_lag'])} | {_whole(value['critical_3'])} "
            f"| {value['largest_eigenvalue']:.4f} | {value['residual']:.0e} |"
        )
    return "\n".join(lines)


def headline(found: dict) -> str:
    """Return the short table of the runs that the tests repeat."""
    lines = ["| run | steps | D_central/D_stable | error of the predicted loss |", "|---|---|---|---|"]
    for title in TESTED:
        value = {row["name"]: row["value"] for row in found[title]["rows"]}
        loss, ratio = value["predicted_loss"], value["distance_ratio"]
        lines.append(f"| {title} | {found[title]['steps']} | {ratio:.4f} | {100 * loss:.1f}% |")
    return "\n".join(lines)


def tables(result: dict) -> dict[str, str]:
    """Return what pages show of the results, by marker."""
    runs = result["runs"]
    return {"numbers": table(runs), "headline": headline(runs), "speeds": speed_table(result["optimization_speed"])}


def example() -> str:
    """Return the verdict on the new optimizer: the judged rows."""
    spec = cs.load_optimizer(str(ROOT / "examples" / "layer_cube_root.toml"))
    hp = {"learning_rate": 0.1, "beta2": 0.99}
    comparison = cn.run(cn.problem("digits-mlp"), spec, hp, steps=400, warm_start=5).compare()
    judged = tuple(row for row in comparison.rows if row.passed is not None)
    return f"```text\n{dataclasses.replace(comparison, rows=judged)}\n```"


def _whole(value: float | None) -> str:
    return "—" if value is None else f"{value:.0f}"


def speeds() -> dict:
    """Return optimization speeds along RMSProp's run: of its P, of P at rest, and of the first-term-only P at rest."""
    title, at = SPEEDS
    optimizer, hp, *_ = RUNS[title]
    problem = cn.problem("digits-mlp")
    flow, values = resolve(optimizer, hp)
    arrays = as_arrays(flow, values, problem)
    discrete = DiscreteOptimizer(problem, arrays, flow)
    y = discrete.first(problem.w0)
    path = jax.jit(lambda y: discrete.steps(y, max(at)))(y)
    rows = []
    for t in at:
        # a two-step mean, so that the weights are not those of one phase of the oscillation
        w = (path.w[t - 2] + path.w[t - 1]) / 2
        now = jax.tree.map(lambda x, t=t: x[t - 1], path.slow)
        g = problem.gradient(w)
        row = {"step": t, "P of the run": float(jax.numpy.vdot(g, g / flow.preconditioner(now, arrays)))}
        for name, first in (("stationary P", False), ("first term only", True)):
            found = stationary_preconditioner(
                problem, optimizer, hp, w, first_term_only=first, columns=64 if first else 24
            )
            row[name] = found.optimization_speed
            row[f"{name}: eigenvalue / c"] = found.largest_effective_eigenvalue
            row[f"{name}: converged"] = found.converged
            row["(2/S) |g|^2"] = found.edge_speed
        rows.append(row)
        print(row, flush=True)
    return {"run": title, "rows": rows}


def speed_table(found: dict) -> str:
    """Return the table of optimization speeds."""
    names = ("P of the run", "stationary P", "first term only", "(2/S) |g|^2")
    lines = ["| step | " + " | ".join(names).replace("|g|^2", "‖g‖²") + " |", "|---" * 5 + "|"]
    for row in found["rows"]:
        lines.append(f"| {row['step']} | " + " | ".join(f"{row[n]:.3g}" for n in names) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the results, renew the tables."""
    from pages import renew

    if sys.argv[1:] == ["example"]:
        renew({"example": example()})
        return
    if sys.argv[1:] == ["tables"]:
        renew(tables(json.loads((RESULTS / "verdicts.json").read_text())))
        return
    integrator = sys.argv[1] if len(sys.argv) > 1 else None
    found = measure(integrator)
    name = f"verdicts{'_' + integrator if integrator else ''}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    result = {
        "command": f"python benchmarks/verdicts.py{' ' + integrator if integrator else ''}",
        "machine": {"processor": cpu_model(), "versions": versions() | {"commit": commit.stdout.strip()}},
        "runs": found,
    }
    if integrator is None:
        result["optimization_speed"] = speeds()
    out = RESULTS / name
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out.relative_to(ROOT)}")
    if integrator is None:
        renew(tables(result) | {"example": example()})


if __name__ == "__main__":
    main()

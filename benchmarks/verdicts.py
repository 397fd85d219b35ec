"""Measure the README's table: full runs from the first step, each verdict number beside its limit.

Run with `make numbers` (about ten minutes on two cores). Writes benchmarks/results/verdicts.json and the table
between the markers in README.md.
"""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import cflow_num as cn
from cflow_num.canvas import save
from cflow_num.plot import gradient_norm
from cflow_num.run import versions

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
}
PICTURED = "Scalar RMSProp, learning rate 0.1, beta2 0.99"
# What the project asked of full runs before it measured them; the tests read these, too.
LIMITS = {
    "gradient_descent": {"distance_ratio": 0.22, "predicted_loss": 0.07},
    "scalar_rmsprop": {"distance_ratio": 0.025, "predicted_loss": 0.03},
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
    """Return the README's table."""
    columns = ("D_central/D_stable", "limit", "loss error", "limit", "onset lag [steps]", "eigenvalue / c", "residual")
    lines = ["| run on `digits-mlp` | steps | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for title, row in found.items():
        limits = LIMITS[row["optimizer"]]
        value = {r["name"]: r["value"] for r in row["rows"]}
        lines.append(
            f"| {title} | {row['steps']} | {value['distance_ratio']:.4f} | {limits['distance_ratio']} "
            f"| {100 * value['predicted_loss']:.1f}% | {100 * limits['predicted_loss']:.0f}% "
            f"| {value['onset_lag']:.0f} | {value['largest_eigenvalue']:.4f} | {value['residual']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the results, renew the README's table."""
    integrator = sys.argv[1] if len(sys.argv) > 1 else None
    found = measure(integrator)
    name = f"verdicts{'_' + integrator if integrator else ''}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    result = {
        "command": f"python benchmarks/verdicts.py{' ' + integrator if integrator else ''}",
        "machine": {"processor": cpu_model(), "versions": versions() | {"commit": commit.stdout.strip()}},
        "runs": found,
    }
    out = RESULTS / name
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out.relative_to(ROOT)}")
    if integrator is None:
        readme = ROOT / "README.md"
        text = readme.read_text()
        block = f"<!-- numbers -->\n{table(found)}\n<!-- /numbers -->"
        readme.write_text(re.sub(r"<!-- numbers -->.*?<!-- /numbers -->", lambda _: block, text, flags=re.S))
        print("renewed the table in README.md")


if __name__ == "__main__":
    main()

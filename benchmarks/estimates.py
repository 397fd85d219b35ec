"""What `cn.estimate` says of a run against what the run takes: seconds and memory, each in a fresh process.

Both begin without kept programs, so that compilation counts in both. Memory of the run is the process's largest
resident set beyond what it was once the problem was made; the estimate is of what lies beside that.

Run with `python benchmarks/estimates.py` (ten minutes on two cores); writes benchmarks/results/estimates.json and
estimates.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
CASES: dict[str, dict[str, Any]] = {
    "gradient descent, digits-mlp": dict(
        problem="digits-mlp", options=dict(n=200, width=16), optimizer="gradient_descent", hp=dict(learning_rate=0.8)
    ),
    "Scalar RMSProp, digits-mlp": dict(
        problem="digits-mlp", options={}, optimizer="scalar_rmsprop", hp=dict(learning_rate=0.1, beta2=0.99)
    ),
    "Adam, cnn": dict(
        problem="cnn",
        options=dict(data="digits", n=100),
        optimizer="adam",
        hp=dict(learning_rate=0.003, beta1=0.9, beta2=0.99, epsilon=1e-8),
    ),
}
STEPS, WARM = 300, 20


def measured(name: str, which: str) -> dict[str, float]:
    """Return seconds and bytes of a case, estimated or run, in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import cflow_num as cn

    case = CASES[name]
    problem = cn.problem(case["problem"], **case["options"])
    base, began = _resident(), time.perf_counter()
    arguments = (problem, case["optimizer"], case["hp"])
    if which == "estimate":
        found = cn.estimate(*arguments, steps=STEPS, warm_start=WARM)
        return {"seconds": found.seconds, "memory": found.memory, "taken": time.perf_counter() - began}
    run = cn.run(*arguments, steps=STEPS, warm_start=WARM, quiet=True)
    return {"seconds": time.perf_counter() - began, "memory": _resident() - base, "steps": run.size("central") - 1}


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--which", choices=("estimate", "run"))
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measured(chosen.case, chosen.which)))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in CASES:
        found[name] = {}
        for which in ("estimate", "run"):
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, "--case", name, "--which", which]
                env = os.environ | {"CFLOW_CACHE": cache}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
            found[name][which] = json.loads(done.stdout.splitlines()[-1])
            print(name, which, found[name][which], flush=True)
    from cflow_num.support.provenance import versions

    about = {"steps": STEPS, "warm_start": WARM, "versions": versions(), "cases": found}
    (RESULTS / "estimates.json").write_text(json.dumps(about, indent=2) + "\n")
    rows = [
        f"| {name} | {one['estimate']['seconds']:.0f} | {one['run']['seconds']:.0f} | "
        f"{one['estimate']['seconds'] / one['run']['seconds']:.2f} | {one['estimate']['taken']:.0f} | "
        f"{one['estimate']['memory'] / 1e6:.0f} | {one['run']['memory'] / 1e6:.0f} |"
        for name, one in found.items()
    ]
    head = [
        f"# Estimates against runs\n\n{STEPS} steps, no kept programs, `python benchmarks/estimates.py`. Memory of the",
        "run is the growth of the process's largest resident set, the compiler's own included.\n",
        "| run | estimated [s] | taken [s] | ratio | the estimate took [s] | estimated [MB] | resident [MB] |",
        "|---|---|---|---|---|---|---|",
    ]
    (RESULTS / "estimates.md").write_text("\n".join([*head, *rows]) + "\n")


if __name__ == "__main__":
    main()

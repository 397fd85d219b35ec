"""What a user waits for: whole default runs of three processes, everything that is recorded by default included.

For problems of three sizes: processor seconds from the call to the result, those of them that went into tracing and
compiling (the cache is empty), milliseconds of one step of each process, and the same in gradients, by the time of one
gradient that is compiled with the same effort. Each in a fresh process; no timing is a test.

Run with `python benchmarks/whole_runs.py` (a quarter of an hour on two cores); writes
benchmarks/results/whole_runs.json and whole_runs.md. `--effort quick moderate full` compares the compiler's efforts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PROBLEMS: dict[str, dict[str, Any]] = {  # digits-mlp with inputs in which every weight has a gradient
    "2k": dict(width=49, n=200, components=30),
    "10k": dict(width=244, n=500, components=30),
    "50k": dict(width=1220, n=500, components=30),
}
RATES: dict[str, dict[str, Any]] = {
    "gradient_descent": dict(learning_rate=0.4),
    "scalar_rmsprop": dict(learning_rate=0.1, beta2=0.99),
    "rmsprop": dict(learning_rate=0.001, beta2=0.99, epsilon=1e-8),
    "adam": dict(learning_rate=0.002, beta1=0.5, beta2=0.99, epsilon=1e-8),
}
STEPS, WARM = 200, 10


def measured(size: str, optimizer: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a whole run takes, in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import cflow_num as cn

    problem = cn.problem("digits-mlp", **PROBLEMS[size])
    began, cpu = time.perf_counter(), time.process_time()
    run = cn.run(problem, optimizer, RATES[optimizer], steps=STEPS, warm_start=WARM, quiet=True, **settings)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    comparison = run.compare()
    gradient = _gradient_seconds(problem, settings.get("effort", "auto"))
    row: dict[str, Any] = {"weights": problem.n_weights, "wall": wall, "processor": cpu, "gradient_ms": 1e3 * gradient}
    for name in ("discrete", "stable", "central"):
        data = run.tree[name]
        steps = data.sizes["step"] - 1
        each = float(data["seconds"][-1]) / steps
        row[name] = {
            "steps": steps,
            "compile": data.attrs["compile_seconds"],
            "step_ms": 1e3 * each,
            "gradients": each / gradient,
        }
    central = run.tree["central"]
    row["critical"] = (
        float((central["sigma_eigenvalues"] > 0).sum("eig").mean()) if "sigma_eigenvalues" in central else 0
    )
    row["rows"] = {row.name: row.value for row in comparison.rows if isinstance(row.value, float)}
    return row


def _gradient_seconds(problem: Any, effort: str) -> float:
    """Return the seconds of one gradient, of many in one program as in a chunk."""
    import equinox as eqx
    import jax

    from cflow_num.running.effort import effort_for
    from cflow_num.support.programs import compiled_for

    @eqx.filter_jit
    def many(problem: Any, w: Any) -> Any:
        return jax.lax.fori_loop(0, 20, lambda _, w: w - 1e-6 * problem.gradient(w), w)

    arguments = problem.traced(), problem.w0
    program = compiled_for(many, arguments, effort_for(problem, effort))
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        taken.append((time.perf_counter() - began) / 20)
    return sorted(taken)[len(taken) // 2]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| weights | optimizer | effort | wall, s | processor, s | compiling, s | step, ms | gradients a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = ("discrete", "stable", "central")
        compiling = sum(row[name]["compile"] for name in names)
        ms = " / ".join(f"{row[name]['step_ms']:.2f}" for name in names)
        gradients = " + ".join(f"{row[name]['gradients']:.1f}" for name in names)
        total = sum(row[name]["gradients"] for name in names)
        lines.append(
            f"| {row['weights']} | {row['optimizer']} | {row['effort']} | {row['wall']:.1f} | {row['processor']:.1f} | "
            f"{compiling:.1f} | {ms} | {gradients} = {total:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every case in a process of its own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="*", default=list(RATES))
    parser.add_argument("--effort", nargs="*", default=["auto"])
    parser.add_argument("--eig-every", type=int, default=1)
    parser.add_argument("--out", default=str(RESULTS / "whole_runs"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        size, optimizer, settings = given.one
        print(json.dumps(measured(size, optimizer, json.loads(settings))))
        return
    rows = []
    for size in given.sizes:
        for optimizer in given.optimizers:
            for effort in given.effort:
                settings = {"effort": effort, "eig_every": given.eig_every}
                command = [sys.executable, __file__, "--one", size, optimizer, json.dumps(settings)]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ | {"CFLOW_CACHE": ""}
                )
                rows.append(json.loads(done.stdout.splitlines()[-1]) | {"optimizer": optimizer, **settings})
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    out.with_suffix(".md").write_text(f"{table(rows)}\n")


if __name__ == "__main__":
    main()

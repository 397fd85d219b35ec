"""What momentum costs: time and gradient equivalents of the central flow per unit of flow time, Adam against RMSProp.

Both on `digits-mlp` in one process, over the steps on which k eigenvalues are critical, medians of chunks. Writes
`benchmarks/results/momentum_cost.json`.
"""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

import cflow_num as cn
from cflow_num.record.measures import critical_count, values
from cflow_num.running.prepare import CHUNK
from cflow_num.support.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results" / "momentum_cost.json"
RUNS = {
    "rmsprop": (dict(learning_rate=0.001, beta2=0.99, epsilon=1e-8, bias_correction=True), 5, 300),
    "adam": (dict(learning_rate=0.01, beta1=0.9, beta2=0.99, epsilon=1e-8), 100, 200),
}


def per_unit(run: cn.Run) -> dict[int, dict[str, float]]:
    """Return, by number of critical eigenvalues, seconds and gradient equivalents of the central flow per unit."""
    seconds, k = values(run, "central", "seconds"), critical_count(run)
    counts = values(run, "central", "n_gradients") + values(run, "central", "n_hessian_vectors")
    counts = counts + 2 * values(run, "central", "n_curvature_gradients")
    found: dict[int, list] = {}
    for start in range(0, len(seconds) - CHUNK, CHUNK):
        chunk = slice(start, start + CHUNK)
        if len(set(k[chunk])) == 1:
            spent = (seconds[start + CHUNK] - seconds[start]) / CHUNK, (counts[start + CHUNK] - counts[start]) / CHUNK
            found.setdefault(int(k[start]), []).append(spent)
    return {
        n: dict(zip(("seconds", "gradients"), np.median(x, axis=0).tolist(), strict=True), chunks=len(x))
        for n, x in sorted(found.items())
    }


def main() -> None:
    """Run both, print and write the table."""
    warnings.simplefilter("ignore")
    table = {}
    for name, (hp, warm_start, steps) in RUNS.items():
        run = cn.run(
            cn.problem("digits-mlp"), name, hp, steps=steps, warm_start=warm_start, processes=("discrete", "central")
        )
        table[name] = per_unit(run)
    for n in sorted(set(table["adam"]) & set(table["rmsprop"])):
        a, r = table["adam"][n], table["rmsprop"][n]
        print(f"k = {n}: Adam / RMSProp {a['seconds'] / r['seconds']:.2f} in time, ", end="")
        print(f"{a['gradients'] / r['gradients']:.2f} in gradient equivalents ({a['gradients']:.0f} per unit)")
    text = {"per_unit": table, "versions": versions(), "processor": platform.processor()}
    RESULTS.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()

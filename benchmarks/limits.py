"""Where the central flow is wrong: each regime beside a milder run of the same kind, in which it holds.

`make limits` (a quarter of an hour on one core) runs the very commands that derivations/limits.md shows, and writes
that page: the commands, a table of their verdicts for each regime, and the numbers of all in benchmarks/results/limits.json.
Runs are kept in out/limits; finished ones are not made again. `--only NAME` restricts the regimes.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import cflow_num as cn
from cflow_num import cli
from cflow_num.measures import first_crossing, threshold, values
from cflow_num.provenance import versions

ROOT = Path(__file__).resolve().parents[1]
FILE, PAGE = ROOT / "benchmarks" / "results" / "limits.json", ROOT / "derivations" / "limits.md"


@dataclass(frozen=True)
class Regime:
    """A way to fail: what breaks and why, with commands by what they show, the ones in which the flow holds first."""

    name: str
    assumption: str
    runs: dict[str, str]

    def folder(self, label: str) -> str:
        """Return where a run is kept."""
        return "out/limits/" + "-".join((self.name + " " + label).lower().replace(",", "").replace(".", "").split())

    def command(self, label: str) -> str:
        """Return the command of a run."""
        return f"cflow run {self.runs[label]} --out {self.folder(label)}"


NOISY = "--problem digits-mlp:n=200,noise=0.4,width=24,depth=2"
EDGE = "--average-start --steps 200"  # from time averages on an edge that is there
REGIMES = [
    Regime(
        "bursts at high gain",
        "The flow assumes that the oscillation has at every time the variance that keeps the edge. It gets there by "
        "growing above the threshold and shrinking below it, by `gain` per relative excess of the curvature. A small gain "
        "lets it settle; with much momentum a little excess makes it grow tenfold in a few steps, it overshoots, and what "
        "the discrete run does is a train of bursts, whose time average is not the one of a small steady oscillation.",
        {
            "gain 2": f"--optimizer gradient_descent {NOISY} --learning-rate 0.5 --warm-start 225 {EDGE}",
            "gain 6": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 1.5 --beta1 0.5 --warm-start 225 {EDGE}",
            "gain 38": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 9.5 --beta1 0.9 --warm-start 100 {EDGE}",
        },
    ),
    Regime(
        "infeasible start",
        "Complementarity needs a start at or below the threshold. Above it no variance keeps the edge: the discrete run "
        "leaves at once (a catapult) and lands where curvature is lower, in a few steps that no time average describes. "
        "The flow is pulled to the threshold at a rate that is a choice, not derived.",
        {
            "0.9 thresholds": "--optimizer gradient_descent --learning-rate 1.45 --steps 400",
            "1.2 thresholds": "--optimizer gradient_descent --learning-rate 1.9 --steps 400",
            "1.8 thresholds": "--optimizer gradient_descent --learning-rate 2.9 --steps 400",
        },
    ),
    Regime(
        "late cross-entropy",
        "Late in training on cross-entropy the network is sure of its answers, and curvature falls below the threshold by "
        "itself. What is left of the run is the memory of the edge: weights that the oscillation displaced, and a loss so "
        "small that a relative error of its prediction means little.",
        {
            "early": "--optimizer gradient_descent --problem mlp:loss=cross-entropy --learning-rate 0.5 --steps 300",
            "late": "--optimizer gradient_descent --problem mlp:loss=cross-entropy --learning-rate 0.5 --steps 1500",
        },
    ),
    Regime(
        "rapid schedules",
        "A schedule moves the threshold. Slowly, and the variance follows; as fast as the oscillation grows, and it lags: "
        "after a rise the run is above the edge before the oscillation is there, after a fall the oscillation dies and has "
        "to grow again from rounding errors, while the flow is on the edge at once.",
        {
            "constant": "--optimizer gradient_descent --learning-rate 0.8 --steps 700",
            "slow": '--optimizer gradient_descent --learning-rate "0.8 + 0.2*sin(t/100)" --steps 700',
            "rapid": '--optimizer gradient_descent --learning-rate "0.8 + 0.2*sin(t/10)" --steps 700',
            "a drop": '--optimizer gradient_descent --learning-rate "0.6 - 0.2*tanh((t - 400)/5)" --steps 700',
        },
    ),
    Regime(
        "strongly coupled eigenvalues",
        "With one critical eigenvalue the deviation from the flow settles; with several, oscillations along them feed on "
        "each other through the third derivatives between them, and with two or more the fluctuations do not settle. "
        "Eigenvalues that cross within a step also turn their eigenvectors faster than a second-order expansion allows.",
        {
            "one target": "--optimizer gradient_descent --problem digits-mlp:parity=True --learning-rate 1.0 --steps 500",
            "ten targets": "--optimizer gradient_descent --learning-rate 1.0 --steps 500",
            "random labels": "--optimizer gradient_descent --problem digits-mlp:n=200,noise=0.4 --learning-rate 1.0 --steps 500",
        },
    ),
]


def measure(regime: Regime, label: str) -> dict[str, Any]:
    """Run a command and return the numbers of its verdict."""
    command = shlex.split(regime.command(label))
    ended = cli.main([*command[1:], "--resume", "--quiet"])
    run = cn.load(ROOT / regime.folder(label) / "run.nc")
    verdict = run.compare()
    names = ("steps", "first_crossing", "distance_ratio", "predicted_loss", "variance_slope", "gain", "critical_2")
    found = {row.name: row for row in verdict.rows}
    row: dict[str, Any] = {name: found[name].value if name in found else None for name in names}
    crossing, c = first_crossing(run), threshold(run)
    if crossing is not None:
        over = values(run, "discrete", "effective_eigenvalues")[:, 0] / c
        row["overshoot"] = float(np.nanmax(over[crossing:]))
    return row | {"passed": verdict.passed, "verdict": verdict.verdict, "reason": run.reason, "exit": ended}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else {}
    for regime in REGIMES:
        if chosen.only not in regime.name:
            continue
        for label in regime.runs:
            rows[f"{regime.name}: {label}"] = row = measure(regime, label)
            print(regime.name, label, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

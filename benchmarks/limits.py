"""Where the central flow is wrong: each regime beside a milder run of the same kind, in which it holds.

`make limits` (a quarter of an hour on one core) runs the very commands that derivations/limits.md shows and writes that
page: the commands, and a table of their verdicts for each regime (all numbers: benchmarks/results/limits.json). Runs
are kept in out/limits, and finished ones are not made again; `--only NAME` restricts the regimes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import cflow_num as cn
from cflow_num.cli import main as cli
from cflow_num.record.measures import first_crossing, threshold, values
from cflow_num.support.provenance import versions

ROOT = Path(__file__).resolve().parents[1]
FILE, PAGE = ROOT / "benchmarks" / "results" / "limits.json", ROOT / "derivations" / "limits.md"
NOISY = "--problem digits-mlp:n=200,noise=0.4,width=24,depth=2"
ONE_TARGET = "--problem digits-mlp:parity=True"
EDGE = "--average-start --steps 200"  # from time averages on an edge that is there
LABELS = "--problem mlp:loss=cross-entropy,n=500,noise=0.4"
ENTROPY = f"--optimizer gradient_descent {LABELS} --learning-rate 1.5 --warm-start 300 --average-start"
PLAIN = "--optimizer gradient_descent --steps 500"


@dataclass(frozen=True)
class Regime:
    """A way to fail: which assumption breaks, and runs by what sets them apart, those in which the flow holds first."""

    name: str
    assumption: str
    runs: dict[str, str]

    def folder(self, label: str) -> str:
        """Return where a run is kept.

        >>> REGIMES[0].folder("gain 38")
        'out/limits/bursts-at-high-gain-gain-38'
        """
        return "out/limits/" + "-".join(f"{self.name} {label}".replace(",", "").split())

    def command(self, label: str) -> str:
        """Return the command of a run."""
        return f"cflow run {self.runs[label]} --out {self.folder(label)}"


REGIMES = [
    Regime(
        "bursts at high gain",
        """The flow gives the oscillation at every time the variance that keeps the edge. The optimizer finds that
        variance by growing above the threshold and shrinking below it, at the *gain* times the relative excess of the
        curvature, and so cycles about the flow. In a straight valley these cycles never settle, at no gain: they grow
        by the *burst index* in e-folds per relative sharpening that the oscillation prevents
        ([derived](heavy_ball_ema.md#other-closures)). Whether a run is still close to its flow is thus a matter of how
        much sharpening it has prevented, and of what damps it besides: at an index of 2 it takes long, at an index in
        the hundreds a few per cent of sharpening turn cycles into bursts. Over closed cycles the flow would still be
        the average; over bursts, which overshoot and land elsewhere, it is not. Both runs of high gain start from a
        calm stretch below the threshold.""",
        {
            "gain 2": f"--optimizer gradient_descent {NOISY} --learning-rate 0.5 --warm-start 225 {EDGE}",
            "gain 6": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 1.5 --beta1 0.5 --warm-start 225 {EDGE}",
            "gain 18": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 4.5 --beta1 0.8 --warm-start 185 {EDGE}",
            "gain 38": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 5 --beta1 0.9 --warm-start 190 {EDGE}",
        },
    ),
    Regime(
        "a late onset",
        """On the edge the flow oscillates at once. The optimizer's oscillation has decayed on the way there, down to
        rounding errors (where the eigenvectors are coordinate axes not even these feed it), and must grow again: the
        longer the way and the finer the numbers, the later it is there and the larger the burst that it begins with.
        Until then the stable flow is right, and what the burst left behind stays.""",
        {
            "from the edge": f"{PLAIN} --learning-rate 0.8 --warm-start 400 --average-start",
            "single precision": f"{PLAIN} --learning-rate 0.8 --dtype float32",
            "double precision": f"{PLAIN} --learning-rate 0.8",
        },
    ),
    Regime(
        "infeasible start",
        """Complementarity needs a start below the threshold. Above it no variance keeps the edge: the optimizer leaves
        at once (a catapult) and lands where the curvature is lower, in a few steps that no time average describes. The
        flow is pulled to the threshold at a rate that is chosen, not derived. A start amid bursts is of this kind, too,
        even where the eigenvalue is near the threshold just then: what the optimizer does next is decided by the size
        of its oscillation at that moment, which the flow does not know.""",
        {
            "on the edge": f"{PLAIN} --learning-rate 0.8 --warm-start 400 --average-start",
            "within the burst": f"{PLAIN} --learning-rate 0.8 --warm-start 338",
            "a little, from the first step": f"{PLAIN} --learning-rate 1.1",
            "more": f"{PLAIN} --learning-rate 1.3",
            "far": f"{PLAIN} --learning-rate 1.9",
            "amid bursts": f"--optimizer heavy_ball_ema {NOISY} --learning-rate 4.5 --beta1 0.8 --warm-start 150 "
            f"{EDGE}",
        },
    ),
    Regime(
        "late cross-entropy",
        """Late in training on cross-entropy the network is sure of its answers and the curvature falls below the
        threshold by itself: the oscillation dies, and what is left is where its bursts have put the weights. Where the
        rate is large they are far from small, and the loss is soon so small that errors of its prediction are not.""",
        {
            "early": f"{ENTROPY} --steps 250",
            "late": f"{ENTROPY} --steps 1500",
            "a large rate, late": f"--optimizer gradient_descent {LABELS} --learning-rate 4 --warm-start 60 "
            "--average-start --steps 900",
        },
    ),
    Regime(
        "rapid schedules",
        """A schedule moves the threshold. Where it is slow, the variance follows. Where it is as fast as the
        oscillation grows, the variance lags: after the learning rate has risen the run is above the edge before it
        oscillates enough, after it has fallen the oscillation dies and has to grow again, while the flow is on the
        edge at once.""",
        {
            "constant": f"{PLAIN} --learning-rate 0.8 --warm-start 400 --average-start",
            "slow": f'{PLAIN} --learning-rate "0.8 + 0.2*sin(t/100)" --warm-start 400 --average-start',
            "rapid": f'{PLAIN} --learning-rate "0.8 + 0.2*sin(t/10)" --warm-start 400 --average-start',
            "a drop": f'{PLAIN} --learning-rate "0.6 - 0.2*tanh((t - 600)/5)" --warm-start 400 --average-start',
        },
    ),
    Regime(
        "strongly coupled eigenvalues",
        """With one critical eigenvalue the deviation of the optimizer from the flow cycles. With several, oscillations
        along them feed on each other through the third derivatives between them, and the motion is chaotic; a closure
        by the average alone is then expected to drift off.""",
        {
            "one target": f"{PLAIN} {ONE_TARGET} --learning-rate 1 --warm-start 150 --average-start",
            "ten targets": f"{PLAIN} --learning-rate 1.0 --warm-start 250 --average-start",
            "random labels": f"{PLAIN} {NOISY} --learning-rate 0.5 --warm-start 225 --average-start",
            "the same, twice the rate": f"{PLAIN} {NOISY} --learning-rate 1 --warm-start 225 --average-start",
        },
    ),
]
COLUMNS = {
    "burst_index": ("burst index", ".3g"),
    "start": ("largest eigenvalue at the start / threshold", ".2f"),
    "critical": ("most critical eigenvalues", "d"),
    "overshoot": ("largest later", ".2f"),
    "distance_ratio": ("D_central/D_stable", ".3g"),
    "distance_travelled": ("D_central/travelled", ".2g"),
    "predicted_loss": ("loss error", ".1%"),
    "variance_slope": ("variance, slope", ".2f"),
}


def measure(regime: Regime, label: str) -> dict[str, Any]:
    """Run a command and return the numbers of its verdict."""
    ended = cli.main([*shlex.split(regime.command(label))[1:], "--resume", "--quiet"])
    if ended == cli.BAD_INPUT:
        raise SystemExit(f"{regime.folder(label)} holds a run with other settings: delete it")
    run = cn.load(regime.folder(label) + "/run.nc")
    verdict = run.compare()
    found = {row.name: row.value for row in verdict.rows if row.name in COLUMNS}
    leading, crossing = values(run, "discrete", "effective_eigenvalues")[:, 0] / threshold(run), first_crossing(run)
    found["start"], found["burst_index"] = float(leading[0]), float(run.config["burst_index"])
    if crossing is not None:
        found["overshoot"] = float(np.nanmax(leading[crossing:]))
        sigma = values(run, "central", "sigma_eigenvalues")
        found["critical"] = int(np.nanmax(np.nansum(sigma > 1e-6 * np.nanmax(sigma), axis=1)))
    return found | {"passed": verdict.passed, "verdict": verdict.verdict, "reason": run.reason, "exit": ended}


def page(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the page in Markdown."""
    text = [
        "# Where the central flow is wrong",
        "",
        "<!-- generated by `make limits`; do not edit -->",
        "",
        "Each regime has its commands, mild ones first, and a table of what they gave. D is the distance from the "
        "optimizer's second-order midpoint at the end; the other numbers are those of `cflow compare`. All start from "
        "the same weights; the edge is chaotic, so that distances are good to several per cent.",
    ]
    for regime in REGIMES:
        if regime.name not in rows:
            continue
        text += ["", f"## {regime.name[0].upper()}{regime.name[1:]}", "", " ".join(regime.assumption.split()), ""]
        text += ["```sh", *(regime.command(label) for label in regime.runs), "```", ""]
        indices = {row.get("burst_index") for row in rows[regime.name].values()}
        shown = {k: v for k, v in COLUMNS.items() if k != "burst_index" or len(indices) > 1}  # not where it is the same
        text += ["| run | " + " | ".join(words for words, _ in shown.values()) + " | verdict |"]
        text += ["|---" * (len(shown) + 2) + "|"]
        for label, row in rows[regime.name].items():
            cells = [_number(row.get(name), form) for name, (_, form) in shown.items()]
            text.append(f"| {label} | " + " | ".join(cells) + f" | {row['verdict'].replace('|', '/')} |")
        if all(row["passed"] for row in rows[regime.name].values()):
            text += ["", "In none of these runs does the flow fail: the regime has not been found here."]
    return "\n".join(text) + "\n"


def _number(x: float | None, form: str) -> str:
    return "—" if x is None or not np.isfinite(x) else format(x, form)


def main() -> None:
    """Run what is missing, then write numbers and page."""
    parser = argparse.ArgumentParser(description="Where the central flow is wrong.")
    parser.add_argument("--only", default="", help="regimes whose name contains this")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else {}
    for regime in REGIMES:
        if chosen.only in regime.name:
            rows[regime.name] = {label: measure(regime, label) for label in regime.runs}
            print(regime.name, json.dumps(rows[regime.name], indent=1), flush=True)
    rows = {regime.name: rows[regime.name] for regime in REGIMES if regime.name in rows}
    FILE.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()

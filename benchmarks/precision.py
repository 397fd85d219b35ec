"""Work against precision of the integrators: error against a fine reference over cost in gradients.

Every setting starts from the time average of a discrete run, before the edge or on it, and integrates the central flow
alone (nothing is observed). The error is the largest distance of the weights at whole units from the reference
(half-explicit Heun with a frame at every stage and sub-steps of 1/16, with momentum the leapfrog with a frame at every
step; eigenpairs to 1e-5, since with 1e-3 they would be its largest error), relative to the distance travelled. With
momentum "heun" is the leapfrog with a frame at every step and "published" the brute-force scheme around
it. Cost per unit of flow time, in gradients of the same problem: *by count* (gradients, Hessian-vector products,
and two for each third derivative) and *by time*, measured next to a plain gradient in the same process, medians.

`make bench` (an hour on two cores) runs what is missing in benchmarks/results/precision.json, then writes the table
benchmarks/results/precision.md and the figure; `--only NAME` restricts the settings, `--renew` measures again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx
import matplotlib
import numpy as np

import cflow_num as cn
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.linalg.eigenpairs import leading_eigenpairs
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.running.path import advance_path
from cflow_num.running.prepare import CHUNK
from cflow_num.running.process import Process
from cflow_num.running.warm_start import warm_started
from cflow_num.stepping.half_explicit import HalfExplicitHeun
from cflow_num.stepping.leapfrog import Leapfrog
from cflow_num.stepping.published import BruteForceLeapfrog
from cflow_num.support.errors import RunError
from cflow_num.support.programs import compiled_for, forget_programs
from cflow_num.support.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results"
FILE = RESULTS / "precision.json"


@dataclass(frozen=True)
class Setting:
    """An optimizer on a network of some width, from the discrete step `start` on for some units of flow time."""

    name: str
    optimizer: str
    hp: dict[str, Any]
    start: int
    units: int
    capacity: int
    width: int = 26
    lead: int = 0  # units of flow time that are taken before, by the anchored scheme
    reference: bool = True


_LED: dict[str, Any] = {}  # states that the anchored scheme has led to, by setting
_exact = partial(leading_eigenpairs, tolerance=1e-5, max_iterations=40)


class ReferenceHeun(HalfExplicitHeun):
    """Heun with accurate eigenpairs."""

    eigenpairs: ClassVar = staticmethod(_exact)


class ReferenceLeapfrog(Leapfrog):
    """The leapfrog with accurate eigenpairs."""

    eigenpairs: ClassVar = staticmethod(_exact)


GD, SCALAR = {"learning_rate": 0.8}, {"learning_rate": 0.1, "beta2": 0.99}
RMS = {"learning_rate": 0.001, "beta2": 0.99, "bias_correction": True, "epsilon": 1e-8}
ADAM = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
SETTINGS = [
    Setting("gradient descent, 2k weights, from the first step", "gradient_descent", GD, 0, 480, 4),
    Setting("gradient descent, 2k weights, three arrivals", "gradient_descent", GD, 180, 160, 4),
    Setting("gradient descent, 2k weights, one arrival", "gradient_descent", GD, 200, 48, 4),
    Setting("gradient descent, 2k weights, six critical", "gradient_descent", GD, 180, 128, 8, lead=512),
    Setting("gradient descent, 2k weights, infeasible start", "gradient_descent", GD, 340, 48, 4),
    Setting("Scalar RMSProp, 2k weights", "scalar_rmsprop", SCALAR, 60, 48, 4),
    Setting("RMSProp, 2k weights", "rmsprop", RMS, 300, 48, 4),
    Setting("RMSProp, 2k weights, five critical", "rmsprop", RMS, 300, 160, 8),
    Setting("Adam, 2k weights", "adam", ADAM, 150, 48, 4),
    Setting("gradient descent, 10k weights", "gradient_descent", GD, 220, 48, 4, width=133, lead=144),
    Setting("gradient descent, 50k weights", "gradient_descent", GD, 220, 48, 4, width=666, lead=240, reference=False),
]
METHODS = ("anchored", "anchored, tolerance 0.05", "heun", "published")


def process(setting: Setting, method: str, problem: cn.Problem) -> tuple[Process, Any]:
    """Return a central process at its start, and the carry there."""
    optimizer, hp = resolve(setting.optimizer, setting.hp)
    arrays = as_arrays(optimizer, hp, problem)
    integrator, _, tolerance = method.partition(", tolerance ")
    staggered = bool(optimizer.FILTERED_STATES)
    fine = integrator == "reference"
    name = integrator
    if fine or (staggered and integrator in ("heun", "published")):
        name = "leapfrog" if staggered else "heun"
    flow = Process("central", problem, optimizer, arrays, integrator=name, chunk=CHUNK, capacity=setting.capacity)
    if fine:
        other = dict(solver=ReferenceLeapfrog) if staggered else dict(solver=ReferenceHeun, dt=1 / 16)
        flow.method = flow.method._replace(**other)
    if tolerance:
        flow.method = flow.method._replace(pace=flow.method.pace._replace(tolerance=float(tolerance)))
    if staggered and integrator == "published":
        flow.method = flow.method._replace(solver=BruteForceLeapfrog, dt=1 / 4)
    start = warm_started(DiscreteOptimizer(problem, arrays, optimizer), setting.start, average=setting.start > 0)
    began = start.flows
    if setting.lead:
        if setting.name not in _LED:
            first = Process("central", problem, optimizer, arrays, chunk=CHUNK, capacity=setting.capacity)
            carry, _ = first.start(began, start.before)
            for _ in range(setting.lead // CHUNK):
                carry, _ = first.advance(carry)
            _LED[setting.name] = carry.y.state
        began = _LED[setting.name]
    carry, _ = flow.start(began, start.before)
    return flow, carry


def integrate(flow: Process, carry: Any, units: int) -> tuple[np.ndarray, Any, float, float]:
    """Return the weights at whole units, the last log, seconds (compilation apart) and seconds of compilation."""
    path, taken, compiling, log = [], 0.0, 0.0, None
    for _ in range(units // CHUNK):
        while True:
            arguments = flow.path_arguments(carry)
            began = time.perf_counter()
            program = compiled_for(advance_path, arguments)
            compiling, began = compiling + time.perf_counter() - began, time.perf_counter()
            chunk = jax.block_until_ready(program(*arguments))
            seconds = time.perf_counter() - began
            if not (flow.crowded(chunk.log.untracked) and flow.capacity < carry.V.shape[0]):
                break
            carry = flow.grow(carry)
        taken, carry, log = taken + seconds, chunk.after, chunk.log
        path.append(np.asarray(chunk.states.w))
    return np.concatenate(path), log, taken, compiling


def seconds_of_a_gradient(problem: cn.Problem, w: Any) -> float:
    """Return the median time of one gradient."""
    gradient = eqx.filter_jit(lambda problem, w: problem.gradient(w))
    jax.block_until_ready(gradient(problem, w))
    times = []
    for _ in range(15):
        began = time.perf_counter()
        for _ in range(20):
            out = gradient(problem, w)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - began) / 20)
    return statistics.median(times)


def measure(setting: Setting, method: str, references: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return one row: error and cost per unit of flow time."""
    problem = cn.problem("digits-mlp", width=setting.width)
    if setting.reference and setting.name not in references:
        flow, carry = process(setting, "reference", problem)
        references[setting.name] = integrate(flow, carry, setting.units)[0]
    units = setting.units
    flow, carry = process(setting, method, problem)
    began = np.asarray(carry.y.state.w)
    try:
        path, log, _, compiling = integrate(flow, carry, units)
    except RunError as error:
        return {"setting": setting.name, "method": method, "reason": str(error)}
    seconds, gradients = [], []
    for _ in range(3 if method != "published" else 1):  # compiled, at the capacity that it ended with
        again, carry = process(Setting(**{**setting.__dict__, "capacity": flow.capacity}), method, problem)
        gradients.append(seconds_of_a_gradient(problem, problem.w0))
        _, log, taken, _ = integrate(again, carry, units)
        gradients.append(seconds_of_a_gradient(problem, problem.w0))
        seconds.append(taken / units / statistics.mean(gradients[-2:]))
    counts = {
        n: float(getattr(log, f"n_{n}")[-1]) / units for n in ("gradients", "hessian_vectors", "curvature_gradients")
    }
    row = {
        "setting": setting.name,
        "method": method,
        "n_weights": problem.n_weights,
        "units": units,
        "critical": int(
            np.sum(np.asarray(log.sigma_eigenvalues[-1]) > 1e-9 * np.max(np.asarray(log.sigma_eigenvalues[-1])))
        ),
        "capacity": flow.capacity,
        "count": counts["gradients"] + counts["hessian_vectors"] + 2 * counts["curvature_gradients"],
        "time": statistics.median(seconds),
        "gradient_seconds": statistics.median(gradients),
        "compile_seconds": compiling,
        **counts,
    }
    if setting.reference:
        reference = references[setting.name][:units]
        travelled = np.linalg.norm(references[setting.name][-1] - began)
        row["error"] = float(np.max(np.linalg.norm(path - reference, axis=1)) / travelled)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| setting | critical | method | largest error | gradients per unit, by count | by time | compilation [s] |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "reason" in row:
            lines.append(f"| {row['setting']} | | {row['method']} | {row['reason']} | | | |")
            continue
        error = f"{row['error']:.1e}" if "error" in row else "not measured"
        lines.append(
            f"| {row['setting']} | {row['critical']} | {row['method']} | {error} | {row['count']:.1f} | "
            f"{row['time']:.1f} | {row['compile_seconds']:.0f} |"
        )
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> None:
    """Draw error over cost, a panel for each setting with a reference."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [s.name for s in SETTINGS if s.reference and any(r["setting"] == s.name for r in rows)]
    fig, axes = plt.subplots(
        -(-len(names) // 3), 3, figsize=(10.5, 2.9 * -(-len(names) // 3)), squeeze=False, sharex=True, sharey=True
    )
    for ax, name in zip(axes.flat, names, strict=False):
        for method, marker in zip(METHODS, "osD^", strict=True):
            for row in rows:
                if row["setting"] == name and row["method"] == method and "error" in row:
                    ax.loglog(row["count"], row["error"], marker, color="C0", label=f"{method}, count")
                    ax.loglog(row["time"], row["error"], marker, color="C1", mfc="none", label=f"{method}, time")
        ax.set_title(name, fontsize=8)
        ax.grid(alpha=0.3)
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    for ax in list(axes.flat)[max(len(names) - 3, 0) : len(names)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("gradients per unit of flow time")
    for ax in axes[:, 0]:
        ax.set_ylabel("largest error / distance")
    handles = {label: h for ax in axes.flat for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="lower center", ncol=4, fontsize=7, frameon=False)
    fig.tight_layout(rect=(0, 0.5 / fig.get_figheight(), 1, 1))
    fig.savefig(RESULTS / "precision.png", dpi=130)
    fig.savefig(RESULTS / "precision.svg")


def main() -> None:
    """Measure what is missing, write the table and the figure."""
    parser = argparse.ArgumentParser(description="Work against precision of the integrators.")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--renew", action="store_true", help="measure again what is there")
    chosen = parser.parse_args()
    known = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    rows = {(row["setting"], row["method"]): row for row in known}
    references: dict[str, np.ndarray] = {}
    for setting in SETTINGS:
        if chosen.only not in setting.name:
            continue
        for method in chosen.methods:
            if (setting.name, method) in rows and not chosen.renew:
                continue
            rows[setting.name, method] = row = measure(setting, method, references)
            print(json.dumps(row), flush=True)
            forget_programs()
            ordered = [rows[s.name, m] for s in SETTINGS for m in METHODS if (s.name, m) in rows]
            about = {
                "versions": versions(),
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
            }
            FILE.write_text(json.dumps({"rows": ordered, **about}, indent=1) + "\n")
    ordered = [rows[s.name, m] for s in SETTINGS for m in METHODS if (s.name, m) in rows]
    about = json.loads(FILE.read_text())
    where = f"{about['versions']['device']}, {about['cores']} cores, jax {about['versions']['jax']}, float64"
    text = f"# Work against precision\n\nMeasured by `make bench` on {where}. No accelerator was at hand.\n\n"
    text += table(ordered) + "\n"
    (RESULTS / "precision.md").write_text(text)
    figure(ordered)
    print(table(ordered))


if __name__ == "__main__":
    main()

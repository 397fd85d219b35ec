"""The parts of a step by themselves: complementarity problems, the eigen-solver, memory.

- Complementarity: median time of `solve_sdcp` from a warm start and from none, for k = 1, 2, 3, 5, 8, against Clarabel
  (and CVXPY with its default solver, as published, where it is installed) on the same symmetric problems; failures
  among 10,000 random monotone problems of the test suite's families.
- Eigenpairs: Hessian-vector products and time of the block solver with guard vectors against JAX's `lobpcg_standard`,
  from where the weights were ten optimizer steps before.
- Memory: what the compiler reserves for a chunk of the central flow, in vectors of length n.

Run with `python benchmarks/parts.py` (ten minutes on two cores); writes benchmarks/results/parts.json and parts.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import cflow_num as cn
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.linalg.complementarity import solve_sdcp
from cflow_num.linalg.eigenpairs import block_size, leading_eigenpairs, start_block
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.running.path import advance_path
from cflow_num.running.prepare import CHUNK
from cflow_num.running.process import Process
from cflow_num.running.warm_start import warm_started
from cflow_num.stepping.published import lobpcg_eigenpairs
from cflow_num.support.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results"
TESTS = Path(__file__).resolve().parents[1] / "tests" / "num" / "test_complementarity.py"
SIZES = (1, 2, 3, 5, 8)
FAILED = 1e-8  # relative residual, the limit of the test suite; the solver itself aims at 1e-9


def random_problems() -> Any:
    """Return the module with the families of random monotone problems: the test suite's."""
    spec = importlib.util.spec_from_file_location("sdcp_problems", TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sdcp_problems"] = module
    spec.loader.exec_module(module)
    return module


def milliseconds(call: Callable[[], Any], repeat: int) -> float:
    """Return the time of one call, after a first one."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(repeat):
        out = call()
    jax.block_until_ready(out)
    return 1e3 * (time.perf_counter() - began) / repeat


def clarabel_solution(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, float]:
    """Return X from the conic solver Clarabel, and its time in ms: min <A, X> + <X, B[X]>/2 over X >= 0."""
    clarabel: Any = importlib.import_module("clarabel")
    from scipy import sparse

    k = len(A)
    i, j = np.triu_indices(k)
    order = np.lexsort((i, j))  # Clarabel stacks the columns of the upper triangle
    weight = np.where(i == j, 1, np.sqrt(2))
    a = (weight * A[i, j])[order]
    began = time.perf_counter()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    P = sparse.triu(sparse.csc_matrix(B[np.ix_(order, order)]), format="csc")
    cone = -sparse.identity(len(a), format="csc")
    solver = clarabel.DefaultSolver(P, a, cone, np.zeros(len(a)), [clarabel.PSDTriangleConeT(k)], settings)
    x = np.array(solver.solve().x)
    taken = 1e3 * (time.perf_counter() - began)
    X = np.zeros((k, k))
    X[i[order], j[order]] = X[j[order], i[order]] = x / weight[order]
    return X, taken


def cvxpy_milliseconds(A: np.ndarray, B: np.ndarray) -> float | None:
    """Return the time of CVXPY with its default solver, None where it is not installed."""
    if importlib.util.find_spec("cvxpy") is None:
        return None
    import cvxpy  # pyright: ignore[reportMissingImports]

    k = len(A)
    i, j = np.triu_indices(k)
    root = np.linalg.cholesky(B + 1e-12 * np.eye(len(B)))
    began = time.perf_counter()
    X = cvxpy.Variable((k, k), PSD=True)
    x = cvxpy.hstack([X[p, q] * (1 if p == q else np.sqrt(2)) for p, q in zip(i, j, strict=True)])
    cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(A @ X) + cvxpy.sum_squares(root.T @ x) / 2)).solve()
    return 1e3 * (time.perf_counter() - began)


def complementarity() -> dict[str, Any]:
    """Measure the solver against others, and count failures."""
    families = random_problems()
    rows = []
    for k in SIZES:
        rng, cold, warm, conic, modelled = np.random.default_rng(k), [], [], [], []
        ours, theirs = [], []
        for _ in range(40):
            A, B = families.strict(rng, k, families.gram(rng, families.size(k), 3 * families.size(k)))
            a, b = jnp.asarray(A), jnp.asarray(B)
            X, info = solve_sdcp(a, b)
            near = X + 0.03 * jnp.linalg.norm(X) * jnp.asarray(families.symmetric(rng, k)) / k
            cold.append(milliseconds(lambda a=a, b=b: solve_sdcp(a, b)[0], 20))
            warm.append(milliseconds(lambda a=a, b=b, near=near: solve_sdcp(a, b, near)[0], 20))
            other, taken = clarabel_solution(A, B)
            conic.append(taken)
            modelled.append(cvxpy_milliseconds(A, B) if len(modelled) < 10 else None)
            ours.append(float(info.residual))
            if np.linalg.norm(X) > 0:  # relative to a solution that is zero an interior point is never close
                theirs.append(families.residual(A, B, other))
        known = [m for m in modelled if m is not None]
        rows.append(
            {
                "k": k,
                "cold_ms": statistics.median(cold),
                "warm_ms": statistics.median(warm),
                "clarabel_ms": statistics.median(conic),
                "cvxpy_ms": statistics.median(known) if known else None,
                "residual": max(ours),
                "clarabel_residual": statistics.median(theirs),
            }
        )
    tried = failed = loose = 0
    for k in SIZES:
        solve = jax.jit(jax.vmap(solve_sdcp))
        for family in families.FAMILIES:
            As, Bs = families.problems(family, k, 160)
            info = solve(jnp.asarray(As), jnp.asarray(Bs))[1]
            tried, failed = tried + len(As), failed + int(jnp.sum(~(info.residual <= FAILED)))
            loose += int(jnp.sum(~info.converged))
    return {"rows": rows, "tried": tried, "failed": failed, "loose": loose}


def eigenpairs() -> list[dict[str, Any]]:
    """Measure the eigen-solvers at the edge of gradient descent, warm-started ten steps before."""
    rows = []
    for width in (26, 133, 666):
        problem = cn.problem("digits-mlp", width=width)
        optimizer, hp = resolve("gradient_descent", {"learning_rate": 0.8})
        discrete = DiscreteOptimizer(problem, as_arrays(optimizer, hp, problem), optimizer)
        before, now = (warm_started(discrete, t, average=True).flows.w for t in (290, 300))
        capacity = 4
        V = start_block(problem.n_weights, block_size(capacity, problem.n_weights), now.dtype)
        P = jnp.asarray(1.0)

        @eqx.filter_jit
        def ours(problem: cn.Problem, w: Any, V: Any, capacity: int = capacity, P: Any = P) -> Any:
            return leading_eigenpairs(
                lambda V: problem.hessian_vectors(w, V), P, V, wanted_above=2.2, capacity=capacity
            )

        @eqx.filter_jit
        def theirs(problem: cn.Problem, w: Any, V: Any, capacity: int = capacity, P: Any = P) -> Any:
            return lobpcg_eigenpairs(lambda V: problem.hessian_vectors(w, V), P, V, capacity=capacity)

        for _ in range(6):
            V = ours(problem, before, V).U
        gradient = eqx.filter_jit(lambda problem, w: problem.gradient(w))
        one = milliseconds(lambda: gradient(problem, now), 30)  # noqa: B023
        for name, solve in (("block with guard vectors, 1e-3", ours), ("lobpcg_standard, 1e-5", theirs)):
            pairs = solve(problem, now, V)
            rows.append(
                {
                    "solver": name,
                    "n_weights": problem.n_weights,
                    "hessian_vectors": int(pairs.n_hessian_vectors),
                    "gradients_by_time": milliseconds(lambda solve=solve: solve(problem, now, V), 3) / one,  # noqa: B023
                    "residual": float(jnp.max(pairs.residuals[:1]) / pairs.eigenvalues[0]),
                }
            )
    return rows


def memory() -> list[dict[str, Any]]:
    """Return what the compiler reserves for one chunk of the central flow, in vectors of n weights."""
    rows = []
    for width in (26, 133, 666):
        problem = cn.problem("digits-mlp", width=width)
        optimizer, hp = resolve("rmsprop", {"learning_rate": 1e-3, "beta2": 0.99, "epsilon": 1e-8})
        arrays = as_arrays(optimizer, hp, problem)
        flow = Process("central", problem, optimizer, arrays, chunk=CHUNK)
        start = warm_started(DiscreteOptimizer(problem, arrays, optimizer), 5)
        carry, _ = flow.start(start.flows, start.before)
        program = advance_path.lower(*flow.path_arguments(carry)).compile().compiled
        used = program.memory_analysis()
        n = problem.n_weights
        rows.append(
            {
                "n_weights": n,
                "temporary_vectors": used.temp_size_in_bytes / 8 / n,
                "result_vectors": used.output_size_in_bytes / 8 / n,
                "vectors_of_activations": 500 * (64 + width + 10) / n,
            }
        )
    return rows


def report(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = ["# Parts of a step", "", f"`python benchmarks/parts.py` on {found['versions']['device']}, "]
    lines[-1] += f"{found['cores']} cores, jax {found['versions']['jax']}, float64.\n"
    lines += [
        "## Complementarity problems",
        "",
        "Median milliseconds; our largest relative residual, Clarabel's median where X is not zero.",
        "",
    ]
    lines += [
        "| k | warm | cold | Clarabel | CVXPY | residual | Clarabel's residual |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found["complementarity"]["rows"]:
        modelled = "not installed" if r["cvxpy_ms"] is None else f"{r['cvxpy_ms']:.2f}"
        lines.append(
            f"| {r['k']} | {r['warm_ms']:.3f} | {r['cold_ms']:.3f} | {r['clarabel_ms']:.3f} | {modelled} | "
            f"{r['residual']:.0e} | {r['clarabel_residual']:.0e} |"
        )
    many = found["complementarity"]
    lines += [
        "",
        f"{many['failed']} failures (relative residual above {FAILED:g}) among {many['tried']} random problems, "
        f"solved in one mapped call for each family; {many['loose']} above 1e-9.",
        "",
    ]
    lines += ["## Eigenpairs at the edge, warm-started", ""]
    lines += ["| weights | solver | Hessian-vector products | gradients by time | residual |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['n_weights']} | {r['solver']} | {r['hessian_vectors']} | {r['gradients_by_time']:.1f} | "
        f"{r['residual']:.0e} |"
        for r in found["eigenpairs"]
    ]
    lines += ["", "## Memory of a chunk of RMSProp's central flow, in vectors of n weights", ""]
    lines += ["| weights | temporary | results | one layer of activations of all data |", "|---|---|---|---|"]
    lines += [
        f"| {r['n_weights']} | {r['temporary_vectors']:.0f} | {r['result_vectors']:.0f} | "
        f"{r['vectors_of_activations']:.0f} |"
        for r in found["memory"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything, write and print the tables."""
    argparse.ArgumentParser(description="The parts of a step by themselves.").parse_args()
    found = {"versions": versions(), "cores": os.cpu_count()}
    for part in (complementarity, eigenpairs, memory):
        found[part.__name__] = part()
        print(f"{part.__name__} measured", flush=True)
    (RESULTS / "parts.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "parts.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()

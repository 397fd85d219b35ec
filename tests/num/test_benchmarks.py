"""The benchmarks in small: they run, and what they compare agrees."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

from cflow_num.cli import main as cli
from cflow_num.linalg.complementarity import solve_sdcp

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_setting_gives_a_row_of_the_table():
    precision = script("precision")
    small = precision.Setting("small", "gradient_descent", {"learning_rate": 0.8}, 210, 16, 4, width=6)
    row = precision.measure(small, "anchored", {})
    assert row["error"] < 1e-2
    assert 2 < row["count"] < 40
    assert row["n_weights"] == 64 * 6 + 6 + 60 + 10
    assert "| small |" in precision.table([row])


def test_the_closures_time_step_is_halved_until_it_no_longer_matters():
    closures, rows, title = script("closures"), [], "gradient descent"
    distances = {1 / 4: 0.10, 1 / 8: 0.12, 1 / 16: 0.121, 1 / 32: 0.1211}
    jobs = []
    while (job := closures.missing(rows)) and job[0] == title:
        jobs.append(job[1:])
        flows = {name: {"distance / stable": distances[job[2]]} for name in closures.FLOWS}
        rows.append({"title": title, "seed": job[1], "closure step": job[2], "reason": "", "flows": flows})
    assert jobs == [(0, 1 / 4), (0, 1 / 8), (0, 1 / 16), (1, 1 / 8), (2, 1 / 8)]
    assert closures.settled(rows, title) == 1 / 8
    assert closures.medians(rows, title, "rod")["distance / stable"] == (0.12, 0.12, 0.12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_conic_solver_finds_the_same_covariance(k):
    parts = script("parts")
    families = parts.random_problems()
    rng = np.random.default_rng(k)
    A, B = families.strict(rng, k, families.gram(rng, families.size(k), 3 * families.size(k)))
    X, _ = parts.clarabel_solution(A, B)
    ours = solve_sdcp(jnp.asarray(A), jnp.asarray(B))[0]
    np.testing.assert_allclose(X, ours, atol=1e-4)  # it stops at a relative gap of 1e-8, which knows X to its root


def test_the_page_of_limits_is_up_to_date_and_its_commands_are_commands():
    limits = script("limits")
    rows = json.loads(limits.FILE.read_text("utf-8"))["rows"]
    assert limits.PAGE.read_text("utf-8") == limits.page(rows)
    assert [(r.name, list(r.runs)) for r in limits.REGIMES] == [(name, list(runs)) for name, runs in rows.items()]
    folders = [regime.folder(label) for regime in limits.REGIMES for label in regime.runs]
    assert len(set(folders)) == len(folders)
    for regime in limits.REGIMES:
        for label in regime.runs:
            _, _, *arguments = shlex.split(regime.command(label))
            assert tyro.cli(cli.RunCommand, args=arguments, config=(FlagCreatePairsOff,)).settings.steps > 0


def test_each_regime_begins_with_a_run_in_which_the_flow_holds_and_most_have_one_in_which_it_does_not():
    rows = json.loads(script("limits").FILE.read_text("utf-8"))["rows"]
    assert all(next(iter(runs.values()))["passed"] for runs in rows.values())
    assert sum(any(row["passed"] is False for row in runs.values()) for runs in rows.values()) >= 4


def test_estimates_and_runs_are_measured_alike(monkeypatch):
    estimates = script("estimates")
    case = dict(problem="quadratic", options=dict(n=3), optimizer="gradient_descent", hp=dict(learning_rate=0.1))
    monkeypatch.setattr(estimates, "CASES", {"small": case})
    monkeypatch.setattr(estimates, "STEPS", 40)
    said, taken = (estimates.measured("small", which) for which in ("estimate", "run"))
    assert taken["steps"] == 40
    assert 0 < said["memory"] < 1e9
    assert 0 < said["seconds"] < 1e3

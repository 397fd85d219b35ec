"""Sweeps: the grid as a user writes it, workers that die, what a second call runs again, table and figure."""

import csv
import importlib
import importlib.util
import os
import re
import tomllib
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.support import executors
from cflow_num.support.errors import InputError, RunError
from cflow_num.support.executors import completed, opener, processes
from cflow_num.sweeps import cell as sweep_cell
from cflow_num.sweeps.figure import figure
from cflow_num.sweeps.grid import Cell, read_grid, shown
from cflow_num.sweeps.summary import DONE, ENDED_EARLY, FAILED, NOT_RUN, Outcome, Sweep

from .jobs import double

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sweep_beta2.toml"
FIXED = {"optimizer": "gradient_descent", "problem": "quadratic:n=2", "steps": 3, "processes": ["discrete"]}


def toml(text, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


# The grid


def test_the_example_multiplies_its_axes_and_every_cell_can_start():
    grid = read_grid(EXAMPLE)
    assert len(grid.cells) == 18
    assert grid.cells[0].name == "learning_rate=0.05,beta2=0.95,seed=0"
    settings = grid.cells[-1].settings
    assert settings["options"] == {"n": 100, "width": 8, "seed": 2}
    assert settings["hyperparameters"] == {"learning_rate": 0.2, "beta2": 0.99}
    assert (settings["steps"], settings["warm_start"], settings["problem"]) == (200, 5, "digits-mlp")
    sweep_cell.check_cell(settings)


def test_the_page_on_sweeps_shows_the_example():
    page = (EXAMPLE.parents[1] / "docs" / "sweeps.md").read_text()
    (shown_there,) = re.findall(r"```toml\n(optimizer = .*?)```", page, re.S)
    assert read_grid(EXAMPLE) == read_grid(tomllib.loads(shown_there))


def test_every_spelling_of_the_same_grid_is_the_same(tmp_path):
    text = toml(
        'optimizer = "scalar_rmsprop"\nwarm-start = 2\nswitches = ["bias_correction"]\nset = {beta2 = 0.9}\n'
        '[problem]\nname = "digits-mlp"\nwidth = 8\n[axes]\nlearning_rate = [0.1, 0.5]\n',
        tmp_path,
    )
    mapping = {"optimizer": "scalar_rmsprop", "warm_start": 2, "bias_correction": True, "beta2": 0.9, "width": 8}
    assert read_grid(text) == read_grid(mapping | {"axes": {"learning_rate": np.array([0.1, 0.5])}})


def test_cells_are_one_where_they_differ_in_what_they_do_not_have():
    axes = {"optimizer": ["gradient_descent", "scalar_rmsprop"], "beta2": [0.9, 0.99]}
    cells = read_grid({"learning_rate": 0.1, "problem": "ramp", "epsilon": 1e-8, "axes": axes}).cells
    assert [cell.name for cell in cells] == [
        "optimizer=gradient_descent",
        "optimizer=scalar_rmsprop,beta2=0.9",
        "optimizer=scalar_rmsprop,beta2=0.99",
    ]
    assert cells[0].settings["hyperparameters"] == {"learning_rate": 0.1}


texts = st.text(max_size=200)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()


@given(st.lists(texts | numbers | st.lists(texts, min_size=1, max_size=3), max_size=20, unique_by=shown))
def test_names_are_file_names_and_tell_all_values_apart(values):
    names = [Cell({"axis": value}, {}).name for value in values]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"axis=[\w.+=,~-]*", name, re.ASCII) and len(name) < 200 for name in names)


AXES = "[axes]\nlearning_rate = [0.1]\n"
OPTIMIZER = 'optimizer = "gradient_descent"\nproblem = "quadratic:n=2"\n'
BAD = {
    "no TOML": ("optimizer = gradient_descent", "is not TOML"),
    "an unknown key": (f"{OPTIMIZER}lerning_rate = 0.1\n[axes]\nseed = [0]", 'did you mean "learning_rate"'),
    "an unknown axis": (f"{OPTIMIZER}[axes]\nlearning_rat = [0.1]", 'did you mean "learning_rate"'),
    "an unknown table": (f"{OPTIMIZER}[axis]\nlearning_rate = [0.1]", "there are no axes to multiply"),
    "an empty axis": (f"{OPTIMIZER}[axes]\nlearning_rate = []", "the axis learning_rate is empty"),
    "an axis that is no list": (f"{OPTIMIZER}[axes]\nlearning_rate = 0.1", "write learning_rate = [0.1]"),
    "axes that are no table": (f"axes = [1]\n{OPTIMIZER}", "there are no axes to multiply"),
    "a value twice": (f"{OPTIMIZER}[axes]\nlearning_rate = [1, 1.0]", "has 1.0 twice"),
    "fixed and an axis": (f"{OPTIMIZER}learning_rate = 0.1\n{AXES}", "both fixed and an axis"),
    "an option twice": (f"{OPTIMIZER}n = 3\n{AXES}", 'the option "n" is given twice'),
    "no optimizer": (AXES, "there is no optimizer"),
    "an unknown optimizer": (f'optimizer = "gradient_decent"\n{AXES}', "did you mean 'gradient_descent'"),
    "an optimizer that is no text": (f"optimizer = 3\n{AXES}", "it must be a text"),
    "an unknown problem": (f'problem = "quadratc"\noptimizer = "gradient_descent"\n{AXES}', 'did you mean "quadratic"'),
    "a problem without a name": (f'optimizer = "gradient_descent"\n[problem]\nn = 3\n{AXES}', "needs a name"),
    "a value out of range": (
        f"{OPTIMIZER}[axes]\nlearning_rate = [0.1, -1]",
        "cell learning_rate=-1: learning_rate is",
    ),
    "a missing hyperparameter": (f"{OPTIMIZER}[axes]\nseed = [0]", "needs learning_rate"),
    "an unknown process": (f'{OPTIMIZER}processes = ["centrel"]\n{AXES}', 'did you mean "central"'),
    "an unknown dtype": (f'{OPTIMIZER}dtype = "float16"\n{AXES}', "must be one of float32, float64"),
    "a date": (f"{OPTIMIZER}learning_rate = 2024-01-01\n[axes]\nseed = [0]", "the grid holds a date"),
    "too many cells": (f"{OPTIMIZER}[axes]\nseed = {[*range(400)]}\nn = {[*range(400)]}", "at most 100000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_grid_gets_one_sentence_before_work_starts(name, capsys, tmp_path):
    text, says = BAD[name]
    assert main(["sweep", str(toml(text, tmp_path)), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    out, error = capsys.readouterr()
    assert says in error
    assert error.startswith("cflow: ")
    assert error.count("\n") == 1
    assert not out
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path):
    grid = FIXED | {"axes": {"learning_rate": [0.1]}}
    with pytest.raises(InputError, match="cannot be read"):
        cn.sweep(tmp_path / "no.toml", tmp_path)
    with pytest.raises(InputError, match="workers is 0"):
        cn.sweep(grid, tmp_path, workers=0)
    with pytest.raises(InputError, match='did you mean "processes"'):
        cn.sweep(grid, tmp_path, "process")
    with pytest.raises(InputError, match="executor is a int"):
        opener(3)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        cn.sweep(grid, tmp_path / "file", quiet=True)


def test_dask_is_asked_for_in_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'cflow-jax\[dask\]'"):
        opener("dask")


# Workers


def test_a_worker_that_dies_costs_its_own_job_only(tmp_path):
    jobs = {"slow": ("slow", 1), "guilty": ("kill", ""), "bad": ("raise", "no")}
    jobs |= {"exits": ("exit", 3)} | {f"good {i}": ("double", i) for i in range(5)}
    results = list(completed(double, jobs, processes, 2))
    found = dict(results)
    assert len(results) == len(jobs), "every job has one result"
    assert found["slow"] == 2, "taken along, and run again"
    assert isinstance(found["guilty"], RunError)
    assert re.search(r"again \(SIGKILL\) when it ran alone", str(found["guilty"]))
    assert isinstance(found["bad"], ValueError)
    assert isinstance(found["exits"], SystemExit)
    assert [found[f"good {i}"] for i in range(5)] == [0, 2, 4, 6, 8]
    # One at a time: a job that is taken along before it begins could die for the first time when it is alone.
    unlucky = {"unlucky": ("kill", str(tmp_path / "died")), "good": ("double", 5)}
    assert dict(completed(double, unlucky, processes, 1)) == {"unlucky": "kill", "good": 10}, "once only: it is done"


class Broken(Executor):
    """Breaks after some jobs, for good; those go through at once."""

    def __init__(self, good, error=BrokenExecutor):
        self.good, self.error = good, error

    def submit(self, fn, /, *args, **kwargs):
        if not self.good:
            raise self.error("broken")
        self.good -= 1
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_workers_that_cannot_start_end_the_work_with_the_remedy():
    broken = Broken(2)
    jobs = {str(i): ("double", i) for i in range(4)}
    found = dict(completed(double, jobs, opener(broken), 1))
    assert [found["0"], found["1"]] == [0, 2]
    assert all(str(found[name]) == executors.NO_START for name in ("2", "3"))


def test_an_executor_can_be_passed_or_made_by_a_function():
    jobs = {"a": ("double", 1), "b": ("double", 2)}
    with ThreadPoolExecutor(2) as threads:
        assert dict(completed(double, jobs, opener(threads), 2)) == {"a": 2, "b": 4}
        assert threads.submit(double, jobs["a"]).result() == 2, "it stays open"
    assert dict(completed(double, jobs, opener(ThreadPoolExecutor), 1)) == {"a": 2, "b": 4}


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs dask.distributed")
@pytest.mark.filterwarnings("default")
def test_dask_workers_may_die_as_well(tmp_path):
    jobs = {"guilty": ("kill", ""), "unlucky": ("kill", str(tmp_path / "died")), "bad": ("raise", "no")}
    found = dict(completed(double, jobs | {"good": ("double", 4)}, opener("dask"), 2))
    assert isinstance(found["guilty"], RunError)
    assert found["unlucky"] == "kill"
    assert isinstance(found["bad"], ValueError)
    assert found["good"] == 8


# Runs


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def ran(monkeypatch):
    """The settings of every cell that is run, in this process."""
    seen, run_cell = [], sweep_cell.run_cell
    module = importlib.import_module("cflow_num.sweeps.sweep")
    monkeypatch.setattr(module, "run_cell", lambda settings: (seen.append(settings), run_cell(settings))[1])
    return seen


def test_one_file_a_run_and_a_second_call_runs_only_what_is_missing(tmp_path, threads, ran):
    grid = FIXED | {"axes": {"learning_rate": [0.1, 0.2], "seed": [0, 1]}}
    first = cn.sweep(grid, tmp_path, threads, quiet=True)
    assert first.complete
    assert [row.status for row in first.rows] == [DONE] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.json", "runs", "summary.csv"]
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert sorted(files) == [f"learning_rate={r},seed={s}.nc" for r in (0.1, 0.2) for s in (0, 1)]
    run = cn.load(first.rows[2].path)
    assert run.config["hyperparameters"]["learning_rate"] == 0.2
    assert float(run.tree["discrete"]["loss"][-1]) == first.rows[2].numbers["final_loss"]

    assert cn.sweep(grid, tmp_path, threads, quiet=True).rows == first.rows
    assert len(ran) == 4, "nothing is run again"
    first.rows[0].path.unlink()
    first.rows[1].path.write_bytes(first.rows[1].path.read_bytes()[:100])
    cn.sweep(grid, tmp_path, threads, quiet=True)
    assert [(s["hyperparameters"]["learning_rate"], s["options"]["seed"]) for s in ran[4:]] == [(0.1, 0), (0.1, 1)]
    wider = grid | {"axes": {"learning_rate": [0.1, 0.2, 0.3], "seed": [0, 1]}}
    cn.sweep(wider, tmp_path, threads, quiet=True)
    assert [s["hyperparameters"]["learning_rate"] for s in ran[6:]] == [0.3, 0.3]
    cn.sweep(grid | {"steps": 4}, tmp_path, threads, quiet=True)
    assert len(ran) == 12, "other settings are other runs"


def test_deaths_and_failures_are_rows_with_their_reason(tmp_path, capsys):
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import multiprocessing, os, signal\nimport cflow_sym as cs\nSPEC = cs.optimizer('gradient_descent')\n"
        "if multiprocessing.parent_process() is not None:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Digits have pixels that are always black: without epsilon RMSProp has no preconditioner there.
    grid = toml(
        'problem = "digits-mlp:n=20,width=4"\nsteps = 30\nprocesses = ["discrete"]\nbeta2 = 0.9\n'
        f'[axes]\noptimizer = ["{killer}", "gradient_descent", "rmsprop"]\nlearning_rate = [0.1]\n',
        tmp_path,
    )
    out = tmp_path / "out"
    assert main(["sweep", str(grid), "--out", str(out), "--quiet", "--workers", "2"]) == 2
    printed = capsys.readouterr()
    assert not printed.err
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [FAILED, DONE, FAILED]
    reasons = ["SIGKILL", "", "pass epsilon=1e-8"]
    for row, reason in zip(rows, reasons, strict=True):
        assert reason in row["reason"]
        assert row["reason"] in printed.out
    assert [bool(row["file"]) for row in rows] == [False, True, False]
    assert cn.load(out / rows[1]["file"]).config["optimizer"] == "gradient_descent"
    assert str(out / "summary.csv") in printed.out


def test_data_that_have_changed_make_another_cell(tmp_path):
    path, found = tmp_path / "data.npz", []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        np.savez(path, x=rng.normal(size=(8, 3)), y=rng.integers(0, 2, size=8))
        grid = FIXED | {"problem": f"mlp:data=npz,path={path}", "axes": {"learning_rate": [0.1]}}
        found.append(read_grid(grid).cells[0].settings)
    one, other = found
    assert one["data_fingerprint"] != other["data_fingerprint"]
    assert one | {"data_fingerprint": ""} == other | {"data_fingerprint": ""}


def test_a_divergence_is_a_run_that_ended_early(tmp_path, threads):
    result = cn.sweep(FIXED | {"steps": 60, "axes": {"learning_rate": [1, 3000]}}, tmp_path, threads, quiet=True)
    assert [row.status for row in result.rows] == [DONE, ENDED_EARLY]
    assert "smaller learning rate" in result.rows[1].reason
    assert cn.load(result.rows[1].path).reason == result.rows[1].reason
    assert result.complete


def test_an_interrupt_keeps_what_is_finished_and_writes_the_summary(tmp_path):
    grid = FIXED | {"axes": {"learning_rate": [0.1, 0.2, 0.3]}}
    result = cn.sweep(grid, tmp_path, Broken(2, KeyboardInterrupt), workers=1, quiet=True)
    assert [row.status for row in result.rows] == [DONE, DONE, NOT_RUN]
    assert not result.complete
    assert (tmp_path / "summary.csv").read_text().count("not run") == 1
    assert len(os.listdir(tmp_path / "runs")) == 2


def test_float32_cells_are_computed_in_float32(tmp_path, threads):
    result = cn.sweep(FIXED | {"axes": {"dtype": ["float32", "float64"], "learning_rate": [0.1]}}, tmp_path, threads)
    assert [cn.load(row.path).config["dtype"] for row in result.rows] == ["float32", "float64"]


# Table and figure


def made_up(axes, ratio=lambda **values: 0.1, **more):
    grid = read_grid({"optimizer": "scalar_rmsprop", "problem": "digits-mlp", "axes": axes})
    rows = [
        Outcome(cell.values, DONE, path=Path("a"), numbers={"distance_ratio": r, "judged": True, "passed": True})
        if (r := ratio(**cell.values)) is not None
        else Outcome(cell.values, FAILED, "it was too large")
        for cell in grid.cells
    ]
    return Sweep("made up", axes, rows, Path())


def test_the_table_shows_what_is_known_and_the_reasons():
    sweep = made_up({"learning_rate": [0.1, 0.2]}, lambda learning_rate: 0.0123 if learning_rate < 0.2 else None)
    lines = str(sweep).splitlines()
    assert lines[2].split() == ["learning_rate", "status", "verdict", "D_central/D_stable"]
    assert lines[3].split() == ["0.1", "done", "pass", "0.0123"]
    assert lines[4].endswith("failed  —                         —  it was too large")


LATE = dict(judged=False, passed=None, verdict="not judged: met late", notes={"predicted_loss": "20 steps"})
STILL = dict(onset_lag=None, notes={"onset_lag": "the stable flow is still closer"})


def with_numbers(axes, numbers):
    """A sweep of two optimizers (one has no beta2), with what `numbers` says of each seed and the rest made up."""
    rows = []
    for cell in read_grid({"learning_rate": 0.1, "problem": "digits-mlp", "axes": axes}).cells:
        found = {"distance_ratio": 0.1, "onset_lag": 3.0, "predicted_loss": 0.02, "judged": True, "passed": True}
        rows.append(Outcome(cell.values, DONE, path=Path("a"), numbers=found | numbers(cell.values["seed"])))
    return Sweep("made up", axes, rows, Path())


def test_every_dash_of_the_table_has_a_reason(tmp_path):
    axes = {"optimizer": ["gradient_descent", "scalar_rmsprop"], "beta2": [0.9], "seed": [0, 1]}
    late = LATE | dict(distance_ratio=0.7, predicted_loss=None)
    sweep = with_numbers(axes, lambda seed: (STILL, late)[seed])
    lines = str(sweep).splitlines()
    assert lines[3].split()[:5] == ["gradient_descent", "—", "[1]", "0", "done"]
    assert lines[3].split()[-3:] == ["2.0%", "—", "[2]"]
    assert lines[4].split()[-6:] == ["—", "[3]", "0.7", "—", "[3]", "3"]
    assert lines[-3:] == [
        "[1] the optimizer or the problem has no such setting",
        "[2] the stable flow is still closer",
        "[3] not judged: met late",
    ]
    for row in sweep.rows:
        assert row.numbers.get("passed") or row.why == "not judged: met late"
    marks = {text for line in lines for text in re.findall(r"\[\d\]", line)}
    assert marks == {"[1]", "[2]", "[3]"}
    discrete = [Outcome({"seed": 0}, DONE, path=Path("a"), numbers={"passed": None, "final_loss": 1.0})]
    only = str(Sweep("made up", {"seed": [0]}, discrete, Path())).splitlines()
    assert only[3].split() == ["0", "done", "—", "[1]", "1"]
    assert only[-1] == "[1] a verdict needs the processes discrete, stable and central"


def test_a_run_that_is_not_judged_says_why_in_the_file(tmp_path, threads):
    grid = {"optimizer": "gradient_descent", "problem": "quadratic:n=2", "steps": 3, "axes": {"learning_rate": [0.1]}}
    result = cn.sweep(grid, tmp_path, threads, quiet=True)
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["reason"].startswith("no edge reached in 3 steps: ")
    assert row["reason"] in str(result)
    assert "onset_lag" in result.rows[0].numbers["notes"]


def test_over_seeds_there_are_medians_and_ranges_of_the_judged_runs():
    axes = {"optimizer": ["scalar_rmsprop"], "beta2": [0.9, 0.99], "seed": [0, 1, 2, 3]}
    more = [dict(distance_ratio=0.2), dict(distance_ratio=0.1), dict(distance_ratio=0.7, passed=False), LATE]
    sweep = with_numbers(axes, lambda seed: more[seed] | {"onset_lag": seed})
    one, other = sweep.repetitions
    assert (one.values["beta2"], other.values["beta2"], len(one.rows), len(one.judged)) == (0.9, 0.99, 4, 3)
    assert one.spread("distance_ratio") == (0.2, 0.1, 0.7), "of the judged ones"
    assert one.spread("onset_lag") == (1.5, 0, 3), "of all"
    lines = str(sweep).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("over seeds: median (smallest–largest)")]
    assert lines[at + 3].split() == [
        *("scalar_rmsprop", "0.9", "3", "of", "4", "2", "of", "3", "0.2", "(0.1–0.7)", "2.0%", "2", "(0–3)"),
        *("not", "judged:", "seed", "3", "[2]"),
    ]
    assert "[2] not judged: met late" in lines
    assert "over seeds" not in str(made_up({"learning_rate": [0.1, 0.2], "seed": [0]})), "one seed is no repetition"
    none = with_numbers({**axes, "beta2": [0.9]}, lambda seed: LATE)
    assert none.repetitions[0].spread("distance_ratio") is None
    assert "0 of 4" in str(none)


def drawn(ax, marker):
    """Where points with that marker are, with whether they are filled and a line joins them."""
    return [
        (round(float(y), 6), line.get_markerfacecolor() != "w", line.get_linestyle() == "-")
        for line in ax.get_lines()
        if line.get_marker() == marker
        for y in line.get_ydata()
    ]


def test_the_figure_has_medians_and_ranges_over_seeds():
    axes = {"beta2": [0.9, 0.99], "learning_rate": [0.01, 0.1, 1.0], "seed": [0, 1, 2]}
    sweep = made_up(axes, lambda beta2, learning_rate, seed: learning_rate * 10.0**-seed * beta2)
    (ax,) = figure(sweep).axes
    assert ax.get_xlabel() == "learning_rate"
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [text.get_text() for legend in ax.figure.legends for text in legend.get_texts()] == [
        *("beta2 = 0.9", "beta2 = 0.99", "as far as the stable flow", "limit 0.25"),
        "seeds: median, smallest, largest",
    ]
    median, _ = [line for line in ax.get_lines() if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
    assert median.get_ydata() == pytest.approx([0.0009, 0.009, 0.09])
    bars = [segment[:, 1] for collection in ax.collections for segment in collection.get_segments()]
    assert np.ravel(bars[:3]) == pytest.approx([9e-5, 0.009, 9e-4, 0.09, 9e-3, 0.9])


def test_no_line_goes_through_points_that_are_not_judged():
    axes = {"optimizer": ["scalar_rmsprop"], "beta2": [0.5, 0.7, 0.8, 0.9], "seed": [0]}
    sweep = with_numbers(axes, lambda seed: {})
    for ratio, row in zip((0.1, 0.2, 0.3, 0.4), sweep.rows, strict=True):
        row.numbers.update(distance_ratio=ratio, judged=ratio != 0.2)
    (ax,) = figure(sweep).axes
    assert (0.2, False, False) in drawn(ax, "o"), "it is marked"
    (joined,) = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]
    assert joined.get_linestyle() == "-"
    assert list(np.isnan(joined.get_ydata())) == [False, True, False, False]
    assert "not judged" in [text.get_text() for legend in ax.figure.legends for text in legend.get_texts()]
    (ax,) = figure(made_up({"seed": [0, 1, 2]})).axes
    assert not any(line.get_linestyle() == "-" and len(line.get_xdata()) == 3 for line in ax.get_lines())


def test_more_axes_become_panels_and_missing_numbers_crosses():
    axes = {"learning_rate": [0.1, 0.2], "beta2": [0.9, 0.99], "width": [4, 8], "bias_correction": [False, True]}
    fig = figure(made_up(axes, lambda width, **rest: 0.1 if width == 8 else None))
    panels = [ax for ax in fig.axes if ax.get_visible()]
    assert len(panels) == 4
    assert panels[0].get_title(loc="left") == "width = 4, bias_correction = false"
    crosses = [sum(len(line.get_ydata()) for line in ax.get_lines() if line.get_marker() == "x") for ax in panels]
    assert crosses == [4, 4, 0, 0]


def test_close_and_named_values_are_spread_evenly():
    (ax,) = figure(made_up({"beta2": [0.9, 0.99, 0.999, 0.9999]})).axes
    assert [ax.xaxis.get_major_formatter()(x) for x in ax.get_xticks()] == ["0.9", "0.99", "0.999", "0.9999"]
    assert list(np.diff(ax.get_xticks())) == [1, 1, 1]
    (ax,) = figure(made_up({"activation": ["tanh", "gelu"]})).axes
    assert [ax.xaxis.get_major_formatter()(x) for x in ax.get_xticks()] == ["tanh", "gelu"]


def test_there_is_no_figure_without_a_number():
    assert figure(made_up({"learning_rate": [0.1]}, lambda **values: None)) is None

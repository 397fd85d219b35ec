"""Ctrl-C leaves one sentence with what is left, never a traceback; a battery keeps the rows it has."""

import importlib
import os
import subprocess
import sys
import time
import types

import pytest

import cflow_sym as cs
from cflow_num.cli import __main__ as command
from cflow_num.cli.main import ENDED_EARLY, main
from cflow_num.support.interrupts import interruptible, told
from cflow_num.testing import assert_optimizer, check

SPEC = cs.optimizer("gradient_descent")
ONLY = ("autodiff", "update", "threshold")


def stopping_at(name):
    """A function of a property that interrupts at one of them."""

    def on_row(tried):
        if tried == name:
            raise KeyboardInterrupt

    return on_row


def test_an_interrupted_battery_keeps_its_rows(capsys):
    found = check(SPEC, quick=True, only=ONLY, on_row=stopping_at("update"))
    assert [(row.name, row.passed) for row in found.rows] == [
        *(("derivation", True), ("autodiff", True), ("update", None), ("threshold", None))
    ]
    assert found.reason == "interrupted after 2 of 4 properties"
    assert not found.passed
    assert str(found).endswith("interrupted after 2 of 4 properties; not tried: update, threshold")
    with pytest.raises(KeyboardInterrupt, match="interrupted after 0 of 4"):
        assert_optimizer(SPEC, quick=True, only=ONLY, on_row=stopping_at("derivation"))


def test_the_command_prints_the_rows_of_an_interrupted_battery(monkeypatch, capsys):
    battery = importlib.import_module("cflow_num.testing.battery")
    monkeypatch.setattr(battery.Tried, "numerical", lambda self: {"edge": ("it holds", stopped)})
    assert main(["check", "gradient_descent", "--only", "edge", "--quiet"]) == ENDED_EARLY
    printed = capsys.readouterr()
    assert "pass  derivation" in printed.out
    assert "-     edge" in printed.out
    assert printed.err == "cflow: interrupted after 1 of 2 properties\n"


def stopped(*args, **kwargs):
    raise KeyboardInterrupt


RUN = ["run", "--optimizer", "gradient_descent", "--learning-rate", "0.1", "--out", "out", "--problem"]
STAGES = {
    "reading an optimizer": ("cflow_sym.reading.files.load_optimizer", ["derive", "adam"], "before the derivation was"),
    "writing code": ("cflow_sym.writing.codegen.generate", ["codegen", "gradient_descent"], "before the code was done"),
    "making a problem": ("cflow_num.problems.in_precision", [*RUN, "ramp"], "before the first step: there is nothing"),
    "the warm start": ("cflow_num.running.run.warm_started", [*RUN, "ramp"], "before the first step: there is nothing"),
    "a file's own code": (None, [*RUN, "mine.py"], "before the first step: there is nothing to save"),
    "reading a run": ("cflow_num.record.run.load", ["compare", "run.nc"], "before it was done: nothing was written"),
    "a report": ("cflow_num.record.run.load", ["report", "run.nc"], "before the page was written"),
    "a film": ("cflow_num.record.run.load", ["animate", "run.nc"], "before the film was whole: none was written"),
    "a grid": ("cflow_num.sweeps.sweep.read_grid", ["sweep", "grid.toml", "--out", "out"], "before the cells began"),
    "resuming": (
        "cflow_num.problems.in_precision",
        ["resume", "."],
        "before it went on: what is in the folder is as it",
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_an_interrupt_says_what_is_left(name, monkeypatch, tmp_path, capsys):
    place, arguments, says = STAGES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "config.json").write_text('{"command": {"optimizer": "adam", "settings": {}}}')
    if place is not None:
        module, _, attribute = place.rpartition(".")
        monkeypatch.setattr(importlib.import_module(module), attribute, stopped)
    assert main([*arguments, *(["--quiet"] if arguments[0] in ("run", "sweep") else [])]) == ENDED_EARLY
    error = capsys.readouterr().err
    assert error.startswith(f"cflow: interrupted {says}"), error
    assert error.count("\n") == 1


def test_a_signal_while_a_file_is_read(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    call = [sys.executable, "-m", "cflow_num.cli", "derive", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONHASHSEED": "0"})
    assert (done.returncode, done.stdout) == (ENDED_EARLY, "")
    assert done.stderr.startswith("cflow: interrupted before the derivation was done")
    assert done.stderr.count("\n") == 1


def test_an_interrupt_while_the_command_is_imported(monkeypatch, capsys):
    class Stops(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "cflow_num.cli.main", Stops("cflow_num.cli.main"))
    assert command.main() == ENDED_EARLY
    assert capsys.readouterr().err == "cflow: interrupted before the command began: nothing was done\n"


def test_the_innermost_words_are_told():
    with pytest.raises(KeyboardInterrupt, match="inner"), told("outer"), told("inner"):
        raise KeyboardInterrupt


def test_an_interrupt_that_python_drops_comes_again():
    class Stubborn:
        def __del__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
        Stubborn()
        time.sleep(20)

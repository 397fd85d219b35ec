"""The settings of a run stand in one place: flags, axes of a sweep, arguments in Python, what a folder remembers."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.cli.run import RunCommand
from cflow_num.running import run as running
from cflow_num.running.settings import Settings
from cflow_num.support.errors import InputError
from cflow_num.sweeps.cell import check_cell
from cflow_num.sweeps.grid import read_grid

FIELDS = [f.name for f in dataclasses.fields(Settings)]
OTHER = {  # another value than the default, as a grid has it
    "steps": 7,
    "warm_start": 3,
    "processes": ["discrete", "central", "rod"],
    "integrator": "heun",
    "onset": "delayed",
    "average_start": True,
    "closure_step": 0.125,
    "eig_every": 2,
    "capture": [1],
    "keep_weights": 5,
    "observe": ["outputs"],
    "observe_every": 3,
    "diagnostics": ["gbs"],
    "memory": "2GB",
    "effort": "full",
    "budget": True,
}
BY_HAND = '{"command": {"optimizer": "adam", "learning_rate": 0.1, "settings": {}}}'  # a number, not a text
FIXED = {"optimizer": "gradient_descent", "learning_rate": 0.1, "problem": "quadratic:n=3", "warm_start": 1}


def in_a_cell(settings, monkeypatch):
    """Return the settings with which a cell is checked."""
    seen = []
    monkeypatch.setattr(running, "check", lambda problem, optimizer, values, chosen: seen.append(chosen))
    check_cell(settings)
    return seen[0]


def test_there_is_another_value_for_every_field():
    assert sorted(OTHER) == sorted(FIELDS)
    assert all(Settings.defaults()[name] != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", FIELDS)
def test_a_sweep_takes_every_field_as_an_axis_or_a_fixed_value(name, monkeypatch):
    fixed = {key: x for key, x in FIXED.items() if key != name}
    default = Settings.defaults()[name]
    along = read_grid(fixed | {"axes": {name: [OTHER[name]] if default is None else [default, OTHER[name]]}})
    beside = read_grid(fixed | {name: OTHER[name], "axes": {"seed": [0]}})
    for cell in (along.cells[-1], beside.cells[0]):
        assert getattr(in_a_cell(cell.settings, monkeypatch).checked(), name) == (
            tuple(OTHER[name]) if isinstance(OTHER[name], list) else OTHER[name]
        )
    if default is not None:
        assert getattr(in_a_cell(along.cells[0].settings, monkeypatch).checked(), name) == getattr(Settings(), name)


@pytest.mark.parametrize("name", FIELDS)
def test_the_command_has_a_flag_for_every_field(name):
    value = OTHER[name]
    shown = [] if value is True else [str(x) for x in (value if isinstance(value, list) else [value])]
    flags = ["--optimizer", "gradient_descent", "--out", "out", f"--{name.replace('_', '-')}", *shown]
    command = tyro.cli(RunCommand, args=flags, config=(FlagCreatePairsOff,))
    assert getattr(command.settings, name) == (tuple(value) if isinstance(value, list) else value)
    assert dataclasses.replace(command.settings, **{name: getattr(Settings(), name)}) == Settings()


def test_python_takes_an_object_or_its_fields_by_name():
    problem, hp = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2)), dict(learning_rate=0.1)
    settings = Settings(steps=3, processes=("discrete",))
    one = cn.run(problem, "gradient_descent", hp, settings, quiet=True)
    other = cn.run(problem, "gradient_descent", hp, Settings(steps=9), steps=3, processes=["discrete"], quiet=True)
    assert one.config == other.config
    with pytest.raises(InputError, match='did you mean "steps"'):
        cn.run(problem, "gradient_descent", hp, step=3)


def test_a_folder_remembers_how_its_run_was_asked_for(tmp_path, capsys):
    folder = tmp_path / "a"
    asked = ["--optimizer", "heavy_ball_ema", "--set", "beta1=0.5", "--learning-rate", "0.1*exp(-t/50)", "--steps", "4"]
    asked += ["--problem", "quadratic:n=3,sharpness=2.5", "--processes", "discrete", "--capture", "0", "2"]
    assert main(["run", *asked, "--quiet", "--out", str(folder)]) == 0
    first = cn.load(folder / "run.nc")
    (folder / "run.nc").unlink()  # as after a kill before it was written
    assert main(["resume", str(folder), "--quiet"]) == 0
    again = cn.load(folder / "run.nc")
    assert again.config == first.config
    assert (again.tree["discrete"]["loss"].values == first.tree["discrete"]["loss"].values).all()
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0
    assert "finished already" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "{}", '{"command": 3}', '{"command": {"settings": {"step": 3}}}', BY_HAND])
def test_a_folder_that_does_not_say_how_is_refused(text, tmp_path, capsys):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert main(["resume", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cflow: ")
    assert said.count("\n") == 1


def test_a_configuration_is_json(tmp_path):
    command = RunCommand(optimizer="adam", out=tmp_path)
    assert json.loads(json.dumps(command.asked()))["settings"]["processes"] == ["discrete", "stable", "central"]

"""Problems from a Python file: on the command line, in Python and in grids; what is wrong in one is one sentence."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

import cflow_num as cn
from cflow_num.cli.main import BAD_INPUT, DONE, main
from cflow_num.problems import in_precision
from cflow_num.support.errors import InputError
from cflow_num.sweeps.grid import read_grid

MODEL = """
import jax, jax.numpy as jnp
import cflow_num as cn
from curvature import CURVATURE

jax.config.update("jax_enable_x64", {x64})  # the caller's holds all the same


def problem(width: int = 4, seed: int | None = None, scale: float = 1, centre="left"):
    w = jnp.arange(1.0, width + 1) * (1 if seed is None else seed + 1)
    return cn.Problem(lambda w, x: scale * jnp.sum(x * w**2), w, data=CURVATURE * jnp.ones(width))
"""
RUN = ["run", "--optimizer", "gradient_descent", "--learning-rate", "0.01", "--processes", "discrete", "--quiet"]
FIXED = {"optimizer": "gradient_descent", "learning_rate": 0.01, "steps": 3, "processes": ["discrete"]}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(MODEL.format(x64=True))
    (tmp_path / "curvature.py").write_text("CURVATURE = 1.0\n")
    return path


@pytest.fixture(autouse=True)
def _fresh_neighbours():
    yield
    import sys

    sys.modules.pop("curvature", None)


def asked(model, folder, *more):
    return [*RUN, "--problem", f"{model}:width=3", "--steps", "3", "--out", str(folder), *more]


def test_in_python_a_file_is_a_problem_named_after_it_and_its_options(model):
    made = cn.problem(str(model), width=3, scale=2)
    assert (made.name, made.n_weights, made.description) == (
        "my_model(width=3, scale=2.0)",
        3,
        "problem of my_model.py",
    )
    assert float(made.value(made.w0)) == 2 * (1 + 4 + 9)
    assert cn.problem(model).name == "my_model"
    assert cn.problem(model, seed=1).w0[0] == 2, "an option may be declared to be a number or None"
    model.write_text(model.read_text().replace("data=", 'name="mine", description="in words", data='))
    named = cn.problem(model)
    assert (named.name, named.description) == ("mine", "in words")


@pytest.mark.parametrize(("x64", "dtype"), [(True, "float32"), (False, "float64")])
def test_precision_is_the_callers_whatever_the_file_sets(model, x64, dtype):
    model.write_text(MODEL.format(x64=x64))
    with jax.enable_x64(dtype == "float64"):
        assert cn.problem(model).w0.dtype == dtype
    assert jax.config.values["jax_enable_x64"]
    single = model.read_text().replace("jnp.arange(1.0, width + 1)", "jnp.arange(1.0, width + 1, dtype=jnp.float32)")
    model.write_text(single)
    assert in_precision(str(model), {}, "float64").w0.dtype == "float64"
    with pytest.warns(cn.PrecisionWarning, match="float32 weights"):
        cn.problem(model)
    captured = "one = jnp.ones(width, jnp.float32)\n    return"
    model.write_text(single.replace("return", captured).replace("w**2", "one * w**2"))
    with pytest.raises(InputError, match="or ask for dtype float32"):
        in_precision(str(model), {}, "float64")


BAD = {
    "no file": (None, "", "is not a file: pass a Python file that defines a function problem"),
    "no function": ("problems = 3", "", "my_model.py has no function problem: write for instance def problem(width"),
    "no function but a number": ("problem = 3", "", "has a int in place of the function problem"),
    "another result": ("def problem(n=2):\n    return 3", "", "returns a int, it must return a cflow_num.Problem"),
    "a mistake in the file": ("x = 1\ny = x / 0", "", "my_model.py, line 2, fails with ZeroDivisionError: division by"),
    "a mistake in the function": ("def problem():\n    return {}['a']", "", "line 2, fails with KeyError: a; correct"),
    "a mistake beside it": ("import other_model", "", "line 1, fails with ImportError: not this one; correct"),
    "an exit": ("raise SystemExit(3)", "", "line 1, fails with SystemExit: 3"),
    "several lines": ("raise ValueError('a\\nb\\n\\nc')", "", "fails with ValueError: a b; correct the file\n"),
    "no Python": ("x = 1\ndef problem(:", "", "my_model.py, line 2, fails with SyntaxError: invalid syntax; correct"),
    "a loss that is none": (
        "import cflow_num as cn, jax.numpy as jnp\ndef problem():\n    return cn.Problem(lambda w: w, jnp.ones(2))",
        "",
        "my_model.py, line 3, is refused: loss returns shape (2,), it must return one number",
    ),
    "no default": ("def problem(n): pass", "", "option n of problem in", "has no default: write for instance"),
    "no names": ("def problem(**more): pass", "", "takes **more, its options must have names"),
    "an unknown option": ("def problem(width=3): pass", "widht=2", 'has no option "widht", it has width (did you mean'),
    "no option at all": ("def problem(): pass", "widht=2", 'has no option "widht", it has none\n'),
    "a wrong type": ("def problem(width=3): pass", "width=a", "is 'a', it must be of type int like its default 3"),
    "a wrong declared type": ("def problem(a: float | None = None): pass", "a=b", "must be of type float like its"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_in_a_file_is_one_sentence(name, tmp_path, capsys):
    text, options, *says = BAD[name]
    path = tmp_path / "my_model.py"
    if text is not None:
        path.write_text(text)
    (tmp_path / "other_model.py").write_text("\n\nraise ImportError('not this one')")
    command = [*RUN, "--problem", f"{path}:{options}", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(command) == BAD_INPUT
    printed = capsys.readouterr()
    assert all(part in printed.err for part in says), printed.err
    assert printed.err.startswith("cflow: ")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    option, _, value = options.partition("=")
    with pytest.raises(InputError, match=r"my_model\.py|no setting"):
        cn.sweep({**FIXED, "problem": str(path), "axes": {option or "seed": [value or 3]}}, tmp_path / "out")


def test_a_run_of_a_file_resumes_from_anywhere_until_the_file_changes(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(asked("my_model.py", "out")) == DONE
    assert cn.load(tmp_path / "out" / "run.nc").tree.attrs["title"].startswith("Gradient descent on my_model(width=3):")
    monkeypatch.chdir(tmp_path / "out")
    assert main(["resume", str(tmp_path / "out")]) == DONE
    assert "finished already" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "curvature.py").write_text("CURVATURE = 2.0\n")
    for command in (["resume", "out"], asked("my_model.py", "out", "--resume")):
        assert main(command) == BAD_INPUT
        error = capsys.readouterr().err
        assert "the file of the problem my_model(width=3) (or one beside it that it imports) has changed" in error
        assert error.count("\n") == 1


def test_an_unfinished_run_of_a_file_that_has_changed_is_refused(model, tmp_path):
    def go_on():
        made = cn.problem(model)
        values = dict(learning_rate=0.01)
        fields = dict(steps=40, processes=("discrete",), checkpoints=tmp_path, checkpoint_every=0, resume=True)
        return cn.run(made, "gradient_descent", values, quiet=True, **fields)

    before = go_on()
    assert list(tmp_path.glob("checkpoint-*.npz")), "as an interrupted run leaves them"
    assert go_on().config == before.config
    model.write_text(model.read_text() + "\n# another text\n")
    with pytest.raises(InputError, match=r"the file of the problem my_model .* has changed since the run"):
        go_on()


@pytest.mark.filterwarnings("default")
def test_warnings_about_a_file_are_one_line(model, tmp_path, capsys):
    model.write_text(model.read_text().replace("w**2", "jnp.abs(w) * w**2"))
    assert main(asked(model, tmp_path / "out")) == DONE
    error = capsys.readouterr().err
    assert re.match(r"warning: .*my_model\.py:\d+", error), error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_options_of_a_file_are_axes_and_cells_notice_that_it_has_changed(model, tmp_path, threads):
    axes = {"problem": [str(model), "quadratic"], "width": [2, 3], "seed": [1]}
    grid, out = FIXED | {"axes": axes}, tmp_path / "out"
    names = [cell.name for cell in read_grid(grid).cells]
    assert len(names) == 3, "a quadratic has no width"
    assert all(re.fullmatch(r"problem=[\w.+=,~-]*", name, re.ASCII) for name in names)
    first = cn.sweep(grid, out, threads, quiet=True)
    assert first.complete
    assert first.title == "gradient_descent on 2 problems, 3 runs"
    assert cn.load(first.rows[1].path).config["problem"] == "my_model(width=3, seed=1)"
    times = [row.path.stat().st_mtime_ns for row in first.rows]
    again = cn.sweep(grid, out, threads, quiet=True)
    assert [row.path.stat().st_mtime_ns for row in again.rows] == times
    model.write_text(model.read_text().replace("scale * jnp", "2 * scale * jnp"))
    changed = cn.sweep(grid, out, threads, quiet=True)
    same = [row.path.stat().st_mtime_ns == time for row, time in zip(changed.rows, times, strict=True)]
    assert same == [False, False, True], "that of the quadratic"


def test_worker_processes_find_a_file_beside_the_command(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(
        'optimizer = "gradient_descent"\nproblem = "my_model.py:width=2"\nsteps = 3\nprocesses = ["discrete"]\n'
        "[axes]\nlearning_rate = [0.01]\n"
    )
    assert main(["sweep", "grid.toml", "--out", "out", "--workers", "1", "--quiet"]) == DONE
    run = cn.load("out/runs/learning_rate=0.01.nc")
    assert run.config["problem"] == "my_model(width=2)"
    assert json.loads(run.tree.attrs["sweep"])["problem"] == "my_model.py", "the folder may be moved"


def test_the_example_is_a_problem(tmp_path):
    made = cn.problem(Path(__file__).parents[2] / "examples" / "own_jax.py", width=3)
    assert (made.name, made.n_weights) == ("own_jax(width=3)", 3 * (64 + 1 + 10))

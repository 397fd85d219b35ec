"""The command line as a user meets it: what it prints, what it writes, what it refuses and with which code."""

import json
import os
import subprocess
import sys

import pytest

import cflow_num as cn
from cflow_num.cli.main import main

SMALL = [
    *("--optimizer", "scalar_rmsprop", "--problem", "ramp", "--learning-rate", "0.1", "--beta2", "0.95"),
    *("--steps", "12", "--quiet"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_its_configuration_and_one_file(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "run.nc"]
    config = json.loads((folder / "config.json").read_text())
    assert config["optimizer"] == "scalar_rmsprop"
    chosen = {name: value for name, value in config["hyperparameters"].items() if value}
    assert chosen == {"learning_rate": 0.1, "beta2": 0.95}


def test_compare_and_report(folder, tmp_path, capsys):
    assert main(["compare", str(folder / "run.nc")]) == 0
    assert "verdict" in capsys.readouterr().out
    assert main(["compare", str(folder / "run.nc"), "--json"]) == 0
    assert "rows" in json.loads(capsys.readouterr().out)
    assert main(["report", str(folder / "run.nc"), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_listings(capsys):
    assert main(["optimizers"]) == 0
    assert "scalar_rmsprop" in capsys.readouterr().out
    assert main(["problems"]) == 0
    assert "digits-mlp" in capsys.readouterr().out


def test_derive_and_codegen_print_and_write(capsys, tmp_path):
    assert main(["derive", "gradient_descent"]) == 0
    assert r"\sigma^2" in capsys.readouterr().out
    assert main(["derive", "gradient_descent", "--latex"]) == 0
    assert r"\begin{document}" in capsys.readouterr().out
    assert main(["codegen", "scalar_rmsprop", "--switches", "bias_correction"]) == 0
    assert "SWITCHES = ('bias_correction',)" in capsys.readouterr().out.replace('"', "'")
    assert main(["codegen", "gradient_descent", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "gradient_descent.py").exists()
    capsys.readouterr()
    assert main(["codegen", "gradient_descent", "--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "gradient_descent.py").write_text("# stale\n")
    assert main(["codegen", "gradient_descent", "--out", str(tmp_path), "--check"]) == 1
    assert "stale" in capsys.readouterr().err


def test_a_divergence_is_saved_and_its_exit_code_tells(tmp_path, capsys):
    arguments = ["--optimizer", "gradient_descent", "--problem", "quadratic:n=4", "--learning-rate", "3", "--quiet"]
    assert main(["run", *arguments, "--steps", "60", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "diverges" in error
    assert "smaller learning rate" in error
    assert (tmp_path / "run.nc").exists()
    assert main(["compare", str(tmp_path / "run.nc")]) == 0


def test_an_optimizer_from_a_file(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nhyperparameters = ["eta", "beta2"]\nupdate = "-eta * g / nu**0.25"\n'
        'state.nu = "beta2 * nu + (1 - beta2) * norm2(g)"\n'
    )
    assert main(["derive", str(path)]) == 0
    assert r"\sigma^2" in capsys.readouterr().out
    assert main(["codegen", str(path), "--out", str(tmp_path)]) == 0
    assert "def preconditioner(" in (tmp_path / "mine.py").read_text()
    capsys.readouterr()
    quick = ["--quick", "--quiet", "--only", "autodiff", "update"]
    assert main(["check", str(path), *quick]) == 0
    assert "every property holds" in capsys.readouterr().out
    schedule = ["--learning-rate", "0.1 + 0.01*tanh(t/5)", "--set", "beta2=0.95"]
    rest = ["--problem", "ramp", "--steps", "12", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["run", "--optimizer", str(path), *schedule, *rest]) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["hyperparameters"]
    assert stored["learning_rate"] == "schedule 0.1 + 0.01*tanh(t/5), 0.1 at first"


RUN = ["run", "--out", "OUT", "--quiet", "--steps", "3"]
QUADRATIC = [*RUN, "--problem", "quadratic:n=3", "--optimizer"]
BAD = {
    "unknown optimizer": ([*QUADRATIC, "scalar_rmsporp", "--learning-rate", "0.1"], "did you mean 'scalar_rmsprop'"),
    "unknown problem": (
        [*RUN, "--problem", "digits-mpl", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        'did you mean "digits-mlp"',
    ),
    "unknown option": (
        [*RUN, "--problem", "digits-mlp:widht=3", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        'did you mean "width"',
    ),
    "option of the wrong type": (
        [*RUN, "--problem", "digits-mlp:width=big", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        "must be of type int",
    ),
    "option without a value": (
        [*RUN, "--problem", "quadratic:n", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        "has no value",
    ),
    "missing learning rate": ([*QUADRATIC, "gradient_descent"], "needs learning_rate"),
    "negative learning rate": ([*QUADRATIC, "gradient_descent", "--learning-rate", "-1"], "greater than 0"),
    "infinite learning rate": ([*QUADRATIC, "gradient_descent", "--learning-rate", "1e400"], "it must be finite and"),
    "beta2 out of range": (
        [*QUADRATIC, "scalar_rmsprop", "--learning-rate", "0.1", "--beta2", "1.5"],
        "beta2 is 1.5, it must be between 0 and 1",
    ),
    "a hyperparameter it has not": (
        [*QUADRATIC, "gradient_descent", "--learning-rate", "0.1", "--beta2", "0.9"],
        'no hyperparameter "beta2"',
    ),
    "an empty value": (
        ["run", "--out", "", "--problem", "quadratic:n=3", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        "the value of --out is empty",
    ),
    "an empty argument": (["compare", ""], "argument 2 is empty"),
    "not a number": (
        [*QUADRATIC, "gradient_descent", "--set", "learning_rate=fast"],
        "neither a number nor an expression in t: 'fast' is not a known name",
    ),
    "neither name nor value": ([*QUADRATIC, "gradient_descent", "--set", "fast"], "write NAME=VALUE"),
    "a schedule that ends below zero": (
        [*QUADRATIC, "gradient_descent", "--learning-rate", "0.1 - t"],
        "is -0.9 at step 1, it must be greater than 0",
    ),
    "a negative seed": (
        [*RUN, "--problem", "quadratic:seed=-1", "--optimizer", "gradient_descent", "--learning-rate", "0.1"],
        "seed is -1",
    ),
    "a weight that is not there": (
        [*QUADRATIC, "gradient_descent", "--learning-rate", "0.1", "--capture", "3"],
        "between 0 and 2",
    ),
    "a file that is not there": ([*QUADRATIC, "mine.toml", "--learning-rate", "0.1"], "mine.toml cannot be read"),
    "a momentum of one": ([*QUADRATIC, "heavy_ball", "--learning-rate", "0.1", "--beta1", "1"], "beta1 is 1"),
    "derive what is not smooth": (["derive", "optax:lion"], "not smooth where the gradient passes through 0"),
    "check an unknown property": (["check", "rmsprop", "--only", "edges"], 'did you mean "edge"'),
    "switches for all": (["derive", "--all", "--switches", "epsilon"], "--switches is for one optimizer"),
    "unknown process": (
        [*QUADRATIC, "gradient_descent", "--learning-rate", "0.1", "--processes", "centrel"],
        'did you mean "central"',
    ),
    "no such run": (["compare", "nowhere/run.nc"], "is not a file"),
    "derive nothing": (["derive"], "pass one optimizer or --all"),
    "derive the unknown": (["derive", "adagard"], "no optimizer 'adagard'"),
    "unknown command": (["rnu"], ""),
    "not an integer": ([*QUADRATIC, "gradient_descent", "--learning-rate", "0.1", "--warm-start", "many"], ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_a_code(name, capsys, tmp_path):
    arguments, says = BAD[name]
    assert main([str(tmp_path / "out") if a == "OUT" else a for a in arguments]) == 1
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert says in error
    if says:
        assert error.startswith("cflow: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_work(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert main(["run", *SMALL, "--out", str(file / "run")]) == 1
    assert capsys.readouterr().err.startswith("cflow: cannot write")


def test_a_damaged_run_file(folder, tmp_path, capsys):
    damaged = tmp_path / "run.nc"
    damaged.write_bytes((folder / "run.nc").read_bytes()[:500])
    for command in ("compare", "report"):
        assert main([command, str(damaged)]) == 1
        assert "damaged" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_gets_one_sentence():
    code = "import sys; from cflow_num.cli.main import main; sys.exit(main(['optimizers']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-u", "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("cflow: cannot use the output (No space left on device)")


def test_the_console_script_and_its_help_need_neither_jax_nor_sympy():
    code = "import sys; from cflow_num.cli.main import main; code = main(['--help']); print(code, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0
    assert "compare" in done.stdout
    assert done.stdout.strip().endswith("0 False")


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    """The discrete process alone, twice: the second run adds nothing to the cache, and neither complains."""
    cache, code = tmp_path / "programs", "import sys; from cflow_num.cli.main import main; sys.exit(main())"
    command = ["run", *SMALL, "--processes", "discrete", "stable", "--out", str(tmp_path / "run")]
    kept = []
    for _ in range(2):
        env = dict(os.environ) | {"CFLOW_CACHE": str(cache)}
        for name in [name for name in env if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))]:
            del env[name]  # what the tests themselves compile is kept elsewhere
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        kept.append({p.name for p in cache.iterdir() if not p.name.endswith("-atime")})
    assert kept[0]
    assert kept[0] == kept[1]


def test_a_cache_folder_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch):
    from cflow_num.support.cache import cache_folder, keep_programs

    (tmp_path / "file").write_text("in the way")
    assert keep_programs(tmp_path / "file" / "programs") is None
    monkeypatch.setenv("CFLOW_CACHE", "")
    assert cache_folder() is None
    assert keep_programs() is None
    monkeypatch.delenv("CFLOW_CACHE")
    assert cache_folder().parts[-2:] == ("cflow", "programs")


def test_a_script_keeps_its_programs_unless_it_says_otherwise(tmp_path):
    code = (
        "import jax, jax.numpy as jnp, sys\n"
        "if len(sys.argv) > 1: jax.config.update('jax_compilation_cache_dir', sys.argv[1])\n"
        "import cflow_num as cn\n"
        "assert jax.config.values['jax_compilation_cache_dir'] == (sys.argv[1] if len(sys.argv) > 1 else None)\n"
        "cn.Problem(lambda w: jnp.sum(w**2), jnp.ones(2))\n"
        "print(jax.config.values['jax_compilation_cache_dir'])\n"
    )
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    plain = {name: x for name, x in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    for cache, arguments, expected in ((own, [], own), ("", [], "None"), (own, [other], other)):
        env = plain | {"CFLOW_CACHE": cache}
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")


def test_an_estimate_says_what_a_run_takes_and_writes_nothing(tmp_path, capsys):
    asked = ["--optimizer", "gradient_descent", "--learning-rate", "0.1", "--problem", "quadratic:n=3"]
    assert main(["run", *asked, "--steps", "900", "--out", str(tmp_path / "a"), "--estimate"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Gradient descent on quadratic, 900 steps: about ")
    assert said.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_an_estimate_grows_with_what_is_asked_for():
    problem, hp = cn.problem("quadratic", n=50), dict(learning_rate=0.01)
    short, long = (cn.estimate(problem, "gradient_descent", hp, steps=n) for n in (100, 100_000))
    assert long.seconds > short.seconds
    assert long.memory > short.memory + 99_000 * 3 * 8  # at least loss and distances of each step
    assert long.compiling < short.compiling  # its programs are there already
    with pytest.raises(cn.RunError, match=r"the run ends early: .*the discrete process stopped at step"):
        cn.estimate(problem, "gradient_descent", dict(learning_rate=1e6))

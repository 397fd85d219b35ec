"""Optimizers from files: the TOML form, Python files, optax by name; every refusal in one sentence."""

import textwrap

import jax.numpy as jnp
import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym.notation import symbols as s
from cflow_sym.reading.expressions import ExpressionError
from cflow_sym.reading.files import read_toml, schedule

SCALAR = """
name = "scalar_rmsprop"
hyperparameters = ["eta", "beta2"]
update = "-eta * g / sqrt(nu)"
[state]
nu = "beta2 * nu + (1 - beta2) * norm2(g)"
[initial]
nu = 0
"""


def changed(old, new, text=SCALAR):
    assert old in text
    return text.replace(old, new)


def test_the_toml_form_is_the_built_in_spec():
    spec, built_in = read_toml(SCALAR), cs.optimizer("scalar_rmsprop")
    assert spec.kinds == {"nu": "scalar"}
    assert [h.name for h in spec.hyperparameters] == ["learning_rate", "beta2"]
    ours, theirs = spec.derive(), built_in.derive()
    assert ours.threshold == theirs.threshold
    assert sp.simplify(ours.sigma_squared - theirs.sigma_squared) == 0


def test_definitions_switches_defaults_and_ranges():
    spec = read_toml("""
        name = "mine"
        title = "Mine"
        update = "-eta * g / root"
        [hyperparameters]
        eta = {}
        beta2 = 0.99
        delta = {lower = 0, upper = 5, default = 0.5, meaning = "floor"}
        [state]
        nu = "beta2 * nu + (1 - beta2) * g**2"
        [initial]
        nu = "delta"
        [definitions]
        nu_hat = "nu"
        root = "sqrt(nu_hat + delta)"
        [switches.bias_correction]
        meaning = "divide by 1 - beta2**t"
        nu_hat = "nu / (1 - beta2**t)"
    """)
    by_name = {h.name: h for h in spec.hyperparameters}
    assert by_name["beta2"].default == 0.99
    assert (by_name["delta"].upper, by_name["delta"].meaning) == (5.0, "floor")
    assert spec.kinds == {"nu": "elementwise"}
    assert spec.configure(bias_correction=True).weight_update.has(s.t)
    assert spec.compile().initial_state(jnp.ones(2), {"delta": jnp.asarray(0.5)})["nu"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed('"-eta * g / sqrt(nu)"', "-eta"), "is not TOML"),
        (changed("hyperparameters", "hyperparameter"), "did you mean 'hyperparameters'"),
        (changed('update = "-eta * g / sqrt(nu)"', ""), "it has no update"),
        (changed('name = "scalar_rmsprop"', ""), "it has no name"),
        (changed('"scalar_rmsprop"', "3"), "put it in quotes"),
        (changed('["eta", "beta2"]', '"eta"'), "must list names"),
        (changed('["eta", "beta2"]', '["eta", "g"]'), "is taken"),
        (changed('["eta", "beta2"]', '["eta", "eta"]'), "list 'eta' twice"),
        (changed('["eta", "beta2"]', "{eta = {lower = 2, upper = 1}, beta2 = {}}"), "empty range"),
        (changed('["eta", "beta2"]', "{eta = {low = 2}, beta2 = {}}"), "did you mean 'lower'"),
        (changed('["eta", "beta2"]', '{eta = "big", beta2 = {}}'), "must be a number"),
        (changed('["eta", "beta2"]', "{eta = {lower = -inf}, beta2 = {}}"), "it must be finite"),
        (changed("sqrt(nu)", "sqrt(mu)"), "state.*|update: 'mu' is not a known name"),
        (changed("-eta * g / sqrt(nu)", "-eta / sqrt(nu)"), "does not depend on the gradient"),
        (changed("-eta * g / sqrt(nu)", "-eta * sign(g)"), "not smooth where the gradient passes through 0"),
        (changed("beta2 * nu + (1 - beta2) * norm2(g)", "nu"), "never updated"),
        (changed("nu = 0", "mu = 0"), "unknown key 'mu'"),
        (changed("nu = 0", 'nu = "g"'), r"initial.nu|undeclared"),
        (changed("sqrt(nu)", "sqrt(nu.real)"), "update: 'nu.real' reads an attribute"),
        (changed("sqrt(nu)", "__import__('os')"), "two underscores"),
        (changed("[initial]", "[switches.fast]\nnu_hat = 'nu'\n[initial]"), "unknown key 'nu_hat'"),
        (changed('nu = "beta2', '2nu = "beta2'), "not free or not an identifier|unknown key"),
        ("a = " + "[" * 3000 + "]" * 3000, "nested too deeply|not TOML|unknown key"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises((cs.SpecError, ExpressionError), match=message) as caught:
        read_toml(text, "my.toml")
    assert str(caught.value).startswith("my.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-eta * g / sqrt(nu)", "eta * g / sqrt(nu)", "P must be positive"),
        ("-eta * g / sqrt(nu)", "-eta * g / (sqrt(nu) - 1)", "P must be positive"),
        ("-eta * g / sqrt(nu)", "-eta * (g + g**3) / sqrt(nu)", "not linear in g"),
    ],
)
def test_what_cannot_be_derived(old, new, message):
    with pytest.raises(cs.SpecError, match=message):
        read_toml(changed(old, new)).derive()


def test_an_instability_of_another_period_is_refused():
    spec = read_toml("""
        name = "negative_direct_term"
        hyperparameters = ["eta"]
        update = "-eta * (m - g / 20)"
        state.m = "0.9 * m + 0.1 * g"
    """)
    with pytest.raises(cs.DerivationError, match="does not have period two"):
        spec.derive()


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


SPEC = """
    import cflow_sym as cs
    s = cs.symbols
    {name} = cs.OptimizerSpec("mine", -s.eta * s.g, (cs.Hyperparameter("learning_rate", s.eta),))
"""


def test_python_files(tmp_path):
    assert cs.load_optimizer(write(tmp_path, SPEC.format(name="SPEC"))).name == "mine"
    assert cs.load_optimizer(write(tmp_path, SPEC.format(name="whatever"))).name == "mine"


def test_a_python_file_is_what_it_is_now(tmp_path):
    """Python itself takes what it compiled before where a file has the same second and the same length."""
    for k in "234":
        spec = cs.load_optimizer(write(tmp_path, SPEC.replace("-s.eta", f"-{k} * s.eta").format(name="SPEC")))
        assert spec.update == -int(k) * cs.symbols.eta * cs.symbols.g


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 3", "defines no OptimizerSpec"),
        (SPEC.format(name="a") + SPEC.format(name="b"), "several specs"),
        ("raise SystemExit(3)", "line 1, fails with SystemExit"),
        ("1 / 0", "line 1, fails with ZeroDivisionError"),
        ("def f(:\n", "line 1, fails with SyntaxError"),
        ("import cflow_sym as cs\ncs.OptimizerSpec('a', cs.symbols.eta, ())", "does not depend|undeclared"),
    ],
)
def test_python_files_that_are_refused(tmp_path, text, message):
    with pytest.raises(cs.SpecError, match=message):
        cs.load_optimizer(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py", "is not a file"),
        ("missing.toml", "cannot be read"),
        ("optax:adamm", "did you mean 'adam"),
        ("optax:_src.base", "is no name of an optax optimizer"),
        ("optax:os.system", "is no name of an optax optimizer"),
        ("optax:__name__", "is no name of an optax optimizer"),
        ("rmsporp", "did you mean 'rmsprop'"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises((cs.SpecError, cs.UnknownOptimizerError), match=message):
        cs.load_optimizer(name)


def test_binary_and_huge_files(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(cs.SpecError, match="not text in UTF-8"):
        cs.load_optimizer(str(tmp_path / "binary.toml"))
    (tmp_path / "huge.toml").write_text("#" * 200_000)
    with pytest.raises(cs.SpecError, match="200000 bytes"):
        cs.load_optimizer(str(tmp_path / "huge.toml"))


def test_schedules():
    warm = schedule("where(t < 100, t / 100, 1) * 0.5")
    assert (float(warm(jnp.asarray(50.0))), float(warm(jnp.asarray(200.0)))) == (0.25, 0.5)
    assert warm.text == "where(t < 100, t / 100, 1) * 0.5"
    with pytest.raises(ExpressionError, match=r"step.*not a known name"):
        schedule("step / 2")

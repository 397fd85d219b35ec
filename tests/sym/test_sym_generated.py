"""Generated modules: the committed text is current, functions agree with automatic differentiation."""

import ast
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_sym_derivation import ADAGRAD_NORM

import cflow_sym as cs
from cflow_sym import generated
from cflow_sym.interface import CompiledFlow, MissingFlowError, Moments
from cflow_sym.writing import codegen, committed, note_index

SWITCHES = [(), ("bias_correction",), ("eps_in_sqrt",), ("bias_correction", "eps_in_sqrt")]
COMMITTED = [
    ("gradient_descent", ()),
    *(("scalar_rmsprop", on) for on in SWITCHES),
    ("rmsprop", ("bias_correction",)),
    ("rmsprop", ("eps_in_sqrt",)),
    ("adagrad", ()),
    ("blockwise_rmsprop", ("bias_correction",)),
    ("normalized_gradient_descent", ()),
    ("nesterov_lookahead", ()),
    ("aggmo", ()),
    ("nadam", ()),
    ("adabelief", ()),
    ("scalar_adam", ()),
]
FLOWS = [*COMMITTED, ("sum_of_norms", ())]
N = 5


class Halving:
    """A schedule that halves the learning rate every ten steps."""

    def __call__(self, t):
        return jnp.asarray(0.3, t.dtype) * 0.5 ** (t / 10)

    def rate(self, t):
        return jax.grad(self)(t)


class Blocks:
    """Two blocks: the first three coordinates and the others."""

    def total(self, v):
        return jnp.stack([jnp.sum(v[:3]), jnp.sum(v[3:])])

    def spread(self, x):
        return jnp.repeat(x, jnp.array([3, N - 3]), total_repeat_length=N)


@pytest.fixture(autouse=True)
def _double_precision():
    before = jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    yield
    jax.config.update("jax_enable_x64", before[0])
    jax.config.update("jax_numpy_dtype_promotion", before[1])


def flow_of(name, switches):
    return ADAGRAD_NORM.compile() if name == ADAGRAD_NORM.name else generated.load(name, switches)


def hyperparameters(flow, dtype=jnp.float64, schedule=False):
    values = {
        "learning_rate": 0.3,
        "beta1": 0.8,
        "beta2": 0.9,
        "beta_a": 0.0,
        "beta_b": 0.7,
        "beta_c": 0.9,
        "epsilon_root": 0.01,
        "epsilon": 0.02,
        "weight_decay": 0.05,
        "l2": 0.03,
        "initial_accumulator": 0.1,
    }
    hp = {h.name: jnp.asarray(values[h.name], dtype) for h in flow.HYPERPARAMETERS}
    if schedule:
        hp |= {h.name: Halving() for h in flow.HYPERPARAMETERS if h.schedulable}
    return hp | {"blocks": Blocks()}


def random_state(flow, key, dtype=jnp.float64):
    shapes = {"scalar": (), "elementwise": (N,), "blockwise": (2,), "counter": ()}
    keys = jax.random.split(key, len(flow.SLOW_STATES))
    draws = {
        n: jax.random.uniform(k, shapes[kind], dtype, 0.5, 2.0)
        for (n, kind), k in zip(flow.SLOW_STATES.items(), keys, strict=True)
    }
    draws = {n: v * 5 if n == "t" else v for n, v in draws.items()}
    return draws | {n: jax.random.normal(keys[0], (N,), dtype) for n in flow.FILTERED_STATES}


def no_closed_form(flow, state, hp):
    return jnp.ndim(flow.preconditioner(state, hp))


def close(a, b, rtol=1e-12):
    return jax.tree.all(jax.tree.map(lambda x, y: jnp.allclose(x, y, rtol=rtol, atol=rtol), a, b))


@pytest.fixture(params=FLOWS, ids=lambda case: "-".join([case[0], *case[1]]))
def setting(request):
    flow = flow_of(*request.param)
    state = random_state(flow, jax.random.key(1))
    g = jax.random.normal(jax.random.key(2), (N,), jnp.float64)
    return flow, state, g, hyperparameters(flow, schedule=request.param[0] != ADAGRAD_NORM.name)


def test_protocol(setting):
    flow = setting[0]
    assert isinstance(flow, CompiledFlow)
    assert flow.SOURCE_HASH


def test_a_weight_without_gradient_keeps_a_finite_drift():
    flow = generated.load("rmsprop")
    state = {"nu": jnp.array([0.0, 1.0]), "t": jnp.asarray(3.0)}
    drift = flow.preconditioner_drift(
        state, {"nu": jnp.array([0.0, 0.5]), "t": jnp.asarray(1.0)}, hyperparameters(flow)
    )
    assert jnp.isfinite(drift).all()
    assert float(drift[0]) == 0


def test_without_a_count_the_variance_is_that_of_late_times():
    flow = generated.load("scalar_rmsprop", ("bias_correction",))
    hp = hyperparameters(flow)
    now, late, at_infinity = (flow.sigma_squared(2.0, -0.3, 0.2, 0.5, hp, *t) for t in ((3.0,), (1e6,), ()))
    assert close(late, at_infinity)
    assert not close(now, at_infinity, rtol=1e-6)


def test_elementwise_closed_form_refuses_with_its_reason():
    flow = generated.load("rmsprop")
    with pytest.raises(NotImplementedError, match="P has many entries"):
        flow.sigma_squared(1.0, 1.0, 1.0, 1.0, {})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_jit_and_vmap(setting, dtype):
    flow = setting[0]
    hp = hyperparameters(flow, dtype)
    w = jnp.linspace(0.5, 1.5, N, dtype=dtype)
    g = w * 2

    @jax.jit
    def everything(w, g):
        state = flow.update_state(flow.initial_state(w, hp), g, hp)
        moments = Moments(g, g**2)
        drift = flow.slow_drift(state, g, hp)
        return (
            state,
            flow.update_weights(w, state, g, hp),
            flow.preconditioner(state, hp),
            flow.preconditioner_drift(state, drift, hp),
            flow.threshold(state, hp),
            drift,
            flow.slow_drift_moments(state, g, moments, hp),
            flow.filter_coefficients(state, hp),
            flow.gain(state, hp),
            flow.characteristic_polynomial(state, g[0], hp),
            flow.leapfrog(state, hp, jnp.asarray(0.5, dtype)),
            flow.leap_slow(state, g, hp, jnp.asarray(0.5, dtype)),
            flow.leap_slow_moments(state, g, moments, hp, jnp.asarray(0.5, dtype)),
            flow.start_slow(state, g, hp, jnp.asarray(0.5, dtype)),
            flow.averaged_squared_gradient(g, moments),
            flow.predicted_loss(g[0], g[1]),
            () if no_closed_form(flow, state, hp) else flow.sigma_squared(*g[:4], hp),
        )

    assert {leaf.dtype for leaf in jax.tree.leaves(everything(w, g))} == {jnp.dtype(dtype)}
    many = jax.vmap(everything)(jnp.stack([w, 2 * w]), jnp.stack([g, g]))
    assert close(jax.tree.map(lambda a: a[0], many), everything(w, g), rtol=1e-6)


NOTES = Path(__file__).parents[2] / "derivations"


@pytest.mark.parametrize("name", cs.optimizers())
def test_committed_modules_and_notes_are_current(name):
    assert committed.write_generated(names=[name], check=True) == []
    assert committed.write_derivations(NOTES, [name], check=True) == []
    assert note_index.index_row(name) in (NOTES / "README.md").read_text().splitlines()


def test_there_is_one_note_for_each_optimizer_and_an_index():
    assert {path.stem for path in NOTES.glob("*.md")} == {*cs.optimizers(), "README", "limits"}
    assert (NOTES / "README.md").read_text().startswith(note_index.index([]).split("\n\n|")[0])


def test_a_stale_module_is_found_and_renewed(tmp_path):
    path = tmp_path / "gradient_descent.py"
    assert committed.write_generated(tmp_path, ["gradient_descent"], check=True) == [path]
    assert committed.write_generated(tmp_path, ["gradient_descent"]) == [path]
    path.write_text(path.read_text().replace("1 / eta", "2 / eta"))
    assert committed.write_generated(tmp_path, ["gradient_descent"], check=True) == [path]


def test_modules_are_readable_and_free_of_sympy():
    for path in (Path(codegen.__file__).parent / "generated").glob("[a-z]*.py"):
        text = path.read_text()
        assert max(map(len, text.splitlines())) <= 110, path
        assert "sympy" not in text
        functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        assert all(ast.get_docstring(f) for f in functions)
        assert "generated by cflow codegen; do not edit" in text


def test_tracebacks_show_the_generated_line():
    flow = cs.compile(cs.derive("scalar_rmsprop"))
    with pytest.raises(KeyError) as caught:
        flow.preconditioner({}, {})
    assert 'hp["learning_rate"]' in "".join(traceback.format_exception(caught.value))


def test_the_hash_follows_the_spec():
    base, variant = cs.optimizer("scalar_rmsprop"), cs.optimizer("scalar_rmsprop", bias_correction=True)
    assert codegen.source_hash(base, "published") != codegen.source_hash(variant, "published")
    assert codegen.source_hash(base, "published") != codegen.source_hash(base, "consistent")


def test_missing_modules(monkeypatch):
    with pytest.raises(MissingFlowError, match="did you mean 'scalar_rmsprop'"):
        generated.load("scalar_rmspop")
    assert generated.load("rmsprop").NAME == "rmsprop"
    with pytest.raises(MissingFlowError, match="cflow codegen scalar_rmsprop"):
        generated.load("scalar_rmsprop", ("nesterov",))
    assert generated.load("scalar_rmsprop", ("eps_in_sqrt", "bias_correction")).SWITCHES == (
        "bias_correction",
        "eps_in_sqrt",
    )
    monkeypatch.setattr(generated, "available", lambda: ())
    with pytest.raises(MissingFlowError, match="run `cflow codegen gradient_descent`"):
        generated.load("gradient_descent")


def test_notes_render_every_step():
    for name in cs.optimizers():
        d = cs.derive(name)
        note = d.to_markdown()
        assert note == d.to_markdown()
        assert all(assumption in note for assumption in d.assumptions)
        assert note.count("$$") % 2 == 0
        assert r"\begin{document}" in d.to_latex()


def test_a_note_of_chosen_parts():
    d = cs.derive("scalar_rmsprop")
    whole, part = d.to_markdown(), d.to_markdown("sigma_squared", "update", "threshold")
    assert all(text in whole for text in part.strip().split("\n\n"))
    assert part.index("aligned") < part.index("c=2") < part.index(r"\boxed")  # in the order of the derivation
    assert part._repr_markdown_() == part
    assert "kappa_2=" in d.to_markdown("stable_nu")  # the rate is named where it first stands
    with pytest.raises(KeyError, match="no part 'sigma': the parts are update, results, expansion"):
        d.to_markdown("sigma")

"""Runs end to end on small problems: what is recorded, saved, refused, and kept when a run cannot go on."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

import cflow_num as cn
import cflow_sym as cs
from cflow_num.flows.base import Flow
from cflow_num.problems.valley import valley_loss
from cflow_num.running import prepare
from cflow_num.running.process import Records
from cflow_num.running.recorder import VARIABLES, Lockstep, Recorder
from cflow_num.support.errors import InputError, PrecisionWarning, RunError
from cflow_sym.generated import load
from cflow_sym.interface import MissingFlowError

from .cases import arrays

RMSPROP = {"learning_rate": 0.1, "beta2": 0.95}
EVERYTHING = ("discrete", "stable", "central", "ablated")


@pytest.fixture(scope="module")
def ramp_run():
    return cn.run(cn.problem("ramp"), "scalar_rmsprop", RMSPROP, steps=40, processes=EVERYTHING, quiet=True)


def test_every_variable_has_dimensions_units_and_a_meaning(ramp_run):
    assert list(ramp_run.tree.children) == list(EVERYTHING)
    for name, group in ramp_run.tree.children.items():
        assert group.sizes["step"] == 41
        np.testing.assert_array_equal(group["step"], np.arange(41))
        for variable in group.data_vars.values():
            assert variable.dims in (("step",), ("step", "eig"))
            assert variable.attrs["units"]
            assert variable.attrs["long_name"]
            assert variable.name in VARIABLES
        needed = {"loss", "gradient_norm", "effective_eigenvalues", "n_gradients", "seconds", "nu"}
        needed |= {"midpoint_loss", "displacement"} if name == "discrete" else {"distance_to_discrete"}
        if name in ("central", "ablated"):
            needed |= {"predicted_loss", "predicted_squared_gradient_norm", "sigma_eigenvalues", "residual"}
            needed |= {"n_hessian_vectors", "n_curvature_gradients"}
        assert needed <= set(group.data_vars)
    assert ramp_run.config["hyperparameters"] == RMSPROP | dict.fromkeys(("epsilon", "weight_decay", "l2"), 0.0)
    assert json.loads(ramp_run.tree.attrs["versions"])["jax"]


def test_midpoints_are_unknown_at_both_ends_and_only_there(ramp_run):
    for name in ("midpoint_loss", "distance_from_start"):
        known = np.isfinite(ramp_run.tree["discrete"][name].values)
        assert known[1:-1].all()
        assert not known[[0, -1]].any()
    assert np.isfinite(ramp_run.tree["central"]["distance_to_discrete"].values[1:-1]).all()
    assert np.isfinite(ramp_run.tree["discrete"]["displacement"].values[1:-1, 0]).all()


def test_a_run_file_comes_back_the_same(ramp_run, tmp_path):
    path = ramp_run.save(tmp_path / "deep" / "run.nc")
    assert [p.name for p in path.parent.iterdir()] == ["run.nc"]
    again = cn.load(path)
    assert again.config == ramp_run.config
    for name, group in ramp_run.tree.children.items():
        for variable in group.data_vars:
            np.testing.assert_array_equal(again.tree[name][variable], group[variable])


@pytest.mark.parametrize("steps", [20, 25])
def test_the_last_midpoint_is_unknown_whatever_the_chunks(steps):
    run = cn.run(cn.problem("quadratic", n=6), "gradient_descent", {"learning_rate": 0.3}, steps=steps, quiet=True)
    assert np.flatnonzero(np.isnan(run.tree["discrete"]["midpoint_loss"])).tolist() == [0, steps]
    assert np.flatnonzero(np.isnan(run.tree["stable"]["distance_to_discrete"])).tolist() == [0, steps]


def test_predictions_at_the_edge_of_the_ramp(ramp_run):
    """E|grad|^2 = p^2 + sigma^2 S^2 and E[L] = L + sigma^2 S / 2: H u, not u, carries the oscillation."""
    central, S, p, eta = ramp_run.tree["central"], 10.0, 0.1, 0.1
    sigma_squared = eta**2 / 4 - p**2 / S**2
    predicted = central["predicted_squared_gradient_norm"].values[20:]
    np.testing.assert_allclose(predicted, p**2 + sigma_squared * S**2, rtol=1e-4)
    rise = (central["predicted_loss"] - central["loss"]).values[20:]
    np.testing.assert_allclose(rise, sigma_squared * S / 2, rtol=1e-4)


def test_a_start_near_zero_loss_is_no_divergence():
    ramp = cn.problem("ramp", x0=1e-4)
    run = cn.run(ramp, "scalar_rmsprop", RMSPROP, steps=20, processes=("discrete", "stable"), quiet=True)
    assert not run.reason


def test_lockstep_aligns_weights_and_directions():
    """Hand-made chunks: three weights, directions that turn at every step, against a direct computation."""
    rng, T, n, k = np.random.default_rng(0), 4, 3, 2
    discrete, central = rng.normal(size=(2, 2 * T + 1, n))
    central[0] = discrete[0]
    covectors = rng.normal(size=(2 * T + 1, n, k))
    problem = cn.problem("quadratic", n=n)
    recorders = {"discrete": Recorder(2 * T), "central": Recorder(2 * T)}
    flow = Flow(problem, arrays("gradient_descent", problem, learning_rate=0.1), load("gradient_descent"))
    lockstep = Lockstep(flow, recorders, {"discrete": discrete[0], "central": central[0]}, "quick")
    for b in range(2):
        steps = slice(1 + b * T, 1 + (b + 1) * T)
        log = SimpleNamespace(sigma_covectors=covectors[steps])
        rest = {"seen": None, "predictions": {}, "captured": {}, "n_gradients": None, "reason": None}
        chunk = {
            "discrete": Records(discrete[steps], log=None, **rest),
            "central": Records(central[steps], log=log, **rest),
        }
        lockstep.add(b * T, chunk)
    lockstep.close(2 * T)
    middle = (discrete[:-2] + 2 * discrete[1:-1] + discrete[2:]) / 4
    inner = slice(1, 2 * T)
    distance = recorders["central"].arrays["distance_to_discrete"][inner]
    np.testing.assert_allclose(distance, np.linalg.norm(central[inner] - middle, axis=1))
    expected = np.einsum("tnk,tn->tk", covectors[inner], discrete[inner] - middle)
    np.testing.assert_allclose(recorders["discrete"].arrays["displacement"][inner], expected)
    value = [float(problem.value(jnp.asarray(w))) for w in middle]
    np.testing.assert_allclose(recorders["discrete"].arrays["midpoint_loss"][inner], value)


def test_distances_agree_with_a_direct_computation():
    """On a quadratic below the threshold everything is known: no oscillation, the flow is exponential decay."""
    quadratic = cn.problem("quadratic", n=6, sharpness=1.0)
    run = cn.run(quadratic, "gradient_descent", {"learning_rate": 0.3}, steps=25, quiet=True)
    lam, w0, t = np.asarray(quadratic.data), np.asarray(quadratic.w0), np.arange(26)[:, None]
    flow, discrete = w0 * np.exp(-0.3 * lam * t), w0 * (1 - 0.3 * lam) ** t
    middle = (discrete[:-2] + 2 * discrete[1:-1] + discrete[2:]) / 4
    expected = np.linalg.norm(flow[1:-1] - middle, axis=1)
    for name, tolerance in (("stable", 1e-5), ("central", 3e-3)):  # Heun with step 1/2 against Tsit5
        found = run.tree[name]["distance_to_discrete"].values[1:-1]
        np.testing.assert_allclose(found, expected, atol=tolerance)
    assert np.all(run.tree["central"]["sigma_eigenvalues"].fillna(0) == 0)
    np.testing.assert_allclose(run.tree["discrete"]["effective_eigenvalues"][-1, 0], 0.3, rtol=1e-6)


def test_capacity_grows_when_more_eigenvalues_arrive():
    """Twelve directions reach the edge together; four are tracked at first."""
    n = 12

    def loss(w, slope):
        x, y = w[:n], w[n]
        return jnp.sum(x**2) * (1.5 + y) / 2 - slope * y

    problem = cn.Problem(loss, jnp.full(n + 1, 1e-3).at[n].set(0.0), data=jnp.asarray(0.05))
    run = cn.run(problem, "gradient_descent", {"learning_rate": 1.0}, steps=30, processes=("central",), quiet=True)
    assert not run.reason
    central = run.tree["central"]
    assert float(central["effective_eigenvalues"].max()) < 2.02
    trace = central["sigma_eigenvalues"].sum("eig")[-1]
    np.testing.assert_allclose(trace, 2 * 0.05, rtol=1e-6)  # only the trace of Sigma is determined here


def test_eigenvalues_every_so_many_steps():
    quadratic = cn.problem("quadratic", n=6)
    run = cn.run(quadratic, "gradient_descent", {"learning_rate": 0.3}, steps=12, eig_every=4, quiet=True)
    for name in ("discrete", "stable", "central"):
        known = np.isfinite(run.tree[name]["effective_eigenvalues"].values[:, 0])
        np.testing.assert_array_equal(np.flatnonzero(known), [0, 4, 8, 12])


def test_the_chunk_length_changes_no_number(monkeypatch):
    valley = cn.problem("valley", x0=1e-4, z0=-0.5)
    runs = []
    for chunk in (16, 24):  # multiples of the longest step of the anchored integrator
        monkeypatch.setattr(prepare, "CHUNK", chunk)
        runs.append(cn.run(valley, "gradient_descent", {"learning_rate": 1.0}, steps=40, quiet=True))
    assert runs[0].tree["central"]["sigma_eigenvalues"].values[-1, 0] > 0.01
    for name in ("discrete", "central"):
        for variable in ("loss", "effective_eigenvalues"):
            a, b = (r.tree[name][variable].values for r in runs)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"{name} {variable}")


def test_a_divergence_is_a_result_with_its_reason_and_data(tmp_path):
    quadratic = cn.problem("quadratic", n=6, sharpness=1.0)
    run = cn.run(quadratic, "gradient_descent", {"learning_rate": 2500.0}, steps=60, quiet=True)
    assert "the discrete process stopped at step" in run.reason
    assert "use a smaller learning rate" in run.reason
    assert "the central process stopped at step 0" in run.reason  # constant curvature: nothing can keep the edge
    assert 3 < run.tree["discrete"].sizes["step"] < 61
    assert np.isfinite(run.tree["discrete"]["loss"]).all()
    assert np.isnan(run.tree["central"]["distance_to_discrete"]).all()
    assert cn.load(run.save(tmp_path / "run.nc")).reason == run.reason


def test_an_interrupted_run_keeps_its_data(monkeypatch):
    from cflow_num.running.process import Process

    advance, calls = Process.advance, []

    def interrupted(self, carry):
        calls.append(self.name)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return advance(self, carry)

    monkeypatch.setattr(Process, "advance", interrupted)
    quadratic = cn.problem("quadratic", n=6)
    run = cn.run(quadratic, "gradient_descent", {"learning_rate": 0.3}, steps=60, quiet=True)
    assert run.reason.startswith("interrupted at step 16")
    assert run.tree["central"].sizes["step"] == 17


def test_a_new_optimizer_runs_without_any_change_here():
    """RMSProp's norm version with a cube root, which exists in no library: three lines of data."""
    s = cs.symbols
    spec = cs.OptimizerSpec(
        name="cube_root_prop",
        title="Cube-root Scalar RMSProp",
        hyperparameters=cs.optimizer("scalar_rmsprop").hyperparameters[:2],
        states=(cs.State("nu", s.beta2 * s.nu + (1 - s.beta2) * cs.norm2(s.g)),),
        update=-s.eta * s.g * s.nu ** sp.Rational(-1, 3),
    )
    run = cn.run(cn.problem("ramp"), spec, RMSPROP, steps=60, quiet=True)
    assert not run.reason
    assert run.tree["central"]["sigma_eigenvalues"][-1, 0] > 0
    at_edge = run.tree["central"]["effective_eigenvalues"][-1, 0]
    assert float(at_edge) == pytest.approx(2.0, abs=1e-3)


def test_float32(ramp_run):
    ramp = cn.problem("ramp")
    with pytest.warns(PrecisionWarning, match="float32 weights"):
        problem = cn.Problem(
            lambda w, c: c["S"] * w[0] ** 2 / 2 - c["p"] * w[1],
            ramp.w0.astype(jnp.float32),
            data={name: x.astype(jnp.float32) for name, x in ramp.data.items()},
        )
    run = cn.run(problem, "scalar_rmsprop", RMSPROP, steps=40, processes=EVERYTHING, quiet=True)
    assert run.config["dtype"] == "float32"
    for name in ("stable", "central"):
        np.testing.assert_allclose(run.tree[name]["loss"], ramp_run.tree[name]["loss"], rtol=1e-3, atol=1e-4)


def test_a_flow_that_fails_stops_alone():
    """Curvature that no oscillation can lower: the central flow ends, the stable flow goes on."""
    quadratic = cn.problem("quadratic", n=4, sharpness=1.0)
    processes = ("stable", "central")
    run = cn.run(quadratic, "gradient_descent", {"learning_rate": 2.5}, steps=12, processes=processes, quiet=True)
    assert run.reason.startswith("the central process stopped at step 0 of 12")
    assert np.isfinite(run.tree["stable"]["loss"]).all()
    assert np.isfinite(run.tree["central"]["loss"]).sum() == 1


def test_the_published_integrator_agrees():
    def loss(w, c):
        return valley_loss(w[:3], c) + jnp.sum(w[3:] ** 2) / 20

    valley = cn.problem("valley", x0=0.0)
    problem = cn.Problem(loss, jnp.concatenate([valley.w0, jnp.zeros(30)]), data=valley.data)
    heun, published = (
        cn.run(
            problem,
            "gradient_descent",
            {"learning_rate": 1.0},
            steps=40,
            processes=("central",),
            integrator=integrator,
            quiet=True,
        ).tree["central"]
        for integrator in ("heun", "published")
    )
    np.testing.assert_allclose(published["loss"], heun["loss"], rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(published["sigma_eigenvalues"][-1, 0], heun["sigma_eigenvalues"][-1, 0], rtol=2e-2)
    assert float(published["effective_eigenvalues"][:, 0].max()) < 2.02


def test_the_published_integrator_says_when_it_cannot_follow():
    """Twelve eigenvalues of 24 weights are more than its eigen-solver takes: the flow ends with a reason."""

    def loss(w, slope):
        x, y = w[:12], w[12]
        return jnp.sum(x**2) * (1.5 + y) / 2 - slope * y + jnp.sum(w[13:] ** 2) / 20

    problem = cn.Problem(loss, jnp.full(24, 1e-3).at[12].set(0.0), data=jnp.asarray(0.05))
    processes = ("stable", "central")
    arguments = dict(steps=20, processes=processes, integrator="published", quiet=True)
    run = cn.run(problem, "gradient_descent", {"learning_rate": 1.0}, **arguments)
    assert "the central process stopped at step" in run.reason
    assert "use heun" in run.reason


BAD = {
    "unknown optimizer": (dict(optimizer="scalar_rmsporp"), "scalar_rmsprop"),
    "unknown hyperparameter": (dict(hyperparameters={"learning_rat": 0.1}), 'did you mean "learning_rate"'),
    "missing hyperparameter": (dict(hyperparameters={}), "learning_rate"),
    "negative": (
        dict(hyperparameters={"learning_rate": -1.0}),
        "learning_rate is -1, it must be greater than 0",
    ),
    "not a number": (dict(hyperparameters={"learning_rate": "fast"}), "'fast'"),
    "nan": (dict(hyperparameters={"learning_rate": float("nan")}), "nan"),
    "beta2 above 1": (
        dict(optimizer="scalar_rmsprop", hyperparameters={"learning_rate": 0.1, "beta2": 1.0}),
        "beta2 is 1, it must be between 0 and 1",
    ),
    "unknown switch": (
        dict(optimizer="scalar_rmsprop", hyperparameters=RMSPROP | {"nestorov": True}),
        "nestorov",
    ),
    "a switch it has not, off": (
        dict(optimizer="scalar_rmsprop", hyperparameters=RMSPROP | {"nestorov": False}),
        "nestorov",
    ),
    "no steps": (dict(steps=0), "steps is 0"),
    "unknown process": (dict(processes=("discrete", "centrel")), 'did you mean "central"'),
    "no process": (dict(processes=()), "at least one of"),
    "unknown integrator": (dict(integrator="hern"), 'did you mean "heun"'),
    "ablated without adaptation": (dict(processes=("ablated",)), "not defined for gradient_descent"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    change, says = BAD[name]
    arguments = {
        "problem": cn.problem("quadratic", n=3),
        "optimizer": "gradient_descent",
        "hyperparameters": {"learning_rate": 0.1},
        "steps": 3,
    } | change
    problem, optimizer, hp = (arguments.pop(k) for k in ("problem", "optimizer", "hyperparameters"))
    with pytest.raises((InputError, MissingFlowError)) as error:
        cn.run(problem, optimizer, hp, quiet=True, **arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("steps", 1.5), ("warm_start", -1), ("eig_every", True)])
def test_settings_of_the_wrong_kind(name, value):
    with pytest.raises(InputError, match=re.escape(f"{name} is {value}, it must be a whole number")):
        cn.run(cn.problem("quadratic"), "gradient_descent", {"learning_rate": 0.1}, quiet=True, **{name: value})


def test_a_loss_that_is_not_finite_at_the_start():
    problem = cn.Problem(lambda w: jnp.sum(jnp.log(w)), jnp.array([-1.0]))
    with pytest.raises(InputError, match="loss is nan at the start"):
        cn.run(problem, "gradient_descent", {"learning_rate": 0.1}, steps=3, quiet=True)


def test_divergence_in_the_warm_start():
    problem = cn.Problem(lambda w: jnp.sum(w**4), jnp.array([10.0]))
    with pytest.raises(RunError, match="warm-start step"):
        cn.run(problem, "gradient_descent", {"learning_rate": 1.0}, steps=3, warm_start=20, quiet=True)


def test_a_file_is_read_and_compared_without_the_library_of_labelled_arrays(tmp_path, ramp_run):
    path = ramp_run.save(tmp_path / "run.nc")
    code = (
        f"import sys, cflow_num.cli.main as cli; cli.main(['compare', {str(path)!r}]); "
        "print([m for m in ('xarray', 'pandas', 'jax', 'diffrax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    read = cn.load(path)
    assert set(read.processes) == set(ramp_run.tree.children)
    plain = {(process, name): read.array(process, name) for process, name in _recorded(ramp_run)}
    sizes = {process: (read.size(process), read.size(process, "eig")) for process in read.processes}
    assert read.save(tmp_path / "again.nc").read_bytes() == path.read_bytes()
    assert _recorded(read) == _recorded(ramp_run)  # from here on it is the tree that counts
    for (process, name), array in plain.items():
        np.testing.assert_array_equal(array, read.tree[process][name].values)
        np.testing.assert_array_equal(array, read.array(process, name))
    assert sizes == {process: (len(group.step), len(group.eig)) for process, group in read.tree.children.items()}
    assert read.attrs == read.tree.attrs
    assert read.array("discrete", "nothing") is None


def _recorded(run):
    return {(process, name) for process, group in run.tree.children.items() for name in group.data_vars}


def test_damaged_and_foreign_files(tmp_path, ramp_run):
    path = ramp_run.save(tmp_path / "run.nc")
    damaged = tmp_path / "damaged.nc"
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        cn.load(damaged)
    with pytest.raises(InputError, match="not a file"):
        cn.load(tmp_path / "nothing.nc")


def test_a_missing_generated_module_says_how_to_write_it(monkeypatch, tmp_path):
    """Deleting a generated module makes a run fail with a sentence."""
    from cflow_sym import generated

    copy = tmp_path / "generated"
    shutil.copytree(generated.__path__[0], copy)
    shutil.copytree(cs.optimizers.__path__[0], tmp_path / "optimizers")
    (copy / "gradient_descent.py").unlink()
    monkeypatch.setattr(generated, "__file__", str(copy / "__init__.py"))
    with pytest.raises(MissingFlowError, match="cflow codegen") as error:
        cn.run(cn.problem("quadratic", n=3), "gradient_descent", {"learning_rate": 0.1}, steps=3, quiet=True)
    assert "\n" not in str(error.value)

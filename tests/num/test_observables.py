"""Observables: functions of the weights along every process, and what flows predict of their time averages."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.record.measures import observed
from cflow_num.running.run import run_batch
from cflow_num.support.errors import InputError

HP = dict(learning_rate=0.3, beta2=0.9)
QUIET = dict(quiet=True, processes=("discrete", "stable", "central"))


@cache
def problem():
    return cn.problem("digits-mlp", n=40, width=3, components=8)


def norm(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def loss(params, data):
    return problem().function(jax.tree.leaves(params), data)


def several(params):
    return jnp.stack([norm(params), jnp.sin(norm(params))])


def most(params):
    return jnp.max(jax.tree.leaves(params)[0])


ALL = dict(norm=norm, own_loss=loss, several=several, most=most)


@cache
def run(steps=60, every=1):
    return cn.run(problem(), "scalar_rmsprop", HP, steps=steps, observe=ALL, observe_every=every, **QUIET)


def values(run, process, name):
    return run.tree[process][name].values


def test_values_are_those_of_the_function_at_the_weights_of_each_process():
    found = run()
    for process in found.processes:
        assert values(found, process, "norm")[-1] == pytest.approx(float(norm(found.weights(process))), rel=1e-14)
        np.testing.assert_allclose(values(found, process, "several")[-1], several(found.weights(process)), rtol=1e-14)
        np.testing.assert_allclose(values(found, process, "own_loss"), values(found, process, "loss"), rtol=1e-14)


def test_what_the_loss_does_is_predicted_of_it_as_of_any_function():
    central = run().tree["central"]
    added = central["predicted_own_loss"] - central["own_loss"]
    assert (np.asarray(central["sigma_eigenvalues"][:, 0]) > 0).sum() > 20
    assert float(added.max()) > 0.05 * float(central["own_loss"][-1])
    # <Sigma, H>/2 by eigenvalues in single precision, which are carried on from the middle of a step
    np.testing.assert_allclose(added[1:], (central["predicted_loss"] - central["loss"])[1:], rtol=3e-3, atol=1e-7)


def test_the_average_squared_norm_grows_by_the_trace_of_sigma():
    """D^2 |w|^2 = 2: the eigenvectors of Sigma have length P^(-1/2), and P is one number here."""
    central = run().tree["central"]
    trace = (central["sigma_eigenvalues"].fillna(0).sum("eig") * central["effective_step_size"]).values
    added = (central["predicted_norm"] - central["norm"]).values
    assert added.max() > 1e-3
    np.testing.assert_allclose(added[1:], trace[1:], rtol=0.03, atol=1e-12)  # P moves within a step
    both = (central["predicted_several"] - central["several"]).values
    np.testing.assert_allclose(both[:, 0], added, rtol=1e-9, atol=1e-15)


def test_the_discrete_average_is_what_is_predicted():
    found = cn.run(problem(), "scalar_rmsprop", HP, steps=60, warm_start=80, average_start=True, observe=ALL, **QUIET)
    late = slice(25, -1)
    measured, central = observed(found, "own_loss")[late], found.tree["central"]
    off = [np.abs(central[name].values[late] - measured).mean() for name in ("predicted_own_loss", "own_loss")]
    assert off[0] < 0.5 * off[1]
    row = found.compare()["predicted_own_loss"]
    assert row.value == pytest.approx(found.compare()["predicted_loss"].value, rel=0.1)
    assert row.quantity == "predicted own_loss, relative RMS"


def test_what_is_not_smooth_is_recorded_and_not_predicted():
    found = run()
    assert "predicted_most" not in found.tree["central"]
    assert "max" in found.tree["central"]["most"].attrs["not_predicted"]
    row = found.compare()["predicted_most"]
    assert row.value is None
    assert row.note.startswith("not predicted, it is not smooth: max")


def test_every_so_many_steps_the_numbers_are_the_same_and_the_optimizer_has_three_in_a_row():
    often, seldom = run(), run(every=10)
    for process in often.processes:
        for name in often.tree[process].data_vars:
            if name == "seconds":
                continue
            a, b = values(often, process, name), values(seldom, process, name)
            known = np.isfinite(b.reshape(len(b), -1)).any(axis=1)
            if str(name).removeprefix("predicted_") in ALL:
                wanted = np.isin(np.arange(len(b)) % 10, (0, 1, 9) if process == "discrete" else (0,))
                wanted[0] |= True
                np.testing.assert_array_equal(known, wanted)
            np.testing.assert_array_equal(a[known], b[known])
    known = np.isfinite(observed(seldom, "norm"))
    assert np.flatnonzero(known).tolist() == [10, 20, 30, 40, 50]


def test_without_observables_nothing_is_there_and_all_else_is_the_same():
    plain = cn.run(problem(), "scalar_rmsprop", HP, steps=60, **QUIET)
    assert "observe" not in plain.config
    for process in plain.processes:
        for name in plain.tree[process].data_vars:
            if name != "seconds":
                np.testing.assert_array_equal(values(plain, process, name), values(run(), process, name))


def test_a_longer_run_observes_on_and_a_file_keeps_it(tmp_path):
    longer = run(steps=37).more(23, quiet=True)
    for process in longer.processes:
        for name in (*ALL, *(("predicted_several",) if process == "central" else ())):
            np.testing.assert_array_equal(values(longer, process, name), values(run(), process, name))
    read = cn.load(run().save(tmp_path / "run.nc"))
    assert read.tree["central"]["several"].dims == ("step", "several_0")
    assert read.tree["central"]["norm"].attrs["observable"] == 1
    np.testing.assert_array_equal(
        read.array("central", "predicted_several"), values(run(), "central", "predicted_several")
    )
    assert str(read.compare()) == str(run().compare())


def test_another_function_is_another_run():
    scale = [1.0]
    short = cn.run(
        problem(),
        "gradient_descent",
        dict(learning_rate=0.1),
        steps=2,
        quiet=True,
        processes=["discrete"],
        observe={"scaled": lambda params: scale[0] * norm(params)},
    )
    scale[0] = 2.0
    with pytest.raises(InputError, match="the observable scaled of the run has changed"):
        short.more(1, quiet=True)


def test_outputs_of_the_problem_by_name_also_on_the_command_line(tmp_path):
    x = jnp.linspace(0.0, 1.0, 3)
    own = cn.Problem(
        lambda w, x: jnp.mean((x * w[0] - 1) ** 2) + w[1] ** 2,
        jnp.ones(2),
        data=x,
        outputs=lambda w, x: x * w[0],
    )
    found = cn.run(own, "gradient_descent", dict(learning_rate=0.1), steps=3, observe=["outputs"], **QUIET)
    np.testing.assert_allclose(values(found, "stable", "outputs")[-1], x * found.weights("stable")[0], rtol=1e-14)
    with pytest.raises(InputError, match="the runs of a batch observe nothing"):
        run_batch(own, "gradient_descent", dict(learning_rate=0.1), steps=3, observe=["outputs"], **QUIET)
    asked = [
        "run",
        "--optimizer",
        "gradient_descent",
        "--learning-rate",
        "0.1",
        "--steps",
        "2",
        "--problem",
        "digits-mlp:n=20,width=2",
        "--processes",
        "discrete",
        "--observe",
        "outputs",
        "--quiet",
    ]
    assert main([*asked, "--out", str(tmp_path)]) == 0
    assert cn.load(tmp_path / "run.nc").tree["discrete"]["outputs"].shape == (3, 20, 10)


BAD = {
    "no function": (dict(a=3), "observe['a'] is a int, it must be a function"),
    "name": ({"a b": norm}, "must be letters, digits and _"),
    "taken": (dict(loss=norm), "has the name loss, which a run records already"),
    "state": (dict(nu=norm), "has the name nu"),
    "predicted": (dict(predicted_a=norm), "which a run records already"),
    "complex": (dict(a=lambda params: 1j * norm(params)), "returns complex numbers"),
    "not JAX": (dict(a=lambda params: float(norm(params))), "it must be written with jax.numpy"),
    "no arguments": (dict(a=lambda: 1.0), "it must take the parameters, or parameters and data"),
    "nothing": (dict(a=lambda params: jnp.zeros(0)), "returns 0 numbers"),
    "text": ("outputs", "observe is 'outputs', it must map names to functions"),
    "not offered": (["accuracy"], 'observe "accuracy" is not one of outputs'),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_observed_is_said_in_one_sentence(case):
    observe, said = BAD[case]
    with pytest.raises(InputError) as error:
        cn.run(problem(), "scalar_rmsprop", HP, steps=2, observe=observe, **QUIET)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_data_and_outputs_that_are_not_there():
    bare = cn.Problem(lambda w: jnp.sum(w**2), jnp.ones(2))
    for observe, said in (({"a": lambda w, data: w[0]}, "the problem has none"), (["outputs"], "has no outputs")):
        with pytest.raises(InputError, match=said):
            cn.run(bare, "gradient_descent", dict(learning_rate=0.1), steps=2, observe=observe, **QUIET)


def test_a_logger_is_told_of_every_chunk_and_its_own_error_loses_nothing():
    told = []
    small = cn.Problem(lambda w: jnp.sum(w**2), jnp.ones(2))
    arguments = (small, "gradient_descent", dict(learning_rate=0.1))
    found = cn.run(*arguments, steps=40, observe=dict(first=lambda w: w[0]), on_chunk=told.append, **QUIET)
    assert [(one.first, one.last, one.steps) for one in told] == [(1, 16, 40), (17, 32, 40), (33, 40, 40)]
    for name in ("loss", "first"):
        seen = np.concatenate([one.values["stable"][name] for one in told])
        np.testing.assert_array_equal(seen, values(found, "stable", name)[1:])

    def broken(latest):
        if latest.last > 16:
            raise ValueError("no disk")

    ended = cn.run(*arguments, steps=40, on_chunk=broken, **QUIET)
    assert ended.reason == "on_chunk raised ValueError (no disk) at step 32 of 40"
    np.testing.assert_array_equal(values(ended, "discrete", "loss"), values(found, "discrete", "loss")[:33])
    assert ended.more(8, quiet=True).size("discrete") == 41

"""Weights, states and more steps: what comes out of a run goes into the next one, bit by bit."""

import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cflow_num as cn
import cflow_sym as cs
from cflow_num.cli import main as cli
from cflow_num.running.process import Process

OPTIMIZERS = {
    "gradient_descent": dict(learning_rate=1.0),
    "rmsprop": dict(learning_rate=0.01, beta2=0.95, epsilon=1e-4),
    "adam": dict(learning_rate=0.02, beta1=0.5, beta2=0.95, epsilon=1e-4),
}
FIRST, STEPS = 21, 40  # the first part ends in the middle of a chunk
SETTINGS = dict(warm_start=3, keep_weights=5, quiet=True)


@cache
def problem(name="adam"):
    """A problem on which the optimizer comes to the edge."""
    if name == "gradient_descent":
        return cn.problem("valley", x0=1e-4, z0=-0.3)
    return cn.problem("digits-mlp", n=40, width=3, components=8)


@cache
def part(name, steps, *processes):
    settings = SETTINGS | dict(processes=processes or ("discrete", "stable", "central"))
    return cn.run(problem(name), name, OPTIMIZERS[name], steps=steps, **settings)


def everything(run):
    """All numbers of a run but times, by process and name."""
    found = {}
    for process in run.processes:
        group = run.tree[process]
        found |= {(process, name): x.values for name, x in group.data_vars.items() if name != "seconds"}
        found |= {(process, "end", name): x for name, x in run.ending(process).arrays.items()}
    return found


def assert_same(a, b):
    a, b = everything(a), everything(b)
    assert a.keys() == b.keys()
    for name, x in a.items():
        np.testing.assert_array_equal(x, b[name], err_msg=str(name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_longer_run_is_one_long_run(name):
    long, longer = part(name, STEPS), part(name, FIRST).more(STEPS - FIRST, quiet=True)
    assert long.reason == longer.reason == ""
    assert longer.size("central") == STEPS + 1
    assert np.nanmax(long.array("central", "sigma_eigenvalues")) > 0, "it is at the edge"
    assert_same(long, longer)
    assert longer.config == long.config


def test_a_run_may_grow_more_than_once_and_from_the_end_of_a_chunk():
    name = "gradient_descent"
    longer = part(name, 16, "discrete", "central", "rod").more(1, quiet=True).more(8, quiet=True)
    assert_same(part(name, 25, "discrete", "central", "rod"), longer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_where_it_was(name):
    long, first = part(name, STEPS), part(name, FIRST)
    weights, states = first.weights("discrete"), first.state("discrete")
    assert states["t"] == FIRST + 3
    for start in (first, (weights, states)):
        settings = dict(steps=STEPS - FIRST, processes=["discrete"], quiet=True)
        run = cn.run(problem(name), name, OPTIMIZERS[name], start=start, **settings)
        np.testing.assert_array_equal(run.array("discrete", "loss"), long.array("discrete", "loss")[FIRST:])
        np.testing.assert_array_equal(
            run.ending("discrete").arrays["weights"], long.ending("discrete").arrays["weights"]
        )


def test_two_optimizers_start_from_one_place_and_another_one_begins_afresh():
    first = part("adam", FIRST)
    w = np.asarray(problem().ravel(first.weights("discrete")))
    for start, says in ((first, "weights of adam after 24 steps"), (first.weights("discrete"), "weights")):
        run = cn.run(problem(), "rmsprop", OPTIMIZERS["rmsprop"], steps=2, start=start, quiet=True)
        assert run.config["start"] == says
        assert run.state("discrete")["t"] == 2
        for process in run.processes:
            loss = float(problem().value(jnp.asarray(w)))
            np.testing.assert_allclose(run.array(process, "loss")[0], loss, rtol=1e-12)


def test_weights_are_parameters_and_those_on_the_way_are_kept():
    run = part("rmsprop", STEPS)
    assert run.ending("central").arrays["kept_step"].tolist() == list(range(0, STEPS + 1, 5))
    for process in run.processes:
        for step in (0, 15, STEPS):
            params = run.weights(process, step=step)
            loss = float(problem().value(problem().ravel(params)))
            np.testing.assert_allclose(run.array(process, "loss")[step], loss, rtol=1e-12)
    assert run.state("central")["nu"].shape == (problem().n_weights,)
    assert part("adam", FIRST).state("central")["filtered"].shape == (1, problem().n_weights)


def test_a_file_holds_weights_and_states(tmp_path):
    first = part("adam", FIRST)
    again = cn.load(first.save(tmp_path / "run.nc"))
    assert_same(first, again)
    assert again.weights("central").shape == (problem().n_weights,)
    ours, theirs = (problem().ravel(x) for x in (first.weights("central"), again.weights("central", problem=problem())))
    np.testing.assert_array_equal(ours, theirs)
    settings = dict(steps=3, processes=["discrete"], quiet=True)
    for start in (first, again):
        run = cn.run(problem(), "adam", OPTIMIZERS["adam"], start=start, **settings)
        long = part("adam", STEPS).array("discrete", "loss")[FIRST : FIRST + 4]
        np.testing.assert_array_equal(run.array("discrete", "loss"), long)
    with pytest.raises(cn.InputError, match="more needs the problem, which a file does not hold"):
        again.more(3)


def test_a_copy_leaves_functions_and_devices_behind():
    first = part("gradient_descent", FIRST)
    copy = pickle.loads(pickle.dumps(first))
    assert_same(first, copy)
    with pytest.raises(cn.InputError, match="more needs the problem"):
        copy.more(1)


def test_an_interrupted_run_goes_on(monkeypatch):
    advance, left = Process.advance, [4]  # two processes: after the second chunk

    def interrupted(self, carry):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return advance(self, carry)

    settings = SETTINGS | dict(processes=("discrete", "central"))
    with monkeypatch.context() as patch:
        patch.setattr(Process, "advance", interrupted)
        run = cn.run(
            problem("gradient_descent"), "gradient_descent", OPTIMIZERS["gradient_descent"], steps=48, **settings
        )
    assert run.reason == "interrupted at step 32 of 48"
    assert run.ending("central").step == 32
    assert_same(run.more(8, quiet=True), part("gradient_descent", STEPS, "discrete", "central"))


def bowl(scale=1.0):
    return cn.Problem(lambda w: scale * jnp.sum(jnp.cosh(w)), jnp.arange(1.0, 4.0))


PLAIN = dict(processes=["discrete"], quiet=True)


def test_what_changes_after_a_run_changes_nothing_of_it_or_is_refused():
    asked, scale = dict(learning_rate=0.1), [1.0]
    run = cn.run(bowl(), "gradient_descent", asked, steps=3, **PLAIN)
    asked["learning_rate"] = 0.4
    long = cn.run(bowl(), "gradient_descent", dict(learning_rate=0.1), steps=5, **PLAIN)
    assert_same(run.more(2, quiet=True), long)
    states = {"t": np.array(4.0)}
    begun = cn.run(bowl(), "gradient_descent", asked, steps=2, start=(jnp.ones(3), states), **PLAIN)
    states["t"][...] = 9.0
    assert begun.more(1, quiet=True).state("discrete")["t"] == 7
    scaled = cn.Problem(lambda w: scale[0] * jnp.sum(jnp.cosh(w)), jnp.arange(1.0, 4.0))
    run = cn.run(scaled, "gradient_descent", dict(learning_rate=0.1), steps=3, **PLAIN)
    scale[0] = 3.0
    with pytest.raises(cn.InputError, match="the loss of the run has changed since it was made: pass the run as start"):
        run.more(2)


def test_a_count_of_steps_is_a_state_however_it_is_written():
    """A schedule goes on: a pair is not taken for parameters because its states hold no floating-point array."""
    falling = dict(learning_rate=lambda t: 0.1 / (1 + t))
    run = cn.run(bowl(), "gradient_descent", falling, steps=4, **PLAIN)
    w, ends = run.weights("discrete"), []
    for start in (run, (w, {"t": 4}), (w, {"t": np.int64(4)})):
        ends.append(
            cn.run(bowl(), "gradient_descent", falling, steps=3, start=start, **PLAIN).array("discrete", "loss")
        )
    long = cn.run(bowl(), "gradient_descent", falling, steps=7, **PLAIN).array("discrete", "loss")[4:]
    for end in ends:
        np.testing.assert_array_equal(end, long)


def test_states_are_updated_on_the_loss_they_meet():
    hp = dict(learning_rate=0.01, beta2=0.9)
    run = cn.run(bowl(), "rmsprop", hp, steps=4, **PLAIN)
    pair = run.weights("discrete"), run.state("discrete")
    one, other = (cn.run(bowl(50.0), "rmsprop", hp, steps=3, start=start, **PLAIN) for start in (run, pair))
    assert_same(one, other)


def test_longer_runs_do_not_write_into_the_one_they_come_from(monkeypatch):
    run = cn.run(bowl(), "gradient_descent", dict(learning_rate=0.1), steps=16, **PLAIN)

    def interrupted(self, carry):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Process, "advance", interrupted)
        assert run.more(32, quiet=True).reason == "interrupted at step 16 of 48"
    assert run.more(4, quiet=True).reason == ""


def test_arrays_that_an_optimizer_holds_begin_where_they_are_told(tmp_path):
    """Train all, then hold one array, and the other way round."""

    def loss(p):
        return jnp.sum((p["a"] - 2 * p["b"]) ** 2) + jnp.sum(p["b"] ** 2)

    def hold_a(learning_rate):
        kinds = {"train": optax.sgd(learning_rate), "hold": optax.set_to_zero()}
        return optax.multi_transform(kinds, {"a": "hold", "b": "train"})

    params = dict(a=jnp.ones(2), b=jnp.ones(2))
    both, held = cn.Problem(loss, params), cs.from_optax(hold_a, params=params)
    hp, plain = dict(learning_rate=0.05), dict(steps=3, **PLAIN)
    first = cn.run(both, "gradient_descent", hp, **plain)
    second = cn.run(both, held, hp, start=first, **plain)
    begun, ended = first.weights("discrete"), second.weights("discrete")
    np.testing.assert_array_equal(begun["a"], ended["a"])
    assert np.all(np.asarray(begun["b"]) != np.asarray(ended["b"]))
    np.testing.assert_allclose(second.array("discrete", "loss")[0], first.array("discrete", "loss")[-1], rtol=1e-12)
    third = cn.run(both, "gradient_descent", hp, start=second, **plain)
    np.testing.assert_allclose(third.array("discrete", "loss")[0], second.array("discrete", "loss")[-1], rtol=1e-12)
    alone = cn.run(both, held, hp, **plain)
    again = cn.load(alone.save(tmp_path / "run.nc")).weights("discrete", problem=both)
    np.testing.assert_array_equal(again["b"], alone.weights("discrete")["b"])
    np.testing.assert_array_equal(again["a"], np.ones(2))
    with pytest.raises(cn.InputError, match="problem must be that of the run, custom with 2 weights"):
        cn.load(tmp_path / "run.nc").weights("discrete", problem="valley")


def test_runs_of_a_batch_have_parameters():
    rates = [dict(learning_rate=rate) for rate in (0.1, 0.2)]
    square = cn.Problem(lambda p: jnp.sum(p["a"] ** 2), dict(a=jnp.ones(2)))
    runs = cn.run_batch(square, "gradient_descent", rates, steps=2, **PLAIN)
    np.testing.assert_allclose([run.weights("discrete")["a"][0] for run in runs], [0.64, 0.36])
    with pytest.raises(cn.InputError, match="not with one of a batch"):
        runs[0].more(1)


def test_a_process_that_failed_leaves_its_last_good_weights():
    failing = cn.Problem(lambda w: jnp.sum(w**4) / 4, jnp.array([1.0, 2.0]))
    run = cn.run(failing, "gradient_descent", dict(learning_rate=3.0), steps=20, quiet=True)
    assert "it diverges" in run.reason
    end = run.ending("discrete")
    assert 0 < end.step < 20
    assert np.isfinite(end.weights("discrete")).all()
    with pytest.raises(cn.InputError, match="the states of the discrete process are not known at step"):
        run.state("discrete")
    with pytest.raises(cn.InputError, match="there is nothing to go on from: the discrete process stopped"):
        run.more(5)
    slower = cn.run(failing, "gradient_descent", dict(learning_rate=0.01), steps=2, start=run, **PLAIN)
    assert slower.config["start"] == "weights where gradient_descent stopped"


def part_kept(memory):
    settings = dict(steps=21, keep_weights=1, memory=memory, quiet=True)
    return cn.run(problem("gradient_descent"), "gradient_descent", dict(learning_rate=1.0), **settings)


FAST = dict(steps=1, processes=["discrete"], quiet=True)
REFUSED = {
    "another structure": (lambda: {"a": jnp.ones(3)}, "start is a dict unlike the problem's parameters"),
    "nothing of the kind": (lambda: 3, "start is a int unlike the problem's parameters"),
    "not finite": (
        lambda: jax.tree.map(lambda x: x * np.nan, part("adam", FIRST).weights("discrete")),
        "start are not finite",
    ),
    "no such state": (lambda: _with_states(speed=np.zeros(2)), "it has no speed; its states are m, nu, t"),
    "a state of another shape": (lambda: _with_states(nu=np.zeros(2)), "nu has shape (2,) instead of"),
    "a state is missing": (lambda: _with_states(nu=None), "nu is missing"),
    "no count": (lambda: _with_states(t=None), "the states of start lack t, the number of steps taken"),
    "no states": (lambda: (_with_states()[0], {}), "the states of start lack t"),
    "a count that is none": (lambda: _with_states(t=-3.5), "t of start is -3.5, it must be a whole number of steps"),
    "many counts": (lambda: _with_states(t=np.zeros(2)), "it must be a whole number of steps"),
    "a state that is not finite": (
        lambda: _with_states(nu=_with_states()[1]["nu"] * np.nan),
        "nu of start is not finite",
    ),
    "a state that is no number": (lambda: _with_states(nu=["a"]), "the state nu of start is a list: states are arrays"),
    "other names": (lambda: _renamed(), "start is a list unlike the problem's parameters"),
    "other shapes": (lambda: jax.tree.map(jnp.transpose, _with_states()[0]), "unlike the problem's parameters"),
    "one array of another size": (lambda: jnp.ones(8), "unlike the problem's parameters"),
    "a run of flows": (lambda: part("adam", 1, "central"), "start is a run without a discrete process"),
}


def _renamed():
    first, *rest = _with_states()[0]
    return [{f"{name}_": x for name, x in first.items()}, *rest]


def _with_states(**changes):
    first = part("adam", FIRST)
    states = first.state("discrete") | changes
    return first.weights("discrete"), {name: x for name, x in states.items() if x is not None}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_start_is_refused_in_one_sentence(name):
    start, says = REFUSED[name]
    with pytest.raises(cn.InputError) as error:
        cn.run(problem(), "adam", OPTIMIZERS["adam"], start=start(), **FAST)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_run_has_not_kept_is_refused_in_one_sentence():
    kept = part("gradient_descent", FIRST)
    plain = cn.run(problem("gradient_descent"), "gradient_descent", OPTIMIZERS["gradient_descent"], **FAST)
    for ask, says in (
        (lambda: kept.weights("stationary"), "the run has no stationary process: it has discrete, stable, central"),
        (
            lambda: kept.weights("central", step=7),
            "step is 7, weights of the central process were kept at 0, 5, 10, ...",
        ),
        (lambda: plain.weights("discrete", step=0), "pass keep_weights=N to the run for every N-th step"),
        (lambda: part_kept("1kB"), "at 22 steps take 1.59kB, memory is 1kB: pass a larger keep_weights"),
        (lambda: kept.more(0), "steps is 0, it must be a whole number of at least 1"),
        (lambda: cn.run(cn.problem("ramp"), "gradient_descent", {"learning_rate": 1.0}, start=kept, **FAST), "weights"),
    ):
        with pytest.raises(cn.InputError) as error:
            ask()
        assert says in str(error.value)


def test_the_command_begins_where_a_run_ended(tmp_path, capsys):
    asked = ["run", "--problem", "ramp", "--optimizer", "gradient_descent", "--learning-rate", "1", "--quiet"]
    asked += ["--processes", "discrete"]
    assert cli.main([*asked, "--steps", "8", "--out", str(tmp_path / "whole")]) == cli.DONE
    assert cli.main([*asked, "--steps", "5", "--out", str(tmp_path / "a")]) == cli.DONE
    begin = ["--start", str(tmp_path / "a" / "run.nc"), "--steps", "3"]
    assert cli.main([*asked, *begin, "--out", str(tmp_path / "a")]) == cli.BAD_INPUT
    assert "lies in the folder that is to be written" in capsys.readouterr().err
    assert cli.main([*asked, *begin, "--out", str(tmp_path / "b")]) == cli.DONE
    whole, rest = (cn.load(tmp_path / name / "run.nc").array("discrete", "loss") for name in ("whole", "b"))
    np.testing.assert_array_equal(whole[5:], rest)

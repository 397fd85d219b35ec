"""Compiled programs are found by what was traced: what a loss or a schedule reads may be another number next time."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
import cflow_sym as cs
from cflow_num.cli import main as cli
from cflow_num.loss.traced import traced
from cflow_num.running.checkpoints import found
from cflow_num.running.effort import effort_for
from cflow_num.support import compiler, programs
from cflow_num.support.errors import ChangedWarning, InputError

SCALE = 1.0
RATE = 0.1


def of_global(w):
    return SCALE * jnp.sum(w**2) / 2


class Loss:
    """A loss with a number that anyone may change."""

    scale = 1.0

    def __call__(self, w):
        return self.scale * jnp.sum(w**2) / 2

    def method(self, w):
        return self(w)


def last_loss(problem, rate=0.1, optimizer="gradient_descent"):
    """Return the loss after ten steps."""
    run = cn.run(problem, optimizer, {"learning_rate": rate}, steps=10, processes=("discrete",), quiet=True)
    assert run.reason == ""
    return float(run.tree["discrete"]["loss"][-1])


def exact(scale, rate=0.1):
    return scale * (1 - rate * scale) ** 20


def set_global(scale):
    globals()["SCALE"] = scale


LOSS, SETTINGS, NUMBERS, ARRAY = Loss(), {"scale": 1.0}, [1.0], np.ones(2)


def set_array(scale):
    ARRAY[:] = scale


def with_rule(scale):
    """Return a loss with a gradient of its own, which reads a number that the loss does not."""

    @jax.custom_jvp
    def square(w):
        return w**2 / 2

    square.defjvp(lambda w, dw: (square(*w), scale * w[0] * dw[0]))
    return lambda w: jnp.sum(square(w))


# what the loss reads: (the loss, how the number is set)
READS = {
    "a global": (of_global, set_global),
    "an attribute": (LOSS, lambda k: setattr(LOSS, "scale", k)),
    "a bound method's object": (LOSS.method, lambda k: setattr(LOSS, "scale", k)),
    "a dictionary in a partial": (
        functools.partial(lambda settings, w: settings["scale"] * jnp.sum(w**2) / 2, SETTINGS),
        lambda k: SETTINGS.update(scale=k),
    ),
    "a list in a closure": (lambda w: NUMBERS[0] * jnp.sum(w**2) / 2, lambda k: NUMBERS.__setitem__(0, k)),
    "an array changed in place": (lambda w: jnp.sum(ARRAY * w**2) / 2, set_array),
}


@pytest.mark.parametrize("name", READS)
def test_a_run_takes_what_the_loss_reads_as_it_is_when_the_run_starts(name):
    loss, put = READS[name]
    for scale in (1.0, 2.0, 1.0):
        put(scale)
        assert last_loss(cn.Problem(loss, jnp.ones(2))) == pytest.approx(exact(scale), rel=1e-14)
    kept = cn.Problem(loss, jnp.ones(2))
    put(2.0)
    assert kept.changed
    with pytest.warns(ChangedWarning, match="the run takes it as it is now"):
        assert last_loss(kept) == pytest.approx(exact(2.0), rel=1e-14)
    put(1.0)


def test_a_rule_for_a_derivative_counts_too():
    settings = dict(steps=10, processes=("discrete",), quiet=True)
    path = cn.run(cn.Problem(with_rule(1.0), jnp.ones(2)), "gradient_descent", {"learning_rate": 0.1}, **settings)
    assert float(path.tree["discrete"]["loss"][-1]) == pytest.approx(0.9**20, rel=1e-14)
    with pytest.raises(InputError, match="is not that of the loss"):  # the same loss, another gradient
        cn.Problem(with_rule(2.0), jnp.ones(2))


def test_a_schedule_is_what_it_is_when_the_run_starts():
    problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))

    def rate(t):
        return RATE + 0 * t

    for value in (0.1, 0.2):
        globals()["RATE"] = value
        assert last_loss(problem, rate) == pytest.approx(exact(1.0, value), rel=1e-13)
    globals()["RATE"] = 0.1
    with pytest.raises(InputError, match="the schedule of learning_rate cannot be traced"):
        last_loss(problem, lambda t: 0.1 if t < 5 else 0.05)


def test_two_optimizers_of_one_name_are_two():
    s = cs.symbols
    eta = cs.optimizer("gradient_descent").hyperparameters[:1]
    problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    for factor in (1, 2):
        spec = cs.OptimizerSpec(name="mine", hyperparameters=eta, update=-factor * s.eta * s.g)
        assert last_loss(problem, 0.1, spec) == pytest.approx(exact(1.0, 0.1 * factor), rel=1e-14)


def test_a_traced_optimizer_keeps_the_program_that_it_was_traced_from():
    """The specs of two programs are equal, so that one derivation serves both."""
    optax = pytest.importorskip("optax")
    one, other = (cs.from_optax(optax.sgd, learning_rate=0.1) for _ in range(2))
    assert one == other
    assert one.reference is not other.reference
    assert cs.derive(one).spec.reference is one.reference
    assert cs.derive(other).spec.reference is other.reference


def test_the_same_problem_compiles_nothing_the_second_time():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
    X = np.random.default_rng(0).normal(size=(7, 2))
    for i in range(3):  # a new function each time, with an array that it captured
        problem = cn.Problem(lambda w: jnp.mean((X @ w) ** 2) / 2, jnp.ones(2))
        cn.run(problem, "gradient_descent", {"learning_rate": 0.1}, steps=3, processes=("discrete",), quiet=True)
        assert i == 0 or not compiled, compiled
        compiled.clear()


def test_programs_are_compiled_where_no_thread_can_be_started(monkeypatch):
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    monkeypatch.setattr(programs, "_COMPILERS", ended)
    assert last_loss(cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2)), 0.1) == pytest.approx(exact(1.0, 0.1))


def test_other_settings_of_jax_are_other_programs():
    problem = cn.Problem(lambda w: jnp.sum((jnp.eye(2) @ w) ** 2) / 2, jnp.ones(2))
    assert not problem.changed
    programs.forget_programs()  # so that none has to go for the next one
    new = []
    for precision in ("highest", "bfloat16"):
        before = programs.kept()
        with jax.default_matmul_precision(precision):
            last_loss(problem)
        new.append(programs.kept() - before)
    assert new[0] == new[1] > 1  # the chunk's, and those of the start


def test_a_problem_owns_its_data():
    data = np.full((100_000, 1), 2.0)  # large enough for JAX to share its memory
    problem = cn.Problem(lambda w, x: jnp.mean(x[:, 0] * w[0] ** 2), jnp.ones(1), data=data)
    data[:] = 7.0
    assert float(problem.value(problem.w0)) == 2.0


def test_problems_in_a_jitted_function_of_the_user_differ_as_their_losses_do():
    value = eqx.filter_jit(lambda problem: problem.value(problem.w0))
    for scale in (1.0, 2.0):
        set_global(scale)
        assert float(value(cn.Problem(of_global, jnp.ones(2)))) == scale
    set_global(1.0)


def test_a_batch_is_of_one_function():
    settings = dict(steps=3, processes=("discrete",), quiet=True)
    rate = {"learning_rate": 0.1}

    def captured(x):
        return cn.Problem(lambda w: jnp.sum(x * w**2) / 2, jnp.ones(2))

    one, same, other = captured(jnp.ones(2)), captured(jnp.ones(2)), captured(jnp.full(2, 2.0))
    first, second = cn.run_batch([one, same], "gradient_descent", rate, **settings)
    assert (
        float(first.tree["discrete"]["loss"][-1]) == float(second.tree["discrete"]["loss"][-1]) == pytest.approx(0.9**6)
    )
    for wrong in (other, cn.Problem(lambda w: 3.0 * jnp.sum(w**2) / 2, jnp.ones(2))):
        with pytest.raises(InputError, match="problem 2 of the batch is not the first one with other numbers"):
            cn.run_batch([one, wrong], "gradient_descent", rate, **settings)


def test_a_loss_that_is_never_the_same_is_noticed():
    count = itertools.count(1)
    problem = cn.Problem(lambda w: next(count) * jnp.sum(w**2) / 2, jnp.ones(2))
    with pytest.warns(ChangedWarning):
        last_loss(problem, 1e-3)


def interrupted_at_16(folder, loss=of_global, rate=0.1, optimizer="gradient_descent", resume=False):
    return cn.run(
        cn.Problem(loss, jnp.ones(2)),
        optimizer,
        {"learning_rate": rate},
        steps=48,
        processes=("discrete",),
        quiet=True,
        checkpoints=folder,
        checkpoint_every=0,
        resume=resume,
    )


def test_another_function_does_not_go_on_with_a_run(tmp_path):
    """Names, weights and data are the same: a loss, a schedule, an optimizer that differ are noticed all the same."""

    def halving(t):
        return 0.1 * 0.99**t

    def other(t):
        return 0.1 * 0.5**t

    other.__qualname__ = halving.__qualname__
    s, eta = cs.symbols, cs.optimizer("gradient_descent").hyperparameters[:1]
    mine = [cs.OptimizerSpec(name="mine", hyperparameters=eta, update=-k * s.eta * s.g) for k in (1, 2)]
    changes = {
        "programs": [{"loss": of_global}, {"loss": lambda w: jnp.sum(w**4) / 2}],
        "programs ": [{"rate": halving}, {"rate": other}],
        "optimizer_source": [{"optimizer": spec} for spec in mine],
    }
    for i, (says, (first, second)) in enumerate(changes.items()):
        folder = tmp_path / str(i)
        folder.mkdir()
        interrupted_at_16(folder, **first)
        assert found(folder)
        with pytest.raises(InputError, match=rf"belongs to another run \({says.strip()}"):
            interrupted_at_16(folder, **second, resume=True)


def test_a_finished_run_of_another_start_is_not_taken_for_this_one(tmp_path, capsys):
    command = ["run", "--optimizer", "gradient_descent", "--learning-rate", "0.1", "--steps", "3", "--quiet"]
    command += ["--processes", "discrete", "--out", str(tmp_path), "--resume"]  # the seed is in no description
    assert cli.main([*command, "--problem", "quadratic:n=2,seed=0"]) == cli.DONE
    assert cli.main([*command, "--problem", "quadratic:n=2,seed=0"]) == cli.DONE
    assert "finished already" in capsys.readouterr().err
    assert cli.main([*command, "--problem", "quadratic:n=2,seed=1"]) == cli.BAD_INPUT
    assert "is a finished run with other settings" in capsys.readouterr().err


def test_digests_are_those_of_programs_not_of_names():
    x = (jax.ShapeDtypeStruct((2,), jnp.float64),)
    one, two, three = (traced(f, x) for f in (lambda w: 2.0 * w, lambda v: 2.0 * v, lambda w: w * 2.0000000000000004))
    assert (one == two, one.digest == two.digest) == (True, True)
    assert (one == three, one.digest == three.digest) == (False, False)
    whole, half = (traced(lambda w, k=k: k @ w, x) for k in (jnp.ones((2, 2)), jnp.ones((2, 2)) / 2))
    assert whole.programs == half.programs  # one compiled program for both
    assert whole.digest != half.digest


def test_no_chunk_calls_the_host(monkeypatch):
    """JAX keeps no program that calls Python in its persistent cache, and on an accelerator each call is a wait."""

    def called(*_, **__):
        raise AssertionError("a program calls the host")

    monkeypatch.setattr(jax, "pure_callback", called)
    problem = cn.Problem(lambda w: jnp.sum(jnp.cosh(w)), jnp.full(7, 0.9))
    processes = ("discrete", "stable", "central", "ablated", "stationary", "rod")
    run = cn.run(problem, "rmsprop", dict(learning_rate=0.1, beta2=0.9), steps=2, processes=processes, quiet=True)
    assert run.reason == ""
    monkeypatch.undo()
    checked = eqx.filter_jit(lambda x: eqx.error_if(x, x > 0, "told by the user"))
    with pytest.raises(RuntimeError, match="told by the user"):  # a check of the user's own is kept
        checked(jnp.ones(()))


@pytest.mark.parametrize("effort", ["quick", "moderate", "full"])
def test_the_compilers_effort_changes_rounding_only(effort):
    problem = cn.problem("digits-mlp", n=20, width=3, components=4)
    given = dict(steps=12, processes=("discrete", "central"), quiet=True)
    plain = cn.run(problem, "gradient_descent", {"learning_rate": 0.5}, **given)
    other = cn.run(problem, "gradient_descent", {"learning_rate": 0.5}, effort=effort, **given)
    for name in ("discrete", "central"):
        np.testing.assert_allclose(other.tree[name]["loss"], plain.tree[name]["loss"], rtol=1e-9)
    assert other.config.get("effort") == effort


def test_the_effort_grows_with_the_problem():
    small = cn.problem("digits-mlp", n=20, width=3)
    assert effort_for(small) == "quick"
    assert effort_for(small, "full") == "full"
    assert [effort_for(cn.problem("digits-mlp", n=1000, width=width)) for width in (60, 400)] == ["moderate", "full"]


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(compiler.OPTIONS, "quick", {"xla_cpu_no_such_option": True})
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(3))
    assert compiler.compiled(lowered, "quick", frozenset({"cpu"}))(jnp.ones(3)).tolist() == [2, 2, 2]


def test_normal_numbers_are_those_of_jax():
    with jax.default_prng_impl("threefry2x32"):
        key = jax.random.key(3)
        ours, theirs = compiler.normal(key, (4, 5), float), jax.random.normal(key, (4, 5))
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert jax.jit(lambda k: compiler.normal(k, (2,), jnp.float32))(key).dtype == "float32"

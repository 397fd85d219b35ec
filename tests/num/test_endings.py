"""How runs end: numbers that are not finite end them, growth is said, and an interrupt anywhere leaves a reason."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.running import loop
from cflow_num.running import process as integrate
from cflow_num.running.checkpoints import Checkpoints
from cflow_num.running.process import Process
from cflow_num.running.recorder import Lockstep, Recorder
from cflow_num.support.errors import GrowthWarning

HP = {"learning_rate": 1.0}
DISCRETE = dict(processes=("discrete",), quiet=True)


def valley(w, d):
    """Return x^2 y^2 / 2 + shift: too sharp where it starts, so that x grows until y has come down."""
    return w[0] ** 2 * w[1] ** 2 / 2 + d["shift"]


def in_the_valley(x=1e-6, y=1.5, shift=0.0):
    return cn.Problem(valley, jnp.array([x, y]), data={"shift": jnp.asarray(shift)})


def descended(x, y, steps):
    """Return the losses of gradient descent in the valley, learning rate 1."""
    losses = []
    for _ in range(steps + 1):
        losses.append(x**2 * y**2 / 2)
        x, y = x - x * y**2, y - x**2 * y
    return np.array(losses)


def test_a_rise_by_ten_orders_of_magnitude_is_no_end_where_the_run_comes_back():
    expected = descended(1e-6, 1.5, 128)
    assert expected.max() > 1e9 * expected[0]
    assert expected[-1] < 1e-3 * expected.max()
    for shift in (0.0, 1.0, -3.0):
        with warnings.catch_warnings():
            warnings.simplefilter("error", GrowthWarning)
            run = cn.run(in_the_valley(shift=shift), "gradient_descent", HP, steps=128, **DISCRETE)
        assert (run.reason, run.tree["discrete"].sizes["step"]) == ("", 129)
        np.testing.assert_allclose(run.tree["discrete"]["loss"] - shift, expected, rtol=1e-9, atol=4e-16 * abs(shift))


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_a_start_at_rest_stays_at_rest(shift):
    def bowl(w):
        return jnp.sum(jnp.array([1.0, 3.0]) * (w - jnp.array([0.3, 0.7])) ** 2) / 2 + shift

    problem = cn.Problem(bowl, jnp.array([1.0, 2.0]))
    asked = dict(steps=10, warm_start=3000, processes=("discrete", "stable", "central"), quiet=True)
    run = cn.run(problem, "gradient_descent", {"learning_rate": 0.1}, **asked)
    assert run.reason == ""
    for process in ("discrete", "stable", "central"):
        np.testing.assert_allclose(run.tree[process]["loss"], shift, rtol=0, atol=1e-15)


def test_growth_without_an_end_is_said_once_whatever_constant_the_loss_has(tmp_path):
    for shift in (0.0, 1.0, -3.0):
        problem = cn.Problem(steep, jnp.ones(1), data=jnp.asarray(shift))
        with pytest.warns(GrowthWarning, match="the loss of the discrete process grew from") as seen:
            run = cn.run(problem, "gradient_descent", HP, steps=32, **DISCRETE)
        assert (run.reason, run.notes) == ("", [str(seen.pop().message)])
        np.testing.assert_allclose(run.tree["discrete"]["loss"], 1.5 * 4.0 ** np.arange(33) + shift, rtol=1e-14)
    assert cn.load(run.save(tmp_path / "run.nc")).notes == run.notes


def steep(w, shift):
    """Return 3 w^2 / 2 + shift: with learning rate 1 the weight goes to -2, 4, -8, ... and the loss grows fourfold."""
    return 1.5 * w[0] ** 2 + shift


@pytest.mark.parametrize(
    ("loss", "rate", "at", "says"),
    [
        (lambda w: 25.0 * w[0] ** 2, 1.0, None, "use a smaller learning rate"),
        (lambda w: jnp.sqrt(w[0]) * w[0] + w[0], 0.4, 0, "add a small number under the root"),  # to w = 0
        (lambda w: w[0] - jnp.log(w[0]) / 10, 2.0, 0, "its loss is not finite"),  # to w = -0.8
    ],
    ids=["overflow", "a gradient that is nan", "a loss that is nan"],
)
def test_what_is_not_finite_ends_a_run(loss, rate, at, says):
    run = cn.run(cn.Problem(loss, jnp.ones(1)), "gradient_descent", {"learning_rate": rate}, steps=256, **DISCRETE)
    assert says in run.reason
    assert run.notes == []
    last = run.tree["discrete"].sizes["step"] - 1
    assert (0 < last < 256) if at is None else last == at
    assert np.isfinite(run.tree["discrete"]["loss"]).all()


# where an interrupt comes: (what it breaks into, in which call of it)
PLACES = {
    "starting the first process": (Process, "start", 0),
    "starting the second": (Process, "start", 1),
    "beginning to compile": (integrate, "compile_ahead", 1),
    "compiling the first": (integrate, "compiled_for", 0),
    "compiling the second": (integrate, "compiled_for", 1),
    "recording": (Recorder, "chunk", 0),
    "comparing": (Lockstep, "add", 1),
    "after comparing": (Lockstep, "state", 3),
    "writing a checkpoint": (Checkpoints, "write", 0),
    "the second chunk": (Process, "advance", 3),
}
QUADRATIC = dict(n=3, sharpness=1.0)
SETTINGS = dict(steps=40, processes=("discrete", "stable"), quiet=True)


@pytest.fixture  # of each test: compiled with the same optimizations as the run it is compared with
def whole():
    return cn.run(cn.problem("quadratic", **QUADRATIC), "gradient_descent", HP, **SETTINGS)


def interrupt(monkeypatch, owner, name, call):
    """Raise KeyboardInterrupt in one call of a function."""
    inner, calls = getattr(owner, name), []

    def broken(*args, **kwargs):
        calls.append(name)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_anywhere_leaves_a_reason_and_a_run_to_go_on_with(place, tmp_path, monkeypatch, whole):
    quadratic = cn.problem("quadratic", **QUADRATIC)
    with monkeypatch.context() as patch:
        interrupt(patch, *PLACES[place])
        run = cn.run(quadratic, "gradient_descent", HP, **SETTINGS, checkpoints=tmp_path, checkpoint_every=0)
    reached = run.tree["discrete"].sizes["step"] - 1
    assert run.reason == f"interrupted at step {reached} of 40"
    assert reached in (0, 16, 32)
    assert "interrupted" in repr(run)
    rest = cn.run(
        quadratic, "gradient_descent", HP, **SETTINGS, checkpoints=tmp_path, checkpoint_every=1e9, resume=True
    )
    assert rest.reason == ""
    for process in whole.tree.children:
        for name in set(whole.tree[process].data_vars) - {"seconds"}:
            np.testing.assert_array_equal(
                rest.tree[process][name], whole.tree[process][name], err_msg=f"{process} {name}"
            )


def test_a_batch_that_is_interrupted_while_it_starts_says_so_for_every_run(monkeypatch):
    interrupt(monkeypatch, Process, "start", 1)
    rates = [{"learning_rate": rate} for rate in (0.1, 0.2)]
    runs = cn.run_batch(cn.problem("quadratic", **QUADRATIC), "gradient_descent", rates, **SETTINGS)
    assert [run.reason for run in runs] == ["interrupted at step 0 of 40"] * 2


def test_a_run_that_took_all_its_steps_was_not_interrupted(monkeypatch):
    class Bar(loop.StepBar):
        def update(self, n=1):
            if n and self.n + n >= 40:
                raise KeyboardInterrupt  # after the last step
            return super().update(n)

    monkeypatch.setattr(loop, "StepBar", Bar)
    settings = SETTINGS | {"quiet": False}
    run = cn.run(cn.problem("quadratic", **QUADRATIC), "gradient_descent", HP, **settings)
    assert (run.reason, run.tree["discrete"].sizes["step"]) == ("", 41)


# Constants added to a loss

RNG = np.random.default_rng(0)
EXAMPLES = (jnp.asarray(RNG.normal(size=(8, 3))), jnp.asarray(RNG.normal(size=8)))
START = {"a": jnp.asarray(RNG.normal(size=(3, 3))), "b": jnp.asarray(2 * RNG.normal(size=3))}
LOSSES = ("loss", "midpoint_loss", "predicted_loss")
OPTIMIZERS = {
    "gradient_descent": dict(learning_rate=0.6),
    "scalar_rmsprop": dict(learning_rate=0.15, beta2=0.9),
    "rmsprop": dict(learning_rate=0.05, beta2=0.9, epsilon=1e-8),
    "adam": dict(learning_rate=0.05, beta1=0.5, beta2=0.9, epsilon=1e-8),
}


def shifted(params, data):
    (x, y), shift = data
    return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2) + shift


@pytest.mark.parametrize(
    "name", [name if name == "gradient_descent" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_a_constant_added_to_the_loss_changes_no_number_but_the_loss(name):
    runs = {}
    for shift in (0.0, 1.0, -3.0):
        problem = cn.Problem(shifted, START, data=(EXAMPLES, jnp.asarray(shift)))
        runs[shift] = cn.run(problem, name, OPTIMIZERS[name], steps=64, quiet=True)
        assert runs[shift].reason == ""
    plain = runs.pop(0.0)
    assert float(plain.tree["central"]["sigma_eigenvalues"].max()) > 1e-3  # it came to the edge
    for shift, run in runs.items():
        for process in plain.tree.children:
            for variable in set(plain.tree[process].data_vars) - {"seconds"}:
                ours, expected = run.tree[process][variable].values, plain.tree[process][variable].values
                if variable in LOSSES:
                    np.testing.assert_allclose(ours - shift, expected, rtol=0, atol=4e-15 * np.nanmax(np.abs(expected)))
                elif variable == "zeta":  # of differences of the loss, whose last digits move with the constant
                    np.testing.assert_allclose(ours, expected, rtol=1e-10)
                else:
                    np.testing.assert_array_equal(ours, expected, err_msg=f"{process} {variable}")
        for ours, expected in zip(run.compare().rows, plain.compare().rows, strict=True):
            if ours.name == "zeta" and expected.value is not None:
                assert ours.value == pytest.approx(expected.value, rel=1e-10)
            elif ours.name != "predicted_loss":  # which is relative to the loss
                assert ours.value == expected.value, ours.name

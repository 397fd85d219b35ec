"""A flow, a closure and an integrator of one's own: each is what stands here and one registration, no more."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.flows.closures.base import Closure, plus, scaled
from cflow_num.flows.stable import StableFlow
from cflow_num.record.run import load
from cflow_num.record.variables import PROCESSES
from cflow_num.report.plot import loss as loss_figure
from cflow_num.running.kinds import INTEGRATORS, KINDS, Method, Stable, register, unregister
from cflow_num.stepping.half_explicit import AbstractHalfExplicit
from cflow_num.support.errors import InputError

CURVATURES = np.array([1.0, 2.0, 3.0])
RATE, STEPS = 0.3, 16


@pytest.fixture
def registered():
    """Return what registers a kind of process until the test has ended."""
    names = []

    def put(kind):
        register(kind)
        names.append(next(reversed(KINDS)))

    yield put
    for name in names:
        unregister(name)
    assert list(KINDS) == PROCESSES


def quadratic(w, curvatures):
    return jnp.sum(curvatures * w**2) / 2


def run(*processes):
    problem = cn.Problem(quadratic, jnp.ones(3), data=CURVATURES)
    return cn.run(problem, "gradient_descent", dict(learning_rate=RATE), steps=STEPS, processes=processes, quiet=True)


def expected(factor):
    """Return the losses of weights that each step multiplies by a factor."""
    return [np.sum(CURVATURES * factor ** (2 * t)) / 2 for t in range(STEPS + 1)]


class ModifiedFlow(StableFlow):
    """The flow of L + (eta/4) |grad L|^2, which follows gradient descent to second order (Barrett and Dherin 2021)."""

    def stable_drift(self, y: FlowState) -> FlowState:
        drift = super().stable_drift(y)
        turn = self.hessian_vectors(y.w, drift.w[:, None])[:, 0]
        return drift._replace(w=drift.w + self.hp["learning_rate"] / 2 * turn)


class Modified(Stable):
    def flow(self, case, capacity):
        return ModifiedFlow(*case.parts)


def test_a_flow_is_one_file_and_one_registration(registered, tmp_path):
    registered(Modified("modified"))
    found = run("discrete", "stable", "central", "modified")
    factor = np.exp(-RATE * CURVATURES - RATE**2 * CURVATURES**2 / 2)
    np.testing.assert_allclose(found.tree["modified"]["loss"], expected(factor), rtol=1e-4)
    found.save(tmp_path / "run.nc")
    row = {row.name: row for row in load(tmp_path / "run.nc").compare().rows}["modified_ratio"]
    assert row.value < 0.5  # nearer to the optimizer than the stable flow
    assert row.quantity == "distance modified / stable"
    figure = loss_figure(found)
    assert "modified flow" in [line.get_label() for line in figure.axes[0].lines]


class Doubled(Closure):
    """Two steps of half the optimizer's length in the time of one: a closure without an oscillation."""

    NAME: ClassVar[str] = "doubled"
    LABEL: ClassVar[str] = "ours"

    def started(self, y, before, oscillation, V):
        return FlowState(y.w, before)

    def step(self, y, h):
        return plus(y, scaled(h, self.increment(y)))

    def shown(self, y):
        return y._replace(slow=self.slow_of(y.slow)), self.value(y.w)

    @property
    def cost(self):
        return 1


def test_a_closure_is_one_file_and_one_registration(registered):
    registered(Doubled)
    problem = cn.Problem(quadratic, jnp.ones(3), data=CURVATURES)
    settings = dict(steps=STEPS, processes=("discrete", "stable", "central", "doubled"), closure_step=0.5, quiet=True)
    found = cn.run(problem, "gradient_descent", dict(learning_rate=RATE), **settings)
    np.testing.assert_allclose(found.tree["doubled"]["loss"], expected((1 - RATE * CURVATURES / 2) ** 2), rtol=1e-10)
    quantities = {row.name: row.quantity for row in found.compare().rows}
    assert quantities["doubled_predicted_loss"] == "predicted loss of doubled, relative RMS"


class Euler(AbstractHalfExplicit):
    """One stage: the X that makes the next point keep the edge."""

    weights: ClassVar = ((1.0,),)

    def order(self, terms):
        return 1


def test_an_integrator_is_one_class_and_one_entry(monkeypatch):
    monkeypatch.setitem(INTEGRATORS, "euler", Method(Euler, 1 / 16))
    settings = dict(steps=40, processes=("central",), quiet=True)  # half of them at the edge
    valley, hp = cn.problem("valley", x0=0.0), dict(learning_rate=1.0)
    own, ours = (cn.run(valley, "gradient_descent", hp, integrator=name, **settings) for name in ("euler", "heun"))
    assert own.config["integrator"] == "euler"
    np.testing.assert_allclose(own.tree["central"]["loss"], ours.tree["central"]["loss"], rtol=0, atol=1e-4)
    seen = own.tree["central"]
    np.testing.assert_allclose(seen["effective_eigenvalues"][30:, 0], seen["threshold"][30:], rtol=2e-3)


@pytest.mark.parametrize("name", ["stable", "rod", "distance", "my flow"])
def test_names_that_are_taken(name):
    with pytest.raises(InputError, match="cannot be the name of a process of your own"):
        register(Modified(name))


def test_a_file_that_registers_may_be_read_twice(registered):
    registered(Modified("modified"))
    again = Modified("modified")
    register(again)
    assert KINDS["modified"] is again
    assert PROCESSES.count("modified") == 1


def test_a_file_tells_of_a_flow_that_is_not_registered_where_it_is_read(tmp_path):
    register(Modified("modified"))
    try:
        path = run("discrete", "stable", "central", "modified").save(tmp_path / "run.nc")
    finally:
        unregister("modified")
    assert "modified_ratio" in {row.name for row in load(path).compare().rows}

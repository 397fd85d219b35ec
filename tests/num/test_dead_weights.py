"""Weights that never have a gradient, such as those of blank pixels, in runs of traced optimizers at the edge."""

import jax
import numpy as np
import optax
import pytest

import cflow_num as cn
import cflow_sym as cs


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


RUNS = {
    "adam": (optax.adam, dict(learning_rate=0.03, beta1=0.5, beta2=0.9)),  # epsilon and eps_root are optax's own
}


@pytest.mark.parametrize("title", RUNS)
def test_dead_weights_do_not_end_a_run(title):
    factory, hp = RUNS[title]
    problem = cn.problem("digits-mlp", n=40, width=3)
    g = problem.gradient(problem.w0)
    assert np.sum(np.asarray(g) == 0) > 20
    run = cn.run(problem, cs.from_optax(factory), hp, steps=40, warm_start=5)
    for name in ("discrete", "stable", "central"):
        group = run.tree[name]
        assert group.sizes["step"] == 41
        assert np.isfinite(group["loss"]).all()
    central, discrete = run.tree["central"], run.tree["discrete"]
    top = central["effective_eigenvalues"].values[:, 0] / central["threshold"].values
    assert np.nanmax(top) > 0.99  # the run does reach the edge
    assert np.nanmax(central["residual"]) < 1e-8
    assert abs(float(central["predicted_loss"][-1]) / float(discrete["loss"][-5:].mean()) - 1) < 0.5

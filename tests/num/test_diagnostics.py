"""Diagnostics of plain runs: zeta, generalized sharpness along the step, critical step, clipping threshold."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.flows.discrete import critical_step
from cflow_num.record.measures import zeta_over
from cflow_num.support.errors import InputError

OPTIMIZERS = {
    "gradient_descent": dict(learning_rate=0.8, weight_decay=0.01),
    "scalar_rmsprop": dict(learning_rate=0.1, beta2=0.9),
    "adam": dict(learning_rate=0.02, beta1=0.5, beta2=0.95, epsilon=1e-4),
}
BOTH = ("gbs", "critical_step")


@cache
def problem():
    return cn.problem("digits-mlp", n=40, width=3, components=8)


@cache
def at_the_edge():
    settings = dict(steps=160, warm_start=500, average_start=True, processes=("discrete", "central"))
    larger = cn.problem("digits-mlp", n=150, width=8, components=16)
    return cn.run(larger, "gradient_descent", dict(learning_rate=1.0), diagnostics=BOTH, quiet=True, **settings)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_gradient_promises_is_minus_its_product_with_the_step(name):
    settings = dict(steps=6, keep_weights=1, processes=("discrete",), diagnostics=BOTH, quiet=True)
    found = cn.run(problem(), name, OPTIMIZERS[name], **settings)
    w = jnp.stack([jnp.asarray(problem().ravel(found.weights("discrete", step=t))) for t in range(7)])
    s, value = jnp.diff(w, axis=0), problem().value
    discrete = found.tree["discrete"]
    for t in range(1, 6):
        g, H = jax.grad(value)(w[t]), jax.hessian(value)(w[t])
        assert float(discrete["first_order_decrease"][t]) == pytest.approx(-float(g @ s[t]), rel=1e-9)
        assert float(discrete["curvature_along_step"][t]) == pytest.approx(float(s[t] @ H @ s[t]), rel=1e-8)
        a = float(discrete["critical_step"][t])
        if np.isfinite(a):
            promised = -float(g @ s[t])
            assert abs(float(value(w[t] + a * s[t]) - value(w[t]))) < 0.02 * promised * a


def test_on_a_quadratic_loss_zeta_is_half_gbs_and_the_critical_step_its_inverse():
    h = jnp.array([1.0, 3.0, 7.0])
    quadratic = cn.Problem(lambda w: jnp.sum(h * w**2) / 2, jnp.ones(3))
    settings = dict(steps=30, processes=("discrete",), diagnostics=BOTH, quiet=True)
    found = cn.run(quadratic, "gradient_descent", dict(learning_rate=0.25), **settings).tree["discrete"]
    inside = slice(1, -1)
    step_gbs = found["curvature_along_step"] / found["first_order_decrease"]
    np.testing.assert_allclose(found["critical_step"][inside], 2 / step_gbs[inside], rtol=1e-5)
    np.testing.assert_allclose(found["zeta"][inside], found["gbs"][inside] / 2, rtol=1e-3)


def test_at_the_edge_the_flow_knows_what_the_optimizer_does_not_keep():
    found = at_the_edge()
    assert found.reason == ""
    measured, own = (zeta_over(found, process, 25) for process in ("discrete", "central"))
    assert measured > 0.9
    assert own == pytest.approx(measured, abs=0.004)
    discrete = found.tree["discrete"]
    late = slice(40, 140)
    assert np.abs(discrete["zeta"] - discrete["gbs"] / 2)[late].mean() < 0.02


def test_below_the_edge_the_flow_has_the_small_zeta_of_small_steps():
    settings = dict(steps=60, warm_start=20, quiet=True, processes=("discrete", "central"))
    found = cn.run(problem(), "gradient_descent", dict(learning_rate=0.3), **settings)
    measured, own = (zeta_over(found, process, 5) for process in ("discrete", "central"))
    assert 5e-4 < measured < 0.1
    assert own == pytest.approx(measured, rel=0.1)


def test_the_clipping_threshold_is_the_root_mean_square_of_the_gradients_norm():
    found = at_the_edge()
    late = slice(20, 140)
    norm = np.sqrt((found.tree["discrete"]["gradient_norm"].values[late] ** 2).mean())
    assert found.tree["central"]["clipping_threshold"].values[late].mean() == pytest.approx(norm, rel=0.15)
    rmsprop = cn.run(
        problem(), "scalar_rmsprop", OPTIMIZERS["scalar_rmsprop"], steps=2, processes=["central"], quiet=True
    )
    assert "clipping_threshold" not in rmsprop.tree["central"]


def test_the_critical_step_of_curves_that_are_known():
    one = jnp.asarray(1.0)
    assert float(critical_step(lambda a: -a + a**3 / 9, -one)) == pytest.approx(3.0, rel=1e-2)
    assert np.isnan(critical_step(lambda a: a + a**2, one))  # it rises
    assert np.isnan(critical_step(lambda a: -a, -one))  # it falls for ever


def test_diagnostics_are_asked_for_by_name():
    with pytest.raises(InputError, match='diagnostics "gsb" is not one of gbs, critical_step'):
        cn.run(problem(), "adam", OPTIMIZERS["adam"], diagnostics=["gsb"])
    with pytest.raises(InputError, match="diagnostics is 'gbs', it must list names"):
        cn.run(problem(), "adam", OPTIMIZERS["adam"], diagnostics="gbs")

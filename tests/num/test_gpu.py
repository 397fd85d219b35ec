"""On an accelerator, where there is one: the central flow is the processor's, in both precisions."""

import jax
import numpy as np
import pytest

import cflow_num as cn


def accelerators():
    return [d for d in jax.devices() if d.platform != "cpu"]


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not accelerators(), reason="needs an accelerator (and JAX_PLATFORMS that allows it)"),
]


def central(problem):
    run = cn.run(problem, "gradient_descent", {"learning_rate": 0.87}, steps=30, processes=("central",), quiet=True)
    assert not run.reason
    return run


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-3)])
def test_the_central_flow_is_that_of_the_processor(dtype, tolerance):
    problem = cn.problem("digits-mlp", n=100, width=8).astype(dtype)
    there, here = central(problem.on(accelerators()[0])), central(problem.on("cpu"))
    assert there.config["device"] != here.config["device"] == "cpu:0"
    for name in ("loss", "gradient_norm", "effective_eigenvalues"):
        a, b = (run.tree["central"][name].values[..., :4] for run in (here, there))
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.nanmax(np.abs(a)))


def test_chunks_and_shares_on_the_accelerator():
    problem = cn.problem("digits-mlp", n=101, width=4)
    w = np.asarray(problem.w0)
    expected = np.asarray(problem.on("cpu").gradient(w))
    for other in (problem.on(accelerators()[0]).in_chunks(10, 2), problem.sharded(accelerators())):
        np.testing.assert_allclose(np.asarray(other.gradient(other.w0)), expected, atol=1e-10)

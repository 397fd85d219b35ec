"""Cycles about the central flow: frequency and growth as derived, against steps of the optimizer in a long valley."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
import cflow_sym as cs
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_sym.theory.cycles import GAIN, SHARPENING
from cflow_sym.theory.momentum import SCALAR_P

SLOPE = 1e-4


@pytest.mark.parametrize(
    ("name", "beta1"), [("gradient_descent", 0), ("heavy_ball_ema", 0.5), ("heavy_ball", 0.2), ("nesterov", 0.5)]
)
def test_small_cycles_have_the_derived_frequency_and_growth(name, beta1):
    d, s = cs.derive(name), cs.symbols
    at = {s.eta: 1, s.beta1: beta1}
    c, speed = float(d.threshold.subs(at)), float(d["speed"].subs(at)) if beta1 else 1.0
    squared = d["cycle"].subs({GAIN: d["gain"], s.c: c, SHARPENING: speed * SLOPE}).subs(at)
    period, tau = 2 * np.pi / np.sqrt(float(squared)), float(d["cycle_growth"].subs(at))

    rest = np.sqrt(2 * SLOPE)  # sigma^2 of the central flow
    problem = cn.problem("valley", s0=c, a=0.0, p=SLOPE, k=0.0, x0=1.02 * rest, z0=0.0)
    flow, hp = resolve(name, {"learning_rate": 1.0} | ({"beta1": beta1} if beta1 else {}))
    discrete = DiscreteOptimizer(problem, as_arrays(flow, hp, problem), flow)
    y = discrete.first(problem.w0)
    if beta1:  # the average, after its update, of an oscillation that has always been there
        m = -float(d["direction_m"].subs({s.c: c, SCALAR_P: 1}).subs(at)) * problem.w0[0]
        y = y._replace(slow=y.slow | {"m": jnp.array([m, 0.0, 0.0])})
    x = np.asarray(discrete.steps(y, round(6.5 * period)).w)[:, 0]
    size = np.log(np.abs(x))
    size = (size[1:] + size[:-1]) / 2 - np.log(rest)
    (rises,) = np.nonzero((size[1:] > 0) & (size[:-1] <= 0))
    peaks = [size[a:b].max() for a, b in itertools.pairwise(rises)]
    assert len(peaks) >= 4
    np.testing.assert_allclose(np.diff(rises), period, rtol=0.01)
    growth = np.log(peaks[-1] / peaks[0]) / (len(peaks) - 1)
    assert growth == pytest.approx(2 * np.pi**2 * tau / period, rel=0.1)

"""Constants of programs, files and specs: which number each stands for, and that it moves by rounding only."""

import numpy as np
import optax
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import cflow_sym as cs
from cflow_sym.constants import as_read, stands_for

s = cs.symbols
FOLDED = {
    "1 - 0.9": (1 - 0.9, "1/10"),
    "1 - 0.9999": (1 - 0.9999, "1/10000"),
    "(1 - 0.999)**2": ((1 - 0.999) ** 2, "1/1000000"),
    "0.1 * 3": (0.1 * 3, "3/10"),
    "1 / (1 - 0.9)": (1 / (1 - 0.9), "10"),
    "-(1 - 0.95)": (-(1 - 0.95), "-1/20"),
    "2 / 3": (2 / 3, "2/3"),
    "float32": (1 - np.float32(0.9), "1/10"),
    "pi": (np.pi, "3141592653589793/1000000000000000"),
    "single pi": (np.float32(np.pi), "31415927/10000000"),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_was_computed_before_is_recognised(name):
    value, expected = FOLDED[name]
    assert stands_for(value) == sp.Rational(expected)
    assert as_read(str(value)) == sp.Rational(expected) or name in ("float32",)


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_no_constant_moves_by_more_than_rounding(value):
    found = stands_for(value)
    rounding = 16 * sp.Rational(2) ** -52 * abs(sp.Rational(value)) + sp.Rational(2) ** -1070
    assert abs(found - sp.Rational(value)) <= max(rounding, sp.Rational(2) ** -53 if 0 < abs(value) < 1 else 0)
    assert stands_for(float(f"{value:.6g}")) == sp.Rational(f"{value:.6g}")


def test_a_folded_decay_gives_the_threshold_of_the_decay():
    program = cs.from_optax(lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=False))
    assert program.derive().threshold == sp.Rational(19, 5)
    averaged = cs.from_optax(lambda learning_rate: optax.chain(optax.ema(0.9, debias=False), optax.scale(-1.0)))
    assert averaged.derive().threshold == 38
    bare = cs.OptimizerSpec(
        name="folded",
        hyperparameters=(cs.optimizer("gradient_descent").hyperparameters[0],),
        states=(cs.State("m", 0.9 * s.m + (1 - 0.9) * s.g),),
        update=-s.eta * s.m,
    )
    assert bare.derive().threshold == 38

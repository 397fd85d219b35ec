"""Units: in other units of weights and loss every process takes the same path, and no step of it hangs.

Factors that are powers of two change no digit, so that there every number must be the same to the last bit: an absolute
constant anywhere would show. Each program is compiled once, scales are data.
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.flows.base import FlowState
from cflow_num.running import kinds
from cflow_num.running import process as integrate
from cflow_num.running.recorder import VARIABLES
from cflow_num.stepping.tuning import Tuning
from cflow_sym.generated import load

from .cases import arrays

X = np.linspace(-2, 2, 8)
RNG = np.random.default_rng(0)
W0 = {name: scale * RNG.normal(size=3) for name, scale in [("a", 1.0), ("b", 0.3), ("v", 1.0)]}
STEPS = 48
EXACT = [(2.0**-30, 1.0), (2.0**20, 1.0), (1.0, 2.0**-40), (1.0, 2.0**40)]  # units of weights and loss
DECIMAL = [(1e-9, 1.0), (1e6, 1e12)]
BY_CURVATURE = ("gradient_descent", "heavy_ball")  # their steps are in units of weight^2/loss, others' in weights


def fitting(params, data):
    """Return the mean squared error of a network with three hidden units, in the units of the data."""
    a, b, v = (params[name] / data["weight"] for name in ("a", "b", "v"))
    return data["loss"] * jnp.mean((jnp.tanh(data["x"][:, None] * a + b) @ v - data["y"]) ** 2)


def in_units(weight, loss):
    data = {"x": X, "y": np.sin(2 * X), "weight": np.asarray(weight), "loss": np.asarray(loss)}
    return cn.Problem(fitting, {name: jnp.asarray(weight * x) for name, x in W0.items()}, data=data)


def converted(optimizer, hp, weight, loss):
    """Return hyperparameters in these units."""
    rate = weight**2 / loss if optimizer in BY_CURVATURE else weight
    units = {"learning_rate": rate, "weight_decay": 1 / rate, "epsilon": (loss / weight) ** (1 + ("eps_in_sqrt" in hp))}
    return {name: value * units[name] if name in units else value for name, value in hp.items()}


def unit(name, weight, loss):
    """Return the declared unit of a recorded variable."""
    text = VARIABLES[name][1].replace("^1/2", "**0.5").replace("^", "**")
    return eval(text, {"weight": weight, "loss": loss, "P": loss / weight**2})


LAWS = {
    "gradient descent": ("gradient_descent", dict(learning_rate=0.5, weight_decay=0.01), ("stable", "central"), {}),
    "rmsprop": ("rmsprop", dict(learning_rate=0.01, beta2=0.9, epsilon=1e-3), ("stable", "central", "stationary"), {}),
    "epsilon inside": (
        "scalar_rmsprop",
        dict(learning_rate=0.05, beta2=0.9, epsilon=1e-4, eps_in_sqrt=True),
        ("stable", "ablated"),
        dict(integrator="heun"),
    ),
    "momentum": ("heavy_ball", dict(learning_rate=0.3, beta1=0.5), ("stable", "central", "envelope"), {}),
    "delayed onset": ("adam", dict(learning_rate=0.02, beta1=0.5, beta2=0.9), ("central",), dict(onset="delayed")),
    "single precision frames": ("rmsprop", dict(learning_rate=0.01, beta2=0.9), ("central", "rod"), {}),
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_in_other_units_every_number_is_the_same(law, monkeypatch):
    optimizer, hp, processes, settings = LAWS[law]
    if law == "single precision frames":
        monkeypatch.setattr(kinds, "TUNING", Tuning(few_weights=1))

    def run(weight, loss):
        own = converted(optimizer, hp, weight, loss)
        asked = dict(steps=STEPS, warm_start=2, processes=("discrete", *processes), quiet=True) | settings
        return cn.run(in_units(weight, loss), optimizer, own, **asked)

    one = run(1.0, 1.0)
    assert one.reason == ""
    for weight, loss in EXACT + DECIMAL:
        other = run(weight, loss)
        assert other.reason == ""
        for process, group in one.tree.children.items():
            for name, here in group.data_vars.items():
                if name == "seconds" or "residual" in name:
                    continue
                there, here = other.tree[process][name].values / unit(name, weight, loss), here.values
                if (weight, loss) in EXACT:
                    np.testing.assert_array_equal(there, here, err_msg=f"{process} {name}")
                elif name not in ("displacement", "offset"):  # whose signs are those of eigenvectors
                    # what the stationary flow iterates to, and rounding may end it; frames in single precision round
                    # to other digits in decimal units
                    loose = process == "stationary" or law == "single precision frames"
                    digits = 1e-4 if loose else 1e-6
                    far = digits * max(np.nanmax(np.abs(here), initial=0.0), np.finfo(float).tiny)
                    np.testing.assert_allclose(there, here, rtol=0, atol=far, err_msg=f"{process} {name}")


def two_arrays(params, c):
    """Return a quartic well for the first array and a quadratic one for the second, each in its own unit."""
    a, b = params["a"] / c["a"], params["b"] / c["b"]
    return c["a"] ** 2 * jnp.sum(a**4) / 4 + c["b"] ** 2 * jnp.sum((b - c["origin"]) ** 2) / 2


@pytest.mark.parametrize(("a", "b", "origin"), [(1e-6, 1e3, 0.0), (1e6, 1e-9, 0.0), (1.0, 1.0, 2.0**24)])
def test_each_array_is_resolved_on_its_own_scale_wherever_its_origin_is(a, b, origin):
    start = np.array([1.0, 0.5, -0.7])
    data = {name: jnp.asarray(value) for name, value in [("a", a), ("b", b), ("origin", origin)]}
    problem = cn.Problem(two_arrays, {"a": jnp.asarray(a * start), "b": jnp.asarray(b * (start + origin))}, data=data)
    hp = arrays("gradient_descent", problem, learning_rate=0.3)
    process = integrate.Process("stable", problem, load("gradient_descent"), hp)
    carry, _ = process.start(FlowState(problem.w0, {"t": jnp.asarray(1.0)}))
    w = np.asarray(process.advance(carry)[1].w)
    t = np.arange(1, len(w) + 1)[:, None]
    expected = start / np.sqrt(1 + 2 * 0.3 * start**2 * t), start * np.exp(-0.3 * t)
    for found, exact in zip((w[:, :3] / a, w[:, 3:] / b - origin), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=5e-6)  # of the array's size at the start


def kinked(w, c):
    """Return a loss that the flow reaches the kink of, or along which it runs away in finite time."""
    return c["kink"] * jnp.sum(jnp.abs(w)) - c["away"] * jnp.sum(w**4) + c["bowl"] * jnp.vdot(w, w)


@pytest.mark.parametrize(
    ("optimizer", "rate", "kind", "start", "end"),
    [
        ("gradient_descent", 0.1, "kink", [1.0, 0.35], 3.5),  # where the second weight is zero
        ("gradient_descent", 0.1, "away", [1.0, 0.35], 1.25),  # w^-2 = 1 - 8 eta t
        ("normalized_gradient_descent", 0.1, "bowl", [0.3, 0.4], 5.0),  # |w| = 1/2 - eta t
    ],
)
def test_a_flow_whose_steps_collapse_ends_with_the_reason(optimizer, rate, kind, start, end):
    data = {name: jnp.asarray(float(name == kind)) for name in ("kink", "away", "bowl")}
    with pytest.warns(cn.KinkWarning, match="kinked"):
        problem = cn.Problem(kinked, jnp.array(start), data=data)
    run = cn.run(problem, optimizer, dict(learning_rate=rate), steps=48, processes=("stable",), quiet=True)
    stopped = re.match(r"the stable process stopped at step (\d+) of 48: its time steps collapse there", run.reason)
    assert stopped is not None, run.reason
    assert int(end) <= int(stopped[1]) <= end + 4
    assert np.isfinite(run.tree["stable"]["loss"].values[: int(end) + 1]).all()


def many(w):
    return jnp.vdot(w, w) / 2


def test_more_eigenvalues_than_can_be_held_are_told_before_anything_is_compiled():
    n = integrate.MOST_CRITICAL + 6
    run = cn.run(cn.Problem(many, jnp.ones(n)), "gradient_descent", dict(learning_rate=3.0), steps=5, quiet=True)
    told = f"more than {integrate.MOST_CRITICAL} eigenvalues are at the threshold, use a smaller learning rate"
    assert f"the central process stopped at step 0 of 5: {told}" in run.reason
    assert run.tree["central"].attrs["compile_seconds"] == 0

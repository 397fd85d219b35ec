"""Momentum: the filter's transfer function, threshold, gain, centre flow and leapfrog, against the known formulas."""

import dataclasses

import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym import DerivationError, Hyperparameter, OptimizerSpec, SpecError, State
from cflow_sym import symbols as s
from cflow_sym.notation import state_symbol
from cflow_sym.theory.canonical_form import canonical_form

b, h = s.beta1, s.dt
m = sp.Symbol("m", real=True)
d = s.eta * s.gamma
AVERAGE, TRACE, NESTEROV = 2 * (1 + b) / (1 - b), 2 * (1 + b), 2 * (1 + b) / (1 + 2 * b)
THRESHOLDS = {  # at late times
    "heavy_ball": TRACE,
    "heavy_ball_ema": AVERAGE,
    "nesterov": NESTEROV,
    "nesterov_lookahead": NESTEROV,
    "qhm": 2 / (1 - 2 * b * sp.Symbol("q", positive=True) / (1 + b)),
    "adam": AVERAGE,
    "adamw": AVERAGE * (1 - d / 2),
    "adabelief": AVERAGE,
    "scalar_adam": AVERAGE,
    "nadam": AVERAGE / (1 + 2 * b),
    "rmsprop": 2,
}


def late(found):
    return found["late_threshold" if "late_threshold" in found else "threshold"]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds(name):
    assert sp.simplify(late(cs.derive(name)) - THRESHOLDS[name]) == 0


def test_decoupled_decay_lowers_the_threshold():
    found = cs.derive("nadam", weight_decay=True)
    assert sp.simplify(late(found) - (1 - d / 2) * THRESHOLDS["nadam"]) == 0
    assert sp.simplify(cs.derive("heavy_ball", l2=True).threshold - TRACE) == 0


@pytest.mark.parametrize(
    ("name", "gain"), [("heavy_ball", 38), ("adam", 38), ("nesterov", 2.876), ("gradient_descent", 2)]
)
def test_multipliers_are_minus_one_at_the_threshold(name, gain):
    d = cs.derive(name)
    p = d["characteristic_polynomial"].subs(s.lam, d.threshold)
    assert sp.simplify(p.subs(s.z, -1)) == 0
    at = sp.Poly(d["characteristic_polynomial"].subs(b, sp.Rational(9, 10)), s.z)
    slope = -at.as_expr().diff(s.lam) / at.as_expr().diff(s.z)  # dz / dlambda of the implicit root
    edge = d.threshold.subs(b, sp.Rational(9, 10))
    assert float((-edge * slope).subs({s.lam: edge, s.z: -1})) == pytest.approx(gain, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "gain"), [("heavy_ball", 38), ("adam", 38), ("nesterov", 2.876), ("gradient_descent", 2)]
)
def test_gain_at_the_edge(name, gain):
    assert float(cs.derive(name).gain.subs(b, sp.Rational(9, 10))) == pytest.approx(gain, abs=1e-3)


def test_the_centre_flow_and_the_leapfrog_are_those_of_the_theory():
    tau, gamma = (1 + b) / (2 * (1 - b)), 2 * d / (2 - d)
    found = cs.derive("adamw")
    force = sp.Symbol("force", real=True)
    (average,) = [x for x in found["leap_mean_m"].atoms(sp.Symbol) if x.name == "mean_m"]
    kappa = 1 / tau
    stepped = ((1 - kappa * h / 2) * average + kappa * h * s.g_mean) / (1 + kappa * h / 2)
    assert sp.simplify(average + h * found["leap_mean_m"] - stepped) == 0
    assert sp.simplify(found["centre_mean_m"] - (s.g_mean - average) / tau) == 0
    P = found.preconditioner
    w_plus = ((1 - gamma * h / 2) * s.w + h * force / (1 - d / 2)) / (1 + gamma * h / 2)
    leaped = s.w + h * found["leap_w"]
    assert sp.simplify(leaped - w_plus.subs(force, -average / P)) == 0
    nu, kappa2 = found.spec.state_symbols["nu"], 2 * (1 - s.beta2) / (1 + s.beta2)
    squared = s.g**2 + s.gradient_variance
    nu_plus = ((1 - kappa2 * h / 2) * nu + kappa2 * h * squared) / (1 + kappa2 * h / 2)
    assert sp.simplify(nu + h * found["leap_average_nu"] - nu_plus) == 0
    left = (tau - sp.Rational(1, 2)) / (tau - h / 2)
    assert sp.simplify(found["memory_mean_m"] - left) == 0
    start = s.g**2 + (nu - s.g**2) * left.subs(b, s.beta2)
    assert sp.simplify(nu + found["start_nu"] - start) == 0


@pytest.mark.parametrize("name", ["nesterov", "nadam", "qhm", "aggmo", "ademamix"])
def test_the_lag_of_the_averages_is_that_of_the_transfer_function(name):
    form = canonical_form(cs.optimizer(name))
    lag = sp.Add(*(q * (1 + a) / (2 * (1 - a)) for a, q in form.averages)) / form.speed
    G = form.transfer(s.z)
    stated = sp.Rational(1, 2) - (G.diff(s.z) / G).subs(s.z, 1)
    at = {x: sp.Rational(k + 2, k + 5) for k, x in enumerate(sorted(lag.free_symbols | stated.free_symbols, key=str))}
    assert sp.simplify((lag - stated).subs(at)) == 0


def test_without_momentum_the_filter_is_one_average_without_memory():
    form = canonical_form(cs.optimizer("rmsprop"))
    assert form.averages == ((0, 1),)
    assert form.transfer(s.z) == 1
    assert sp.simplify(cs.derive("gradient_descent")["leap_push"] - 2 * h / (1 + h)) == 0


def test_adabelief_sees_what_the_average_leaves_of_the_oscillation():
    added = cs.derive("adabelief")["leap_average_nu"].diff(s.gradient_variance)
    plain = cs.derive("adam")["leap_average_nu"].diff(s.gradient_variance)
    assert sp.simplify(added / plain - (1 - (1 - b) / (1 + b)) ** 2) == 0


def test_the_reduced_flow():
    found = cs.derive("heavy_ball")
    assert sp.simplify(found["speed"] - 1 / (1 - b)) == 0
    assert sp.simplify(found["step_limit"] - (1 - b) / (1 + b)) == 0  # 1/19 at 0.9
    assert found.sigma_squared == cs.derive("gradient_descent").sigma_squared
    assert sp.simplify(found.stable_flow["w"] + s.eta * s.g / (1 - b)) == 0
    assert list(found.reduced_flow) == ["w"]
    assert not cs.derive("adam").reduced_flow  # P has one entry for each weight


def test_a_step_that_reads_the_average_before_its_update_is_the_same_optimizer():
    old = sp.Symbol("m_old", real=True)
    eta = Hyperparameter("learning_rate", s.eta)
    beta = Hyperparameter("beta1", b, upper=1.0)
    states = (State("m", b * m + s.g),)
    spec = OptimizerSpec("nesterov_again", -s.eta * (b * (b * old + s.g) + s.g), (eta, beta), states)
    assert sp.simplify(spec.derive().threshold - NESTEROV) == 0


def custom(update, average=None, **options):
    eta = Hyperparameter("learning_rate", s.eta)
    average = sp.Rational(9, 10) * m + s.g / 10 if average is None else average
    return OptimizerSpec("custom", update, (eta,), (State("m", average, **options),))


REFUSED = {
    "another root": (
        -s.eta * (m - s.g / 20),
        None,
        r"the root .*j of modulus 1 leaves the unit disc at lambda = 2.2222, before the threshold c = 760",
    ),
    "no threshold": (-s.eta * (m - s.g / 10), None, r"G\(-1\) = -0.04737, which is not positive"),
    "unstable filter": (-s.eta * m, sp.Rational(11, 10) * m + s.g, "keeps 1.1 of its old value"),
    "alternating filter": (-s.eta * m, -m / 2 + s.g, "keeps -0.5 of its old value"),
    "no average": (-s.eta * m, m / 2 + s.g + 1, "is no average of the gradient"),
    "filter in time": (-s.eta * m, m / 2 + s.g * (1 - 1 / s.t), "coefficients that change with t"),
    "no common preconditioner": (-s.eta * (m / sp.sqrt(s.nu) + s.g), None, "must share one preconditioner"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_refused_says_why(title):
    update, average, says = REFUSED[title]
    spec = custom(-s.eta * m, average, kind="filtered")
    nu = State("nu", s.beta2 * s.nu + (1 - s.beta2) * s.g**2)
    beta2 = Hyperparameter("beta2", s.beta2, upper=1.0)
    spec = dataclasses.replace(
        spec, states=(*spec.states, nu), hyperparameters=(*spec.hyperparameters, beta2), update=update
    )
    with pytest.raises((DerivationError, SpecError), match=says) as caught:
        spec.derive()
    assert "\n" not in str(caught.value)


def test_averages_of_averages_and_of_preconditioned_gradients_are_refused():
    slow = state_symbol("slow", "filtered")
    eta = Hyperparameter("learning_rate", s.eta)
    chain = (State("m", m / 2 + s.g / 2), State("slow", slow / 2 + sp.Symbol("m_new", real=True) / 2, kind="filtered"))
    with pytest.raises(DerivationError, match="also reads m: what is preconditioned or averaged before"):
        OptimizerSpec("custom", -s.eta * slow, (eta,), chain).derive()


def test_a_look_ahead_along_nothing_is_refused():
    eta = Hyperparameter("learning_rate", s.eta)
    state = State("m", m / 2 + s.g)
    for ahead in (sp.Symbol("u") / 2, s.eta * 2):
        with pytest.raises(SpecError, match="must be made of averages of the gradient"):
            OptimizerSpec("custom", -s.eta * m, (eta,), (state,), lookahead=ahead)
    with pytest.raises(SpecError, match="'dt' is used twice or is reserved"):
        OptimizerSpec("custom", -sp.Symbol("dt") * s.g, (Hyperparameter("dt", sp.Symbol("dt", positive=True)),))

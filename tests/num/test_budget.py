"""The error budget: evaluated terms against the symbolic ones, and what must hold for every oscillation."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_num as cn
import cflow_sym as cs
from cflow_num.flows.base import FlowState
from cflow_num.running.process import Process
from cflow_num.stepping import dropped_terms as budget
from cflow_num.stepping.log import empty_log
from cflow_num.support.errors import InputError
from cflow_num.verdict.error_budget import CLOSURE, budget_terms, closure_distance, has_budget, largest_dropped
from cflow_sym.generated import load

from .cases import arrays
from .synthetic import synthetic

OPTIMIZERS = {
    "gradient_descent": {"learning_rate": 0.8},
    "scalar_rmsprop": {"learning_rate": 0.1, "beta2": 0.9},
    "rmsprop": {"learning_rate": 0.01, "beta2": 0.9, "epsilon": 1e-8},
}


@cache
def prepared(name):
    """Return the central flow of an optimizer on a small network, a state and the symbolic remainders."""
    problem = cn.problem("digits-mlp", n=40, width=6)
    hp = arrays(name, problem, **OPTIMIZERS[name])
    flow = Process("central", problem, load(name), hp, capacity=2).flow()
    w = problem.w0 + 0.1 * jnp.sin(jnp.arange(problem.n_weights))
    slow = flow.optimizer.initial_state(w, hp)
    for _ in range(30):  # so that the states are of the gradient's size
        slow = flow.optimizer.update_state(slow, flow.gradient(w), hp)
    return flow, FlowState(w, slow), cs.derive(name).remainders


def oscillating(flow, y, v, variance):
    """Return the log of a step whose Sigma has one direction v, v'Pv = 1, with that variance."""
    P = flow.optimizer.preconditioner(y.slow, flow.hp)
    v = v / jnp.sqrt(jnp.vdot(v, P * v))
    log = empty_log(flow, y)
    covectors = log.sigma_covectors.at[:, 0].set(P * v)
    return log._replace(sigma_eigenvalues=log.sigma_eigenvalues.at[0].set(variance), sigma_covectors=covectors), v


@eqx.filter_jit
def dropped(flow, y, log):
    g = flow.gradient(y.w)
    found = budget.what_is_dropped(flow, y, log, g)
    kept = budget.what_is_kept(flow, y, g, found.moments)
    return found, {name: found.states[name] - kept[name] for name in kept}


def along(f, d, w):
    return jax.jvp(f, (w,), (d,))[1]


@eqx.filter_jit
def derivatives(flow, w, d):
    """Return the first four derivatives of the gradient along d."""
    f, found = flow.gradient, []
    for _ in range(4):
        f = partial(along, f, d)
        found.append(f(w))
    return found


def symbolic(expr, flow, y, d, v):
    """Return a remainder's value for the displacement d = sqrt(variance) v."""
    D = derivatives(flow, y.w, d)
    g, variance = flow.gradient(y.w), float(jnp.vdot(d, d) / jnp.vdot(v, v))
    u = v / jnp.linalg.norm(v)
    Hu = flow.hessian_vectors(y.w, u[:, None])[:, 0]
    at = {f"D{i + 1}": x for i, x in enumerate(D)}
    at |= {
        "g": g,
        "u": u,
        "Hu": Hu,
        "S": float(jnp.vdot(u, Hu)),
        "grad_dot_u": jnp.vdot(g, u),
        "gradient_shift": D[1] / 2,
    }
    at |= {"sigma_squared": variance * float(jnp.vdot(v, v)), "eta": flow.hp["learning_rate"], **y.slow}
    at |= {name: x for name, x in flow.hp.items() if name in ("beta2", "epsilon")}
    names = sorted(str(symbol) for symbol in expr.free_symbols)
    plain = expr.xreplace({symbol: sp.Symbol(str(symbol)) for symbol in expr.free_symbols})
    evaluate = sp.lambdify([sp.Symbol(name) for name in names], plain, [{"Total": np.sum}, "numpy"])
    return jnp.asarray(evaluate(*[np.asarray(at[name]) for name in names]))


def close(a, b, share):
    return float(jnp.linalg.norm(jnp.atleast_1d(a - b))) <= share * float(jnp.linalg.norm(jnp.atleast_1d(b)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_terms_are_the_symbolic_ones_where_the_next_order_is_small(name):
    flow, y, terms = prepared(name)
    v = jnp.cos(jnp.arange(y.w.size))
    log, v = oscillating(flow, y, v, 1.0)
    size = 0.02 * float(jnp.linalg.norm(y.w)) / float(jnp.linalg.norm(v))
    log, _ = oscillating(flow, y, v, size**2)
    found, missing = dropped(flow, y, log)
    d = size * v
    assert close(found.even, symbolic(terms["averaged_gradient"], flow, y, d, v), 0.01)
    for state in missing:
        stated = symbolic(terms[f"cross_{state}"], flow, y, d, v) + symbolic(
            terms[f"fourth_order_{state}"], flow, y, d, v
        )
        assert close(missing[state], stated, 0.01)


@pytest.mark.parametrize("name", ["scalar_rmsprop", "rmsprop"])
def test_what_alternates_is_the_symbolic_term(name):
    """For small kicks; with a scalar state along an eigenvector, since there the term is written with S u for H u."""
    flow, y, terms = prepared(name)
    H = np.asarray(eqx.filter_jit(flow.hessian_vectors)(y.w, jnp.eye(y.w.size)))
    v = np.linalg.eigh(H)[1][:, -1] if name == "scalar_rmsprop" else np.cos(np.arange(len(H)))
    log, v = oscillating(flow, y, jnp.asarray(v), 1e-10)
    found, _ = dropped(flow, y, log)
    d, felt = 1e-5 * v, np.broadcast_to(np.asarray(y.slow["nu"] > 0), y.w.shape)  # some pixels are always white
    with np.errstate(invalid="ignore"):
        stated = sum(symbolic(terms[f"{which}_nu"], flow, y, d, v) for which in ("alternating", "alternating_squared"))
    assert felt.sum() > 100
    assert close(found.alternating[felt], stated[felt], 0.01)


@pytest.mark.parametrize("name", ["scalar_rmsprop", "rmsprop", "adam", "nadam"])
def test_what_alternates_is_what_the_optimizer_does_with_an_alternating_gradient(name):
    """Its states under g + kick, g - kick, ... settle into two: its mean step, less the step from their mean."""
    problem = cn.problem("quadratic", n=6, sharpness=1.0)
    momentum = {"beta1": 0.8} if load(name).FILTERED_STATES else {}
    opt, hp = load(name), arrays(name, problem, learning_rate=0.1, beta2=0.9, **momentum)
    flow = Process("central", problem, opt, hp, capacity=2).flow()
    g = 1 + jnp.arange(6.0) / 6
    kick = 1e-3 * jnp.cos(jnp.arange(6.0))
    late = {"t": jnp.asarray(1e4)}

    def settle(state, sign):
        state = opt.update_state(state | late, g + sign * kick, hp) | late
        return state, state

    signs = (-1.0) ** jnp.arange(4000)
    start = opt.initial_state(problem.w0, hp) | late
    _, path = jax.lax.scan(settle, start, signs)
    even, odd = (jax.tree.map(lambda x, i=i: x[i], path) for i in (-2, -1))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, even, odd)
    zero = jnp.zeros(6)
    ends = [opt.update_weights(zero, s, g + sign * kick, hp) for s, sign in ((even, 1), (odd, -1))]
    brute = sum(ends) / 2 - opt.update_weights(zero, mean, g, hp)
    slow = {key: x for key, x in mean.items() if key not in opt.FILTERED_STATES}
    ours = budget.alternating_step(flow, FlowState(problem.w0, slow), g)(kick)
    assert close(ours, brute, 0.01)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 1e-1))
def test_terms_have_their_powers_and_do_not_depend_on_the_sign(seed, size):
    """What is dropped of the averaged gradient is of fourth power in the amplitude, what alternates of second."""
    flow, y, _ = prepared("scalar_rmsprop")
    v = jnp.asarray(np.random.default_rng(seed).normal(size=y.w.size))
    logs = [
        oscillating(flow, y, sign * v, (factor * size * 1e-1) ** 2)[0] for sign, factor in ((1, 1), (-1, 1), (1, 2))
    ]
    (one, _), (other, _), (twice, _) = (dropped(flow, y, log) for log in logs)
    np.testing.assert_allclose(other.even, one.even, rtol=1e-6, atol=1e-13)
    np.testing.assert_allclose(twice.moments.gradient_shift, 4 * one.moments.gradient_shift, rtol=1e-9, atol=1e-15)
    assert float(jnp.linalg.norm(twice.even)) > 8 * float(jnp.linalg.norm(one.even)) - 1e-12


def test_without_oscillation_nothing_is_dropped_but_the_finite_step():
    flow, y, _ = prepared("scalar_rmsprop")
    moved = jnp.ones_like(y.w)
    start = budget.opened(y)._replace(first=2 * moved)
    after, recorded = eqx.filter_jit(budget.evaluated)(flow, y, empty_log(flow, y), moved, 1, start)
    for name in ("gradient", "squared_gradient", "alternating"):
        assert float(recorded[f"budget_{name}_distance"]) == 0
    np.testing.assert_allclose(after.apart["finite_step"], moved / 2)  # it has slowed down by one unit


@cache
def run(**options):
    problem = cn.problem("digits-mlp", n=60, width=8)
    hp = {"learning_rate": 0.1, "beta2": 0.99}
    return cn.run(problem, "scalar_rmsprop", hp, steps=60, warm_start=5, quiet=True, **options)


def test_a_run_with_a_budget_has_the_numbers_of_one_without():
    double = dict(integrator="anchored-full")  # frames in single precision round as the program around them is compiled
    plain, with_budget = run(**double), run(budget=True, eig_every=5, **double)
    for name in ("loss", "distance_to_discrete", "sigma_eigenvalues"):
        np.testing.assert_allclose(with_budget.tree["central"][name], plain.tree["central"][name], rtol=1e-10)
    assert has_budget(with_budget)
    assert not has_budget(plain)


def test_the_budget_of_a_run_is_recorded_where_eigenvalues_are():
    central = run(budget=True, eig_every=5).tree["central"]
    known = np.flatnonzero(np.isfinite(central["budget_distance"]))
    assert known.tolist() == list(range(5, 61, 5))
    assert central["budget_gradient_distance"].attrs["units"] == "weight"
    total = sum(central[f"budget_{name}_distance"][known] for name in budget.TERMS)
    assert np.all(central["budget_distance"][known] <= total + 1e-12)


def test_every_fifth_step_gives_the_distances_of_every_step():
    """The sums over time are those of rates that change slowly."""
    every, fifth = (run(budget=True, eig_every=n).tree["central"]["budget_distance"][-1] for n in (1, 5))
    np.testing.assert_allclose(fifth, every, rtol=0.1)


def test_the_comparison_names_the_largest_term():
    result = run(budget=True, eig_every=5)
    row = result.compare()["dropped_term"]
    assert row.note == largest_dropped(result).name.replace("_", " ")
    assert row.passed is None or row.passed == (row.value <= 1)
    assert [term.name for term in budget_terms(result)] == [*budget.TERMS, CLOSURE]


def test_the_report_shows_the_budget_as_table_and_picture(tmp_path):
    page = run(budget=True, eig_every=5).report(tmp_path).read_text(encoding="utf-8")
    assert "<h2>Error budget</h2>" in page
    assert all(f">{term.replace('_', ' ')}</th>" in page for term in (*budget.TERMS, CLOSURE))
    assert (tmp_path / "error_budget.png").stat().st_size > 10_000
    assert "Error budget</h2>" not in run().report(tmp_path / "plain").read_text(encoding="utf-8")


def test_a_run_without_a_budget_says_how_to_get_one():
    with pytest.raises(InputError, match="run again with budget=True"):
        budget_terms(synthetic())


def test_a_budget_without_a_central_flow_is_refused():
    problem, rate = cn.problem("quadratic", n=3), dict(learning_rate=0.1)
    with pytest.raises(InputError, match="add central to the processes"):
        cn.run(problem, "gradient_descent", rate, steps=8, quiet=True, budget=True, processes=("discrete", "stable"))


def test_the_closure_moves_the_weights_by_what_the_variance_misses():
    """One direction, predicted variance too large by a share `off` from step 100 on, a push of 2 a unit of variance."""
    made = synthetic(off=0.5)
    steps = made.tree["central"].sizes["step"]
    push = np.full((steps, 2), np.nan)
    push[50::10, 0] = 2.0
    central = made.tree["central"].to_dataset().assign(budget_push=(("step", "eig"), push))
    made.tree["central"] = made.tree["central"].assign(budget_push=central["budget_push"])
    moved = closure_distance(made)
    at = 300
    np.testing.assert_allclose(moved[at], 2.0 * 0.5 * 0.04 * (at - 100 + 1), rtol=1e-9)

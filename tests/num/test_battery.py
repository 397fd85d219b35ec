"""The battery: every built-in optimizer passes it, every kind of mistake is found by the property that should."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import cflow_sym as cs
from cflow_num.support.errors import InputError
from cflow_num.testing import assert_optimizer, check, phase_space, witnesses
from cflow_num.testing.battery import PROPERTIES
from cflow_sym import generated
from cflow_sym.notation import state_symbol
from cflow_sym.theory.canonical_form import has_momentum
from cflow_sym.writing.committed import variants

EXAMPLE = "examples/layer_cube_root.toml"


MOMENTUM = [n for n in cs.optimizers() if has_momentum(cs.optimizer(n))]
PLAIN = [n for n in cs.optimizers() if n not in MOMENTUM]
TRIED = ("heavy_ball", "nesterov_lookahead", "aggmo", "adamw", "nadam", "adabelief", "scalar_adam")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAIN, EXAMPLE])
def test_every_optimizer_passes(name, request):
    spec = cs.load_optimizer(str(request.config.rootpath / name) if name == EXAMPLE else name)
    found = check(spec, quick=True)
    print(found)
    assert found.passed, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_optimizers_with_momentum_pass(name):
    found = check(cs.optimizer(name), quick=True, only=[p for p in PROPERTIES if p != "real run"])
    print(found)
    assert found.passed, str(found)


MODULES = [spec.module_name for name in cs.optimizers() for spec in variants(name)]


@pytest.mark.parametrize("module", MODULES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), x=st.floats(0.05, 0.95))
def test_generated_functions_of_all_variants_agree_with_automatic_differentiation(module, seed, x):
    name = max((n for n in cs.optimizers() if module.startswith(n)), key=len)
    switches = [s.name for s in cs.optimizer(name).switches if s.name in module]
    flow = generated.load(name, switches)
    case = witnesses.random_case(flow, seed, {h.name: x * min(1.0, h.upper) for h in flow.HYPERPARAMETERS})
    if flow.FILTERED_STATES:
        phase_space.the_leapfrog_of_step_one_is_the_optimizer(flow, case)
        phase_space.threshold_is_where_the_spectral_radius_passes_one(flow, case)
    else:
        witnesses.agrees_with_automatic_differentiation(flow, case)
        witnesses.threshold_is_where_the_optimizer_starts_to_grow(flow, case)


class Wrong:
    """A compiled flow with a mistake; hashable, as the compiled program is looked up by it."""

    def __init__(self, flow, **functions):
        self.__dict__.update({n: getattr(flow, n) for n in dir(flow) if not n.startswith("__")})
        self.__dict__.update(functions)


def shifted(drift):
    """Add what the first weight feels to every weight."""
    return {name: x + x[0] if x.ndim else x for name, x in drift.items()}


FLOW = generated.load("rmsprop")
MISTAKES = {
    "preconditioner": ("autodiff", dict(preconditioner=lambda s, hp: 2 * FLOW.preconditioner(s, hp))),
    "drift of P": ("autodiff", dict(preconditioner_drift=lambda s, d, hp: 0 * FLOW.preconditioner(s, hp))),
    "the site's slip": (
        "autodiff",  # nu' without - nu
        dict(
            slow_drift=lambda s, g, hp: (
                FLOW.slow_drift(s, g, hp) | {"nu": FLOW.slow_drift(s | {"nu": 0 * s["nu"]}, g, hp)["nu"]}
            )
        ),
    ),
    "no variance": (
        "autodiff",
        dict(slow_drift_moments=lambda s, g, m, hp: jax.tree.map(jnp.zeros_like, FLOW.slow_drift_moments(s, g, m, hp))),
    ),
    "threshold": ("threshold", dict(threshold=lambda s, hp: 1.05 * FLOW.threshold(s, hp))),
    "state": (
        "update",
        dict(update_state=lambda s, g, hp: FLOW.update_state(s, 0.999 * g, hp)),
    ),
    "not elementwise": ("symmetry", dict(slow_drift=lambda s, g, hp: shifted(FLOW.slow_drift(s, g, hp)))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_by_the_property_it_breaks(mistake):
    name, functions = MISTAKES[mistake]
    found = check(cs.optimizer("rmsprop"), quick=True, flow=Wrong(FLOW, **functions), only=[name])
    assert not found.passed
    assert found[name].passed is False
    assert found["derivation"].passed
    assert "seed=0" in found[name].detail  # shrunk
    assert "FAIL" in str(found)
    assert f"failed: {name}" in str(found)


def test_a_flow_that_is_no_better_than_the_stable_one_is_found():
    """A central flow that is held at 0.4 of the threshold is not where the optimizer is: the run must show it."""
    functions = dict(threshold=lambda s, hp: 0.4 * FLOW.threshold(s, hp))
    found = check(cs.optimizer("rmsprop"), quick=True, flow=Wrong(FLOW, **functions), only=["real run"])
    assert found["real run"].passed is False, str(found)


def test_what_cannot_be_derived_fails_with_its_reason():
    m = state_symbol("m", "filtered")
    late = cs.OptimizerSpec(  # less of the gradient than its average has of it: a complex pair leaves first
        "late",
        -cs.symbols.eta * (m - cs.symbols.g / 20),
        (cs.Hyperparameter("learning_rate", cs.symbols.eta),),
        (cs.State("m", sp.Rational(9, 10) * m + cs.symbols.g / 10),),
    )
    found = check(late, quick=True)
    assert found["derivation"].passed is False
    assert "does not have period two" in found["derivation"].detail
    assert found["real run"].passed is None
    with pytest.raises(AssertionError, match="does not have period two"):
        assert_optimizer(late, quick=True)


def test_bad_hyperparameters_are_refused_before_the_search():
    tried = []
    with pytest.raises(InputError, match="learning_rate is -1"):
        check(cs.optimizer("rmsprop"), quick=True, hyperparameters={"learning_rate": -1.0}, on_row=tried.append)
    assert tried == ["derivation"]


def test_unknown_properties_are_refused():
    with pytest.raises(InputError, match="did you mean"):
        check(cs.optimizer("rmsprop"), only=["real ru"])


def test_an_optimizer_on_a_single_vector_is_held_against_its_original():
    """Sums over the vector itself: it cannot work with a dictionary of arrays, and is not given one."""

    def init(params, hp):
        return {"nu": jnp.zeros(())}

    def update(grads, state, params, hp):
        nu = hp["beta2"] * state["nu"] + (1 - hp["beta2"]) * jnp.sum(grads**2)
        return -hp["learning_rate"] * grads / jnp.sqrt(nu), {"nu": nu}

    spec = cs.from_jax(init, update, hyperparameters={"learning_rate": 0.1, "beta2": 0.99})
    assert spec.reference.single
    found = check(spec, quick=True, only=["update"])
    assert found.passed, str(found)
    assert found["update"].detail.endswith("also against the original")


def test_a_spec_that_differs_from_its_original_is_found():
    spec = cs.load_optimizer("optax:rmsprop")
    wrong = dataclasses.replace(spec, update=spec.update * 2)
    found = check(wrong, quick=True, only=["update"])
    assert found["derivation"].passed
    assert found["update"].passed is False
    assert "of the original" in found["update"].detail

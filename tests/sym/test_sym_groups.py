"""Arrays that a program treats differently: one formula with constants of their own, or a refusal."""

import jax
import jax.numpy as jnp
import optax
import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym.derivation.derivation import DerivationError
from cflow_sym.notation import state_symbol
from cflow_sym.reading.groups import DifferentForm, Groups
from cflow_sym.spec.parts import SpecError

s, R = cs.symbols, sp.Rational
NU = state_symbol("nu", "elementwise")
G1, G2, G3 = (sp.Symbol(f"group_{k}", positive=True) for k in (1, 2, 3))
ON1, ON2 = (sp.Symbol(f"group_{k}", nonnegative=True) for k in (1, 2))
PARAMS = {"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}, "head": jnp.ones((2, 1))}


def named(word):
    return lambda p: jax.tree_util.tree_map_with_path(lambda path, _: word in jax.tree_util.keystr(path), p)


def grouped(head, rest):
    """Return an optimizer with one transformation for the head and another for all else."""
    labels = lambda p: jax.tree.map(lambda x: "head" if x else "rest", named("head")(p))  # noqa: E731
    return optax.multi_transform({"head": head, "rest": rest}, labels)


@pytest.mark.parametrize(
    ("exprs", "one", "values"),
    [
        ((-s.eta * s.g, -s.eta * s.g), -s.eta * s.g, {}),
        ((-s.g / 100, -s.g / 1000), -G1 * s.g, {G1: (R(1, 100), R(1, 1000))}),
        ((-s.eta * (s.g + s.rho * s.w), -s.eta * s.g), -s.eta * (s.g + ON1 * s.rho * s.w), {ON1: (1, 0)}),
        (
            (R(9, 10) * NU + R(1, 10) * s.g**2, R(99, 100) * NU + R(1, 100) * s.g**2),
            (1 - G1) * NU + G1 * s.g**2,
            {G1: (R(1, 10), R(1, 100))},
        ),
        (
            (-s.eta * s.m / (sp.sqrt(NU) + 1) - s.eta * s.gamma * s.w, -2 * s.eta * s.m / (sp.sqrt(NU) + 2)),
            -s.eta * s.m * G1 / (sp.sqrt(NU) + G1) - s.eta * s.gamma * s.w * ON2,
            {G1: (1, 2), ON2: (1, 0)},
        ),
        ((-s.eta * s.g, -s.gamma * s.g), -s.g * (s.eta * ON1 + s.gamma * (1 - ON1)), {ON1: (1, 0)}),
    ],
)
def test_constants_of_groups_become_symbols(exprs, one, values):
    groups = Groups(frozenset([s.eta, s.gamma, s.rho]))
    found = groups.unify(exprs)
    assert groups.values == values
    assert sp.expand(found - one) == 0
    for k, e in enumerate(exprs):
        assert sp.expand(found.subs({x: v[k] for x, v in values.items()}) - e) == 0


@pytest.mark.parametrize(
    "exprs", [(s.g, s.m), (s.g / NU, s.g), (s.g / (sp.sqrt(NU) + 1), s.g / sp.sqrt(NU)), (sp.exp(s.g), s.g)]
)
def test_other_forms_have_no_common_one(exprs):
    with pytest.raises(DifferentForm):
        Groups(frozenset()).unify(exprs)


def test_a_mask_decays_only_what_it_says():
    masked = lambda learning_rate, weight_decay=0.1: optax.chain(  # noqa: E731
        optax.add_decayed_weights(weight_decay, mask=named("kernel")), optax.rmsprop(learning_rate)
    )
    spec = cs.from_optax(masked, params=PARAMS)
    (own,) = [h for h in spec.hyperparameters if h.values]
    assert own.values == (0.0, 1.0, 0.0)  # bias, kernel, head
    assert spec.penalty == s.gamma * own.symbol
    spec = cs.from_optax(optax.adamw, params=PARAMS, static=dict(mask=named("kernel")))
    (own,) = [h for h in spec.hyperparameters if h.values]
    assert (spec.penalty, spec.decay) == (0, s.eta * s.gamma * own.symbol)
    assert cs.from_optax(optax.adamw, params=PARAMS).on({"kernel": jnp.ones(3)}).decay == s.eta * s.gamma


def test_groups_have_their_own_rates():
    spec = cs.from_optax(
        lambda learning_rate: grouped(optax.adam(10 * learning_rate), optax.adam(learning_rate)), params=PARAMS
    )
    (own,) = [h for h in spec.hyperparameters if h.values]
    assert own.values == (1.0, 1.0, 10.0)
    assert [state.kind for state in spec.states] == ["filtered", "elementwise"]  # of both groups: one state
    two = lambda learning_rate, head_rate=0.1: grouped(optax.sgd(head_rate), optax.sgd(learning_rate))  # noqa: E731
    d = cs.from_optax(two, params=PARAMS).derive().check()
    assert d.threshold == 2
    (own,) = [h for h in d.spec.hyperparameters if h.values]
    head = sp.Symbol("head_rate", nonnegative=True)
    for on, rate in ((1, s.eta), (0, head)):
        assert sp.expand(1 / d.preconditioner.subs(own.symbol, on) - rate) == 0


def test_what_never_moves_is_named():
    spec = cs.from_optax(lambda learning_rate: grouped(optax.set_to_zero(), optax.adam(learning_rate)), params=PARAMS)
    assert spec.frozen == ("['head']",)
    assert [state.kind for state in spec.states] == ["filtered", "elementwise"]
    assert not any(h.values for h in spec.hyperparameters)
    with pytest.raises(SpecError, match="moves none of the parameters"):
        cs.from_optax(optax.set_to_zero, params=PARAMS)


def test_gradients_set_to_zero_before_the_averages_hold_an_array():
    still = lambda learning_rate: optax.chain(  # noqa: E731
        optax.masked(optax.set_to_zero(), named("head")), optax.adam(learning_rate)
    )
    spec = cs.from_optax(still, params=PARAMS)
    assert spec.frozen == ("['head']",)
    assert not any(h.values for h in spec.hyperparameters)
    decayed = lambda learning_rate: optax.chain(still(learning_rate), optax.add_decayed_weights(-0.1))  # noqa: E731
    assert cs.from_optax(decayed, params=PARAMS).frozen == ()


def test_a_group_may_consist_of_one_number():
    params = {"scale": jnp.ones(()), "kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    two = lambda learning_rate: optax.multi_transform(  # noqa: E731
        {"slow": optax.adam(learning_rate, b2=0.9), "fast": optax.adam(learning_rate, b2=0.99)},
        {"scale": "slow", "kernel": "fast", "bias": "fast"},
    )
    spec = cs.from_optax(two, params=params)
    assert [(state.name, state.kind) for state in spec.states] == [("mu", "filtered"), ("nu", "elementwise")]
    assert [h.values for h in spec.hyperparameters if h.values] == [(0.99, 0.99, 0.9)]  # bias, kernel, scale


@pytest.mark.parametrize(
    ("factory", "error", "reason"),
    [
        (lambda learning_rate: grouped(optax.sgd(learning_rate), optax.adam(learning_rate)), SpecError, "other forms"),
        (lambda learning_rate: grouped(optax.sgd(learning_rate, 0.9), optax.sgd(learning_rate)), SpecError, "forms"),
        (
            lambda learning_rate: grouped(optax.sgd(learning_rate, 0.9), optax.sgd(learning_rate, 0.5)),
            DerivationError,
            "same momentum",
        ),
        (
            lambda learning_rate: optax.chain(
                optax.normalize_by_update_norm(), grouped(optax.sgd(learning_rate), optax.sgd(2 * learning_rate))
            ),
            SpecError,
            "constants of their own",
        ),
    ],
)
def test_what_has_no_one_form_is_refused_in_a_sentence(factory, error, reason):
    with pytest.raises(error, match=r"optimizer '.*") as caught:
        cs.from_optax(factory, params=PARAMS).derive()
    text = str(caught.value)
    assert ("different forms" if error is SpecError and "forms" in reason else reason) in text
    assert "\n" not in text


def test_without_parameters_the_message_asks_for_them():
    with pytest.raises(SpecError, match="params="):
        cs.from_optax(lambda learning_rate: optax.multi_transform(
            {"a": optax.sgd(learning_rate)}, lambda p: {"kernel": "a"}))  # fmt: skip
    by_axes = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
    with pytest.raises(SpecError, match="params="):
        cs.from_optax(lambda learning_rate: optax.chain(
            optax.add_decayed_weights(0.1, by_axes), optax.sgd(learning_rate)))  # fmt: skip

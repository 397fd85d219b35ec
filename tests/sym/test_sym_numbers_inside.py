"""Hyperparameters given as numbers inside the optimizer: derived like symbols, right numbers in the results."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym.spec.numerals import numbers_of, with_symbols
from cflow_sym.theory.canonical_form import late_limit

s = cs.symbols
t, nu, eta = s.t, cs.notation.state_symbol("nu", "elementwise"), s.eta
INSIDE = {  # title: optimizer with numbers inside, the same with symbols, the numbers
    "adam": (lambda lr: optax.adam(lr, 0.8, 0.95, eps=1e-4), optax.adam, dict(b1=0.8, b2=0.95, eps=1e-4)),
    "nesterov": (
        lambda lr: optax.adam(lr, 0.5, 0.95, eps_root=1e-2, nesterov=True),
        lambda learning_rate, b1, b2, eps, eps_root: optax.adam(learning_rate, b1, b2, eps, eps_root, nesterov=True),
        dict(b1=0.5, b2=0.95, eps=1e-8, eps_root=1e-2),
    ),
    "adamw": (lambda lr: optax.adamw(lr, 0.9, 0.99), optax.adamw, dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=1e-4)),
    "adabelief": (lambda lr: optax.adabelief(lr, 0.9, 0.99), optax.adabelief, dict(b1=0.9, b2=0.99)),
    "rmsprop": (
        lambda lr: optax.rmsprop(lr, 0.9, bias_correction=True),
        lambda learning_rate, decay, eps: optax.rmsprop(learning_rate, decay, eps, bias_correction=True),
        dict(decay=0.9, eps=1e-8),
    ),
}
NAMES = dict(b1="beta1", b2="beta2", decay="beta2", eps="epsilon")


def inside(make):
    return cs.from_optax(lambda learning_rate: make(learning_rate))


@pytest.mark.parametrize("title", INSIDE)
def test_numbers_give_what_symbols_give(title):
    make, factory, values = INSIDE[title]
    fixed, free = inside(make), cs.from_optax(factory, learning_rate=0.1, **values)
    d = fixed.with_options().derive()
    assert d.check()
    assert not {x.name for step in d.steps for x in step.after.free_symbols} & {"beta1", "beta2", "epsilon", "decay"}
    with jax.enable_x64(True):
        one, other = d.compile(), free.compile()
        assert [h.name for h in one.HYPERPARAMETERS] == ["learning_rate"]
        hp = {"learning_rate": jnp.asarray(0.1)}
        all_hp = {h.name: jnp.asarray(h.default or 0.0) for h in other.HYPERPARAMETERS} | hp
        all_hp |= {NAMES.get(n, n): jnp.asarray(v) for n, v in values.items()}
        state = {n: jnp.array([0.3, 2.0]) for n in (*one.SLOW_STATES, *one.FILTERED_STATES)} | {"t": jnp.asarray(3.0)}
        dot, g = {n: 0.7 * x for n, x in state.items()}, jnp.array([0.4, -1.1])
        for call in (
            lambda f, hp: f.update_weights(g, state, g, hp),
            lambda f, hp: f.preconditioner(state, hp),
            lambda f, hp: f.preconditioner_drift(state, dot, hp),
            lambda f, hp: f.threshold(state, hp),
            lambda f, hp: f.gain(state, hp),
            lambda f, hp: f.slow_drift(state, g, hp),
            lambda f, hp: f.leapfrog(state, hp, 0.5),
            lambda f, hp: f.leap_slow(state, g, hp, 0.5),
        ):
            found, expected = (jax.tree.leaves(call(f, h)) for f, h in ((one, hp), (other, all_hp)))
            assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(found, expected, strict=True))


def test_late_preconditioners_by_hand():
    found = inside(lambda lr: optax.adam(lr, eps_root=1e-2)).derive()["late_preconditioner"]
    assert sp.simplify(found - (10**7 * sp.sqrt(100 * nu + 1) + 1) / (10**8 * eta)) == 0
    found = inside(lambda lr: optax.adam(lr, b1=0.5, b2=0.9, eps=1e-3, eps_root=1e-2)).derive()["late_preconditioner"]
    assert sp.simplify(found - (100 * sp.sqrt(100 * nu + 1) + 1) / (1000 * eta)) == 0
    found = cs.from_optax(optax.adam, eps_root=1e-2).derive()["late_preconditioner"]
    assert sp.simplify(found - (sp.sqrt(nu + sp.Symbol("eps_root", nonnegative=True)) + s.epsilon) / eta) == 0


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ((2**t - 1) / 2**t, 1),
        ((1 - sp.Rational(9, 10) ** t) * nu, nu),
        (2 ** (1 - t) + 3, 3),
        (1 / sp.sqrt(1 - s.beta2 ** (2 * t)), 1),
        ((3**t + 2) / (3**t - 1) * nu, nu),
        (nu * (1 - s.beta1 ** (t + 1)) / (1 - s.beta1**t), nu),
    ],
)
def test_limits_at_late_times(expr, expected):
    assert sp.simplify(late_limit(expr, lambda base: True) - expected) == 0
    far = sp.N(expr.subs({s.beta1: 0.3, s.beta2: 0.3, nu: 2.0}).subs(t, sp.Float(3000, 50)), 40)
    assert abs(far - sp.sympify(expected).subs(nu, 2.0)) < 1e-25  # the value itself, a long time after the start


def test_which_numbers_get_names():
    spec = with_symbols(inside(lambda lr: optax.adam(lr, 0.5, 0.75, eps=0.5)))
    assert numbers_of(spec) == {s.beta1: sp.Rational(1, 2), s.beta2: sp.Rational(3, 4)}
    adam = cs.optimizer("adam")
    assert with_symbols(adam) is adam
    same = with_symbols(inside(lambda lr: optax.adam(lr, 0.9, 0.9)))
    assert numbers_of(same) == {s.beta1: sp.Rational(9, 10), s.epsilon: sp.Rational(1, 10**8)}
    assert sp.simplify(same.derive().threshold - 2 * (1 + s.beta1) / (1 - s.beta1)) == 0


def test_a_decay_beside_an_l2_term_is_still_a_decay():
    """Half of a hundredth is traced as one number, 1/200: a share of the average, not a decay of its own."""
    spec = cs.from_optax(
        lambda learning_rate: optax.chain(optax.add_decayed_weights(0.01), optax.adam(learning_rate, 0.5, 0.99))
    )
    named = with_symbols(spec)
    total = s.g + s.w / 100
    decays = {h.symbol: h.fixed for h in named.hyperparameters if h.fixed is not None}
    for state, (given, power) in zip(named.states, zip(spec.states, (1, 2), strict=True), strict=True):
        old = next(x for x in state.update.atoms(sp.Symbol) if x.name == state.name)
        (decay,) = (x for x in state.update.atoms(sp.Symbol) if x in decays)
        assert sp.expand(state.update - decay * old - (1 - decay) * total**power) == 0
        assert sp.expand(state.update.xreplace(decays) - given.update) == 0

"""Generated functions at every boundary value of hyperparameters and states have SymPy's limits there."""

import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym import boundary, generated
from cflow_sym.interface import Moments
from cflow_sym.notation import drop_sums, expand_names, rate_symbol
from cflow_sym.theory.canonical_form import canonical_form
from cflow_sym.theory.leapfrog import average_symbols, rate_of_leap
from cflow_sym.writing import corners

s = cs.symbols
TRACED = {
    "optax.adam": lambda: cs.from_optax(optax.adam),
    "optax.adamw": lambda: cs.from_optax(optax.adamw),
    "optax.nadam": lambda: cs.from_optax(optax.nadam),
    "optax.adabelief": lambda: cs.from_optax(optax.adabelief),
    "optax.yogi": lambda: cs.from_optax(optax.yogi),
    "optax.rmsprop": lambda: cs.from_optax(optax.rmsprop, static=dict(bias_correction=True)),
    "optax.adagrad": lambda: cs.from_optax(optax.adagrad),
    "optax.ademamix": lambda: cs.from_optax(optax.contrib.ademamix),
}
BUILT_IN = [*cs.optimizers(), "rmsprop bias_correction eps_in_sqrt", "scalar_rmsprop bias_correction eps_in_sqrt"]
INSIDE = {"learning_rate": 0.3, "weight_decay": 0.05, "l2": 0.03, "beta1": 0.8, "beta2": 0.9}
COUNTS = (1.0, 4.0)


def spec_of(name):
    if name in TRACED:
        return TRACED[name]().with_options()
    name, *switches = name.split()
    return cs.optimizer(name, **dict.fromkeys(switches, True)).with_options()


class OneBlock:
    total = staticmethod(lambda v: v)
    spread = staticmethod(lambda x: x)


def corners_of(spec):
    """Yield values for all symbols of one weight: each that may be 0 is, or has a value inside."""
    hyper = {h.symbol: INSIDE.get(h.name, h.lower + min(h.upper - h.lower, 1) / 4) for h in spec.active_hyperparameters}
    closed = [h.symbol for h in spec.active_hyperparameters if h.closed_below and h.lower == 0]
    slow, filtered = spec.state_symbols.values(), set(spec.all_symbols.values()) - set(spec.state_symbols.values())
    inside = {**hyper, **dict.fromkeys(slow, 1.2), **dict.fromkeys(filtered, 0.4), s.g: 0.7}
    groups = [[x] for x in closed] + [[*slow], [*filtered, s.g]]  # states vanish together: a weight without gradient
    for off in itertools.product((False, True), repeat=len(groups)):
        gone = [x for group, zero in zip(groups, off, strict=True) if zero for x in group]
        for t in COUNTS:
            yield {**inside, s.t: t}, gone


def functions(spec, d):
    """Return expressions of one weight by name, each with its function of (module, y, g, moments, hp, dot, dt)."""
    form = canonical_form(spec)
    constant = dict.fromkeys((rate_symbol(x) for x in spec.scheduled), sp.Integer(0))
    none = {s.gradient_shift: 0, s.gradient_variance: 0, s.g_mean: s.g}
    felt = {s.gradient_shift: 0.3 * s.g, s.gradient_variance: 0.2 * s.g**2, s.g_mean: s.g}
    found = {
        "P": (d.preconditioner, lambda f, y, g, q, hp, dot, dt: f.preconditioner(y, hp)),
        "dP/dt": (
            d.preconditioner_drift.xreplace(constant),
            lambda f, y, g, q, hp, dot, dt: f.preconditioner_drift(y, dot, hp),
        ),
        "c": (d.threshold, lambda f, y, g, q, hp, dot, dt: f.threshold(y, hp)),
        "gain": (d.gain, lambda f, y, g, q, hp, dot, dt: f.gain(y, hp)),
        "push": (d["leap_push"], lambda f, y, g, q, hp, dot, dt: f.leapfrog(y, hp, dt).push),
        "w rate": (rate_of_leap(1 - form.decay), lambda f, y, g, q, hp, dot, dt: f.leapfrog(y, hp, dt).w_rate),
    }  # fmt: skip
    for i, m in enumerate(average_symbols(form)):
        rate = d[f"leap_{m}"].xreplace({s.g_mean: sp.Integer(1), m: sp.Integer(0)})
        found[f"left of {m}"] = d[f"memory_{m}"], lambda f, y, g, q, hp, dot, dt, i=i: f.leapfrog(y, hp, dt).left[i]
        found[f"rate of {m}"] = rate, lambda f, y, g, q, hp, dot, dt, i=i: f.leapfrog(y, hp, dt).rate[i]
    for n in set(spec.state_symbols) - set(spec.memoryless):
        leap = d[f"leap_average_{n}"]
        found |= {
            f"slow_drift of {n}": (
                d[f"stable_{n}"].xreplace(none), lambda f, y, g, q, hp, dot, dt, n=n: f.slow_drift(y, g, hp)[n]
            ),
            f"leap_slow of {n}": (
                leap.xreplace(none), lambda f, y, g, q, hp, dot, dt, n=n: f.leap_slow(y, g, hp, dt)[n]
            ),
            f"leap_slow_moments of {n}": (
                leap.xreplace(felt) - leap.xreplace(none),
                lambda f, y, g, q, hp, dot, dt, n=n: f.leap_slow_moments(y, g, q, hp, dt)[n],
            ),
            f"start_slow of {n}": (
                d[f"start_{n}"].xreplace(none), lambda f, y, g, q, hp, dot, dt, n=n: f.start_slow(y, g, hp, dt)[n]
            ),
        }  # fmt: skip
    return found


def program(spec, module, chosen):
    """Return the chosen functions as one, of the values of all symbols by name."""
    shape = {n: () if kind == "scalar" else (1,) for n, kind in spec.kinds.items()}

    def evaluate(at):
        state = {n: jnp.full(shape[n], at[n]) for n in spec.kinds} | {"t": at["t"]}
        dot = {n: jnp.full(shape[n], at[f"{n}_dot"]) for n in spec.state_symbols} | {"t": at["t_dot"]}
        hp = {h.name: at[h.symbol.name] for h in spec.active_hyperparameters} | {"blocks": OneBlock()}
        g = jnp.full((1,), at["g"])
        given = module, state, g, Moments(0.3 * g, 0.2 * g**2), hp, dot, at["dt"]
        return {name: jnp.sum(function(*given)) for name, function in chosen.items()}

    return jax.jit(evaluate)


def limit(expr, inside, gone):
    """Return the limit of an expression where `gone` go to 0, None where it depends on the way or is infinite."""
    f = sp.lambdify([*inside], expr, "mpmath")
    ends = []
    with mpmath.workdps(200):
        for speeds in itertools.product((1, 0.5, 2), repeat=len(gone)):
            way = {x: (i + 1) * mpmath.mpf("1e-60") ** p for i, (x, p) in enumerate(zip(gone, speeds, strict=True))}
            ends.append(f(*(way.get(x, mpmath.mpf(str(v))) for x, v in inside.items())))
        same = all(mpmath.isfinite(e) and abs(e - ends[0]) < 1e-20 for e in ends)
        return float(ends[0]) if same else None


def in_one_dimension(expr):
    """Return an expression of one weight without sums and frozen signs."""
    return drop_sums(expand_names(expr)).replace(cs.notation.Frozen, sp.sign)


CORE = ("rmsprop bias_correction eps_in_sqrt", "scalar_adam", "nadam", "aggmo", "optax.adam", "optax.yogi")
CASES = [n if n in CORE else pytest.param(n, marks=pytest.mark.slow) for n in (*BUILT_IN, *TRACED)]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    spec = spec_of(request.param)
    d = spec.derive()
    with jax.enable_x64(True):
        yield spec, d, d.compile()


def test_every_function_has_its_limit_at_the_boundary(case):
    spec, d, module = case
    found = functions(spec, d)
    exprs = {name: in_one_dimension(expr) for name, (expr, _) in found.items()}
    evaluate = program(spec, module, {name: function for name, (_, function) in found.items()})
    dots = {rate_symbol(x): 0.5 for x in spec.state_symbols.values()} | {rate_symbol(s.t): 1.0}
    done = set()
    for dt, (inside, gone) in itertools.product((0.5, 1.0), corners_of(spec)):
        inside = {**inside, **dots, s.dt: dt}
        values = evaluate({x.name: jnp.asarray(0.0 if x in gone else v) for x, v in inside.items()})
        for name, expr in exprs.items():
            used = expr.free_symbols
            vanishing = tuple(x for x in gone if x in used)
            place = name, vanishing, dt if s.dt in used else None, inside[s.t] if s.t in used else None
            if place in done:
                continue
            done.add(place)
            expected = limit(expr, {x: v for x, v in inside.items() if x in used}, vanishing)
            if expected is not None:
                assert np.isclose(values[name], expected, rtol=1e-9, atol=1e-12), (*place, values[name], expected)
    assert len(done) > len(exprs)


def test_a_weight_without_gradient_has_finite_derivatives(case):
    spec, d, module = case
    found = functions(spec, d)
    evaluate = program(spec, module, {name: found[name][1] for name in ("P", "dP/dt")})
    slopes_of = jax.jit(jax.grad(lambda at: sum(evaluate(at).values())))
    for inside, gone in corners_of(spec):
        dead = set(spec.state_symbols.values()) <= set(gone)
        dots = {rate_symbol(x): 0.0 if dead else 0.5 for x in spec.state_symbols.values()}
        at = {x.name: 0.0 if x in gone else v for x, v in (inside | dots).items()} | {"t_dot": 1.0, "dt": 0.5}
        at = {name: jnp.asarray(v) for name, v in at.items()}
        assert all(np.isfinite(value) for value in evaluate(at).values()), gone
        slopes = slopes_of(at)
        assert all(np.isfinite(slopes[x.name]) for x in inside if x not in gone), (gone, slopes)


def test_quotients_and_roots():
    nu = jnp.array([0.0, 1e-30, 4.0])
    assert np.allclose(boundary.quotient(nu, boundary.root(nu)), jnp.sqrt(nu), rtol=1e-6)
    slope = jax.grad(lambda x: boundary.quotient(x, boundary.root(x + 0.0)))
    assert [float(slope(x)) for x in (0.0, 4.0)] == [0.0, 0.25]
    assert np.isnan(boundary.root(-1.0))  # a state that became negative is not hidden
    assert corners.limit_at_zero(s.nu + s.epsilon, 2 * (s.nu + s.epsilon), {s.nu, s.epsilon}) is None  # 1/2: left alone


def test_the_variance_at_an_infinite_count_has_derivatives():
    flow = generated.load("scalar_rmsprop", ("bias_correction",))
    with jax.enable_x64(True):

        def variance(beta2, t):
            hp = dict(learning_rate=jnp.asarray(0.1), beta2=beta2, epsilon=0.0, weight_decay=0.0, l2=0.0)
            return flow.sigma_squared(30.0, -0.3, 0.2, 0.5, {n: jnp.asarray(v) for n, v in hp.items()}, t)

        late, at_infinity = (jax.grad(variance)(jnp.asarray(0.9), t) for t in (1e4, math.inf))
        assert np.isclose(late, at_infinity, rtol=1e-9)


def test_scalar_adams_variance_keeps_the_edge():
    """The closed form in S against the derivation's own with the state, found from S = c P by bisection."""
    spec = cs.optimizer("scalar_adam").with_options()
    d = spec.derive()
    hp = {s.eta: 0.3, s.beta1: 0.8, s.beta2: 0.9, s.epsilon: 0.02, s.gamma: 0.05}
    scalars = {s.S: 40.0, s.grad_dot_grad_S: -0.3, s.grad_sq_norm: 0.2, s.grad_S_sq_norm: 0.5, s.w_dot_grad_S: 0.1}
    P = (s.epsilon + sp.sqrt(s.nu)) / s.eta
    nu = sp.nsolve((d.threshold * P - s.S).subs({**hp, **scalars}), s.nu, 1.0)
    expected = d["sigma_squared_with_states"].subs({rate_symbol(s.eta): 0, s.c: d.threshold})
    expected = float(expected.subs({**hp, **scalars, s.nu: nu}))
    with jax.enable_x64(True):
        module = d.compile()
        values = {h.name: jnp.asarray(hp.get(h.symbol, 0.0)) for h in spec.active_hyperparameters}
        found = module.sigma_squared(*(scalars[x] for x in list(scalars)[:4]), values, w_dot_grad_S=0.1)
    assert np.isclose(found, expected, rtol=1e-10)

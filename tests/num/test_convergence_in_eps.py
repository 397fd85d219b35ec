"""The central flow is the limit of the real optimizer where the loss changes slowly: its error is of first order.

On a valley that changes at the rate eps, with averages whose memory is 1/eps steps, run for 1/eps steps, the real optax
optimizer's averaged path and the flow of the generated module part by an error in proportion to eps. Nothing of the
numerical package is used: derivatives of the loss are written out, the flow is integrated here with one critical
direction, and the optimizer starts on the oscillation that the flow predicts. The loss damps the cycles about the flow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.tree_utils import tree_set

import cflow_sym as cs
from cflow_sym.interface import CompiledFlow, Moments

EPS = jnp.array([1 / 64, 1 / 256, 1 / 1024])
STEPS = 1024  # of the smallest one
PULL = 0.5  # of what the flow is off the edge, taken back in a unit of time
SLOWEST = 3.0, 5.0  # the error's ratio where eps falls by 4
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]


class Toy(NamedTuple):
    """L = (S0 + y + v/2 + .15 v^2) x^2/2 + .1 x^3 - quartic x^4/24 - eps y + eps v^2/2 + slope s, turned."""

    S0: Any
    quartic: Any
    eps: Any
    slope: Any

    def gradient(self, w):
        x, y, v, _ = ROTATION.T @ w
        S = self.S0 + y + 0.5 * v + 0.15 * v**2
        slope = jnp.stack([
            S * x + 0.3 * x**2 - self.quartic * x**3 / 6,
            x**2 / 2 - self.eps,
            (0.5 + 0.3 * v) * x**2 / 2 + self.eps * v,
            self.slope,
        ])  # fmt: skip
        return ROTATION @ slope


class Case(NamedTuple):
    """An optimizer: its module, the real one for (learning rate, beta2), its hyperparameters, its states by field."""

    name: str
    real: Callable[[Any, Any], optax.GradientTransformation]
    hp: dict[str, float]
    fields: dict[str, str]
    averages: bool = True  # of squared gradients: their memory is 1/eps
    quartic: float = 12.0  # damps the cycles about the flow, of which momentum needs more
    substeps: int = 1  # of the flow in one step: stable up to 2.78/(v c)


def critical(toy: Toy, P, w):
    """Return the largest eigenvalue of P^{-1} H and its eigenvector, u'Pu = 1."""
    H = jax.jacfwd(toy.gradient)(w)

    def closer(_, u):  # the others are smaller by the factor eps
        u = H @ u / P
        return u / jnp.sqrt(jnp.sum(P * u**2))

    u = jax.lax.fori_loop(0, 6, closer, ROTATION[:, 0] / P)
    return u @ H @ u, u


def rates(opt: CompiledFlow, toy: Toy, hp, y):
    """Return the central flow's rates for one critical direction, X, u and the averaged gradient."""
    w, slow = y
    g = toy.gradient(w)
    P = jnp.broadcast_to(opt.preconditioner(slow, hp), w.shape)
    c = opt.threshold(slow, hp)
    speed = jnp.sum(opt.leapfrog(slow, hp, 0.0).weight)
    lam, u = critical(toy, P, w)
    Hu = jax.jvp(toy.gradient, (w,), (u,))[1]
    d = jax.jvp(lambda w: jax.jvp(toy.gradient, (w,), (u,))[1], (w,), (u,))[1]
    only = Moments(d / 2, Hu**2)

    def slack_rate(w_dot, slow_dot):
        P_dot = jnp.broadcast_to(opt.preconditioner_drift(slow, slow_dot, hp), w.shape)
        return c * jnp.sum(P_dot * u**2) + opt.threshold_drift(slow, slow_dot, hp) - d @ w_dot

    decay = opt.filter_coefficients(slow, hp).decay
    still = -speed * g / P - decay * w, opt.slow_drift(slow, g, hp)
    moved = -speed * d / 2 / P, opt.slow_drift_moments(slow, g, only, hp)
    X = jnp.maximum(-(slack_rate(*still) + PULL * (c - lam)) / slack_rate(*moved), 0)
    return jax.tree.map(lambda a, b: a + X * b, still, moved), X, u, g + X * d / 2


def flow_path(opt: CompiledFlow, toy: Toy, hp, y, substeps: int):
    """Return the weights of the flow at whole steps (Runge-Kutta of order 4)."""
    h = 1 / substeps
    ahead, shares = jnp.array([h / 2, h / 2, h, 0.0]), jnp.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]) * h
    move = lambda y, h, f: jax.tree.map(lambda a, b: a + h * b, y, f)  # noqa: E731

    def substep(_, y):
        def stage(carry, row):
            point, end = carry
            f = rates(opt, toy, hp, point)[0]
            return (move(y, row[0], f), move(end, row[1], f)), None

        return jax.lax.scan(stage, (y, y), (ahead, shares))[0][1]

    def step(y, _):
        return jax.lax.fori_loop(0, substeps, substep, y), y[0]

    return jax.lax.scan(step, y, None, length=STEPS)[1]


def real_path(case: Case, opt: CompiledFlow, toy: Toy, hp, y, count):
    """Return the weights of the optimizer, started on the oscillation that the flow predicts."""
    w, slow = y
    _, X, u, g_mean = rates(opt, toy, hp, y)
    P, c = jnp.broadcast_to(opt.preconditioner(slow, hp), w.shape), opt.threshold(slow, hp)
    delta = jnp.sqrt(X) * u
    f = opt.filter_coefficients(slow, hp)
    averages = {
        name: f.a[i] / (1 - f.b[i]) * g_mean - f.a[i] / (1 + f.b[i]) * c * P * delta
        for i, name in enumerate(opt.FILTERED_STATES)
    }
    transformation = case.real(hp["learning_rate"], hp.get("beta2"))
    state = transformation.init(w)
    known = {field: (slow | averages)[name] for name, field in case.fields.items()}
    state = tree_set(state, **known)
    if any("count" in str(path) for path, _ in jax.tree.flatten_with_path(state)[0]):
        state = tree_set(state, count=jnp.asarray(count, jnp.int32))

    def step(carry, _):
        w, state = carry
        updates, after = transformation.update(toy.gradient(w), state, w)
        return (optax.apply_updates(w, updates), after), w

    return jax.lax.scan(step, (w + delta, state), None, length=STEPS + 1)[1]


@cache
def module(name: str) -> CompiledFlow:
    """Return the generated module; with one P for each weight that of consistent order.

    The cross term that the published order drops is of the order sqrt(eps) here, as the gradient is.
    """
    found = importlib.import_module(f"cflow_sym.generated.{name}")
    if "elementwise" not in found.SLOW_STATES.values():
        return found
    return cs.optimizer(name).compile(order="consistent")


def paths(case: Case, eps):
    """Return the averaged path of the optimizer and that of its flow, (STEPS, 4) each."""
    opt = module(case.name)
    beta2 = (2 - eps) / (2 + eps)  # 2 (1 - beta2)/(1 + beta2) = eps
    eta = jnp.sqrt(eps) if case.averages else jnp.ones_like(eps)
    hp: dict[str, Any] = {h.name: h.default for h in opt.HYPERPARAMETERS}
    hp |= {"learning_rate": eta} | case.hp | ({"beta2": beta2} if "beta2" in hp else {})
    hp = {name: jnp.asarray(value) for name, value in hp.items()}
    w = jnp.asarray(ROTATION @ np.array([0.0, 0.0, 0.8, 0.0]))
    count = STEPS // 2
    size = eps if case.averages else jnp.ones_like(eps)
    spread = 3 * jnp.array([0.9, 1.3, 0.7, 1.1])
    slow = {n: size * (spread if kind == "elementwise" else 1.0) for n, kind in opt.SLOW_STATES.items()}
    slow["t"] = jnp.asarray(count + 1.0)
    P, c = jnp.broadcast_to(opt.preconditioner(slow, hp), w.shape), opt.threshold(slow, hp)
    S0 = jnp.asarray(1.0)
    slope = 0.7 * (jnp.sqrt(eps) if case.averages else eps)  # what averages divide by is of the size sqrt(eps)
    toy = Toy(S0, case.quartic, eps, slope)

    def at_edge(_, S0):
        lam, _ = critical(toy._replace(S0=S0), P, w)
        return S0 + (c - lam) / jnp.sum(ROTATION[:, 0] ** 2 / P)

    toy = toy._replace(S0=jax.lax.fori_loop(0, 8, at_edge, S0))
    real = real_path(case, opt, toy, hp, (w, slow), count)
    return (real[:-2] + 2 * real[1:-1] + real[2:]) / 4, flow_path(opt, toy, hp, (w, slow), case.substeps)[1:]


def errors(case: Case) -> np.ndarray:
    """Return the root mean square of the distance over the second half of 1/eps steps, by the path's length."""
    quick = {"xla_backend_optimization_level": 1}  # compiling takes longer than running
    real, flow = jax.jit(jax.vmap(lambda eps: paths(case, eps)), compiler_options=quick)(EPS)
    gaps = np.linalg.norm(np.asarray(real - flow) @ ROTATION[:, 1:], axis=-1)
    found = []
    for gap, path, eps in zip(gaps, np.asarray(flow), np.asarray(EPS), strict=True):
        last = round(1 / eps)
        travelled = np.sum(np.linalg.norm(np.diff(path[:last], axis=0), axis=1))
        found.append(float(np.sqrt(np.mean(gap[last // 2 : last] ** 2)) / travelled))
    return np.array(found)


def _sgd(nesterov: bool = False, momentum: float | None = 0.5) -> Callable[..., optax.GradientTransformation]:
    return lambda eta, beta2: optax.sgd(eta, momentum=momentum, nesterov=nesterov)


def _scalar_rmsprop(eta: Any, beta2: Any) -> optax.GradientTransformation:
    """Scalar RMSProp as an optax transformation: optax has none."""

    def update(g, state, params=None):
        nu = beta2 * state.nu + (1 - beta2) * jnp.sum(g**2)
        return -eta * g / jnp.sqrt(nu), optax.ScaleByRmsState(nu)

    return optax.GradientTransformation(lambda w: optax.ScaleByRmsState(jnp.zeros(())), update)


def _adagrad_norm(eta: Any, beta2: Any) -> optax.GradientTransformation:
    def update(g, state, params=None):
        nu = state.nu + jnp.sum(g**2)
        return -eta * g / jnp.sqrt(nu), optax.ScaleByRmsState(nu)

    return optax.GradientTransformation(lambda w: optax.ScaleByRmsState(jnp.zeros(())), update)


def _heavy_ball_ema(eta: Any, beta2: Any) -> optax.GradientTransformation:
    return optax.chain(optax.ema(0.5, debias=False), optax.scale_by_learning_rate(eta))


def _qhm(eta: Any, beta2: Any) -> optax.GradientTransformation:
    """Return the mean of the gradient and of its average."""
    average = optax.ema(0.5, debias=False)

    def update(g, state, params=None):
        m, state = average.update(g, state)
        return -eta * (g + m) / 2, state

    return optax.GradientTransformation(average.init, update)


M_NU = {"m": "mu", "nu": "nu"}
CASES = (
    Case("gradient_descent", _sgd(momentum=None), {}, {}, averages=False),
    Case("heavy_ball", _sgd(), {"beta1": 0.5}, {"m": "trace"}, averages=False, quartic=60.0, substeps=3),
    Case("heavy_ball_ema", _heavy_ball_ema, {"beta1": 0.5}, {"m": "ema"}, averages=False, quartic=60.0, substeps=3),
    Case("nesterov", _sgd(True), {"beta1": 0.5}, {"m": "trace"}, averages=False, quartic=20.0, substeps=2),
    Case("qhm", _qhm, {"beta1": 0.5, "momentum_share": 0.5}, {"m": "ema"}, averages=False, quartic=60.0, substeps=2),
    Case("scalar_rmsprop", _scalar_rmsprop, {}, {"nu": "nu"}),
    Case("adagrad_norm", _adagrad_norm, {}, {"nu": "nu"}, averages=False),
    Case("adagrad", lambda eta, b2: optax.adagrad(eta, 0.0, eps=0.0), {}, {"nu": "sum_of_squares"}, averages=False),
    Case("rmsprop", lambda eta, b2: optax.rmsprop(eta, b2, eps=0.0), {}, {"nu": "nu"}),
    Case("adam", lambda eta, b2: optax.adam(eta, 0.2, b2, eps=0.0), {"beta1": 0.2}, M_NU, quartic=60.0, substeps=2),
    Case("adamw", lambda eta, b2: optax.adamw(eta, 0.2, b2, eps=0.0, weight_decay=1e-3),
         {"beta1": 0.2, "weight_decay": 1e-3}, M_NU, quartic=60.0, substeps=2),
    Case("nadam", lambda eta, b2: optax.nadam(eta, 0.5, b2, eps=0.0), {"beta1": 0.5}, M_NU, quartic=60.0, substeps=2),
    Case("adabelief", lambda eta, b2: optax.adabelief(eta, 0.3, b2, eps=0.0, eps_root=0.0), {"beta1": 0.3}, M_NU,
         quartic=200.0, substeps=2),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_error_falls_in_proportion_to_eps(case):
    found = errors(case)
    ratio = found[-2] / found[-1]
    assert SLOWEST[0] <= ratio <= SLOWEST[1], f"errors {found}, ratio {ratio:.3g}"

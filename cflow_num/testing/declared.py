"""The discrete optimizer of the generated code against what the spec declares, read off its formulas exactly.

Nothing of the code generator, of the recognition of weight decay or of frozen signs is used: the updates are
evaluated as they are written, with 30 digits. A traced spec is also held against the program it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from cflow_sym.exact import Point
from cflow_sym.interface import CompiledFlow, value_at
from cflow_sym.notation import NEW, OLD, state_symbol, symbols
from cflow_sym.spec import OptimizerSpec

from ..discrete import DiscreteOptimizer
from ..flows.base import FlowState
from ..hyperparameters import as_arrays
from ..loss import Problem
from .witnesses import BLOCKS, N, close, hyperparameter_functions, local_problem

STEPS = 3
_s = symbols


def takes_declared_updates(spec: OptimizerSpec, flow: CompiledFlow, values: Mapping[str, float], seed: int) -> None:
    """Assert that the first steps of the discrete optimizer on a random loss are those of the declared updates."""
    small, hp = _setting(flow, values, seed)
    discrete, gradients = DiscreteOptimizer(small, hp, flow), []
    y, path = _path(discrete)
    states = _initial(spec, hp, np.asarray(y.w))
    w = np.asarray(y.w)
    for t in range(STEPS):
        gradients.append(np.asarray(small.gradient(jnp.asarray(w))))
        moved, states = _declared_step(spec, hp, states, w, gradients[-1], t + 1)
        here = y if t == 0 else jax.tree.map(lambda x, t=t: x[t - 1], path)
        for name, value in states.items():
            if name in here.slow:
                stored = np.asarray(here.slow[name])
                if spec.kinds[name] == "blockwise":
                    stored = np.repeat(stored, BLOCKS)
                close(f"{name} at step {t + 1}", stored, _numbers(value, stored.shape))
        after = np.asarray(jax.tree.map(lambda x, t=t: x[t], path).w)
        close(f"the weights after step {t + 1}", after, w + moved)
        w = after


def follows_reference(spec: OptimizerSpec, flow: CompiledFlow, values: Mapping[str, float], seed: int) -> None:
    """Assert that the first steps are those of the program that the spec was traced from."""
    assert spec.reference is not None
    if spec.active_switches:
        return
    small, hp = _setting(flow, values, seed)
    y, path = _path(DiscreteOptimizer(small, hp, flow))
    w, state = y.w, None
    for t in range(STEPS):
        now = {name: value_at(hp[name], jnp.asarray(t + 1.0)) for name in values}
        grads, params = small.params(small.gradient(w)), small.params(w)
        state = spec.reference.init(params, now) if state is None else state
        updates, state = spec.reference.update(grads, state, params, now)
        after = jax.tree.map(lambda x, t=t: x[t], path).w
        close(f"the weights after step {t + 1} of the original", after, w + small.ravel(updates))
        w = after


def _setting(flow: CompiledFlow, values: Mapping[str, float], seed: int) -> tuple[Problem, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    A, T = rng.normal(size=(N, N)), 0.1 * rng.normal(size=(N, N, N))
    small = local_problem(rng.normal(size=N), rng.normal(size=N), A @ A.T / N, T, 0.0)
    return small, as_arrays(flow, hyperparameter_functions(flow, values), small)


@eqx.filter_jit
def _path(discrete: DiscreteOptimizer) -> tuple[FlowState, FlowState]:
    y = discrete.first(discrete.problem.w0)
    return y, discrete.steps(y, STEPS)


def _constants(spec: OptimizerSpec, hp: Mapping[str, Any], t: int) -> dict[sp.Symbol, Any]:
    values = {h.symbol: _exact(value_at(hp[h.name], jnp.asarray(float(t)))) for h in spec.active_hyperparameters}
    return values | {_s.t: sp.Integer(t)}


def _initial(spec: OptimizerSpec, hp: Mapping[str, Any], w: np.ndarray) -> dict[str, Any]:
    point = _point(_constants(spec, hp, 1) | {_s.w: _exact(w)})
    starts = {s.name: point(spec.written(s.initial)) for s in spec.states}
    elementwise = {n: spec.kinds[n] != "scalar" for n in starts}
    return {n: (x,) * N if elementwise[n] and not isinstance(x, tuple) else x for n, x in starts.items()}


def _declared_step(
    spec: OptimizerSpec, hp: Mapping[str, Any], states: Mapping[str, Any], w: np.ndarray, g: np.ndarray, t: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return w' - w and the new states, from the updates as they are written."""
    point = _point(_constants(spec, hp, t) | {_s.w: _exact(w), _s.g: _exact(g)})
    point = point.with_values({state_symbol(n, spec.kinds[n]): x for n, x in states.items()})
    updated: dict[str, Any] = {}
    for state in spec.states:
        value = point(spec.written(state.update))
        if spec.kinds[state.name] != "scalar" and not isinstance(value, tuple):
            value = (value,) * N
        updated[state.name] = value
        point = point.with_values({state_symbol(state.name + NEW, spec.kinds[state.name]): value})
    after = {state_symbol(n, spec.kinds[n]): x for n, x in updated.items()}
    before = {state_symbol(n + OLD, spec.kinds[n]): x for n, x in states.items()}
    step = point.with_values({**after, **before}).vector(spec.written(spec.update))
    return _numbers(step, (N,)), updated


def _point(values: dict[sp.Symbol, Any]) -> Point:
    return Point(values, N, tuple(np.repeat(np.arange(len(BLOCKS)), BLOCKS).tolist()))


def _exact(x: Any) -> Any:
    array = np.asarray(x, float)
    return tuple(sp.Float(float(v), 30) for v in array) if array.ndim else sp.Float(float(array), 30)


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    entries = [float(sp.N(v, 30)) for v in (value if isinstance(value, tuple) else (value,))]
    return np.broadcast_to(np.asarray(entries) if shape else np.asarray(entries[0]), shape)

"""The discrete optimizer of the generated code against what the spec declares, read off its formulas.

Nothing of the code generator, of the recognition of weight decay or of frozen signs is used: the updates are
evaluated as they are written, with NumPy. A traced spec is also held against the program it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from jax.flatten_util import ravel_pytree

from cflow_sym.interface import CompiledFlow, value_at
from cflow_sym.notation import NEW, OLD, expand_names
from cflow_sym.spec.optimizer import OptimizerSpec

from ..flows.base import FlowState
from ..flows.discrete import DiscreteOptimizer
from ..loss.problem import Problem
from ..optimizer.hyperparameters import as_arrays
from .witnesses import BLOCKS, N, close, hyperparameter_functions, local_problem

STEPS = 3


def takes_declared_updates(spec: OptimizerSpec, flow: CompiledFlow, values: Mapping[str, float], seed: int) -> None:
    """Assert that the first steps of the discrete optimizer on a random loss are those of the declared updates."""
    small, hp = setting_of(flow, values, seed)
    y, path = path_of(DiscreteOptimizer(small, hp, flow))
    states = _initial(spec, hp, np.asarray(y.w))
    w = np.asarray(y.w)
    for t in range(STEPS):
        g = np.asarray(small.gradient(jnp.asarray(w)))
        moved, states = _declared_step(spec, hp, states, w, g, t + 1)
        here = y if t == 0 else jax.tree.map(lambda x, t=t: x[t - 1], path)
        for name, value in states.items():
            if name in here.slow:
                stored = np.asarray(here.slow[name])
                if spec.kinds[name] == "blockwise":
                    stored = np.repeat(stored, BLOCKS)
                close(f"{name} at step {t + 1}", stored, value)
        after = np.asarray(jax.tree.map(lambda x, t=t: x[t], path).w)
        close(f"the weights after step {t + 1}", after, w + moved)
        w = after


def follows_reference(spec: OptimizerSpec, flow: CompiledFlow, values: Mapping[str, float], seed: int) -> None:
    """Assert that the first steps are those of the program that the spec was traced from."""
    original = spec.reference
    assert original is not None
    small, hp = setting_of(flow, values, seed)
    y, path = path_of(DiscreteOptimizer(small, hp, flow))
    w, state = y.w, None
    for t in range(STEPS):
        now = {name: value_at(hp[name], jnp.asarray(t + 1.0)) for name in values}
        params, grads = w, small.gradient(w)
        if not original.single:
            params, grads = small.params(params), small.params(grads)
        state = original.init(params, now) if state is None else state
        updates, state = original.update(grads, state, params, now)
        after = jax.tree.map(lambda x, t=t: x[t], path).w
        close(f"the weights after step {t + 1} of the original", after, w + ravel_pytree(updates)[0])
        w = after


def setting_of(flow: CompiledFlow, values: Mapping[str, float], seed: int) -> tuple[Problem, dict[str, Any]]:
    """Return a random loss and the hyperparameters as arrays or schedules."""
    rng = np.random.default_rng(seed)
    A, T = rng.normal(size=(N, N)), 0.1 * rng.normal(size=(N, N, N))
    small = local_problem(rng.normal(size=N), rng.normal(size=N), A @ A.T / N, T, 0.0)
    return small, as_arrays(flow, hyperparameter_functions(flow, values), small)


@eqx.filter_jit
def path_of(discrete: DiscreteOptimizer) -> tuple[FlowState, FlowState]:
    """Return the state before the first step and those after it, stacked."""
    y = discrete.first(discrete.problem.w0)
    return y, discrete.steps(y, STEPS)


Values = dict[str, Any]


def _constants(spec: OptimizerSpec, hp: Mapping[str, Any], t: int) -> Values:
    values = {h.symbol.name: float(value_at(hp[h.name], jnp.asarray(float(t)))) for h in spec.active_hyperparameters}
    return values | {"t": float(t)}


def _initial(spec: OptimizerSpec, hp: Mapping[str, Any], w: np.ndarray) -> Values:
    values = _constants(spec, hp, 1) | {"w": w}
    return {s.name: _shaped(spec, s.name, _evaluate(spec.written(s.initial), values)) for s in spec.states}


def _declared_step(
    spec: OptimizerSpec, hp: Mapping[str, Any], states: Values, w: np.ndarray, g: np.ndarray, t: int
) -> tuple[np.ndarray, Values]:
    """Return w' - w and the new states, from the updates as they are written."""
    values = _constants(spec, hp, t) | {"w": w, "g": g} | states
    updated: Values = {}
    for state in spec.states:
        updated[state.name] = _shaped(spec, state.name, _evaluate(spec.written(state.update), values))
        values[state.name + NEW] = updated[state.name]
    ahead = spec.written(spec.lookahead)  # the gradient's point is w + ahead
    turn = _evaluate(ahead, values | updated) - _evaluate(ahead, values | states)
    values |= updated | {name + OLD: x for name, x in states.items()}
    return np.broadcast_to(_evaluate(spec.written(spec.update), values) + turn, (N,)), updated


def _shaped(spec: OptimizerSpec, name: str, value: Any) -> np.ndarray:
    """Return a state's value: a number for a scalar state, else one for each weight."""
    return np.asarray(value, float) if spec.kinds[name] == "scalar" else np.broadcast_to(value, (N,)).astype(float)


def _evaluate(expr: sp.Expr, values: Values) -> Any:
    names, function = _function(expr)
    return function(*(values[name] for name in names))


@lru_cache(maxsize=256)
def _function(expr: sp.Expr) -> tuple[list[str], Any]:
    """Return an expression as a NumPy function of the values of its symbols, with their names."""
    expr = expand_names(expr)
    variables = sorted(expr.free_symbols, key=str)
    plain = {x: sp.Symbol(f"x{i}", real=True) for i, x in enumerate(variables)}
    sums = {"Total": np.sum, "BlockTotal": _block_total}
    function = sp.lambdify(list(plain.values()), expr.xreplace(plain), modules=[sums, "numpy"])
    return [str(x) for x in variables], function


def _block_total(v: Any) -> np.ndarray:
    parts = np.split(np.broadcast_to(v, (N,)), np.cumsum(BLOCKS)[:-1])
    return np.repeat([part.sum() for part in parts], BLOCKS)

"""Observables: functions of the weights that are evaluated along every process, and what flows predict of them.

An oscillation with covariance Sigma around the path moves the time average of a function f of the weights away from its
value on the path. To second order it is

    f + <Sigma, D^2 f>/2 = f + sum_i x_i D^2 f[v_i, v_i]/2,        Sigma = sum_i x_i v_i v_i',

as for the loss itself (arXiv 2410.24206), where D^2 f is the Hessian: one second derivative a direction, forward mode.
The discrete optimizer is evaluated at three steps in a row, since single ones would all be on one side.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..loss.differentiable import kinks_of
from ..loss.problem import Problem
from ..loss.traced import Traced, traced
from ..record.variables import DISCRETE, PREDICTED, VARIABLES
from ..support.devices import everywhere
from ..support.errors import InputError
from .chunk import Records
from .recorder import About, Recorder

MOST_NUMBERS = 1_000_000  # of one observable at one step
_TAKEN = {"step", "eig", "coordinate", "t"}


class Observable(eqx.Module):
    """A function of the weight vector, or of it and the data, as the program that was traced of it.

    `kinks` says why no time average is predicted; it is empty for a smooth function.
    """

    program: Traced
    name: str = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    of_data: bool = eqx.field(static=True)
    kinks: str = eqx.field(static=True)

    def about(self, predicted: bool) -> dict[str, About]:
        """Return what a recorder has to know of the values, and of the predicted ones where there are any."""
        dims = tuple(f"{self.name}_{i}" for i in range(len(self.shape)))
        why = {"not_predicted": self.kinks} if self.kinks else {}
        found = {self.name: About(dims, f"observable {self.name} at the weights of the step", {"observable": 1} | why)}
        if predicted and not self.kinks:
            name = PREDICTED.format(self.name)
            found[name] = About(dims, f"time average of {self.name} predicted by the flow: f + <Sigma, D^2 f>/2", {})
        return found


class Observing(NamedTuple):
    """What is observed in a run, how often, and the data that the functions take; `seconds` spent so far, by process.

    The optimizer is evaluated at the steps beside the chosen ones, too.
    """

    observables: tuple[Observable, ...]
    every: int
    data: Any
    seconds: dict[str, float]

    @classmethod
    def of(cls, observables: tuple[Observable, ...], every: int, problem: Problem) -> Observing:
        """Return what is observed in a run of a problem."""
        return cls(observables, every, problem.data if any(one.of_data for one in observables) else None, {})

    def about(self, predicted: bool) -> dict[str, About]:
        """Return what the recorder of a process has to know; `predicted`: whether its oscillation is known."""
        return {name: about for one in self.observables for name, about in one.about(predicted).items()}

    def start(self, recorder: Recorder, w: Float[Array, " n"], predicted: bool) -> None:
        """Record step 0, where nothing oscillates yet."""
        for one in self.observables:
            value = np.asarray(_values(one.program, w[None], jnp.ones(1, bool), *self._given(one)))
            recorder.put(one.name, 0, value)
            if predicted and not one.kinks:
                recorder.put(PREDICTED.format(one.name), 0, value)

    def chunk(self, process: str, recorder: Recorder, first: int, records: Records) -> None:
        """Record the steps from `first` on."""
        if not self.observables:
            return
        began = time.perf_counter()
        near = (first + np.arange(len(records.w))) % self.every
        wanted = np.isin(near, (0, 1, self.every - 1)) if process == DISCRETE else near == 0
        log = records.log
        for one in self.observables:
            given = self._given(one)
            if log is None or one.kinks:
                recorder.put(one.name, first, _values(one.program, records.w, wanted, *given))
            else:
                sigma = log.sigma_eigenvalues, log.sigma_covectors, log.metric
                values, averages = _averages(one.program, records.w, *sigma, wanted, *given)
                recorder.put(one.name, first, values)
                recorder.put(PREDICTED.format(one.name), first, averages)
        self.seconds[process] = self.seconds.get(process, 0.0) + time.perf_counter() - began

    def _given(self, one: Observable) -> tuple[Any, ...]:
        return (self.data,) if one.of_data else ()


def observables(
    observe: Mapping[str, Any], offered: tuple[str, ...], problem: Problem, recorded: set[str]
) -> tuple[Observable, ...]:
    """Return what is to be observed: functions by name, and what the problem itself offers of these names.

    `recorded` are the names of the optimizer's own states.

    **Raises:** `InputError` for a name that cannot be, or a function that is none of the weights.
    """
    if offered and problem.outputs_of is None:
        raise InputError(f'problem "{problem.name}" has no outputs to observe: pass outputs= to Problem')
    found = [_traced(name, problem.outputs_of, problem, problem.data is not None) for name in dict.fromkeys(offered)]
    for name, function in observe.items():
        _check_name(name, {*recorded, *offered})
        if not callable(function):
            kind = type(function).__name__
            raise InputError(f"observe[{name!r}] is a {kind}, it must be a function of the parameters")
        found.append(_traced(name, function, problem, _takes_data(name, function, problem)))
    return tuple(found)


def functions_of(observe: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the functions, and the names of what the problem offers, of what a user asks to observe."""
    if observe is None:
        return {}, ()
    if isinstance(observe, Mapping):
        return dict(observe), ()
    if isinstance(observe, str) or not isinstance(observe, (list, tuple)):
        raise InputError(
            f'observe is {observe!r}, it must map names to functions of the parameters, or be ["outputs"]: pass for '
            'instance observe={"norm": lambda params: ...}'
        )
    return {}, tuple(observe)


def _check_name(name: Any, taken: set[str]) -> None:
    known = {*VARIABLES, *_TAKEN, *taken}
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"observe has the name {name!r}, it must be letters, digits and _: pass for instance accuracy")
    if name in known or name.startswith(PREDICTED.format("")):
        raise InputError(f"observe has the name {name}, which a run records already: choose another one")


def _traced(name: str, function: Any, problem: Problem, of_data: bool) -> Observable:
    """Return an observable; raises `InputError` where the function is none of the parameters."""

    def of_vector(w: Float[Array, " n"], *data: Any) -> Array:
        value = jnp.asarray(function(problem.params(w), *data))
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise InputError(f"observe[{name!r}] returns complex numbers: return their real and imaginary parts")
        return value.astype(w.dtype)

    arguments = (problem.w0, problem.data) if of_data else (problem.w0,)
    try:
        program = traced(of_vector, arguments)
        shape = tuple(jax.eval_shape(of_vector, *arguments).shape)
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        said = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"observe[{name!r}] fails on the parameters ({type(error).__name__}: {said}): it must be written with "
            "jax.numpy and return a number or an array"
        ) from error
    size = int(np.prod(shape))
    if not 0 < size <= MOST_NUMBERS:
        raise InputError(
            f"observe[{name!r}] returns {size} numbers, it must return one to {MOST_NUMBERS:,}: return a summary"
        )
    if problem.mesh is not None:
        program = everywhere(program, problem.mesh)
    mixed = jnp.cos(jnp.arange(size, dtype=problem.w0.dtype))  # of several numbers; in a plain sum some may cancel
    kinks = kinks_of(lambda w, *data: jnp.vdot(mixed, jnp.ravel(of_vector(w, *data))), problem.w0, arguments[1:])
    return Observable(program, name, shape, of_data, kinks)


def _takes_data(name: str, function: Callable[..., Any], problem: Problem) -> bool:
    """Say whether a function takes the data, too."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    for count in (1, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        if count == 2 and problem.data is None:
            raise InputError(f"observe[{name!r}] takes data and the problem has none: pass data= to Problem")
        return count == 2
    raise InputError(f"observe[{name!r}] takes {signature}, it must take the parameters, or parameters and data")


@eqx.filter_jit
def _values(
    program: Traced, path: Float[Array | np.ndarray, "T n"], wanted: Bool[Array | np.ndarray, " T"], *data: Any
) -> Float[Array, "T ..."]:
    """Return the values of a function at the wanted steps, nan at the others, which cost nothing."""

    def at(here: tuple[Array, Array]) -> Array:
        w, due = here
        nothing = jnp.full(jax.eval_shape(program, w, *data).shape, jnp.nan, w.dtype)
        return jax.lax.cond(due, lambda: program(w, *data), lambda: nothing)

    return jax.lax.map(at, (jnp.asarray(path), jnp.asarray(wanted)))


@eqx.filter_jit
def _averages(
    program: Traced,
    path: Float[Array | np.ndarray, "T n"],
    x: Float[Array, "T k"],
    covectors: Float[Array, "T n k"],
    metric: Float[Array, "T n"],
    wanted: Bool[Array | np.ndarray, " T"],
    *data: Any,
) -> tuple[Float[Array, "T ..."], Float[Array, "T ..."]]:
    """Return values f and time averages f + sum_i x_i D^2 f[v_i, v_i]/2 at the wanted steps, nan at the others."""

    def second(w: Array, v: Array) -> Array:
        """Return D^2 f(w)[v, v]."""

        def slope(w: Array) -> Array:
            return jax.jvp(lambda w: program(w, *data), (w,), (v,))[1]

        return jax.jvp(slope, (w,), (v,))[1]

    def observed(w: Array, x: Array, covectors: Array, metric: Array) -> tuple[Array, Array]:
        f = program(w, *data)

        def add(total: Array, along: tuple[Array, Array]) -> tuple[Array, None]:
            variance, v = along
            here = jax.lax.cond(variance > 0, lambda: variance * second(w, v) / 2, lambda: jnp.zeros_like(f))
            return total + here, None

        return f, jax.lax.scan(add, f, (x, (covectors.T / metric)))[0]

    def at(here: tuple[Array, tuple[Array, ...]]) -> tuple[Array, Array]:
        due, given = here
        unknown = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), jax.eval_shape(observed, *given))
        return jax.lax.cond(due, lambda: observed(*given), lambda: unknown)

    return jax.lax.map(at, (jnp.asarray(wanted), (path, x, covectors, metric)))

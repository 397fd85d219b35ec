"""A function as the program that JAX traces of it: arrays that it captured are arguments, all else it read is in it.

A Python function says little about what it computes: a number that it reads from elsewhere may be another one by the
next call. Compiled code is found by the program, and two programs are the same where their texts and constants are.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..support.errors import InputError
from ..support.typed import AnyArray, AnyDict, PyTree, grad, is_several, jaxpr_as_fun, jvp, make_jaxpr, several

_PLAIN: tuple[type[Any], ...] = (type(None), bool, int, float, complex, str, bytes, Enum, np.dtype, type)
_UNNAMED = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")  # their names compute nothing


@dataclass(frozen=True, eq=False)
class Program:
    """One traced program without the values of the arrays that it captured; equal ones compute the same.

    `inputs` are shapes and types of its arguments, `text` is a digest of all it does, and `objects` are parameters
    that no text describes, compared themselves.
    """

    jaxpr: Any
    treedef: Any
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    text: str
    objects: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.text, self.objects) == (other.text, other.objects)

    def __hash__(self) -> int:
        return hash(self.text)


class Traced(eqx.Module):
    """A function as its programs, one for each shape of arguments, with the arrays that it captured."""

    consts: tuple[tuple[Array, ...], ...]
    programs: tuple[Program, ...] = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> PyTree:
        """Return what the function returns; the arguments have the shapes and types of one of the programs."""
        leaves = jax.tree.leaves(args)
        known = [program.inputs for program in self.programs]
        if _shapes(leaves) not in known:
            raise InputError(
                f"the loss is called on {_listed(_shapes(leaves))} and was traced for {_listed(known[-1])}: make the "
                "problem under the precision (jax_enable_x64) that it runs under"
            )
        chosen = known.index(_shapes(leaves))
        program, consts = self.programs[chosen], self.consts[chosen]
        out = jaxpr_as_fun(jex.core.ClosedJaxpr(program.jaxpr, list(consts)))(*leaves)
        return jax.tree.unflatten(program.treedef, out)

    def covers(self, *calls: tuple[Any, ...]) -> bool:
        """Whether there is a program for each tuple of arguments, given by shapes and types."""
        known = [program.inputs for program in self.programs]
        return all(_shapes(jax.tree.leaves(args)) in known for args in calls)

    @property
    def captured(self) -> bool:
        """Whether the function captured arrays of more than one number."""
        return any(c.size > 1 for consts in self.consts for c in consts)

    @property
    def digest(self) -> str:
        """A checksum of all that the function does, the values of captured arrays included; the same in any process.

        Empty where these have no values, inside another program.
        """
        found = hashlib.sha256()
        if not all(has_value(c) for consts in self.consts for c in consts):
            return ""
        for program, consts in zip(self.programs, self.consts, strict=True):
            found.update(program.text.encode())
            for c in consts:
                found.update(_bytes(c))
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Source:
    """The Python function behind programs, to trace it again; all are equal: the programs say what it computes."""

    function: Callable[..., Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source)

    def __hash__(self) -> int:
        return hash(Source)


def has_value(x: Any) -> bool:
    """Whether an array has a value, as it has not inside a program that is being traced.

    >>> has_value(jnp.ones(2))
    True
    """
    return not isinstance(x, jax.core.Tracer)


def traced(fn: Callable[..., Any], *calls: tuple[Any, ...], derivatives: bool = False) -> Traced:
    """Return the programs of `fn`, one for each tuple of arguments (arrays, or their shapes and types).

    With `derivatives` programs differ too where derivatives by the first argument do, up to the fourth: rules that
    somebody gave may read numbers of their own.

    >>> double, triple = (traced(lambda x, k=k: k * x, (jnp.ones(2),)) for k in (2.0, 3.0))
    >>> double(jnp.ones(2)).tolist(), double == triple, double == traced(lambda y: 2.0 * y, (jnp.zeros(2),))
    ([2.0, 2.0], False, True)
    """
    found = [_trace(fn, args, derivatives) for args in calls]
    return Traced(tuple(consts for _, consts in found), tuple(program for program, _ in found))


def _trace(fn: Callable[..., Any], args: tuple[Any, ...], derivatives: bool) -> tuple[Program, tuple[Array, ...]]:
    def afresh(*args: PyTree) -> PyTree:  # JAX remembers functions
        return fn(*args)

    closed, shape = make_jaxpr(afresh, return_shape=True)(*args)
    writer = _Writer()
    writer.program(closed.jaxpr)
    if derivatives and writer.rules:
        try:
            writer.program(make_jaxpr(_fourth_derivative(fn))(*args).jaxpr)
        except Exception:  # whatever JAX raises where a rule has no derivative: equal to no other program
            writer.objects.append(object())
    consts = tuple(c if isinstance(c, jax.Array) else jnp.asarray(np.asarray(c)) for c in closed.consts)
    inputs, treedef = _shapes(jax.tree.leaves(args)), jax.tree.structure(shape)
    return Program(closed.jaxpr, treedef, inputs, writer.digest.hexdigest(), tuple(writer.objects)), consts


def _listed(shapes: tuple[tuple[tuple[int, ...], str], ...]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in shapes)


def _shapes(leaves: list[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
    return tuple((tuple(x.shape), str(x.dtype)) for x in leaves)


def _fourth_derivative(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fourth derivative of a scalar function by its first argument, three times along that itself."""

    def value(x: PyTree, *rest: PyTree) -> PyTree:
        return fn(x, *rest)

    def along(f: Callable[..., Any]) -> Callable[..., Any]:
        def derivative(x: PyTree, *rest: PyTree) -> PyTree:
            return jvp(lambda y: f(y, *rest), (x,), (x,))[1]

        return derivative

    return along(along(along(grad(value))))


class _Writer:
    """Digests a program: variables by order of appearance, constants by their bytes."""

    def __init__(self) -> None:
        self.digest, self.rules = hashlib.sha256(), False
        self.objects: list[Any] = []

    def program(self, jaxpr: Any) -> None:
        """Digest a program."""
        names: dict[Any, int] = {}
        self._variables((*jaxpr.constvars, *jaxpr.invars), names)
        for equation in jaxpr.eqns:
            self._add(equation.primitive.name)
            self._variables(equation.invars, names)
            for key in sorted(equation.params):
                if key != "name" or equation.primitive.name not in _UNNAMED:
                    self._add(key)
                    self._parameter(equation.params[key])
            self._variables(equation.outvars, names)
        self._variables(jaxpr.outvars, names)
        self._add("end")

    def _variables(self, variables: Any, names: dict[Any, int]) -> None:
        for v in variables:
            if isinstance(v, jex.core.Literal):
                self._add(f"{v.aval}")
                self.digest.update(_bytes(v.val))
            else:
                self._add(f"{names.setdefault(v, len(names))} {v.aval}")

    def _parameter(self, x: Any) -> None:
        inner = getattr(x, "jaxpr", x)
        if isinstance(inner, jex.core.Jaxpr):
            self.program(inner)
            for c in getattr(x, "consts", ()):
                self.digest.update(_bytes(c))
        elif isinstance(x, AnyArray):
            self.digest.update(_bytes(x))
        elif isinstance(x, _PLAIN):
            self._add(f"{type(x).__name__} {x!r}")
        elif is_several(x):
            self._add(f"{type(x).__name__} {len(x)}")
            for part in x:
                self._parameter(part)
        elif isinstance(x, AnyDict):
            self._parameter([part for key in sorted(x, key=str) for part in (key, x[key])])
        else:
            self._add(f"{type(x).__module__} {type(x).__qualname__}")
            if not _is_function(x):
                self.objects.append(x)
            elif not _by_jax(x):
                self.rules = True

    def _add(self, text: str) -> None:
        self.digest.update(f"{text}\n".encode())


def _is_function(x: Any) -> bool:
    return callable(x) or hasattr(x, "call_wrapped")  # JAX wraps functions that it transforms


def _by_jax(fn: Any) -> bool:
    """Say whether a function, with all functions that it holds, is JAX's own: its rules never change."""
    fn = inspect.unwrap(getattr(fn, "f", fn))
    if not getattr(fn, "__module__", "").startswith("jax."):
        return False
    held = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or ()]
    parts = [part for x in held for part in several(x)]
    return all(_by_jax(part) for part in parts if _is_function(part) and not isinstance(part, type))


def _bytes(x: Any) -> bytes:
    array = np.asarray(jax.random.key_data(x) if jnp.issubdtype(getattr(x, "dtype", float), jax.dtypes.prng_key) else x)
    return f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()

"""Is the compiled step the step of the program that it was traced from, on the parameters of this problem?

A trace is made on parameters that stand for all others. What depends on the names or the number of axes of arrays (a
mask, `optax.multi_transform`, a schedule of its own) can differ on those of a problem, so both steps are taken there,
in double precision, from the same weights with the same gradients, at first and at a late count.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cflow_sym.interface import Reference, value_at

from ..loss.problem import Problem
from ..loss.weights import Raveler, without
from ..support.errors import InputError

TOLERANCE = 1e-9  # relative to the largest entry of the step of an array
ROUNDINGS = 100  # times what rounding the gradients changes: a step may hold a difference of almost equal numbers
SINGLE = 1e-5  # where the program itself keeps a state, or returns its step, in 32 bits
STEPS, EARLY = 6, 4  # steps taken, and how many of them from the start on; the others follow LATE steps later
LATE = 10_000


class Steps(NamedTuple):
    """Largest entries of the two steps' difference, of the program's step and of its change under rounding.

    Each is of shape `(STEPS, arrays)`; rounded are gradients and weights, in the last digit.
    """

    difference: Float[Array, "steps arrays"]
    size: Float[Array, "steps arrays"]
    rounding: Float[Array, "steps arrays"]


class _Parameters(eqx.Module):
    """How a vector of weights is the pytree that a program works on: with the arrays that are held, or as it is."""

    raveler: Raveler | None = eqx.field(static=True)
    held: PyTree

    @property
    def names(self) -> list[str]:
        """The paths of the arrays that move."""
        if self.raveler is None:
            return ["of all weights"]
        tree = self.raveler.treedef.unflatten(self.raveler.shapes)
        paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
        return [jax.tree_util.keystr(path) or "of all weights" for path, _ in paths]

    def of(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree."""
        return w if self.raveler is None else eqx.combine(self.raveler.unravel(w), self.held)

    def back(self, tree: PyTree) -> Float[Array, " n"]:
        """Return the vector; nan where an array that is held moves."""
        if self.raveler is None:
            return tree
        moved = [jnp.any(x != 0) for x in jax.tree.leaves(eqx.filter(tree, self._is_held))]
        w = self.raveler.ravel(without(tree, self.held))  # (n,)
        return jnp.where(jnp.any(jnp.stack(moved)), jnp.nan, w) if moved else w

    @property
    def _is_held(self) -> PyTree:
        return jax.tree.map(lambda h: h is not None, self.held, is_leaf=lambda x: x is None)

    def parts(self, v: Float[Array, " n"]) -> list[Array]:
        """Return the entries of each array that moves."""
        sizes = [] if self.raveler is None else [int(np.prod(shape)) for shape in self.raveler.shapes]
        return jnp.split(v, np.cumsum(sizes)[:-1].tolist()) if sizes else [v]


class _Carry(NamedTuple):
    w: Float[Array, " n"]
    theirs: PyTree
    rounded: PyTree
    ours: dict[str, Array]


def check_original(flow: Any, hp: dict[str, Any], problem: Problem) -> None:
    """Raise `InputError` naming the array where the compiled step is not that of the program it was traced from.

    Flows that were not traced, or that leave out a part of the program by a switch, are not compared.
    """
    program = getattr(flow, "REFERENCE", None)
    if program is None or flow.SWITCHES:
        return
    with jax.enable_x64(True):
        hp = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), "float64") if eqx.is_array(x) else x, hp)
        w0 = np.asarray(problem.w0, "float64")
        raveler = dataclasses.replace(problem.raveler, dtypes=("float64",) * len(problem.raveler.dtypes))
        held = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), "float64"), problem.held)
        tree = _Parameters(None if program.single else raveler, held)
        try:
            narrow = _keeps_single(program, tree, hp, w0)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
            raise InputError(
                f"the program that {flow.NAME} was traced from fails on the parameters of {problem.name} ({reason}): "
                "it must work on them as it does in training"
            ) from error
        difference, size, rounding = (np.asarray(x) for x in _compare(flow, program, tree, hp, *_drawn(w0)))
    allowed = np.maximum((SINGLE if narrow else TOLERANCE) * size, ROUNDINGS * rounding)
    wrong = ~(difference <= allowed)  # nan is wrong, too
    if wrong.any():
        step, array = (int(i) for i in np.argwhere(wrong)[0])
        count = step + 1 if step < EARLY else step + 1 + LATE
        raise InputError(
            f"the program of {flow.NAME} treats the array {tree.names[array]} otherwise than its flow: "
            f"step {count} has entries up to {size[step, array]:.3g} there, from which the flow's step differs by "
            f"up to {difference[step, array]:.3g}: make the step one formula for all arrays of the parameters, or for "
            "groups of arrays with constants of their own"
        )


@eqx.filter_jit
def _compare(
    flow: Any,
    program: Reference,
    tree: _Parameters,
    hp: dict[str, Any],
    w0: Float[Array, " n"],
    gradients: Float[Array, "steps n"],
) -> Steps:
    def largest(v: Float[Array, " n"]) -> Float[Array, " arrays"]:
        return jnp.stack([jnp.max(jnp.abs(part), initial=0.0) for part in tree.parts(v)])

    def body(carry: _Carry, now: tuple[Array, Array]) -> tuple[_Carry, Steps]:
        (w, theirs, rounded, ours), (g, jump) = carry, now
        t = ours["t"] + 1
        updates, after = program.update(tree.of(g), theirs, tree.of(w), _numbers(hp, t))
        last = g * (1 + 2 * jnp.finfo(g.dtype).eps)
        other, beside = program.update(tree.of(last), rounded, tree.of(w), _numbers(hp, t))
        dw = tree.back(updates).astype(w.dtype)  # (n,)
        total = g + flow.l2_penalty(hp) * w  # (n,)
        ours = flow.update_state(ours, total, hp)
        own = flow.update_weights(w, ours, total, hp) - w  # (n,)
        if jax.tree.structure(theirs) == jax.tree.structure(after):
            after, beside = (
                jax.tree.map(lambda old, new: _moved_on(old, new, jump), *states)
                for states in ((theirs, after), (rounded, beside))
            )
        shift = tree.back(other).astype(w.dtype) - dw
        digits = jnp.finfo(w.dtype).eps * w / ROUNDINGS * 2  # of the weights, from which the flow's step is read
        found = Steps(largest(own - dw), largest(dw), jnp.maximum(largest(shift), largest(digits)))
        return _Carry(w + dw, after, beside, ours | {"t": ours["t"] + jump}), found

    theirs = program.init(tree.of(w0), _numbers(hp, 1.0))
    start = _Carry(w0, theirs, theirs, flow.initial_state(w0, hp))
    jumps = jnp.zeros(STEPS).at[EARLY - 1].set(LATE)
    _, later = jax.eval_shape(program.update, tree.of(w0), theirs, tree.of(w0), _numbers(hp, 1.0))
    if jax.tree.structure(later) == jax.tree.structure(theirs):
        return jax.lax.scan(body, start, (gradients, jumps))[1]
    start, first = body(start, (gradients[0], jumps[0]))  # a state that only takes its form then, as what is monitored
    rest = jax.lax.scan(body, start, (gradients[1:], jumps[1:]))[1]
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, rest)


def _moved_on(old: Any, new: Any, jump: Array) -> Any:
    """Return a state after `jump` more steps if it is a counter, else as it is."""
    if not (jnp.ndim(new) == 0 and jnp.issubdtype(jnp.asarray(new).dtype, jnp.integer)):
        return new
    return jnp.where(new - old == 1, new + jump.astype(new.dtype), new)


def _numbers(hp: dict[str, Any], t: Any) -> dict[str, Any]:
    return {name: value_at(x, jnp.asarray(t, float)) for name, x in hp.items() if name != "blocks"}


def _drawn(w0: np.ndarray) -> tuple[Array, Array]:
    """Draw weights of the size of the problem's own, none of them zero, and gradients of several sizes."""
    rng = np.random.default_rng(0)
    scale = np.sqrt(np.mean(w0**2)) or 1.0
    sizes = 10.0 ** np.array([0.0, -2.0, 1.0, -1.0, 0.5, -0.5])[:STEPS, None]
    w, gradients = w0 + scale * rng.normal(size=w0.shape), sizes * rng.normal(size=(STEPS, w0.size))
    return jnp.asarray(w), jnp.asarray(gradients)


def _keeps_single(program: Reference, tree: _Parameters, hp: dict[str, Any], w0: np.ndarray) -> bool:
    """Say whether the program keeps states, or returns its step, in 32 bits although the weights have 64."""
    params, numbers = tree.of(jnp.asarray(w0)), _numbers(hp, 1.0)
    state = jax.eval_shape(lambda p: program.init(p, numbers), params)
    step, _ = jax.eval_shape(lambda p, s: program.update(p, s, p, numbers), params, state)
    return any(x.dtype == "float32" for x in jax.tree.leaves((state, step)))

"""Many runs in one compiled call: the same process of several runs, mapped over whatever differs between them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..loss.problem import Problem
from ..support.errors import InputError, RunError
from ..support.programs import compiled_for
from .chunk import Records, advance_chunk
from .path import Carry
from .process import Process


def advance_together(
    processes: Sequence[Process], carries: Sequence[Carry], size: int
) -> list[tuple[Carry | RunError, Records | None]]:
    """Advance the same process of several runs by one chunk; return for each the carry after it and its records.

    With fewer processes than `size`, the last one fills the batch up, so that one program serves to the end. A process
    that cannot go on has the `RunError` in the place of its carry.
    """
    if size == 1:
        try:
            return [processes[0].advance(carries[0])]
        except RunError as error:
            return [(error, None)]
    carries = list(carries)
    try:
        while True:
            widest = max(process.capacity for process in processes)
            for i, process in enumerate(processes):
                while process.capacity < widest:
                    carries[i] = process.grow(carries[i])
            results, seconds, compiling = _advanced(processes, carries, size)
            for process in processes:
                process.compile_seconds += compiling / len(processes)
            if not any(p.must_grow(records) for p, (_, records) in zip(processes, results, strict=True)):
                for process in processes:
                    process.seconds += seconds / len(processes)
                return list(results)
            carries = [process.grow(carry) for process, carry in zip(processes, carries, strict=True)]
    except RunError as error:
        return [(error, None) for _ in processes]


def _advanced(
    processes: Sequence[Process], carries: Sequence[Carry], size: int
) -> tuple[list[tuple[Carry, Records]], float, float]:
    step = carries[0].step  # one array for all: whether eigenvalues are due is then not decided run by run
    members = [p.arguments(carry._replace(step=step)) for p, carry in zip(processes, carries, strict=True)]
    members += [members[-1]] * (size - len(members))
    parts = [eqx.partition(member, eqx.is_array) for member in members]
    leaves = [jax.tree.leaves(arrays) for arrays, _ in parts]
    arrays, axes = [], []
    for column in zip(*leaves, strict=True):
        shared = all(x is column[0] for x in column)
        arrays.append(column[0] if shared else jnp.stack(column))
        axes.append(None if shared else 0)
    arguments = (arrays, tuple(axes), jax.tree.structure(parts[0][0]), parts[0][1])
    began = time.perf_counter()
    compiled = compiled_for(_advance_many, arguments, processes[0].effort)
    compiling, began = time.perf_counter() - began, time.perf_counter()
    after = jax.block_until_ready(compiled(*arguments))
    seconds = time.perf_counter() - began
    return [jax.tree.map(lambda x, i=i: x[i], after) for i in range(len(processes))], seconds, compiling


@eqx.filter_jit
def _advance_many(arrays: list[Array], axes: tuple[int | None, ...], structure: Any, static: Any) -> Any:
    def one(leaves: list[Array]) -> Any:
        return advance_chunk(*eqx.combine(jax.tree.unflatten(structure, leaves), static))

    return jax.vmap(one, in_axes=(list(axes),))(arrays)


def check_numbers_only(runs: Sequence[dict[str, Process]]) -> None:
    """Raise `InputError` where a run's processes differ from the first run's in more than the values of arrays."""

    def program(processes: dict[str, Process]) -> Any:
        parts = [process.static() for process in processes.values()]
        return parts, [jax.tree.structure(part) for part in parts]

    first = program(runs[0])
    for i, processes in enumerate(runs[1:], start=2):
        if program(processes) != first:
            raise InputError(
                f"run {i} of the batch differs from the first in more than numbers (a schedule, a dtype, chosen "
                "weights): run them one by one, or as a sweep"
            )


def alike(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems that differ in numbers only (weights, data), equal arrays being the same array.

    **Raises:** `InputError` where they are different networks or losses.
    """
    first = problems[0].checked().traced()
    leaves, structure = jax.tree.flatten((first.w0, first.data))
    out = [first]
    for i, problem in enumerate(problems[1:], start=2):
        own, shape = jax.tree.flatten((problem.w0, problem.data))
        same = shape == structure and [(x.shape, x.dtype) for x in own] == [(x.shape, x.dtype) for x in leaves]
        if not same or not _same_function(first, problem):
            raise InputError(
                f"problem {i} of the batch is not the first one with other numbers: all must have one loss function "
                "and arrays of the same shapes; run them one by one, or as a sweep"
            )
        own = [a if a is b or np.array_equal(a, b) else b for a, b in zip(leaves, own, strict=True)]
        out.append(first.with_numbers(*jax.tree.unflatten(structure, own)))
    return out


def _same_function(a: Problem, b: Problem) -> bool:
    """Say whether two problems are the same function of weights and data."""
    here, there = (p.traced().replaced(w0=None, shares=None, others=None) for p in (a, b))
    return bool(eqx.tree_equal(here, there))

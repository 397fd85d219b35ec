"""Where the processes of a run end: weights and states, and the weights that were kept on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ..flows.base import FlowState
from ..record.ends import STATE, UPDATED
from .chunk import Records
from .warm_start import Start


class End(NamedTuple):
    """Where a process stands at a step: its weights, and its states where they are known.

    Of the optimizer `states` are those that its update at these weights starts from, as the optimizer itself keeps
    them; `updated` are those after it, which its next step uses. Of a flow they are one.
    """

    step: int
    w: np.ndarray
    states: dict[str, np.ndarray] | None = None
    updated: dict[str, np.ndarray] | None = None

    @classmethod
    def first(cls, name: str, y: FlowState, start: Start) -> End:
        """Return the end of a process that has not moved."""
        states = start.before if name == "discrete" else y.slow
        return cls(0, np.asarray(y.w), _plain(states), _plain(y.slow))

    @classmethod
    def of(cls, name: str, records: Records, first: int, step: int, last: int) -> End:
        """Return the end at a step of the chunk that begins after `first`, whose states are known at step `last`."""
        w = np.asarray(records.w[step - first - 1])
        if step != last or records.end is None:
            return cls(step, w)
        updated = _plain(records.end.slow)
        return cls(step, w, _plain(records.before) if name == "discrete" else updated, updated)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return everything by name, for a checkpoint."""
        found = {f"{prefix}w": self.w}
        for part, states in (("states", self.states), ("updated", self.updated)):
            found |= {f"{prefix}{part}/{name}": x for name, x in (states or {}).items()}
        return found

    @classmethod
    def from_arrays(cls, step: int, arrays: Mapping[str, np.ndarray], prefix: str) -> End:
        """Return what `arrays` gave."""
        parts: dict[str, dict[str, np.ndarray]] = {"states": {}, "updated": {}}
        for name, x in arrays.items():
            part, _, state = name.removeprefix(prefix).partition("/")
            if name.startswith(prefix) and state:
                parts[part][state] = x
        return cls(step, arrays[f"{prefix}w"], parts["states"] or None, parts["updated"] or None)


class Kept(NamedTuple):
    """Weights at steps that are multiples of `every`; none for 0."""

    every: int
    steps: list[int]
    weights: list[np.ndarray]

    def begin(self, w: Any) -> None:
        """Keep the start."""
        self.steps.clear()
        self.weights.clear()
        self._put(0, np.asarray(w))

    def resume(self, step: int, w: np.ndarray) -> None:
        """Take over what a checkpoint has."""
        if step:
            self._put(step, w)

    def chunk(self, w: Any, first: int, last: int) -> None:
        """Keep what is wanted of the steps after `first` up to `last`."""
        for step in range(first + 1, last + 1):
            self._put(step, w[step - first - 1])

    def _put(self, step: int, w: Any) -> None:
        if self.every and step % self.every == 0:
            self.steps.append(step)
            self.weights.append(np.asarray(w))

    def upto(self, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield steps and weights up to a step."""
        return ((step, w) for step, w in zip(self.steps, self.weights, strict=True) if step <= last)


def dataset(end: End, kept: Kept) -> xr.Dataset:
    """Return an end and what was kept as the group of a run file."""
    variables: dict[str, Any] = {"weights": ("weight", end.w, {"units": "weight", "long_name": "weights at the end"})}
    for form, states in ((STATE, end.states), (UPDATED, end.updated)):
        for name, x in (states or {}).items():
            dims = {0: (), 1: ("weight",) if x.shape == end.w.shape else (f"{name}_entry",)}.get(x.ndim)
            dims = tuple(f"{name}_{i}" for i in range(x.ndim)) if dims is None else dims
            variables[form.format(name)] = (dims, x)
    if kept.every:
        rows = list(kept.upto(end.step))
        weights = np.stack([w for _, w in rows]) if rows else np.zeros((0, end.w.size))
        variables["kept"] = (("kept_step", "weight"), weights, {"units": "weight", "long_name": "weights on the way"})
    found = xr.Dataset(variables, attrs={"at_step": end.step})
    if kept.every:
        found = found.assign_coords(kept_step=("kept_step", np.array([step for step, _ in kept.upto(end.step)], int)))
    return found


def _plain(states: Mapping[str, jax.Array] | None) -> dict[str, np.ndarray] | None:
    return None if states is None else {name: np.asarray(x) for name, x in states.items()}


def as_states(states: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return states as JAX has them."""
    return {name: jnp.asarray(x) for name, x in states.items()}

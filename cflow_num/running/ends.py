"""Where the processes of a run end: weights and states, and the weights that were kept on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..flows.base import FlowState
from ..record.ends import STATE, Ending
from .chunk import Records
from .warm_start import Start


class End(NamedTuple):
    """Where a process stands at a step: its weights, and its states where they are known.

    Of the optimizer the states are those that its update at these weights starts from, as the optimizer itself keeps
    them; of a flow, those of its equation.
    """

    step: int
    w: np.ndarray
    states: dict[str, np.ndarray] | None = None

    @classmethod
    def first(cls, name: str, y: FlowState, start: Start) -> End:
        """Return the end of a process that has not moved."""
        return cls(0, np.asarray(y.w), _plain(start.own if name == "discrete" else y.slow))

    @classmethod
    def of(cls, name: str, records: Records, first: int, step: int, last: int) -> End:
        """Return the end at a step of the chunk that begins after `first`, whose states are known at step `last`."""
        w = np.asarray(records.w[step - first - 1])
        if step != last or records.end is None:
            return cls(step, w)
        return cls(step, w, _plain(records.before if name == "discrete" else records.end.slow))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return everything by name, for a checkpoint."""
        return {f"{prefix}w": self.w} | {f"{prefix}state/{name}": x for name, x in (self.states or {}).items()}

    @classmethod
    def from_arrays(cls, step: int, arrays: Mapping[str, np.ndarray], prefix: str) -> End:
        """Return what `arrays` gave."""
        begin = f"{prefix}state/"
        states = {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}
        return cls(step, arrays[f"{prefix}w"], states or None)


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
        for step in range(first + 1, last + 1) if self.every else ():
            if step % self.every == 0:
                self._put(step, w[step - first - 1])

    def _put(self, step: int, w: Any) -> None:
        if self.every and step % self.every == 0:
            self.steps.append(step)
            self.weights.append(np.asarray(w))

    def upto(self, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield steps and weights up to a step."""
        return ((step, w) for step, w in zip(self.steps, self.weights, strict=True) if step <= last)


def ending(end: End, kept: Kept) -> Ending:
    """Return an end and what was kept as a run has them."""
    arrays = {"weights": end.w} | {STATE + name: x for name, x in (end.states or {}).items()}
    if kept.every:
        rows = list(kept.upto(end.step))
        arrays["kept_step"] = np.array([step for step, _ in rows], int)
        arrays["kept"] = np.stack([w for _, w in rows]) if rows else np.zeros((0, end.w.size))
    return Ending(end.step, arrays)


def _plain(states: Mapping[str, jax.Array] | None) -> dict[str, np.ndarray] | None:
    return None if states is None else {name: np.asarray(x) for name, x in states.items()}

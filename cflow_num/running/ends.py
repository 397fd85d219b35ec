"""Where the processes of a run end: weights and states, and the weights that were kept on the way."""

from __future__ import annotations

from collections.abc import Mapping
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
    them; of a flow, those of its equation, in phase space with its averages of the gradient, `filtered (F, n)`.
    """

    step: int
    w: np.ndarray
    states: dict[str, np.ndarray] | None = None

    @classmethod
    def first(cls, name: str, y: FlowState, start: Start) -> End:
        """Return the end of a process that has not moved."""
        return cls(0, np.asarray(y.w), _plain(start.own if name == "discrete" else _of_flow(y)))

    @classmethod
    def of(cls, name: str, records: Records, first: int, step: int, last: int) -> End:
        """Return the end at a step of the chunk that begins after `first`, whose states are known at step `last`."""
        w = np.asarray(records.w[step - first - 1])
        if step != last or records.end is None:
            return cls(step, w)
        return cls(step, w, _plain(records.before if name == "discrete" else _of_flow(records.end)))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return everything by name, for a checkpoint."""
        return {f"{prefix}w": self.w} | {f"{prefix}state/{name}": x for name, x in (self.states or {}).items()}

    @classmethod
    def from_arrays(cls, step: int, arrays: Mapping[str, np.ndarray], prefix: str) -> End:
        """Return what `arrays` gave."""
        begin = f"{prefix}state/"
        states = {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}
        return cls(step, arrays[f"{prefix}w"], states or None)


class Kept:
    """Weights by step, at steps that are multiples of `every`; none for 0."""

    def __init__(self, every: int, start: Any):
        self.every, self.weights = every, {0: np.asarray(start)} if every else {}

    def chunk(self, w: Any, first: int, last: int) -> None:
        """Keep what is wanted of the steps after `first`, whose weights are `w (T, n)`, up to `last`."""
        if self.every:
            wanted = range(first - first % self.every + self.every, last + 1, self.every)
            self.weights |= {step: np.asarray(w[step - first - 1]) for step in wanted}

    def upto(self, last: int) -> dict[int, np.ndarray]:
        """Return weights by step up to a step."""
        return {step: w for step, w in self.weights.items() if step <= last}


def ending(end: End, kept: Kept) -> Ending:
    """Return an end and what was kept as a run has them."""
    arrays = {"weights": end.w} | {STATE + name: x for name, x in (end.states or {}).items()}
    if kept.every:
        weights = kept.upto(end.step)
        arrays |= {"kept_step": np.array(list(weights)), "kept": np.stack(list(weights.values()))}
    return Ending(end.step, arrays)


def _of_flow(y: FlowState) -> dict[str, jax.Array]:
    return y.slow if y.filtered is None else y.slow | {"filtered": y.filtered}


def _plain(states: Mapping[str, jax.Array] | None) -> dict[str, np.ndarray] | None:
    return None if states is None else {name: np.asarray(x) for name, x in states.items()}

"""One process of a run again, with its weights in hand: for what cannot be read off a run's file."""

from __future__ import annotations

from collections.abc import Iterator

from ..flows.discrete import DiscreteOptimizer
from ..optimizer.hyperparameters import as_arrays, resolve
from ..running.chunk import Records
from ..running.prepare import CHUNK
from ..running.process import Process
from ..running.warm_start import warm_started
from ..support.devices import full_precision
from .runs import Made


def followed(made: Made, process: str, coordinates: tuple[int, ...] = ()) -> Iterator[tuple[int, Records]]:
    """Yield a process chunk by chunk: the first step of the chunk (from 1) and its records, cut at the last step.

    `coordinates` are the weights whose own states are in `records.captured`.
    """
    with full_precision():
        flow, values = resolve(made.setting.optimizer, made.hyperparameters)
        arrays = as_arrays(flow, values, made.problem)
        start = warm_started(DiscreteOptimizer(made.problem, arrays, flow), made.setting.warm_start)
        steps = made.setting.steps
        again = Process(
            process, made.problem, flow, arrays, chunk=CHUNK, eig_every=steps + CHUNK, coordinates=coordinates
        )
        carry, _ = again.start(start.here if process == "discrete" else start.flows, start.before)
        for first in range(1, steps + 1, CHUNK):
            carry, records = again.advance(carry)
            yield first, records._replace(w=records.w[: steps + 1 - first])

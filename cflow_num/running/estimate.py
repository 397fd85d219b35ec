"""What a run will take, before it starts: its first steps are timed, and the compiler says what memory they take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..loss.parts import show_memory
from ..loss.problem import Problem
from ..support.devices import full_precision
from ..support.errors import RunError
from ..support.jax_settings import default_settings
from .loop import Latest, advance_all
from .observables import functions_of
from .prepare import CHUNK, Prepared, prepare
from .run import begun
from .settings import Settings


@dataclass(frozen=True)
class Estimate:
    """What a run takes: wall `seconds`, of which `compiling` unless its programs are kept from before, and bytes.

    `memory` is what data, derivatives, flows and records take on a device, beside Python and JAX themselves; of that
    `step` is the seconds of one step, and `steps` how many there are.
    """

    title: str
    steps: int
    seconds: float
    compiling: float
    step: float
    memory: int

    def __str__(self) -> str:
        seconds, compiling = show_seconds(self.seconds), show_seconds(self.compiling)
        return (
            f"{self.title}, {self.steps} steps: about {seconds} ({compiling} of it compilation, the first time only), "
            f"{1000 * self.step:.3g} ms a step, {show_memory(self.memory)} of memory"
        )


def show_seconds(seconds: float) -> str:
    """Return a time in words.

    >>> show_seconds(0.5), show_seconds(95.0), show_seconds(9000.0)
    ('1 s', '95 s', '2.5 hours')
    """
    if seconds < 120:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:.3g} hours"


@full_precision()
@default_settings()
def estimate(
    problem: Problem,
    optimizer: Any,
    hyperparameters: Mapping[str, Any],
    settings: Settings | None = None,
    *,
    start: Any = None,
    observe: Any = None,
    **fields: Any,
) -> Estimate:
    """Estimate seconds and memory of a run; arguments as of `run`.

    The first two chunks of 16 steps are run and the second is timed, everything included; nothing is recorded, and
    what was compiled serves the run itself. Steps at the edge cost more than those before it.

    **Returns:** an `Estimate`; `print` it for a sentence.

    **Raises:** `InputError` for bad input, `RunError` where the run ends within these steps.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda w: jnp.sum(jnp.array([1.0, 2.0]) * w**2) / 2, jnp.ones(2))
    >>> found = estimate(problem, "gradient_descent", dict(learning_rate=0.1), steps=1000)
    >>> found.steps, found.seconds > 1000 * found.step
    (1000, True)
    """
    functions, names = functions_of(observe)
    chosen = Settings.of(settings, fields | ({"observe": names} if names else {}))
    asked = prepare(problem, optimizer, hyperparameters, chosen, start, functions)
    few = replace(chosen, steps=min(chosen.steps, 2 * CHUNK), warm_start=min(chosen.warm_start, CHUNK))
    return measured(asked, prepare(problem, optimizer, hyperparameters, few, start, functions))


def measured(asked: Prepared, few: Prepared) -> Estimate:
    """Return the estimate of a run from its first steps alone."""
    began, marks = time.perf_counter(), []

    def mark(latest: Latest) -> None:
        compiled = sum(process.compile_seconds for process in few.processes.values())
        marks.append((latest.last, time.perf_counter() - began - compiled, compiled))

    progress = begun(few)
    advance_all([progress], quiet=True, on_chunk=mark)
    if progress.reason:
        raise RunError(f"the run ends early: {progress.reason}")
    steps, warm = asked.config["steps"], asked.config["warm_start"] - few.config["warm_start"]
    (first, at_first, _), (last, at_last, compiling) = marks[0], marks[-1]
    step = (at_last - at_first) / (last - first) if last > first else at_last / last
    share = step / len(few.processes)  # of a warm-up step: the optimizer alone
    seconds = compiling + at_last + step * (steps - last) + share * warm
    recorded = sum(x.nbytes for recorder in progress.recorders.values() for x in recorder.arrays.values())
    memory = progress.memory() + recorded * max(steps // last - 1, 0)
    return Estimate(f"{asked.config['title']} on {asked.config['problem']}", steps, seconds, compiling, step, memory)

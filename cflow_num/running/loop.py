"""The loop over chunks: the processes of one run, or of many runs at once, advance in lockstep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..flows.discrete import DiscreteOptimizer
from ..support.errors import InputError, RunError
from .batch import advance_together
from .checkpoints import Checkpoint, Checkpoints
from .chunk import Records
from .ends import End, Kept
from .observables import Observing
from .path import Carry
from .process import Process
from .progress_bar import StepBar
from .recorder import Lockstep, Recorder
from .warm_start import Start

GROWTH = 1e4  # rise of the loss over a run, relative to what its first steps do, that is worth a warning
_FIRST = 5  # steps


class _Standing(NamedTuple):
    """Where a process stood at the end of a chunk."""

    carry: Carry
    capacity: int


class _Boundary(NamedTuple):
    """All that a run can go on from at the end of its last whole chunk; replaced as one, whenever it is interrupted."""

    reached: int
    standings: dict[str, _Standing]
    reasons: list[str]
    failed: dict[str, int]
    lockstep: dict[str, np.ndarray]
    ends: dict[str, End]


class Standing(NamedTuple):
    """Where a run stands at its end: whether it is over, why it ended early, and what a longer one goes on from."""

    reached: int
    over: bool
    reason: str
    checkpoint: Checkpoint


class Latest(NamedTuple):
    """What the last chunk added, for loggers: steps `first` to `last` of `steps`.

    `values[process][name]` is what was recorded there, with a leading axis of `last - first + 1` steps; nan where
    nothing is known, as of midpoints, which need the step after them.
    """

    first: int
    last: int
    steps: int
    values: dict[str, dict[str, np.ndarray]]


class Progress:
    """One run under way: where its processes stand, what they recorded, and what went wrong.

    A flow that fails stops alone; when the optimizer leaves finite numbers there is nothing left to compare, and all
    stop.
    """

    def __init__(
        self,
        discrete: DiscreteOptimizer,
        processes: dict[str, Process],
        start: Start,
        steps: int,
        keep: int,
        observing: Observing,
    ):
        self.processes, self.steps, self.observing = processes, steps, observing
        self.chunk = next(iter(processes.values())).chunk
        self.recorders = {
            name: Recorder(steps, process.coordinates, observing.about(process.constrained))
            for name, process in processes.items()
        }
        self.carries: dict[str, Carry] = {}
        self._before, self._oscillation = start.before, start.oscillation
        self._starts = {name: start.here if name == "discrete" else start.flows for name in processes}
        at = {name: np.asarray(y.w) for name, y in self._starts.items()}
        self._lockstep = Lockstep(discrete, self.recorders, at, next(iter(processes.values())).effort)
        self._reasons: list[str] = []
        self._failed: dict[str, int] = {}
        self._chunk: dict[str, Records] = {}
        self._taken = 0
        self._begun: set[str] = set()
        self.kept = {name: Kept(keep, y.w) for name, y in self._starts.items()}
        self._ends = {name: End.first(name, y, start) for name, y in self._starts.items()}
        self._boundary = _Boundary(0, {}, [], {}, self._lockstep.state(), dict(self._ends))
        self._whole = self._boundary  # the last one at the end of a whole chunk: from there a longer run goes on

    @property
    def reached(self) -> int:
        """The step up to which all is known."""
        return self._boundary.reached

    @property
    def reason(self) -> str:
        """What went wrong; empty if nothing did."""
        return "; ".join(self._reasons)

    @property
    def growth(self) -> tuple[str, ...]:
        """Which processes ended far above where they began, one sentence each."""
        going = {name: recorder for name, recorder in self.recorders.items() if name not in self._failed}
        found = {name: _growth(recorder, self.reached) for name, recorder in going.items()}
        return tuple(f"the loss of the {name} process {what}" for name, what in found.items() if what)

    def begin(self, name: str) -> None:
        """Bring a process to step 0."""
        process = self.processes[name]
        self.carries[name], seen = process.start(self._starts[name], self._before, self._oscillation)
        self.recorders[name].start(seen, process.constrained, process.interpolates)
        self.observing.start(self.recorders[name], self._starts[name].w, process.constrained)
        self._begun.add(name)
        self._stand()

    def _stand(self, reached: int = 0) -> None:
        """Note that the run can go on from here."""
        standings = {name: _Standing(carry, self.processes[name].capacity) for name, carry in self.carries.items()}
        state = list(self._reasons), dict(self._failed), self._lockstep.state(), dict(self._ends)
        self._boundary = _Boundary(reached, standings, *state)
        if reached % self.chunk == 0:
            self._whole = self._boundary

    def standing(self) -> Standing | None:
        """Return what a longer run goes on from; None where the processes are on other machines too."""
        leaves = jax.tree.leaves([standing.carry for standing in self._whole.standings.values()])
        if not all(getattr(x, "is_fully_addressable", True) for x in leaves):
            return None
        over = "discrete" in self._failed or self._failed.keys() >= self.processes.keys()
        return Standing(self.reached, over, self.reason, self.checkpoint())

    @property
    def ends(self) -> dict[str, End]:
        """Where each process stands at the end."""
        return self._boundary.ends

    def checkpoint(self) -> Checkpoint:
        """Return all that the run needs to go on from the end of its last whole chunk."""
        last = self._whole
        arrays = {f"lockstep/{name}": x for name, x in last.lockstep.items()}
        for name, recorder in self.recorders.items():
            arrays |= {f"{name}/recorded/{key}": x[: last.reached + 1] for key, x in recorder.arrays.items()}
        for name, standing in last.standings.items():
            leaves = jax.tree.leaves(standing.carry)
            arrays |= {f"{name}/carry/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        for name, kept in self.kept.items():
            arrays |= {f"{name}/kept/{step}": w for step, w in kept.upto(last.reached).items()}
        for name, end in last.ends.items():
            arrays |= end.arrays(f"{name}/end/")
        return Checkpoint(
            arrays,
            {
                "reached": last.reached,
                "reasons": last.reasons,
                "failed": last.failed,
                "ends": {name: end.step for name, end in last.ends.items()},
                "capacities": {name: standing.capacity for name, standing in last.standings.items()},
                "seconds": {name: process.seconds for name, process in self.processes.items()},
                "compile_seconds": {name: process.compile_seconds for name, process in self.processes.items()},
            },
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go to where a checkpoint stands; raises `InputError` where its arrays do not fit."""
        arrays, meta = checkpoint
        for name, capacity in meta["capacities"].items():
            self.begin(name)
            while self.processes[name].capacity < capacity:
                self.carries[name] = self.processes[name].grow(self.carries[name])
            leaves, structure = jax.tree.flatten(self.carries[name])
            saved = [arrays.get(f"{name}/carry/{i}") for i in range(len(leaves))]
            if any(x is None or x.shape != y.shape or x.dtype != y.dtype for x, y in zip(saved, leaves, strict=True)):
                raise InputError(f"the checkpoint does not fit the {name} process: start anew without --resume")
            placed = [jax.device_put(x, leaf.sharding) for x, leaf in zip(saved, leaves, strict=True)]
            self.carries[name] = jax.tree.unflatten(structure, placed)
        self._reasons, self._failed = list(meta["reasons"]), dict(meta["failed"])  # of their own
        self._begun = set(self.processes)
        for name in self._failed.keys() - meta.get("ends", self._failed).keys():
            self._ends.pop(name)  # an older checkpoint does not say where it ended
        for name, process in self.processes.items():
            process.seconds = meta["seconds"][name]
            process.compile_seconds += meta["compile_seconds"][name]
            for key in [key for key in arrays if key.startswith(f"{name}/recorded/")]:
                self.recorders[name].put(key.split("/", 2)[2], 0, arrays[key])
        for name, step in meta.get("ends", {}).items():
            self._ends[name] = End.from_arrays(step, arrays, f"{name}/end/")
            steps = sorted(int(key.rsplit("/", 1)[1]) for key in arrays if key.startswith(f"{name}/kept/"))
            self.kept[name].weights = {step: arrays[f"{name}/kept/{step}"] for step in steps}
        self._lockstep.resume({key.removeprefix("lockstep/"): x for key, x in arrays.items() if "lockstep/" in key})
        self._stand(meta["reached"])

    def take(self, name: str, after: Carry | RunError, records: Records | None, began: float) -> None:
        """Record what a process did in this chunk, or why it could not; `began`: its seconds before."""
        if isinstance(after, RunError):
            self._stop(name, self.reached, str(after))
            return
        assert records is not None
        self.carries[name], self._chunk[name] = after, records
        recorder = self.recorders[name]
        recorder.chunk(self.reached + 1, records, began, self.processes[name].seconds)
        self.observing.chunk(name, recorder, self.reached + 1, records)
        failure = self.processes[name].failure(records)
        length = min(self.chunk, self.steps - self.reached)
        if failure and failure[0] < length:
            self._stop(name, self.reached + failure[0], failure[1])
            if name == "discrete":  # the flows have nothing left to be compared with
                self._taken = failure[0]
                self.carries.clear()

    def _stop(self, name: str, good: int, why: str) -> None:
        self._reasons.append(f"the {name} process stopped at step {good} of {self.steps}: {why}")
        self._failed[name] = good
        self.carries.pop(name, None)

    def begin_chunk(self) -> None:
        """Start to collect what the processes do in the next chunk."""
        self._chunk, self._taken = {}, min(self.chunk, self.steps - self.reached)

    def end_chunk(self) -> int:
        """Compare the processes over the chunk; return how many steps it went on."""
        self._lockstep.add(self.reached, self._chunk)
        for name, records in self._chunk.items():
            last = min(self._failed.get(name, self.steps), self.reached + self._taken)
            self.kept[name].chunk(records.w, self.reached, last)
            if last > self.reached:
                known = min(self.processes[name].last, self.reached + self.chunk)
                self._ends[name] = End.of(name, records, self.reached, last, known)
        for name, good in self._failed.items():
            self.recorders[name].forget_after(good)
            if name == "central" and "discrete" in self.recorders:
                self.recorders["discrete"].forget_after(good, "displacement")
        self._stand(self.reached + self._taken)
        return self._taken

    def interrupt(self, why: str = "interrupted") -> None:
        """Note that the user stopped the run."""
        self._reasons.append(f"{why} at step {self.reached} of {self.steps}")

    def latest(self, taken: int) -> Latest:
        """Return copies of what the last steps added, so many of them."""
        first, last = self.reached - taken + 1, self.reached
        recorded = {name: recorder.arrays.items() for name, recorder in self.recorders.items()}
        values = {name: {key: x[first : last + 1].copy() for key, x in items} for name, items in recorded.items()}
        return Latest(first, last, self.steps, values)

    def close(self) -> None:
        """Forget what would need the step after the last one, and what the last chunk left."""
        self._chunk = {}
        self._lockstep.close(self.reached)
        for recorder in self.recorders.values():
            recorder.diagnose()

    def memory(self) -> int:
        """Return the bytes of the run: those of its largest process while it advances, and what all processes keep."""
        advancing = [self.processes[name].memory(carry) for name, carry in self.carries.items()]
        resting = sum(x.nbytes for carry in self.carries.values() for x in jax.tree.leaves(carry))
        recorded = sum(x.nbytes for recorder in self.recorders.values() for x in recorder.arrays.values())
        return max(advancing, default=0) + resting + recorded

    @property
    def done(self) -> bool:
        """Whether all steps are taken or no process goes on."""
        return self.reached >= self.steps or (self._begun == set(self.processes) and not self.carries)


def advance_all(
    runs: Sequence[Progress],
    quiet: bool,
    checkpoints: Checkpoints | None = None,
    on_chunk: Callable[[Latest], Any] | None = None,
) -> None:
    """Advance runs with the same processes to their ends, in one compiled call for each chunk and process.

    `on_chunk` is told of the first run's progress; where it raises an exception that run ends there, with its data.
    With `checkpoints` the first run's are written where due and where the user stops the run; a run that has gone on
    from one already is not begun again.
    """
    names, steps = list(runs[0].processes), runs[0].steps
    every = [process for run in runs for process in run.processes.values()]
    bar = StepBar(steps, runs[0].reached, quiet, lambda: sum(process.compile_seconds for process in every))
    try:
        for name in names:
            bar.compiling(name)
            for run in runs:
                if not run.reached:
                    run.begin(name)
            if len(runs) == 1 and name in runs[0].carries:
                runs[0].processes[name].compile_ahead(runs[0].carries[name])
        if len(runs) == 1:  # all of it before anything runs: seconds are then those of one process alone
            for name, carry in runs[0].carries.items():
                bar.compiling(name)
                with contextlib.suppress(RunError):  # known already, and told in place of the first chunk
                    runs[0].processes[name].compiled(carry)
        while live := [run for run in runs if not run.done]:
            bar.begin()
            for run in live:
                run.begin_chunk()
            for name in names:
                going = [run for run in live if name in run.carries]
                if not going:
                    continue
                compiling = len(runs) > 1 and not any(run.processes[name].seconds for run in going)
                bar.set_description(f"{'compiling' if compiling else 'running'} {name}", refresh=compiling)
                began = [run.processes[name].seconds for run in going]
                processes, carries = [run.processes[name] for run in going], [run.carries[name] for run in going]
                results = advance_together(processes, carries, len(runs))
                for run, result, seconds in zip(going, results, began, strict=True):
                    run.take(name, *result, seconds)
            taken = [run.end_chunk() for run in live]
            bar.taken(max(taken))
            if on_chunk is not None and taken[0]:
                try:
                    on_chunk(runs[0].latest(taken[0]))
                except Exception as error:  # the user's own function: hours of work are not lost with it
                    runs[0].interrupt(f"on_chunk raised {type(error).__name__} ({error})")
                    break
            if checkpoints is not None and checkpoints.due and not runs[0].done:
                checkpoints.write(runs[0].reached, runs[0].checkpoint())
    except KeyboardInterrupt:
        if checkpoints is not None and runs[0].reached and not runs[0].done:
            checkpoints.write(runs[0].reached, runs[0].checkpoint())
        for run in runs:
            if not run.done:
                run.interrupt()
    bar.close()
    for run in runs:
        run.close()


def _growth(recorder: Recorder, reached: int) -> str:
    """Say how a process ended far above its start, where it did; a constant added to the loss makes no difference."""
    loss = recorder.arrays.get("loss", np.full(1, np.nan))[: reached + 1]
    speed = recorder.arrays.get("optimization_speed", np.zeros(1))[0]
    known = loss[np.isfinite(loss)]
    if not known.size:
        return ""
    scale = max(speed, float(np.median(np.abs(known[: _FIRST + 1] - known[0]))))
    if not known[-1] - known[0] > GROWTH * scale:
        return ""
    return f"grew from {known[0]:.3g} to {known[-1]:.3g} so far: where it diverges, use a smaller learning rate"

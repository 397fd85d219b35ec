"""Runs that figures need, made before they are drawn, several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import xarray as xr
from matplotlib.figure import Figure

from ..record.run import Run
from ..support.errors import InputError, RunError
from ..support.executors import checked_workers, completed, processes
from .registry import Entry
from .runs import Made, Runs


class _Asked(Runs):
    """Runs that are there; the names of others are noted."""

    def __init__(self, runs: Runs):
        super().__init__(runs.folder, runs.scale, quiet=True)
        self.missing: list[str] = []

    def make(self, key: str) -> Run:
        self.missing.append(key)
        raise RunError("not there yet")

    def dataset(self, key: str, of: str, make: Callable[[Made], xr.Dataset]) -> xr.Dataset:
        """Raise `RunError`: what is measured along a run is measured when it is drawn."""
        raise RunError("measured when it is drawn")


class _Job(NamedTuple):
    folder: Path
    scale: str
    key: str
    x64: bool


def missing(entries: Sequence[Entry], runs: Runs) -> list[str]:
    """Return the runs that the figures ask for and that are not there; one may ask for more once it has those."""
    asked = _Asked(runs)
    for entry in entries:
        axes = Figure().subplots(*entry.panels, squeeze=False).flat
        with contextlib.suppress(InputError, RuntimeError):
            entry.draw(asked, list(axes))
    return [key for key in dict.fromkeys(asked.missing) if key not in runs.failed]


def make_ahead(entries: Sequence[Entry], runs: Runs, workers: int | None = None) -> None:
    """Make the runs that the figures need; why one cannot be had is noted in `runs.failed`.

    Without a number of workers there are as many as processors, one for the paper's size and on an accelerator. One
    worker makes nothing ahead.

    **Raises:** `InputError` for a number of workers that is none.
    """
    alone = runs.scale == "paper" or jax.default_backend() != "cpu"
    workers = 1 if workers is None and alone else checked_workers(workers)
    done: set[str] = set()
    while workers > 1 and (keys := [key for key in missing(entries, runs) if key not in done]):
        jobs = {key: _Job(runs.folder, runs.scale, key, bool(jax.config.read("jax_enable_x64"))) for key in keys}
        began, at_once = time.perf_counter(), min(workers, len(jobs))
        if not runs.quiet:
            print(f"making {len(jobs)} runs, {at_once} at a time", file=sys.stderr, flush=True)
        with contextlib.closing(completed(_make, jobs, processes, at_once)) as results:
            for key, outcome in results:
                done.add(key)
                if isinstance(outcome, Exception):
                    runs.failed[key] = " ".join(str(outcome).split()) or type(outcome).__name__
                if not runs.quiet:
                    said = runs.failed.get(key, f"done after {time.perf_counter() - began:.0f} s")
                    print(f"run {len(done)}, {key}: {said}", file=sys.stderr, flush=True)


def _make(job: _Job) -> None:
    """Make one run in a process of its own."""
    from ..support.cache import keep_programs

    keep_programs()
    with jax.enable_x64(job.x64):
        Runs(job.folder, job.scale, quiet=True)[job.key]

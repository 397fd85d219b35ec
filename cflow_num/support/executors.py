"""Many independent jobs through any `concurrent.futures.Executor`; a worker that dies takes nothing else with it.

When a worker dies, a pool fails every job that it has, the guilty and the innocent alike, and is broken. So only as
many jobs as there are workers are handed over at a time, and those that were there when the pool broke are run again
one by one in a fresh pool: one that dies alone is the guilty one, the others lose nothing but time.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager
from typing import Any, cast

from .errors import InputError, RunError, check_one_of

Opener = Callable[[int], AbstractContextManager[Executor]]
NO_START = (
    'no worker process could start: in a script, call sweep under `if __name__ == "__main__":`; an executor that was '
    "passed and is broken must be made anew"
)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """Give a pool of fresh processes (spawned: JAX and fork do not mix); they end at once if the block is left early.

    >>> with processes(1) as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """
    spawn = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, spawn, initializer=_start_worker)
    try:
        yield executor
    except BaseException:
        children = _children(executor)
        executor.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join(5)
        executor.shutdown(wait=not any(child.is_alive() for child in children))
        raise
    executor.shutdown()


@contextlib.contextmanager
def dask(workers: int) -> Iterator[Executor]:
    """Give the executor of a dask.distributed cluster on this machine, one thread a worker."""
    dask, distributed = (importlib.import_module(name) for name in ("dask", "distributed"))
    # A job whose worker dies comes back at once, to be tried alone; dask would try it with others again.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


EXECUTORS: dict[str, Opener] = {"processes": processes, "dask": dask}


def opener(executor: Any) -> Opener:
    """Return the function of the number of workers that opens an executor, as a context.

    **Arguments:**

    - `executor`: None or "processes" (a pool of processes), "dask", or an `Executor`, which stays open and cannot be
      made anew when it breaks, or a function of the number of workers that returns one.

    **Raises:** `InputError` for anything else, and where dask.distributed is not installed.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with opener(ThreadPoolExecutor)(2) as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """
    if isinstance(executor, Executor):
        return lambda workers: contextlib.nullcontext(executor)
    if executor is None or isinstance(executor, str):
        name = executor or "processes"
        check_one_of("executor", name, EXECUTORS)
        if name == "dask" and importlib.util.find_spec("distributed") is None:
            raise InputError(
                "executor \"dask\" needs dask.distributed, which is not installed: pip install 'cflow-jax[dask]', or "
                'use the executor "processes"'
            )
        return EXECUTORS[name]
    if callable(executor):
        return cast(Opener, executor)
    raise InputError(
        f"executor is a {type(executor).__name__}, it must be one of {', '.join(EXECUTORS)}, a "
        "concurrent.futures.Executor or a function of the number of workers that returns one"
    )


def checked_workers(workers: Any) -> int:
    """Return a number of workers, that of processors for None; raises `InputError` for what is none.

    >>> checked_workers(2)
    2
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers is {workers!r}, it must be a whole number of at least 1")
    return workers


def completed(
    work: Callable[[Any], Any], jobs: Mapping[str, Any], open_executor: Opener, workers: int
) -> Generator[tuple[str, Any]]:
    """Yield (name, result) of `work` on each job as it is done; the result of one that failed is its exception.

    A job whose worker died alone, in a fresh pool, fails with a `RunError`. Closing the iterator stops the workers.

    >>> dict(completed(abs, {"a": -1, "b": None}, processes, 1))
    {'a': 1, 'b': TypeError("bad operand type for abs(): 'NoneType'")}
    """
    waiting = deque(jobs)
    while waiting:
        suspects: list[str] = []
        with open_executor(workers) as executor:
            yield from _together(work, jobs, waiting, suspects, executor, workers)
        alone = deque(suspects)
        while alone:
            with open_executor(1) as executor:
                if not _starts(executor):
                    yield from ((name, RunError(NO_START)) for name in (*alone, *waiting))
                    return
                yield from _alone(work, jobs, alone, executor)


def _together(
    work: Callable, jobs: Mapping[str, Any], waiting: deque[str], suspects: list[str], executor: Executor, workers: int
) -> Iterator[tuple[str, Any]]:
    """Run waiting jobs until none is left or a worker dies; `suspects` are then those that were handed over."""
    running: dict[Future, str] = {}
    while running or (waiting and not suspects):
        while waiting and not suspects and len(running) < workers:
            name = waiting.popleft()
            try:
                running[executor.submit(work, jobs[name])] = name
            except RuntimeError:  # it broke, or its owner has shut it down
                suspects.append(name)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name, outcome = running.pop(future), _outcome(future)
            if _is_death(outcome):
                suspects.append(name)
            else:
                yield name, outcome


def _alone(work: Callable, jobs: Mapping[str, Any], names: deque[str], executor: Executor) -> Iterator[tuple[str, Any]]:
    """Run the named jobs one after another, until one kills its worker."""
    while names:
        try:
            future = executor.submit(work, jobs[names[0]])
        except RuntimeError:  # the worker died between two jobs
            return
        name, children, outcome = names.popleft(), _children(executor), _outcome(future)
        if _is_death(outcome):
            how = f"a worker died while it ran, and again{_manner(children)} when it ran alone in a fresh pool"
            yield name, RunError(f"{how}: try a smaller problem if memory ran out")
            return
        yield name, outcome


def _outcome(future: Future) -> Any:
    try:
        error = future.exception()
    except CancelledError as cancelled:
        return cancelled
    return future.result() if error is None else error


def _is_death(outcome: Any) -> bool:
    """Say whether a job has lost its worker; `KilledWorker` is dask's name for it."""
    return isinstance(outcome, (BrokenExecutor, CancelledError)) or type(outcome).__name__ == "KilledWorker"


def _starts(executor: Executor) -> bool:
    try:
        return not isinstance(_outcome(executor.submit(os.getpid)), BaseException)
    except RuntimeError:
        return False


def _children(executor: Executor) -> list[Any]:
    """Return the processes of a process pool, which it has no public name for."""
    return list((getattr(executor, "_processes", None) or {}).values())


def _manner(children: list[Any]) -> str:
    """Return how the only worker of a pool ended, where the system tells."""
    deadline = time.monotonic() + 5
    while any(child.exitcode is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)  # the pool's own thread collects it
    for child in children:
        if child.exitcode:
            return f" ({signal.Signals(-child.exitcode).name if child.exitcode < 0 else f'exit {child.exitcode}'})"
    return ""


def _start_worker() -> None:
    """Leave interrupts to the parent; give tqdm no semaphore, which a worker that is killed would leave behind."""
    import threading

    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())

"""Compiled programs: one for each kind of arguments, a limited number of them at a time."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import equinox._errors  # see _no_calls_of_the_host
import jax

from .compiler import compiled, forget_normal
from .devices import placement
from .typed import setting

_PROGRAMS_KEPT = 64
_MAPPINGS, _MOST_MAPPINGS = Path("/proc/self/maps"), 30_000
_PROGRAMS: dict[Any, Future[Callable]] = {}  # compiled functions by everything that is not an array
_COMPILERS = ThreadPoolExecutor(max_workers=max(2, min(os.cpu_count() or 1, 4)), thread_name_prefix="compiler")
_SETTINGS = (  # of JAX, on which it depends what is compiled
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_debug_nans",
    "jax_debug_infs",
)


def compiled_for(function: Any, arguments: tuple, effort: str = "quick") -> Callable:
    """Return a jitted function compiled for such arguments: ahead of time, to tell compilation from running.

    What is no array is compared: a loss, or a schedule, must be a traced program (`traced`), not a Python function.
    `effort` is the compiler's, see `support/compiler.py`; what is called a few times only is compiled quickly.
    """
    key, program = compile_ahead(function, arguments, effort)
    try:
        return program.result()
    except Exception:
        _PROGRAMS.pop(key, None)
        raise


def compile_ahead(function: Any, arguments: tuple, effort: str = "quick") -> tuple[Any, Future[Callable]]:
    """Begin to compile a jitted function for such arguments, beside what goes on; return key and program to come.

    It is traced here: settings of JAX that are made for a block of code hold for the thread that runs it.
    """
    arrays, static = eqx.partition(arguments, eqx.is_array)
    shapes = tuple((x.shape, x.dtype, placement(x)[1]) for x in jax.tree.leaves(arrays))
    places = frozenset(device for x in jax.tree.leaves(arrays) for device in placement(x)[0])
    settings = (*(getattr(jax.config, name, None) for name in _SETTINGS), setting("jax_disable_most_optimizations"))
    key = (function, tuple(jax.tree.leaves(static)), jax.tree.structure(arrays), shapes, places, settings, effort)
    if key not in _PROGRAMS:
        while len(_PROGRAMS) >= _PROGRAMS_KEPT:
            del _PROGRAMS[next(iter(_PROGRAMS))]
        with _no_calls_of_the_host():
            lowered = function.lower(*arguments)
        platforms = frozenset(platform for platform, _ in places)
        try:
            _PROGRAMS[key] = _COMPILERS.submit(compiled, lowered, effort, platforms)
        except RuntimeError:  # the main thread has ended: here, then
            done: Future[Callable] = Future()
            done.set_result(compiled(lowered, effort, platforms))
            _PROGRAMS[key] = done
    return key, _PROGRAMS[key]


@contextlib.contextmanager
def _no_calls_of_the_host() -> Iterator[None]:
    """Trace without the checks that diffrax makes of its arguments while a program runs: they hold here.

    They would call Python from within each chunk, and JAX keeps no program that does in its persistent cache. A user's
    own checks stay: a loss was traced before. Equinox has a setting for this, which it reads from the environment only.
    """
    before = getattr(equinox._errors, "EQX_ON_ERROR", None)
    if before is None:
        yield
        return
    equinox._errors.EQX_ON_ERROR = "off"
    try:
        yield
    finally:
        equinox._errors.EQX_ON_ERROR = before


def kept() -> int:
    """Return how many compiled programs are at hand."""
    return len(_PROGRAMS)


def forget_programs() -> None:
    """Drop every compiled program of this process, those of other users of JAX included.

    Linux allows a process 65,530 memory mappings and a program takes dozens: work that compiles many hundred different
    programs (optimizers, problems of other shapes) runs into that and must drop them from time to time.
    """
    _PROGRAMS.clear()
    forget_normal()
    eqx.clear_caches()
    jax.clear_caches()
    gc.collect()


def make_room() -> None:
    """Call `forget_programs` if this process is half way to Linux's limit of memory mappings; for long loops."""
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        forget_programs()


def call(function: Any, *arguments: Any) -> Any:
    """Call a jitted function that is needed a few times only: it is compiled quickly."""
    return compiled_for(function, arguments)(*arguments)

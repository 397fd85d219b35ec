"""Ctrl-C with a reason: what was going on and what is left of it, in words, travels with the interrupt."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

SOON = 0.05  # seconds
_seen: list[int] = []  # the signals that came


@contextlib.contextmanager
def told(words: str) -> Iterator[None]:
    """Let an interrupt within say `words`, unless it says something already.

    >>> try:
    ...     with told("before A was computed: nothing is lost"):
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt as stop:
    ...     print("interrupted", stop)
    interrupted before A was computed: nothing is lost
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise (stop if stop.args else KeyboardInterrupt(words)) from None


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, remember that either came, and lose none.

    An interrupt that Python has to drop, in a finalizer or a callback of a library, is raised again soon after.
    """
    hook, handlers = sys.unraisablehook, {}
    if threading.current_thread() is threading.main_thread():
        numbers = [signal.SIGTERM]
        numbers += [signal.SIGINT] * (signal.getsignal(signal.SIGINT) is signal.default_int_handler)  # not one ignored
        handlers = {number: signal.signal(number, _raised) for number in numbers}

    def dropped(what: Any) -> None:
        if what.exc_type is not None and issubclass(what.exc_type, KeyboardInterrupt):
            threading.Timer(SOON, _interrupt).start()  # not here: it would be dropped again
        else:
            hook(what)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def came() -> bool:
    """Say whether an interrupt was handled in this process."""
    return bool(_seen)


def _interrupt() -> None:
    """Send the main thread Ctrl-C's signal, which also ends its waiting where the system can do that."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _raised(number: int, frame: Any) -> None:
    _seen.append(number)
    raise KeyboardInterrupt

"""The progress bar: its rate and the time left are those of steps, to which compilation does not count."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class StepBar(tqdm):
    """A bar over steps; `compiled` returns the seconds of compilation so far.

    >>> import io
    >>> bar = StepBar(10, 0, quiet=False, compiled=lambda: 0.0, file=io.StringIO())
    >>> bar.begin()
    >>> bar.taken(5)
    >>> bar.n, bar.format_dict["rate"] == 5 / bar.stepping
    (5, True)
    >>> bar.close()
    """

    stepping = 0.0  # seconds

    def __init__(self, total: int, reached: int, quiet: bool, compiled: Callable[[], float], file: Any = None):
        self._compiled, self._began = compiled, (0.0, 0.0)
        look: Any = dict(unit="step", file=file or sys.stderr, dynamic_ncols=True)
        interval = 0.1 if look["file"].isatty() else 10.0
        super().__init__(total=total, initial=reached, disable=quiet, mininterval=interval, **look)

    def compiling(self, name: str) -> None:
        """Say that a process is being compiled."""
        self.set_description(f"compiling {name}")

    def begin(self) -> None:
        """Note that steps begin."""
        self._began = time.perf_counter(), self._compiled()

    def taken(self, steps: int) -> None:
        """Note that so many steps were taken since `begin`."""
        began, compiled = self._began
        self.stepping += max(time.perf_counter() - began - (self._compiled() - compiled), 0.0)
        self.update(steps)

    @property
    def format_dict(self) -> Any:
        """What tqdm shows."""
        rate = (self.n - self.initial) / self.stepping if self.stepping and hasattr(self, "initial") else None
        return {**super().format_dict, "rate": rate}

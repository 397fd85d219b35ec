"""Where a run is judged: from some steps after its first crossing of the edge on, if it goes on for long enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..record.measures import SMOOTHING, first_crossing
from ..record.run import Run
from .definitions import LIMITS, LONG, SETTLING


@dataclass(frozen=True)
class Window:
    """The steps over which averages are compared.

    `crossing` is the first step at the edge, None where it is not reached. Averages begin at step `settled`;
    `unsettled` says why they cannot be judged and is empty where they can.
    """

    crossing: int | None
    settled: int
    unsettled: str

    @classmethod
    def of(cls, run: Run) -> Window:
        """Return the window of a run with a central flow."""
        crossing = first_crossing(run)
        if crossing is None:
            return cls(None, SETTLING, "no edge reached")
        at_once = run.config.get("average_start") and crossing <= 2 * SMOOTHING  # the edge was there
        needed, after = SMOOTHING if at_once else SETTLING, run.size("central") - 1 - crossing
        short = f"{after} steps after the first crossing, more than {needed} are needed"
        return cls(crossing, crossing + needed, "" if after > needed else short)

    def late(self, steps: int, failed: bool = False) -> str:
        """Return what to do where a run of so many steps met the edge too late; empty where it did not.

        `failed` says that it misses a limit: then a stay that is not long may be the reason.

        >>> Window(100, 250, "20 steps after the first crossing, more than 150 are needed").late(120)
        '; the edge is first met at step 100 of 120: take at least 251 steps'
        >>> Window(100, 250, "").late(300), Window(100, 250, "").late(300, failed=True)
        ('', '; the edge is first met at step 100 of 300, which may be too late: try 400 steps or more')
        """
        if self.crossing is None:
            return ""
        met = f"; the edge is first met at step {self.crossing} of {steps}"
        if self.unsettled:
            return f"{met}: take at least {self.settled + 1} steps"
        short = failed and steps < self.crossing + LONG
        return f"{met}, which may be too late: try {self.crossing + LONG} steps or more" if short else ""

    def averaged(self, series: np.ndarray) -> np.ndarray:
        """Return what averages are taken of."""
        return series[self.settled :]

    def feasible(self, relative: np.ndarray) -> int:
        """Return the step from which eigenvalues are judged: the first crossing, or where an infeasible start is over.

        A run that starts above the edge is pulled back at a bounded rate, so the steps until then say nothing.
        `relative (T, k)` are eigenvalues relative to the threshold.
        """
        crossing = self.crossing or 0
        if not relative.size or not np.nanmax(relative[0], initial=0.0) > LIMITS.largest_eigenvalue:
            return crossing
        back = np.flatnonzero(np.nanmax(relative, axis=1, initial=0.0) <= LIMITS.largest_eigenvalue)
        return max(crossing, int(back[0])) if back.size else crossing

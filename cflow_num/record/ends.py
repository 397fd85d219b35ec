"""Weights and states that a run leaves, by process."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..support.errors import InputError

GROUP = "end"  # in the group of a process
STATE, UPDATED = "state_{}", "updated_{}"


class Ending(NamedTuple):
    """What the group `end` of a process holds: arrays by name, and the step they are of."""

    step: int
    arrays: dict[str, np.ndarray]

    def weights(self, process: str, step: int | None = None) -> np.ndarray:
        """Return the weights (n,) at the end, or at a step at which they were kept; `InputError` for another one."""
        if step is None or step == self.step:
            return self.arrays["weights"]
        steps = self.arrays.get("kept_step")
        if steps is None:
            raise InputError(
                f"weights of the {process} process are kept at the end only, step {self.step}: pass keep_weights=N to "
                "the run for every N-th step"
            )
        at = np.flatnonzero(steps == step)
        if not at.size:
            listed = ", ".join(str(s) for s in steps[:3]) + (f", ..., {steps[-1]}" if len(steps) > 3 else "")
            raise InputError(f"step is {step}, weights of the {process} process were kept at {listed} and {self.step}")
        return self.arrays["kept"][at[0]]

    def states(self, process: str, form: str = STATE) -> dict[str, np.ndarray]:
        """Return the states by name; `InputError` where they are not known."""
        begin = form.format("")
        found = {name.removeprefix(begin): x for name, x in self.arrays.items() if name.startswith(begin)}
        if not found:
            raise InputError(
                f"the states of the {process} process are not known where it stopped, step {self.step}: it failed there"
            )
        return found

"""Weights and states that a run leaves, by process."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..support.errors import InputError

GROUP = "ends"  # of a file, with a group for each process; not part of the tree of what is recorded step by step
STATE = "state_"  # begins the name of a state


class Ending(NamedTuple):
    """Where a process ended: arrays by name, and the step they are of."""

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

    def variables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Return dimensions and values for a file."""
        n = len(self.arrays["weights"])
        found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, x in self.arrays.items():
            first = {"kept": "kept_step", "kept_step": "kept_step"}.get(name)
            dims = [f"{name}_{i}" for i in range(x.ndim)] if first is None else [first, "weight"][: x.ndim]
            found[name] = (("weight",) if x.shape == (n,) and first is None else tuple(dims), x)
        return found

    @property
    def has_states(self) -> bool:
        """Whether the states are known: not where a run stopped in the middle of a chunk."""
        return any(name.startswith(STATE) for name in self.arrays)

    def states(self, process: str) -> dict[str, np.ndarray]:
        """Return the states by name; `InputError` where they are not known."""
        if not self.has_states:
            raise InputError(
                f"the states of the {process} process are not known at step {self.step}, where a failure ended it: "
                "its weights are"
            )
        return {name.removeprefix(STATE): x for name, x in self.arrays.items() if name.startswith(STATE)}

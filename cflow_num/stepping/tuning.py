"""The numbers of the anchored solver, each with what it is for and what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass

from .pace import FEW


@dataclass(frozen=True)
class Tuning:
    """What the anchored solver takes for near, small and surprising; nothing here has a unit.

    Weights of the error estimate:

    - `curved`: of the square of what a second stage corrects, relative to the short step;
    - `severity`: of an eigenvalue's relative excess over the threshold;
    - `excess`: relative to c: that much further above the threshold than at the last frame is no surprise.

    Which eigenpairs count, relative to c:

    - `gap`: eigenvalues that near, or due within the step, have curvature gradients;
    - `coupling`: that near also between different ones; half of it where there are more than a few;
    - `wanted`: eigenpairs that near must converge;
    - `crowded`: eigenvalues that near beyond the capacity make it grow.

    How well and how:

    - `tolerance`: of eigenpairs; half as much again where there are more than a few, with half as long steps (with
      that a path with few is off by 2.1e-4, not 1.7e-4);
    - `frames`: precision of frames; the flow's own is that of the weights, and with fewer than `few_weights` nothing is
      gained by it, because single operations cost more than numbers;
    - `split`: from that capacity on, short steps with at most half as many near eigenvalues are compiled apart.
    """

    curved: float = 30.0
    severity: float = 20
    excess: float = 0.005
    gap: float = 0.03
    coupling: float = 0.03
    wanted: float = 0.1
    crowded: float = 0.02
    tolerance: float = 2e-3
    frames: str = "float32"
    few_weights: int = 500
    split: int = 8

    def coupling_for(self, capacity: int) -> float:
        """Return how near different eigenvalues are that have curvature gradients together."""
        return self.coupling if capacity <= FEW else self.coupling / 2

    def tolerance_for(self, capacity: int) -> float:
        """Return the tolerance of eigenpairs."""
        return self.tolerance if capacity <= FEW else 1.5 * self.tolerance


TUNING = Tuning()

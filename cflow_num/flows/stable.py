"""The stable flow: the averaged equations without oscillation. It is what the optimizer follows below the edge."""

from __future__ import annotations

import diffrax as dfx

from .base import Flow
from .phase_space import PhaseSpace


class StableFlow(Flow):
    """dw/dt = -P^{-1} grad L(w), ds/dt = slow drift: an ordinary differential equation."""

    def term(self) -> dfx.ODETerm:
        """Return the flow as a diffrax term."""
        return dfx.ODETerm(lambda t, y, flow: flow.stable_drift(y))


class PhaseSpaceStableFlow(PhaseSpace):
    """The stable flow in phase space: weights, averages of the gradient and slow states; second order in the step."""

    def term(self) -> dfx.ODETerm:
        """Return the flow as a diffrax term."""
        return dfx.ODETerm(lambda t, y, flow: flow.stable_drift(y))

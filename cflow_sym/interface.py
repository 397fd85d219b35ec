"""The only door between the two packages: what every generated module offers, with array types.

A generated module is a flat set of pure JAX functions of `(state, g, hp)`. It holds whatever is *specific to
the optimizer*: elementwise and scalar expressions of the gradient, the state, the hyperparameters and the
moments of the oscillation. Contractions with the Hessian and with the third derivative are the same for every
optimizer and live in `cflow_num`, which never asks which optimizer it runs.

Notation (shapes): weights `w (n,)`, gradient `g (n,)`, preconditioner `P` `()` or `(n,)`, threshold `c ()`,
covariance of the oscillation `Sigma (n, n)` (never formed), third derivative contracted with it `T[Sigma]
(n,)`. One unit of flow time is one optimizer step. Importing this module costs nothing: no JAX, no SymPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Scalar = Float[Array, ""]
    Vector = Float[Array, " n"]
    State = dict[str, Array]
    Hyperparameters = Mapping[str, Array]
    Preconditioner = Scalar | Vector
else:  # shapes are documentation at run time; jaxtyping is not imported for them
    Scalar = Vector = State = Hyperparameters = Preconditioner = Any


class MissingFlowError(LookupError):
    """There is no generated module for an optimizer; the message says how to write it."""


class Moments(NamedTuple):
    """What a slow state can feel of the oscillation; each entry is linear in Sigma.

    - `gradient_shift (n,)`: T[Sigma]/2, the averaged gradient minus the gradient;
    - `gradient_variance (n,)`: diag(H Sigma H), the averaged squared gradient minus the squared gradient.
    """

    gradient_shift: Vector
    gradient_variance: Vector


class Filter(NamedTuple):
    """Filters m_i' = b_i m_i + a_i g and the direction sum_i phi_i m_i' + r g (theory: canonical form).

    Without momentum `b`, `a`, `phi` have length 0 and `r = 1`. `decay` is the decoupled weight decay of one
    step.
    """

    b: Float[Array, " filters"]
    a: Float[Array, " filters"]
    phi: Float[Array, " filters"]
    r: Scalar
    decay: Scalar


class HyperparameterInfo(NamedTuple):
    """Name, symbol and range of one hyperparameter, as data: `lower < value < upper` (closed where said)."""

    name: str
    symbol: str
    default: float | None
    lower: float
    upper: float
    closed_below: bool
    meaning: str


@runtime_checkable
class CompiledFlow(Protocol):
    """The protocol that every generated module fulfils (a module is checked like an object).

    `SLOW_STATES` maps a state's name to its kind: `"scalar"` (shape `()`), `"elementwise"` (shape `(n,)`) or
    `"counter"` (`()`). Every flow has the counter `t`: the number of updates of the states made so far.
    `P` depends on slow states only. A flow's state at time t is the one used in the step that leaves w_t
    (published convention): `update_state(initial_state(w), g(w_0))` starts a flow.
    """

    NAME: str
    TITLE: str
    SWITCHES: tuple[str, ...]
    HYPERPARAMETERS: tuple[HyperparameterInfo, ...]
    SLOW_STATES: Mapping[str, str]
    FILTERED_STATES: tuple[str, ...]
    SOURCE_HASH: str

    def initial_state(self, w: Vector, hp: Hyperparameters) -> State:
        """Return the states before the first update."""
        ...

    def update_state(self, state: State, g: Vector, hp: Hyperparameters) -> State:
        """Update every state with the gradient at the current weights: the first half of a discrete step."""
        ...

    def update_weights(self, w: Vector, state: State, g: Vector, hp: Hyperparameters) -> Vector:
        """Return w' from the updated state: the second half of a discrete step."""
        ...

    def preconditioner(self, state: State, hp: Hyperparameters) -> Preconditioner:
        """Return P, positive: w' - w = -P^{-1} g. Gradient descent: 1/eta."""
        ...

    def preconditioner_drift(self, state: State, state_dot: State, hp: Hyperparameters) -> Preconditioner:
        """Return dP/dt, linear in the rates `state_dot` of the slow states."""
        ...

    def threshold(self, state: State, hp: Hyperparameters) -> Scalar:
        """Return c: no period-two instability iff H <= c P."""
        ...

    def threshold_drift(self, state: State, state_dot: State, hp: Hyperparameters) -> Scalar:
        """Return dc/dt, linear in `state_dot` (zero where c is constant)."""
        ...

    def slow_drift(self, state: State, g: Vector, hp: Hyperparameters) -> State:
        """Return the rates of the slow states without oscillation (the stable flow's)."""
        ...

    def slow_drift_moments(self, state: State, g: Vector, moments: Moments, hp: Hyperparameters) -> State:
        """Return what the oscillation adds to the rates of the slow states, linear in `moments`."""
        ...

    def filter_coefficients(self, state: State, hp: Hyperparameters) -> Filter:
        """Return the filter's coefficients; empty without momentum."""
        ...

    def sigma_squared(
        self,
        S: Scalar,
        grad_dot_grad_S: Scalar,
        grad_sq_norm: Scalar,
        grad_S_sq_norm: Scalar,
        hp: Hyperparameters,
        t: Scalar | float = math.inf,
    ) -> Scalar:
        """Return the unclamped variance along the unit eigenvector for one critical eigenvalue at the edge.

        `t` is the counter, which matters while bias correction lasts; at infinity it has died out. Scalar
        preconditioners only; a flow with an elementwise P raises `NotImplementedError` with the reason.
        """
        ...

    def averaged_squared_gradient(self, g: Vector, moments: Moments) -> Vector:
        """Return E[grad^2] per coordinate; its sum is the averaged squared gradient norm."""
        ...

    def predicted_loss(self, loss: Scalar, curvature_of_oscillation: Scalar) -> Scalar:
        """Return E[loss] from the loss and <Sigma, H>."""
        ...

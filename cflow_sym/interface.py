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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


OTHER_NAMES = {  # of the built-in optimizers, in other libraries
    "sgd": "gradient_descent",
    "gd": "gradient_descent",
    "momentum": "heavy_ball",
    "nag": "nesterov",
    "ngd": "normalized_gradient_descent",
}


class MissingFlowError(LookupError):
    """There is no generated module for an optimizer; the message says how to write it."""


class Moments(NamedTuple):
    """What a slow state can feel of the oscillation; each entry is linear in Sigma.

    - `gradient_shift (n,)`: T[Sigma]/2, the averaged gradient minus the gradient;
    - `gradient_variance (n,)`: diag(H Sigma H), the averaged squared gradient minus the squared gradient;
    - `signs_at (n,)`: the variance at which signs in the rates are taken, `gradient_variance` where it is None. With
      it given the rates are affine in the first two: a sign stays what it is while the variance is solved for.
    """

    gradient_shift: Vector
    gradient_variance: Vector
    signs_at: Vector | None = None

    @property
    def held_variance(self) -> Vector:
        """The variance of the gradient for which signs are taken."""
        return self.gradient_variance if self.signs_at is None else self.signs_at


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


class Leapfrog(NamedTuple):
    """Coefficients of one leapfrog step of length dt; at dt = 0 those of the centre flow, a differential equation.

    The filter is a sum of F averages, each normalized to g in the steady state: one for each filtered state, in order,
    and, where the gradient enters the step itself, a last one without memory.

    - `rate (F,)`: (m_+ - m) / dt = rate (E[grad L] - m); at dt = 0 the inverse of the memory tau;
    - `weight (F,)`: the direction is sum_i weight_i m_i+; the sum of the weights is the speed v of the reduced flow;
    - `left (F,)`: what is left of a deviation from the steady state; for the start and for what slow states read;
    - `steady (F,)`: the optimizer's own state per unit of a gradient that stands still;
    - `w_rate ()`: (w_+ - w) / dt = -w_rate (P^{-1} direction + decay w); `decay ()`: of one optimizer step;
    - `push ()`: how far a change of E[grad L] moves the weights within the step, in units of -dt P^{-1}.
    """

    rate: Float[Array, " F"]
    weight: Float[Array, " F"]
    left: Float[Array, " F"]
    steady: Float[Array, " F"]
    w_rate: Scalar
    decay: Scalar
    push: Scalar


@dataclass(frozen=True)
class Reference:
    """The program that an optimizer was traced from, in JAX; hyperparameters under the spec's names.

    `init(params, hp) -> state` and `update(grads, state, params, hp) -> (updates, state)`. With `single` they work on
    one vector, else on any pytree of arrays. `trace(params)` returns the spec traced on other parameters. A module
    compiled from a traced spec carries the program in `REFERENCE`.
    """

    init: Callable[[Any, Mapping[str, Any]], Any]
    update: Callable[[Any, Any, Any, Mapping[str, Any]], tuple[Any, Any]]
    single: bool = False
    trace: Callable[[Any], Any] | None = None


class HyperparameterInfo(NamedTuple):
    """Name, symbol and range of one hyperparameter, as data: `lower < value < upper` (closed where said).

    A `schedulable` one may be a `Schedule` instead of a number. One with `values` has one for each array of the
    parameters; functions get it as an array `(n,)`.
    """

    name: str
    symbol: str
    default: float | None
    lower: float
    upper: float
    closed_below: bool
    meaning: str
    schedulable: bool = False
    values: tuple[float, ...] = ()


@runtime_checkable
class Schedule(Protocol):
    """A hyperparameter that depends on time: `schedule(t)` is its value at the update with count t (1, 2, ...)."""

    def __call__(self, t: Scalar) -> Scalar:
        """Return the value at count t, which need not be a whole number along a flow."""
        ...

    def rate(self, t: Scalar) -> Scalar:
        """Return the derivative of the value by t."""
        ...


def value_at(value: Any, t: Any) -> Any:
    """Return a hyperparameter's value at count t: a number is itself, a schedule is evaluated.

    >>> value_at(0.1, 3.0), value_at(lambda t: t / 10, 3.0)
    (0.1, 0.3)
    """
    return value(t) if callable(value) else value


def rate_at(value: Any, t: Any) -> Any:
    """Return how fast a hyperparameter changes at count t: 0 for a number.

    >>> rate_at(0.1, 3.0)
    0.0
    """
    return value.rate(t) if callable(value) else 0 * value


class Blocks(Protocol):
    """The blocks (layers) that the weights fall into; passed as `hp["blocks"]` to flows with blockwise states."""

    def total(self, v: Vector) -> Any:
        """Return the sums over the blocks: (n,) -> (B,)."""
        ...

    def spread(self, x: Any) -> Vector:
        """Return each block's value at each of its weights: (B,) -> (n,)."""
        ...


@runtime_checkable
class CompiledFlow(Protocol):
    """The protocol that every generated module fulfils (a module is checked like an object).

    `SLOW_STATES` maps a state's name to its kind: `"scalar"` (shape `()`), `"elementwise"` (`(n,)`), `"blockwise"`
    (`(B,)`, `hp["blocks"]` maps to weights and back) or `"counter"` (`()`). Every flow has the counter `t`: the number
    of updates of the states made so far. `P` depends on slow states and t only. A flow's state at time t is the one
    used in the step that leaves w_t (published convention): `update_state(initial_state(w), g(w_0))` starts a flow.

    States in `STATIONARY` have a value at which they stand still, `stationary_state`; those in `MEMORYLESS` are there
    at every time, so their rates are not used. Rates of those in `PIECEWISE` depend on signs that the oscillation may
    change (`Moments.signs_at`). Everywhere `g` is the gradient of the loss plus
    `l2_penalty(hp)`/2 |w|^2. Hyperparameters are arrays `()` or, where schedulable, schedules.

    With momentum (`FILTERED_STATES`), `slow_drift`, `sigma_squared` and what else is in the published convention belong
    to the *reduced* flow, dw/dt = -v P^{-1} E[grad L] - decay w; `leapfrog` and the functions after it to the centre
    flow, whose states live half a step away from the weights.
    """

    NAME: str
    TITLE: str
    SWITCHES: tuple[str, ...]
    HYPERPARAMETERS: tuple[HyperparameterInfo, ...]
    SLOW_STATES: Mapping[str, str]
    FILTERED_STATES: tuple[str, ...]
    MEMORYLESS: tuple[str, ...]
    STATIONARY: tuple[str, ...]
    PIECEWISE: tuple[str, ...]
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

    def l2_penalty(self, hp: Hyperparameters) -> Scalar:
        """Return rho: coupled weight decay adds rho/2 |w|^2 to the loss, and g is the gradient of the sum."""
        ...

    def preconditioner(self, state: State, hp: Hyperparameters) -> Preconditioner:
        """Return P, positive: w' - w = -P^{-1} g - decay w. Gradient descent: 1/eta."""
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

    def gain(self, state: State, hp: Hyperparameters) -> Scalar:
        """Return d log|z| / d log lambda at the edge: how sharply the oscillation grows beyond it."""
        ...

    def burst_index(self, state: State, hp: Hyperparameters) -> Scalar:
        """Return by how many e-folds cycles about the flow grow per relative sharpening that they prevent."""
        ...

    def characteristic_polynomial(self, state: State, lam: Scalar, hp: Hyperparameters) -> Float[Array, " powers"]:
        """Return the coefficients, falling, of the polynomial whose roots multiply a mode of effective eigenvalue lam.

        The leftmost root is the multiplier of the oscillation of period two: -1 at the threshold.
        """
        ...

    def slow_drift(self, state: State, g: Vector, hp: Hyperparameters) -> State:
        """Return the rates of the slow states without oscillation (the stable flow's)."""
        ...

    def slow_drift_moments(self, state: State, g: Vector, moments: Moments, hp: Hyperparameters) -> State:
        """Return what the oscillation adds to the rates of the slow states, linear in `moments`."""
        ...

    def stationary_state(self, state: State, g: Vector, hp: Hyperparameters) -> State:
        """Return, for the states in `STATIONARY`, the values at which they stand still without oscillation."""
        ...

    def stationary_state_moments(self, state: State, g: Vector, moments: Moments, hp: Hyperparameters) -> State:
        """Return what the oscillation adds to these values, linear in `moments`."""
        ...

    def filter_coefficients(self, state: State, hp: Hyperparameters) -> Filter:
        """Return the filter's coefficients; empty without momentum."""
        ...

    def leapfrog(self, state: State, hp: Hyperparameters, dt: Scalar | float) -> Leapfrog:
        """Return the coefficients of a leapfrog step; `state["t"]` is the count in the middle of the step."""
        ...

    def leap_slow(self, state: State, g: Vector, hp: Hyperparameters, dt: Scalar | float) -> State:
        """Return (s_+ - s) / dt of the slow states without oscillation; filtered states in `state` are those read."""
        ...

    def leap_slow_moments(
        self, state: State, g: Vector, moments: Moments, hp: Hyperparameters, dt: Scalar | float
    ) -> State:
        """Return what the oscillation adds to these rates, linear in `moments`."""
        ...

    def start_slow(self, state: State, g: Vector, hp: Hyperparameters, dt: Scalar | float) -> State:
        """Return the change of the slow states from before their update to where a leapfrog of step dt starts."""
        ...

    def sigma_squared(
        self,
        S: Scalar,
        grad_dot_grad_S: Scalar,
        grad_sq_norm: Scalar,
        grad_S_sq_norm: Scalar,
        hp: Hyperparameters,
        t: Scalar | float = math.inf,
        w_dot_grad_S: Scalar | float = 0.0,
    ) -> Scalar:
        """Return the unclamped variance along the unit eigenvector for one critical eigenvalue at the edge.

        `t` is the counter, which matters while bias correction lasts (at infinity it has died out) and for
        schedules; `w_dot_grad_S` matters for decoupled decay. Scalar
        preconditioners only; a flow with an elementwise P raises `NotImplementedError` with the reason.
        """
        ...

    def averaged_squared_gradient(self, g: Vector, moments: Moments) -> Vector:
        """Return E[grad^2] per coordinate; its sum is the averaged squared gradient norm."""
        ...

    def predicted_loss(self, loss: Scalar, curvature_of_oscillation: Scalar) -> Scalar:
        """Return E[loss] from the loss and <Sigma, H>."""
        ...

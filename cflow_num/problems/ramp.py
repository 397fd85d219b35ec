"""A valley of constant sharpness on a constant slope: Scalar RMSProp's central flow is known in closed form.

    L(x, y) = S x^2 / 2 - p y

On the floor x = 0, |g| = p, and nothing regularizes the sharpness: nu alone keeps the edge. With kappa the published
rate (1 - beta2)/beta2: below the edge nu = p^2 + (nu0 - p^2) exp(-kappa t), so that the effective step size grows. If
p < eta S / 2 the edge is reached where sqrt(nu) = eta S / 2; from then on

    sigma^2 = eta^2/4 - p^2/S^2,   dy/dt = 2 p / S   (derived from arXiv 2410.24206, Scalar RMSProp).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..loss.problem import Problem
from ..support.errors import InputError


def ramp(*, S: float = 10.0, p: float = 0.1, x0: float = 0.1) -> Problem:
    """Return the ramp, started at (x0, 0).

    >>> ramp().value(jnp.array([1.0, 1.0])).item()
    4.9
    """
    if S <= 0:
        raise InputError(f"S is {S:g}, it must be positive")
    return Problem(
        _loss,
        jnp.array([x0, 0.0]),
        data={"S": jnp.asarray(float(S)), "p": jnp.asarray(float(p))},
        name="ramp",
        description=f"valley of sharpness {S:g} on a slope of {p:g}",
    )


def _loss(w, c):
    return c["S"] * w[0] ** 2 / 2 - c["p"] * w[1]


def ramp_central_flow(t, *, learning_rate: float, beta2: float, nu0: float, S: float = 10.0, p: float = 0.1):
    """Return the exact central flow of Scalar RMSProp on the floor: arrays y, nu, sigma^2 at times t.

    Valid for p < eta S / 2 < sqrt(nu0): the edge is reached once, from below.

    >>> y, nu, sigma_squared = ramp_central_flow(np.array([0.0, 1e3]), learning_rate=0.1, beta2=0.9, nu0=1.0)
    >>> round(float(nu[1]), 12), round(float(sigma_squared[1]), 12)
    (0.25, 0.0024)
    """
    t, eta, kappa = np.asarray(t, dtype=float), learning_rate, (1 - beta2) / beta2
    edge = (eta * S / 2) ** 2
    arrival = np.log((nu0 - p**2) / (edge - p**2)) / kappa

    def climbed(t):  # integral of eta p / sqrt(nu) below the edge
        root, root0 = np.sqrt(p**2 + (nu0 - p**2) * np.exp(-kappa * t)), np.sqrt(nu0)
        return eta / kappa * (np.log((root + p) / (root - p)) - np.log((root0 + p) / (root0 - p)))

    before = np.minimum(t, arrival)
    y = climbed(before) + 2 * p / S * (t - before)
    nu = p**2 + (nu0 - p**2) * np.exp(-kappa * before)
    return y, nu, np.where(t >= arrival, eta**2 / 4 - p**2 / S**2, 0.0)

"""A valley that sharpens along its floor: the central flow of gradient descent is known in closed form.

    L(x, y, z) = (s0 + y + a z) x^2 / 2 - p y + k z^2 / 2

On the floor x = 0 the sharpness is S = s0 + y + a z, grad S = (0, 1, a) and g = (0, -p, k z). Below the edge the
stable flow climbs: y = y0 + eta p t, z = z0 exp(-eta k t). At the edge S = 2/eta,

    sigma^2 = -2 <g, grad S> / |grad S|^2 = 2 (p - a k z) / (1 + a^2),
    dz/dt = -eta (k z + a p) / (1 + a^2),   y = 2/eta - s0 - a z   (derived from arXiv 2410.24206, gradient descent).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..loss.problem import Problem


def valley(
    *, s0: float = 1.0, a: float = 0.5, p: float = 0.05, k: float = 0.1, x0: float = 1e-2, z0: float = 0.5
) -> Problem:
    """Return the valley, started at (x0, 0, z0).

    >>> valley(x0=0.1).value(jnp.array([2.0, 1.0, 0.0])).item()
    3.95
    """
    data = {"s0": s0, "a": a, "p": p, "k": k}
    return Problem(
        valley_loss,
        jnp.array([x0, 0.0, z0]),
        data={name: jnp.asarray(float(value)) for name, value in data.items()},
        name="valley",
        description=f"valley sharpening along its floor: s0 {s0:g}, a {a:g}, p {p:g}, k {k:g}",
    )


def valley_loss(w, c):
    """Return L(x, y, z) for w = (x, y, z) and the constants c by name."""
    x, y, z = w
    return (c["s0"] + y + c["a"] * z) * x**2 / 2 - c["p"] * y + c["k"] * z**2 / 2


def valley_central_flow(
    t,
    *,
    learning_rate: float,
    s0: float = 1.0,
    a: float = 0.5,
    p: float = 0.05,
    k: float = 0.1,
    z0: float = 0.5,
):
    """Return the exact central flow of gradient descent on the floor: arrays y, z, sigma^2 at times t.

    Valid while the edge is reached once, from below, and sigma^2 stays positive.

    >>> y, z, sigma_squared = valley_central_flow(np.array([0.0, 1000.0]), learning_rate=1.0)
    >>> round(float(1 + y[1] + 0.5 * z[1]), 12), float(sigma_squared[0])
    (2.0, 0.0)
    """
    t, eta = np.asarray(t, dtype=float), learning_rate

    def slack(t):
        return 2 / eta - s0 - eta * p * t - a * z0 * np.exp(-eta * k * t)

    low, high = 0.0, (2 / eta - s0 + abs(a * z0)) / (eta * p)
    for _ in range(200):  # bisection: the time at which the edge is reached
        middle = (low + high) / 2
        low, high = (middle, high) if slack(middle) > 0 else (low, middle)
    arrival = high
    z1, rest, rate = z0 * np.exp(-eta * k * arrival), -a * p / k, eta * k / (1 + a**2)
    at_edge = t >= arrival
    z = np.where(at_edge, rest + (z1 - rest) * np.exp(-rate * (t - arrival)), z0 * np.exp(-eta * k * t))
    y = np.where(at_edge, 2 / eta - s0 - a * z, eta * p * t)
    return y, z, np.where(at_edge, 2 * (p - a * k * z) / (1 + a**2), 0.0)

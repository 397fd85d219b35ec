"""Small problems and optimizers that tests share, as data."""

import jax.numpy as jnp
import numpy as np

from cflow_num.loss.problem import Problem
from cflow_num.optimizer.hyperparameters import as_arrays, resolve


def random_smooth(seed: int, n: int = 5, scale: float = 1.0) -> Problem:
    """Return a smooth non-convex loss in n variables, bounded below: quartic well, cubic coupling, waves."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    data = {
        "A": jnp.asarray(A @ A.T / n),
        "C": jnp.asarray(rng.normal(size=(n, n, n)) / n),
        "k": jnp.asarray(rng.normal(size=n)),
        "scale": jnp.asarray(float(scale)),
    }
    return Problem(_smooth, jnp.asarray(rng.normal(size=n)), data=data, name="random")


def _smooth(w, d):
    cubic = jnp.einsum("ijk,i,j,k", d["C"], w, w, jnp.tanh(w))
    return d["scale"] * (w @ d["A"] @ w / 2 + cubic / 6 + jnp.sum(w**4) / 24 + jnp.sin(d["k"] @ w))


def rotated(problem: Problem, Q) -> Problem:
    """Return the same loss in the coordinates Q w."""
    Q = jnp.asarray(Q)
    return Problem(_smooth_rotated, Q @ problem.w0, data=(problem.data, Q), name="rotated")


def _smooth_rotated(v, d):
    return _smooth(d[1].T @ v, d[0])


def rotation(seed: int, n: int):
    """Return a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def arrays(name: str, problem: Problem, *switches: str, **hp):
    """Return the hyperparameters of a built-in optimizer as arrays, defaults filled in."""
    flow, values = resolve(name, hp | dict.fromkeys(switches, True))
    return as_arrays(flow, values, problem)

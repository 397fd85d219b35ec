"""How the oscillation answers the learning rate: several critical eigenvalues, solved at growing rates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from cflow_num.linalg.complementarity import solve_sdcp
from cflow_num.linalg.symmetric import smat, svec


def scalar_problem(rng, k, n):
    """Return A0 and B of dA/dt = A0 + B[X] as functions of the learning rate, at fixed weights; P = sqrt(nu)/eta = 1.

    With U'U = I, c = 2 and K = c kappa2 the rate of A is <d_ij, g> + <d_ij, d_kl> X_kl/2 plus a drive, here -2 I, plus
    (K/2) [(|g|^2 + 4 tr X)/eta^2 - 1] I.
    """
    d, g, K = rng.normal(size=(k, k, n)), rng.normal(size=n), 0.3
    d = d + np.swapaxes(d, 0, 1)
    basis = [np.asarray(smat(jnp.asarray(e))) for e in np.eye(k * (k + 1) // 2)]
    gram = np.array([[np.einsum("ij,ijn,kln,kl", a, d, d, b) / 2 for b in basis] for a in basis])
    unit = np.asarray(svec(jnp.eye(k)))

    def at(eta):
        A0 = d @ g - 2 * np.eye(k) + K / 2 * (g @ g / eta**2 - 1) * np.eye(k)
        return A0, gram + 2 * K / eta**2 * np.outer(unit, unit)

    return at


def test_trace_never_falls_when_the_learning_rate_grows():
    solve, rng, entries = jax.jit(solve_sdcp), np.random.default_rng(0), 0
    for _ in range(6):
        at = scalar_problem(rng, 3, 8)
        found = []
        for eta in np.geomspace(0.05, 5, 12):
            X, info = solve(*(jnp.asarray(x) for x in at(eta)))
            assert info.converged
            found.append(np.asarray(X))
        traces = np.array([np.trace(X) for X in found])
        assert traces[-1] > traces[0]
        assert np.all(np.diff(traces) >= -1e-8 * traces.max())
        entries += sum(np.linalg.eigvalsh(b - a)[0] < -1e-6 for a, b in itertools.pairwise(found))
    assert entries > 0  # X itself does fall along some direction

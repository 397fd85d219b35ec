"""Optimizers whose groups of arrays have constants of their own: rates, decays, epsilons.

Their generated functions get such a hyperparameter as an array `(n,)` and hold for each weight. With decoupled decays
d_i of their own the edge is H <= diag(c_i P_i), c_i the threshold at d_i. It is written as H <= c diag(P_i c_i / c)
with c that of the first array, so that everything that asks for P and c finds the edge; what moves the weights asks
for the P of the step. How fast the oscillation grows away from the edge is that of the first array, too: the decays of
the others change it by as much as they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import Filter, Leapfrog

Scales = Float[Array, " n"]
State = dict[str, Array]


def with_own_constants(flow: Any) -> Any:
    """Return the flow, with its edge in the form above where groups of arrays have constants of their own."""
    return _wrapped(flow) if any(h.values for h in getattr(flow, "HYPERPARAMETERS", ())) else flow


def each_group(flow: Any, hp: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the hyperparameters of every group of arrays, as numbers."""
    own = [h for h in flow.HYPERPARAMETERS if h.values]
    for values in dict.fromkeys(zip(*(h.values for h in own), strict=True)) if own else [()]:
        numbers = {h.name: jnp.asarray(x, jnp.asarray(hp[h.name]).dtype) for h, x in zip(own, values, strict=True)}
        yield dict(hp) | numbers


def has_own_decays(flow: Any, hp: Mapping[str, Any]) -> bool:
    """Say whether arrays have decoupled decays of their own."""
    return jnp.ndim(flow.filter_coefficients({"t": jnp.ones(())}, hp).decay) > 0


@cache
def _wrapped(flow: Any) -> OwnConstants:
    return OwnConstants(flow)


class OwnConstants:
    """A compiled flow of which `preconditioner` and `threshold` are those of the edge; the rest is the flow's own."""

    def __init__(self, flow: Any) -> None:
        self.flow = flow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.flow, name)

    def step_preconditioner(self, state: State, hp: Mapping[str, Any]) -> Array:
        """Return P of the step, w' - w = -P^{-1} g - decay w."""
        return self.flow.preconditioner(state, hp)

    def preconditioner(self, state: State, hp: Mapping[str, Any]) -> Array:
        """Return P_i c_i / c."""
        return self.flow.preconditioner(state, hp) * self._scales(state, hp)

    def preconditioner_drift(self, state: State, state_dot: State, hp: Mapping[str, Any]) -> Array:
        """Return its rate."""
        P, c = self.flow.preconditioner(state, hp), self.threshold(state, hp)
        scales, dc = self._scales(state, hp), self.threshold_drift(state, state_dot, hp)
        dc_i = self.flow.threshold_drift(state, state_dot, hp)  # () or (n,)
        return self.flow.preconditioner_drift(state, state_dot, hp) * scales + P * (dc_i - scales * dc) / c

    def threshold(self, state: State, hp: Mapping[str, Any]) -> Float[Array, ""]:
        """Return c."""
        return self.flow.threshold(state, self._plain(hp))

    def threshold_drift(self, state: State, state_dot: State, hp: Mapping[str, Any]) -> Float[Array, ""]:
        """Return dc/dt."""
        return self.flow.threshold_drift(state, state_dot, self._plain(hp))

    def gain(self, state: State, hp: Mapping[str, Any]) -> Float[Array, ""]:
        """Return d log|z| / d log lambda at the edge."""
        return self.flow.gain(state, self._plain(hp))

    def characteristic_polynomial(self, state: State, lam: Array, hp: Mapping[str, Any]) -> Array:
        """Return the polynomial whose roots multiply a mode of effective eigenvalue lam."""
        return self.flow.characteristic_polynomial(state, lam, self._plain(hp))

    def filter_coefficients(self, state: State, hp: Mapping[str, Any]) -> Filter:
        """Return the filter, which all arrays share, with the decays `(n,)`."""
        return self.flow.filter_coefficients(state, hp)

    def leapfrog(self, state: State, hp: Mapping[str, Any], dt: Any) -> Leapfrog:
        """Return the coefficients of a leapfrog step on the P of the edge."""
        k, scales = self.flow.leapfrog(state, hp, dt), self._scales(state, hp)
        return k._replace(w_rate=k.w_rate * scales, decay=k.decay / scales, push=k.push * scales)

    def _scales(self, state: State, hp: Mapping[str, Any]) -> Scales | Float[Array, ""]:
        return self.flow.threshold(state, hp) / self.threshold(state, hp)

    def _plain(self, hp: Mapping[str, Any]) -> dict[str, Any]:
        own = {h.name: h.values[0] for h in self.flow.HYPERPARAMETERS if h.values}
        return dict(hp) | {name: jnp.asarray(x, jnp.asarray(hp[name]).dtype) for name, x in own.items()}

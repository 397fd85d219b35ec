"""The filter of an optimizer with momentum at the values of a run: is its instability of period two, how sharp is it?

The derivation settles this at samples of the hyperparameters; here it is settled, numerically, at the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cflow_sym.interface import CompiledFlow, Filter, value_at

from ..support.errors import InputError
from ..support.programs import call
from .own_constants import each_group

LATE = 1e6  # count at which corrections of bias have died out
HIGH_GAIN = 10.0
_SAMPLES = 400  # of the effective eigenvalue below the threshold


class EdgeOfFilter(NamedTuple):
    """Threshold c, gain d log|z| / d log lambda there, memory of the averages by weight in steps, burst index."""

    threshold: float
    gain: float
    memory: float
    burst_index: float


def check_filter(flow: CompiledFlow, hp: Mapping[str, Any], last: int = 1) -> EdgeOfFilter:
    """Return what the edge looks like; raises `InputError` where the instability does not have period two.

    Corrections of bias have died out there. Schedules are held where decoupled decay is largest up to the count `last`.

    >>> from cflow_sym import generated
    >>> edge = check_filter(generated.load("heavy_ball"), {"learning_rate": 0.1, "beta1": 0.9, "weight_decay": 0.0})
    >>> round(edge.threshold, 6), round(edge.gain, 6), round(edge.memory, 6), round(edge.burst_index, 6)
    (3.8, 38.0, 9.5, 722.0)
    """
    counts = jnp.arange(1.0, last + 1)
    edges = [_edge(flow, own, counts) for own in each_group(flow, hp)]
    return max(edges, key=lambda edge: edge.gain)


def _edge(flow: CompiledFlow, hp: Mapping[str, Any], counts: Float[Array, " T"]) -> EdgeOfFilter:
    shown = ", ".join(f"{n} {float(hp[n]):g}" for n in hp if n != "blocks" and not callable(hp[n]))
    coefficients, found = call(_seen, flow, dict(hp), counts)
    refuse_other_periods(coefficients, f"{flow.NAME} with {shown}")
    return EdgeOfFilter(*(float(x) for x in found))


@eqx.filter_jit
def _seen(flow: CompiledFlow, hp: dict[str, Any], counts: Float[Array, " T"]) -> tuple[Filter, tuple[Any, ...]]:
    """Return the filter late in a run and what its edge looks like, where decay is largest."""
    decays = jax.vmap(lambda t: jnp.asarray(flow.filter_coefficients({"t": t}, hp).decay))(counts)
    held = {name: value_at(x, counts[jnp.argmax(decays)]) for name, x in hp.items()}
    late = {"t": jnp.asarray(LATE)}
    k = flow.leapfrog(late, held, 0.0)
    memory = jnp.sum(k.weight / k.rate) / jnp.sum(k.weight)
    edge = flow.threshold(late, held), flow.gain(late, held), memory, flow.burst_index(late, held)
    return flow.filter_coefficients(late, held), edge


def refuse_other_periods(f: Filter, name: str) -> None:
    """Raise `InputError` where a filter has no instability of period two, or another before; `name` says whose it is.

    Scans the roots of z - 1 + d + lambda G(z) below the threshold.
    """
    b, a, phi = (np.asarray(x, float) for x in (f.b, f.a, f.phi))
    r, d = float(f.r), float(f.decay)
    if b.size and not np.all((b >= 0) & (b < 1)):
        bad = b[~((b >= 0) & (b < 1))][0]
        raise InputError(
            f"an average of {name} keeps {bad:g} of its old value, which is unstable by itself or alternates: the "
            "share must be at least 0 and less than 1"
        )
    at_edge = float(np.sum(phi * a / (1 + b)) + r)
    if not at_edge > 0:
        raise InputError(
            f"{name} answers an alternating gradient with G(-1) = {at_edge:.4g}, which is not "
            "positive: there is no threshold of period two; give the gradient more weight against its averages"
        )
    _scan_roots(name, b, a, phi, r, d, (2 - d) / at_edge)


def warning(flow: CompiledFlow, edge: EdgeOfFilter) -> str:
    """Return what to expect of a high gain; empty where the gain is moderate."""
    if edge.gain <= HIGH_GAIN:
        return ""
    return (
        f"the gain of {flow.NAME} at the edge is {edge.gain:.3g} (2 without momentum): its oscillation grows by "
        f"{edge.gain:.3g} % a step for every percent beyond the threshold, and cycles about the flow by "
        f"{edge.burst_index / 100:.3g} e-folds for every percent of sharpening prevented, so expect bursts, which no "
        "flow follows: use less momentum or read the flow as an average over bursts"
    )


def _scan_roots(name: str, b: np.ndarray, a: np.ndarray, phi: np.ndarray, r: float, d: float, c: float) -> None:
    """Refuse the first root that leaves the unit disc below the threshold c."""
    poles = np.poly(b)  # prod (z - b_i)
    output = r * poles
    for i in range(b.size):
        others = np.poly(np.delete(b, i))
        output = np.polyadd(output, phi[i] * a[i] * np.append(others, 0.0))  # z times the product of the others
    still = np.polymul([1.0, d - 1], poles)

    def largest(lam: float) -> complex:
        roots = np.roots(np.polyadd(still, lam * output))
        return complex(roots[np.argmax(np.abs(roots))])

    fractions = np.concatenate([np.geomspace(1e-6, 1e-2, 40), np.linspace(1e-2, 0.999, _SAMPLES)])
    for before, here in zip(np.append(0.0, fractions), fractions, strict=False):
        if abs(largest(here * c)) > 1 + 1e-9:
            low, high = before, here
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (low, middle) if abs(largest(middle * c)) > 1 + 1e-9 else (middle, high)
            root = largest(high * c)
            raise InputError(
                f"{name} becomes unstable at the effective eigenvalue {high * c:.4g}, before the "
                f"threshold {c:.4g} of period two: its root {root:.3g} leaves the unit disc there, for which no "
                "central flow exists; choose other weights of the averages"
            )

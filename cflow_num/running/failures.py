"""Why a process cannot go on: a failure is a value that carries the step and the sentence the user reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cflow_sym.interface import CompiledFlow

from ..flows.piecewise import MISSED
from ..stepping.log import Log
from ..support.errors import NO_GRADIENT
from .chunk import Records

RESIDUAL_LIMIT = 1e-6  # relative residual of the complementarity problem at which a flow stops (float32: 1e-3)
EIGEN_LIMIT = 0.02  # residual of a critical eigenpair, relative to the largest eigenvalue, at which a flow stops
REST_LIMIT = 0.05  # relative change left by the iteration at which a stationary flow stops
COLLAPSE = (
    "its time steps collapse there, as at a kink, at rounding, where it diverges or where a preconditioner vanishes: "
    "use a smaller learning rate or a positive epsilon"
)


class Failure(NamedTuple):
    """The first step of a chunk (0-based) at which a process is no good any more, and why, in one sentence."""

    step: int
    sentence: str


class Check(NamedTuple):
    """At which steps of a chunk, `bad (T,)`, a sentence is true of a process."""

    bad: np.ndarray
    sentence: str


def first_failure(records: Records, optimizer: CompiledFlow, relaxes: bool) -> Failure | None:
    """Return what fails first in a chunk; at one step numbers that are not finite come before what follows from them.

    `relaxes`: whether states are brought to rest by iteration.
    """
    if int(records.reason) == 0:
        checks = [*_of_numbers(records)]
    else:
        finite = np.isfinite(np.asarray(records.seen.loss))
        checks = [Check(~finite | (np.arange(finite.size) == finite.size - 1), COLLAPSE)]
    if records.log is not None:
        checks += [*_of_oscillation(records.log, relaxes)]
    if records.missed is not None:
        checks.append(_of_signs(np.asarray(records.missed), optimizer))
    found = [Failure(int(np.argmax(bad)), sentence) for bad, sentence in checks if bad.any()]
    return min(found, key=lambda failure: failure.step, default=None)


def _of_numbers(records: Records) -> Iterator[Check]:
    finite, slope = np.isfinite(np.asarray(records.seen.loss)), np.asarray(records.seen.gradient_norm)
    weights = np.isfinite(np.asarray(records.w)).all(axis=1)
    known, smaller = finite & weights, "use a smaller learning rate"
    yield Check(~finite, f"it diverges (its loss is not finite), {smaller}")
    yield Check(finite & ~weights, f"it diverges (its weights are not finite), {smaller}")
    yield Check(known & np.isinf(slope), f"it diverges (the norm of its gradient is infinite), {smaller}")
    yield Check(known & np.isnan(slope), f"its gradient is nan where its loss is finite: {NO_GRADIENT}")


def _of_oscillation(log: Log, relaxes: bool) -> Iterator[Check]:
    residual, eigen = np.asarray(log.residual), np.asarray(log.eigen_residual)
    if relaxes:
        yield Check(~(residual <= REST_LIMIT), f"its states do not come to rest (relative change above {REST_LIMIT:g})")
    else:
        limit = max(RESIDUAL_LIMIT, 1e4 * float(np.finfo(residual.dtype).eps))
        yield Check(
            ~(residual <= limit), f"no oscillation keeps the edge there (complementarity residual above {limit:.0e})"
        )
    yield Check(~(eigen <= EIGEN_LIMIT), f"a critical eigenpair has a relative residual above {EIGEN_LIMIT:g}")


def _of_signs(missed: np.ndarray, optimizer: CompiledFlow) -> Check:
    return Check(
        missed > MISSED,
        f"signs in the rate of {', '.join(optimizer.PIECEWISE)} change within a period of the oscillation, so that its "
        f"average is off by {missed.max():.0%}: no flow of {optimizer.NAME} is derived for that",
    )

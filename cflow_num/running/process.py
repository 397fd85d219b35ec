"""A process: the discrete optimizer or a flow (`kinds.py`), advanced in chunks of whole steps.

A process is data (`Flow`, capacity, solver) and two compiled functions. One chunk (`chunk.py`) is one call without host
round trips; what it returns for each step is an `Observation`, the weights (for comparison in lockstep, never kept),
and, for constrained flows, the `Log` of the last sub-step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_sym.interface import CompiledFlow

from ..flows.base import Flow, FlowState, Observation
from ..linalg.eigenpairs import block_size, start_block
from ..loss.problem import Problem
from ..stepping.base import SolverState
from ..stepping.start import RELAXED, SETTLED, SETTLING_ITERATIONS, closer_to_rest
from ..stepping.tuning import TUNING
from ..support.errors import InputError, RunError, check_one_of
from ..support.programs import call, compile_ahead, compiled_for
from .chunk import Options, Records, advance_chunk
from .effort import effort_for
from .failures import Failure, first_failure
from .kinds import DEFAULT_INTEGRATOR, KINDS, Beginning, Case
from .looks import Past
from .path import Carry
from .settings import Settings

CAPACITY_STEP = 4
MOST_CRITICAL = 24  # a flow that needs more stops: its cost grows with their sixth power, and it has left the edge


class Process:
    """One process of a run, with its own compiled chunk; `capacity` grows when eigenvalues arrive."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        optimizer: CompiledFlow,
        hp: dict[str, Any],
        *,
        integrator: str | None = Settings.integrator,
        chunk: int = 10,
        eig_every: int = Settings.eig_every,
        capacity: int = CAPACITY_STEP,
        coordinates: tuple[int, ...] = (),
        budget: bool = Settings.budget,
        onset: str = Settings.onset,
        closure_step: float = Settings.closure_step,
        diagnostics: tuple[str, ...] = Settings.diagnostics,
        effort: str = Settings.effort,
        last: int = 0,
    ):
        check_one_of("process", name, KINDS)
        self._kind = KINDS[name]
        self._case = Case(
            problem,
            hp,
            optimizer,
            integrator or DEFAULT_INTEGRATOR,
            onset,
            closure_step,
            budget and name == "central",
            diagnostics,
        )
        self._case.check()
        self._kind.check(self._case)
        self.name, self.chunk, self.capacity = name, chunk, min(capacity, problem.n_weights)
        self._eig_every, self.coordinates = eig_every, coordinates  # the weights whose own values are kept
        self.effort = effort_for(problem, effort)
        self.last = last  # the step whose states are wanted
        self.method = self._kind.method(self._case)
        self.seconds, self.compile_seconds = 0.0, 0.0
        self._refusal: RunError | None = None  # known at the start, told in place of the first chunk
        if self.constrained and not self.method.solver.fits(problem.n_weights, self.capacity):
            raise InputError(
                f'integrator "{self._case.integrator}" cannot track {self.capacity} eigenvalues of {problem.n_weights} '
                'weights: use integrator "heun"'
            )

    @property
    def constrained(self) -> bool:
        """Whether the process carries an oscillation fixed by complementarity."""
        return self._kind.constrained

    @property
    def interpolates(self) -> bool:
        """Whether eigenvalues are evaluated where they move, and interpolated between."""
        return not self._eig_every

    @property
    def _relaxes(self) -> bool:
        return self._kind.relaxes(self._case)

    def flow(self) -> Flow:
        """Return the flow (or optimizer) with the current capacity."""
        return self._kind.flow(self._case, self.capacity)

    def start(
        self, y: FlowState, before: dict[str, Array] | None = None, oscillation: FlowState | None = None
    ) -> tuple[Carry, Observation]:
        """Return the carry at step 0 and the observation there.

        `y` is where the optimizer stands, all states updated with the gradient there; `before` are the states before
        that update, which flows in phase space and closures start from; these with an `oscillation` around it.
        """
        seen = self._first_look(y)
        while self.constrained and not self._refusal and self._short_of(seen):
            try:
                self._widen()
            except RunError as error:
                self._refusal = error
            else:
                seen = self._first_look(y)
        at = Beginning(y, before, oscillation, seen.V, seen.effective_eigenvalues)
        carry, self.method = self._kind.started(self._case, self.flow(), self.method, at)
        if not self._eig_every:
            carry = carry._replace(past=Past.begun(self.flow(), seen.effective_eigenvalues))
        return (self._settle(carry) if self._kind.settles else carry), seen

    def _first_look(self, y: FlowState) -> Observation:
        """Return the observation at the start, from a random block."""
        V = start_block(y.w.size, block_size(self.capacity, y.w.size), y.w.dtype)
        for _ in range(20):
            seen = call(_observe, Flow(*self._case.parts), y, V, self.capacity)
            V = seen.V
            if bool(seen.converged):
                return seen
        raise RunError(
            f"the leading eigenvalues did not converge at the start of the {self.name} process "
            f"(found {float(seen.effective_eigenvalues[0]):.4g}): the Hessian may be zero or not finite "
            "there, or a hyperparameter far too large or too small"
        )

    def _short_of(self, seen: Observation) -> bool:
        """Whether more eigenvalues are seen near or above the threshold than there is room for, before compiling."""
        lam = seen.effective_eigenvalues
        return self.capacity < lam.size and bool(lam[self.capacity] > (1 - TUNING.wanted) * seen.threshold)

    def _settle(self, carry: Carry) -> Carry:
        """Bring the states to rest at the start, with the oscillation that keeps the edge there."""
        for _ in range(SETTLING_ITERATIONS):
            assert isinstance(carry.solver, SolverState)
            slow, memory, change, untracked = call(closer_to_rest, self.flow(), carry.y.state, carry.solver)
            state = carry.y.state._replace(slow=slow)
            carry = carry._replace(y=carry.y._replace(state=state), solver=memory)
            if self.crowded(untracked) and self.capacity < carry.V.shape[0]:
                carry = self.grow(carry)
            elif float(change) < (RELAXED if self._relaxes else SETTLED):
                return carry
        raise RunError(
            f"the states do not come to rest at the start (relative change {float(change):.2g} after "
            f"{SETTLING_ITERATIONS} iterations): use a smaller learning rate, or a positive epsilon"
        )

    def static(self) -> Any:
        """Return all that the compiled chunk depends on beside the values of arrays."""
        arrays, static = eqx.partition((self.flow(), *self._options(None)), eqx.is_array)
        return jax.tree.map(lambda x: (x.shape, x.dtype.name), arrays), static

    def arguments(self, carry: Carry) -> tuple:
        """Return what `advance_chunk` is called with."""
        return (self.flow(), carry, *self._options(jnp.asarray(self.method.dt), jnp.asarray(self.last, jnp.int32)))

    def path_arguments(self, carry: Carry) -> tuple:
        """Return what `advance_path` is called with: the same without what is observed."""
        options = self._options(jnp.asarray(self.method.dt))
        return self.flow(), carry, options.chunk, options.solver, options.dt, options.pace

    def _options(self, dt: Any, last: Any = None) -> Options:
        return Options(self.chunk, self._eig_every, self.coordinates, self.method.solver, dt, self.method.pace, last)

    def compile_ahead(self, carry: Carry) -> None:
        """Begin to compile the chunk, beside what goes on."""
        if not self._refusal:
            began = time.perf_counter()
            compile_ahead(advance_chunk, self.arguments(carry), self.effort)
            self.compile_seconds += time.perf_counter() - began

    def compiled(self, carry: Carry) -> Callable:
        """Return the compiled chunk; what is waited for it counts as compilation."""
        if self._refusal:
            raise self._refusal
        began = time.perf_counter()
        program = compiled_for(advance_chunk, self.arguments(carry), self.effort)
        self.compile_seconds += time.perf_counter() - began
        return program

    def memory(self, carry: Carry) -> int:
        """Return the bytes that a chunk takes on a device, as the compiler reports them; 0 where it does not."""
        program: Any = self.compiled(carry)  # Equinox's, around JAX's
        found = program.compiled.memory_analysis()
        if found is None:
            return 0
        sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
        return int(sum(sizes) - found.alias_size_in_bytes)

    def advance(self, carry: Carry) -> tuple[Carry, Records]:
        """Advance one chunk, growing the capacity (and taking the chunk again) where eigenvalues arrive."""
        while True:
            compiled, arguments = self.compiled(carry), self.arguments(carry)
            began = time.perf_counter()
            after, records = jax.block_until_ready(compiled(*arguments))
            taken = time.perf_counter() - began
            if not self.must_grow(records):
                self.seconds += taken
                return after, records
            carry = self.grow(carry)

    def must_grow(self, records: Records) -> bool:
        """Whether eigenvalues arrived beyond the capacity, so that the chunk must be taken again."""
        if records.log is None or self.capacity >= records.w.shape[1]:
            return False
        seen = records.seen.effective_eigenvalues[:, self.capacity] / records.seen.threshold
        return self.crowded(np.fmax(np.asarray(records.log.untracked), np.asarray(seen)))

    def crowded(self, untracked: Any) -> bool:
        """Whether eigenvalues beyond the capacity, relative to the threshold, are so near that it must grow."""
        return bool(np.any(np.asarray(untracked) > 1 - self.method.solver.crowded))

    def grow(self, carry: Carry) -> Carry:
        """Double the capacity; raises `RunError` where the integrator cannot."""
        assert carry.solver is not None
        n, old = carry.V.shape[0], self.capacity
        self._widen()
        extra, more = block_size(self.capacity, n) - carry.V.shape[1], self.capacity - old
        scale = jnp.linalg.norm(carry.V) / np.sqrt(n * carry.V.shape[1]).item()
        new = scale * start_block(n, extra, carry.V.dtype, seed=self.capacity)
        y = carry.y
        log = y.log._replace(
            sigma_eigenvalues=jnp.pad(y.log.sigma_eigenvalues, (0, more)),
            sigma_covectors=jnp.pad(y.log.sigma_covectors, ((0, 0), (0, more))),
        )
        return carry._replace(
            y=y._replace(log=log),
            V=jnp.concatenate([carry.V, new], 1),
            solver=carry.solver.grown(new, more),
            past=None if carry.past is None else carry.past.grown(extra),
        )

    def _widen(self) -> None:
        """Double the capacity alone; raises `RunError` where the integrator cannot."""
        n = self._case.problem.n_weights
        if self.capacity >= MOST_CRITICAL:
            raise RunError(f"more than {MOST_CRITICAL} eigenvalues are at the threshold, use a smaller learning rate")
        self.capacity = min(2 * self.capacity, MOST_CRITICAL, n)
        if not self.method.solver.fits(n, self.capacity):
            raise RunError(f"its eigen-solver cannot track {self.capacity} eigenvalues of {n} weights, use heun")

    def failure(self, records: Records) -> Failure | None:
        """Return where in the chunk this process failed first, and why; None where it did not."""
        return first_failure(records, self._case.optimizer, self._relaxes)


@eqx.filter_jit
def _observe(flow: Flow, y: FlowState, V: Array, capacity: int) -> Observation:
    return flow.observe(y, V, capacity)

"""The kinds of process: for each name which flow runs, of which optimizers, by which method, and how it starts.

A new one is a file of its own that ends with `register(...)`: runs, verdicts and pictures made in the same Python
process know it then. Its path through a chunk is that of its flow's class (`path.py`); for a class of its own the same
file says it, with `@path_of.register`. A new integrator is an entry of `INTEGRATORS`.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cflow_sym.interface import CompiledFlow

from ..flows.base import Flow, FlowState
from ..flows.central import CentralFlow
from ..flows.closures.base import Closure
from ..flows.closures.edge import Edge
from ..flows.closures.envelope import Envelope
from ..flows.closures.rod import Rod
from ..flows.discrete import DiscreteOptimizer
from ..flows.leapfrog import LeapfrogFlow
from ..flows.phase_space import PhaseSpace, slow_states
from ..flows.stable import PhaseSpaceStableFlow, StableFlow
from ..flows.stationary import StationaryFlow
from ..linalg.eigenpairs import start_block
from ..loss.problem import Problem
from ..optimizer.filter import LATE
from ..record import variables
from ..stepping import amplitudes
from ..stepping.anchored import Anchored, AnchoredState
from ..stepping.base import SolverState
from ..stepping.control import Motion
from ..stepping.dropped_terms import opened
from ..stepping.half_explicit import HalfExplicitHeun
from ..stepping.leapfrog import Leapfrog
from ..stepping.log import LoggedState, empty_log
from ..stepping.pace import LEAP, STEP, Pace, paced
from ..stepping.published import Published
from ..stepping.start import stiffness
from ..stepping.stationary import StationaryHeun
from ..stepping.tuning import TUNING
from ..support.errors import InputError, RunError, check_one_of
from ..support.programs import call
from .path import Carry

ONSETS = ("published", "delayed")
DEFAULT_INTEGRATOR = "anchored"  # for every optimizer: with momentum its short steps are leapfrogs in phase space
MOST_PER_UNIT = 1000  # time steps, where they are of one length


class Method(NamedTuple):
    """How a process is advanced: its solver, where it has one, time step, pace; `staggered` in phase space always."""

    solver: type
    dt: Any
    pace: Pace = Pace()
    staggered: bool = False


INTEGRATORS = {  # of constrained flows
    "anchored": Method(Anchored, STEP),
    "anchored-full": Method(Anchored, STEP),  # frames in the precision of the run
    "heun": Method(HalfExplicitHeun, 0.5),
    "leapfrog": Method(Leapfrog, 0.5, staggered=True),
    "published": Method(Published, 0.25),
}


class Case(NamedTuple):
    """What a process is of: problem, hyperparameters and optimizer, and the settings that choose flow and method.

    `budget`: whether what the flow drops is evaluated along it; `diagnostics`: of the optimizer's steps.
    """

    problem: Problem
    hp: dict[str, Any]
    optimizer: CompiledFlow
    integrator: str
    onset: str
    closure_step: float
    budget: bool
    diagnostics: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Problem, dict[str, Any], CompiledFlow]:
        """What every flow is made of."""
        return self.problem, self.hp, self.optimizer

    @property
    def anchored(self) -> bool:
        """Whether frames are evaluated in the middle of long steps."""
        return INTEGRATORS[self.integrator].solver is Anchored

    @property
    def momentum(self) -> bool:
        """Whether the optimizer keeps averages of the gradient."""
        return bool(self.optimizer.FILTERED_STATES)

    @property
    def phase_space(self) -> bool:
        """Whether flows carry averages of the gradient beside the weights."""
        return INTEGRATORS[self.integrator].staggered or (self.anchored and self.momentum)

    @property
    def frames(self) -> str:
        """The precision of frames: single, unless the problem is small or the user has said so."""
        problem = self.problem
        full = self.integrator == "anchored-full" or problem.n_weights < TUNING.few_weights or not problem.castable
        return problem.w0.dtype.name if full else TUNING.frames

    def check(self) -> None:
        """Raise `InputError` for settings that no kind of process has."""
        check_one_of("integrator", self.integrator, INTEGRATORS)
        check_one_of("onset", self.onset, ONSETS)
        if self.onset == "delayed" and (not self.anchored or self.optimizer.MEMORYLESS):
            what = f'integrator "{self.integrator}"'
            what = f"{self.optimizer.NAME}, which has a state without memory," if self.optimizer.MEMORYLESS else what
            raise InputError(f'onset "delayed" is not defined for {what}: use "published"')
        if self.momentum and self.integrator == "published":
            raise InputError(
                f"the published scheme is not defined for {self.optimizer.NAME}, which has momentum: leave it out"
            )


class Beginning(NamedTuple):
    """Where a process starts: `y`, all states updated with the gradient there; `before`, the states before that.

    An `oscillation` is the optimizer, with its states before their update, minus that start. `V (n, K)` are the leading
    eigenvectors there and `eigenvalues (K,)` the effective ones.
    """

    y: FlowState
    before: dict[str, Array] | None
    oscillation: FlowState | None
    V: Float[Array, "n K"]
    eigenvalues: Float[Array, " K"]

    @property
    def states(self) -> dict[str, Array]:
        """The states before their update."""
        assert self.before is not None, "this flow starts from the states before their update"
        return self.before


class Kind(abc.ABC):
    """What the processes of one name have in common."""

    constrained: ClassVar[bool] = False  # whether they carry an oscillation fixed by complementarity
    settles: ClassVar[bool] = False  # whether their states are brought to rest at the start

    def __init__(self, name: str):
        self.name = name

    def check(self, case: Case) -> None:
        """Raise `InputError` where it is not defined; here it always is."""
        return

    def method(self, case: Case) -> Method:
        """Return how it is advanced: as the integrator says, which most kinds do not ask."""
        return INTEGRATORS[case.integrator]

    @abc.abstractmethod
    def flow(self, case: Case, capacity: int) -> Flow:
        """Return the flow, for at most `capacity` critical eigenvalues."""

    @abc.abstractmethod
    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return where it starts, and how it is advanced from there."""

    def relaxes(self, case: Case) -> bool:
        """Whether the states are brought to rest by iteration: one P for each weight fixes the oscillation alone."""
        return False


class Discrete(Kind):
    """The optimizer itself."""

    def flow(self, case: Case, capacity: int) -> Flow:
        """Return the optimizer."""
        return DiscreteOptimizer(*case.parts, case.diagnostics)

    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return its start: the states as they are."""
        return Carry(at.y, at.V, None, _first()), method


class Stable(Kind):
    """The flow without oscillation."""

    def flow(self, case: Case, capacity: int) -> Flow:
        """Return it, in phase space with momentum."""
        return PhaseSpaceStableFlow(*case.parts) if case.phase_space else StableFlow(*case.parts)

    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return its start, from which arrays have not moved."""
        y = _flow_state(case, flow, at, 0.0)
        return Carry(y, at.V, None, _first(), Motion.none(flow, y)), method


class Closed(Kind):
    """A closure of the averages: it carries an oscillation of its own."""

    def __init__(self, closure: type[Closure]):
        super().__init__(closure.NAME)
        self.closure = closure

    def check(self, case: Case) -> None:
        """Ask the closure."""
        self.closure.check(case.optimizer)

    def method(self, case: Case) -> Method:
        """Return time steps of the length that was asked for: closures know how to take them."""
        return INTEGRATORS[case.integrator]._replace(dt=case.closure_step)

    def flow(self, case: Case, capacity: int) -> Flow:
        """Return the closure."""
        return self.closure(*case.parts)

    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return its start: centre and oscillation."""
        still = jax.tree.map(jnp.zeros_like, FlowState(at.y.w, at.states))
        return Carry(call(_opened, flow, at.y, at.states, at.oscillation or still, at.V), at.V, None, _first()), method


class Central(Kind):
    """The flow whose oscillation keeps the edge; without its reduction of sharpness the ablated flow."""

    constrained: ClassVar[bool] = True
    reduces: ClassVar[bool] = True

    def method(self, case: Case) -> Method:
        """Return the integrator; in phase space its steps are leapfrogs."""
        method = INTEGRATORS[case.integrator]
        return method._replace(dt=LEAP) if case.anchored and case.phase_space else method

    def flow(self, case: Case, capacity: int) -> Flow:
        """Return the flow, in phase space with momentum."""
        if case.phase_space:
            return LeapfrogFlow(*case.parts, capacity, self.reduces)
        return CentralFlow(*case.parts, capacity, self.reduces, case.optimizer.MEMORYLESS)

    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return its start, without oscillation yet, and time steps that its states and reduced flow allow."""
        y = _flow_state(case, flow, at, method.dt)
        if not case.phase_space:
            method = method._replace(dt=_stable_step(case, flow, y, method.dt))
        logged, k, budget = LoggedState(y, empty_log(flow, y)), flow.capacity, opened(y) if case.budget else None
        if method.solver is not Anchored:
            memory = SolverState(at.V, jnp.zeros((k, k), y.w.dtype))
            return Carry(logged, at.V, memory, _first(), None, budget), method
        l = amplitudes.initial(flow, y, at.V, at.eigenvalues) if case.onset == "delayed" else None
        memory = AnchoredState.start(y, at.V.astype(case.frames), k, l)
        return Carry(logged, at.V, memory, _first(), paced(flow, method.pace).begun(logged), budget), method


class Ablated(Central):
    """The edge is kept without reduction of sharpness."""

    reduces: ClassVar[bool] = False

    def check(self, case: Case) -> None:
        """Refuse optimizers whose preconditioner does not adapt."""
        if set(case.optimizer.SLOW_STATES) == {"t"}:
            raise InputError(
                f"the ablated flow is not defined for {case.optimizer.NAME}: its preconditioner does not adapt; "
                "leave it out of the processes"
            )


class Stationary(Central):
    """The states are at rest at every time, with the oscillation that keeps the edge."""

    settles: ClassVar[bool] = True

    def check(self, case: Case) -> None:
        """Refuse optimizers that have no state that can stand still."""
        if case.onset == "delayed":
            raise InputError('onset "delayed" is not defined for the stationary flow: use "published"')
        if case.momentum:
            raise InputError(
                f"the stationary flow is not defined for {case.optimizer.NAME}, which has momentum: leave it out"
            )
        if not case.optimizer.STATIONARY:
            raise InputError(
                f"the stationary flow is not defined for {case.optimizer.NAME}: it has no state that can stand still; "
                "leave it out of the processes"
            )

    def relaxes(self, case: Case) -> bool:
        """Whether one of the states at rest has an entry for each weight."""
        return "elementwise" in {case.optimizer.SLOW_STATES[name] for name in case.optimizer.STATIONARY}

    def method(self, case: Case) -> Method:
        """Return Heun's method; the published scheme where asked for."""
        return INTEGRATORS["published" if case.integrator == "published" else "heun"]

    def flow(self, case: Case, capacity: int) -> Flow:
        """Return the flow: where the oscillation is fixed by the states it has its own class."""
        if self.relaxes(case):
            return StationaryFlow(*case.parts, capacity)
        return CentralFlow(*case.parts, capacity, self.reduces, case.optimizer.STATIONARY)

    def started(self, case: Case, flow: Any, method: Method, at: Beginning) -> tuple[Carry, Method]:
        """Return its start, from where the states are brought to rest."""
        y = _flow_state(case, flow, at, method.dt)
        if not isinstance(flow, StationaryFlow):
            method = method._replace(dt=_stable_step(case, flow, y, method.dt))
            block = at.V
        else:
            method = method._replace(solver=StationaryHeun)
            block = call(_seed, flow, y, start_block(y.w.size, at.V.shape[1], y.w.dtype, seed=1))
        memory = SolverState(block, jnp.zeros((flow.capacity, flow.capacity), y.w.dtype))
        return Carry(LoggedState(y, empty_log(flow, y)), at.V, memory, _first()), method


_BUILT_IN = (
    Discrete("discrete"), Stable("stable"), Central("central"), Ablated("ablated"), Stationary("stationary"),
    Closed(Rod), Closed(Edge), Closed(Envelope),
)  # fmt: skip
KINDS: dict[str, Kind] = {kind.name: kind for kind in _BUILT_IN}


def register(kind: Kind | type[Closure]) -> None:
    """Make a kind of process known, or a closure, under its name.

    One of your own that has the name is replaced: a file may be read twice.

    **Raises:** `InputError` for the name of a built-in one, or one that rows of a verdict have.

    >>> register(Rod)
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: "rod" cannot be the name of a process of your own: take another
    """
    new = kind if isinstance(kind, Kind) else Closed(kind)
    taken = [*(built_in.name for built_in in _BUILT_IN), "distance", "travelled"]
    if new.name in taken or not new.name.isidentifier():
        raise InputError(f'"{new.name}" cannot be the name of a process of your own: take another')
    if new.name not in KINDS:
        variables.PROCESSES.append(new.name)
    KINDS[new.name] = new


def unregister(name: str) -> None:
    """Forget a kind of process that `register` made known."""
    del KINDS[name]
    variables.PROCESSES.remove(name)


def _first() -> Array:
    """Return the count of steps at the start."""
    return jnp.zeros((), jnp.int32)


def _flow_state(case: Case, flow: Flow, at: Beginning, dt: Any) -> FlowState:
    """Return the state that a flow starts from; in phase space it depends on the time step."""
    if isinstance(flow, PhaseSpace):
        return flow.started(at.y.w, at.states, dt)
    return at.y._replace(slow=slow_states(case.optimizer, at.y.slow))


def _stable_step(case: Case, flow: CentralFlow, y: FlowState, dt: float) -> float:
    """Return the time step at which states and reduced flow are stable: at most one over their rate."""
    opt, hp = case.optimizer, case.hp
    fastest = max(1 / dt, float(call(stiffness, flow, y)))
    if case.momentum:  # the reduced flow at the edge, now and late: half of what is stable
        late = y._replace(slow=y.slow | {"t": jnp.full_like(y.slow["t"], LATE)})
        fastest = max(fastest, *(float(flow.speed(z) * opt.threshold(z.slow, hp)) for z in (y, late)))
    if not fastest <= MOST_PER_UNIT:
        raise RunError(
            f"its states or its reduced flow move {fastest:.3g} times within a step of the optimizer, for an "
            f"explicit method at most {MOST_PER_UNIT}: use the integrator anchored"
        )
    return 1 / math.ceil(fastest - 1e-9)


@eqx.filter_jit
def _opened(flow: Closure, y: FlowState, before: dict[str, Array], oscillation: FlowState, V: Array) -> Any:
    return flow.started(y, before, oscillation, V)


@eqx.filter_jit
def _seed(flow: StationaryFlow, y: FlowState, block: Array) -> Array:
    return flow.seed(y, block)

"""`cflow run`: an optimizer and its flows side by side, with checkpoints, in one folder.

Nothing slow is imported before it is needed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..optimizer.words import hyperparameters, is_external
from ..support.errors import GainWarning, GrowthWarning, InputError
from .symbolic import DONE, ENDED_EARLY, OPTIMIZER

if TYPE_CHECKING:
    from ..loss.problem import Problem
    from ..record.run import Run


@dataclass(frozen=True)
class RunCommand:
    """Run an optimizer and its flows side by side, save everything, print the verdict."""

    optimizer: Annotated[str, arg(metavar=OPTIMIZER)]
    """A built-in optimizer (see `cflow optimizers`), a file that defines one, or one of optax."""
    out: Path
    """Folder for config.json and run.nc; an earlier run there is replaced when this one is done."""
    problem: str = "digits-mlp"
    """A problem (see `cflow problems`), with options as in digits-mlp:width=32,n=500."""
    learning_rate: Annotated[str | None, arg(metavar="NUMBER|SCHEDULE")] = None
    """Learning rate; a schedule is an expression in t, the number of steps taken, as in "0.1*exp(-t/500)"."""
    beta1: float | None = None
    """Decay of the first moment."""
    beta2: float | None = None
    """Decay of the second moment."""
    epsilon: float | None = None
    """Added to the root of the second moment."""
    weight_decay: float | None = None
    """Weight decay."""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Further hyperparameters, numbers or schedules."""
    switches: tuple[str, ...] = ()
    """Switches of the optimizer to turn on, for instance bias_correction."""
    steps: int = 500
    """Optimizer steps, each one unit of flow time."""
    warm_start: int = 0
    """Discrete steps that all processes take before step 0."""
    processes: tuple[str, ...] = ("discrete", "stable", "central")
    """Any of discrete, stable, central, ablated, stationary; the closures rod, edge, envelope."""
    integrator: str | None = None
    """anchored (the default), anchored-full (double precision everywhere), heun, leapfrog or published."""
    onset: str = "published"
    """published (the oscillation is there at once at the edge) or delayed (once it has grown)."""
    average_start: bool = False
    """Flows start from the discrete run's time average: for a warm start that ends at an edge."""
    closure_step: float = 0.25
    """Time step of the closures, one over a whole number."""
    eig_every: int = 1
    """Record effective eigenvalues every so many steps."""
    capture: tuple[int, ...] = ()
    """Weights (their indices) whose own states and squared gradients are kept and drawn."""
    dtype: str = "float64"
    """Floating-point type of weights and derivatives: float32 or float64."""
    memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """What data and derivatives may take on each device, as in 2GB: sums over examples are cut into parts."""
    device: Annotated[str | None, arg(metavar="cpu|gpu|cuda:0|...")] = None
    """Where to run (see `cflow doctor`); JAX's default device if not given."""
    devices: Annotated[str | None, arg(metavar="all|NUMBER")] = None
    """Split the examples over all devices, or so many of them."""
    distributed: bool = False
    """Join other processes, as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (or Slurm, ...) say."""
    budget: bool = False
    """Evaluate what the central flow drops, every --eig-every steps: the error budget."""
    resume: bool = False
    """Go on with an unfinished run in the folder, with the same settings."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints, of which the last two are kept in the folder until the run is done."""
    quiet: bool = False
    """No progress bar."""

    def __call__(self) -> int:
        """Check the input, run, save, compare."""
        if not self.checkpoint_every >= 0:
            raise InputError(f"--checkpoint-every is {self.checkpoint_every:g}, it must be a number of seconds")
        if self.distributed:
            if self.resume:
                raise InputError("--resume goes on with runs of one process: leave it out with --distributed")
            return self._run(None)
        try:
            with contextlib.ExitStack() as held:
                return self._run(held)
        except _Finished as finished:
            print("finished already: nothing to resume", file=sys.stderr)
            return self._conclude(finished.run)

    def _run(self, held: contextlib.ExitStack | None) -> int:
        _use_dtype(self.dtype)
        first = self._join()
        from ..running.run import run

        optimizer, values = self._optimizer(), self._hyperparameters()
        problem = self._placed(_problem(self.problem))
        warnings.simplefilter("ignore", GainWarning)  # said in one line by `_start`
        warnings.simplefilter("ignore", GrowthWarning)  # and by `_conclude`
        result = run(
            problem,
            optimizer,
            values,
            steps=self.steps,
            warm_start=self.warm_start,
            processes=self.processes,
            integrator=self.integrator,
            eig_every=self.eig_every,
            onset=self.onset,
            average_start=self.average_start,
            closure_step=self.closure_step,
            capture=self.capture,
            memory=self.memory,
            budget=self.budget,
            quiet=self.quiet or not first,
            on_start=partial(self._start, held) if first else None,
            checkpoints=None if self.distributed else self.out,
            checkpoint_every=self.checkpoint_every,
            resume=self.resume,
        )
        if not first:
            return ENDED_EARLY if result.reason else DONE
        result.save(self.out / "run.nc")
        if "interrupted" not in result.reason and not self.distributed:
            from ..running.checkpoints import clear

            clear(self.out)  # only now: a kill before this loses nothing
        return self._conclude(result)

    def _conclude(self, result: Run) -> int:
        """Print the verdict, or why the run ended early."""
        path = self.out / "run.nc"
        for note in result.notes:
            print(f"warning: {note}", file=sys.stderr)
        if result.reason:
            more = " (add --resume to go on)" if "interrupted" in result.reason else ""
            print(f"{result.reason}; what was computed is in {path}{more}", file=sys.stderr)
            return ENDED_EARLY
        if {"discrete", "stable", "central"} <= set(self.processes):
            print(result.compare())
        print(f"saved {path}")
        return DONE

    def _join(self) -> bool:
        """Join the other processes where asked to; return whether this is the one that writes."""
        if self.device is not None and (self.devices is not None or self.distributed):
            raise InputError(f"--device {self.device} is one device: leave it out with --devices and --distributed")
        if not self.distributed:
            return True
        import jax

        from ..support.devices import start_processes

        start_processes()
        return jax.process_index() == 0

    def _placed(self, problem: Problem) -> Problem:
        if self.device is not None:
            return problem.on(self.device)
        if self.devices is None and not self.distributed:
            return problem
        devices = self.devices or "all"
        return problem.sharded(int(devices) if devices.isdecimal() else devices)

    def _optimizer(self) -> Any:
        """Return the name of a built-in optimizer, whose generated code is loaded, or another one's spec."""
        if not is_external(self.optimizer):
            return self.optimizer
        from cflow_sym.reading.files import load_optimizer

        return load_optimizer(self.optimizer, **dict.fromkeys(self.switches, True))

    def _hyperparameters(self) -> dict[str, Any]:
        named = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
        values = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        if "learning_rate" in values:
            if not values["learning_rate"].strip():
                raise InputError("--learning-rate is empty: pass a number or an expression in t")
            values |= hyperparameters((f"learning_rate={values['learning_rate']}",), "--learning-rate")
        more = hyperparameters(self.set, "--set")
        for name in values.keys() & more.keys():
            raise InputError(f"{name} is given twice, by a flag of its own and by --set: leave one out")
        values |= more
        return values if is_external(self.optimizer) else values | dict.fromkeys(self.switches, True)

    def _start(self, held: contextlib.ExitStack | None, config: dict[str, Any]) -> None:
        """Take the folder, look at what it holds, write config.json; raises `_Finished` where nothing is left to do."""
        from ..record.run import load
        from ..running.checkpoints import found, writing_alone
        from ..support.files import write_text

        if held is not None:
            held.enter_context(writing_alone(self.out))
        unfinished, path = found(self.out), self.out / "run.nc"
        if self.resume and not unfinished and path.is_file():
            earlier = load(path)
            if earlier.config != json.loads(json.dumps(config)):
                raise InputError(f"{path} is a finished run with other settings: choose another folder")
            if "interrupted" not in earlier.reason:
                raise _Finished(earlier)
        if unfinished and not self.resume:
            print(
                f"note: the unfinished run in {self.out} is replaced; stop and add --resume to go on with it",
                file=sys.stderr,
            )
        if config["note"]:
            print(f"warning: {config['note']}", file=sys.stderr)
        write_text(self.out / "config.json", json.dumps(config, indent=2) + "\n")


class _Finished(Exception):
    """The run to resume is done."""

    def __init__(self, run: Run):
        self.run = run


def _problem(text: str) -> Problem:
    from ..problems import parsed, problem

    name, options = parsed(text)
    return problem(name, **options)


def _use_dtype(dtype: str) -> None:
    from ..support.devices import chosen_dtype

    chosen_dtype(dtype)
    import jax

    from ..support.cache import keep_programs

    jax.config.update("jax_enable_x64", dtype == "float64")
    keep_programs()

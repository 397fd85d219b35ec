"""The `cflow` command: flat flags, one subcommand a verb. The one place that composes both packages.

Nothing slow is imported before it is needed: `--help` pays neither for JAX nor for SymPy.
Exit codes: 0 done, 1 bad input (one sentence on standard error), 2 the run ended early with a reason (data saved).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from .cli_figures import Animate, Reproduce
from .cli_machine import Doctor
from .cli_symbolic import (
    BAD_INPUT,
    DONE,
    ENDED_EARLY,
    OPTIMIZER,
    Check,
    Codegen,
    Derive,
    Optimizers,
    hyperparameters,
    is_external,
)
from .errors import GainWarning, InputError, RunError

if TYPE_CHECKING:
    from .loss import Problem
    from .run import Run


@dataclass(frozen=True)
class Problems:
    """List the problems with their options."""

    def __call__(self) -> int:
        """Print the list."""
        import importlib
        import inspect

        from .problems import PROBLEMS

        for name, (module, function, meaning) in PROBLEMS.items():
            build = getattr(importlib.import_module(f"cflow_num.problems.{module}"), function)
            options = ", ".join(f"{k}={p.default}" for k, p in inspect.signature(build).parameters.items())
            print(f"{name:<12} {meaning}\n{'':<12} options: {options}")
        return DONE


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
    """Any of discrete, stable, central, ablated, stationary."""
    integrator: str | None = None
    """anchored (the default), heun, leapfrog or published."""
    average_start: bool = False
    """Flows start from the discrete run's time average: for a warm start that ends at an edge."""
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
    resume: bool = False
    """Go on with an unfinished run in the folder, with the same settings."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints, of which the last two are kept in the folder until the run is done."""
    quiet: bool = False
    """No progress bar."""

    def __call__(self) -> int:
        """Check the input, run, save, compare."""
        if self.checkpoint_every < 0:
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
        from .run import run

        optimizer, values = self._optimizer(), self._hyperparameters()
        problem = self._placed(_problem(self.problem))
        warnings.simplefilter("ignore", GainWarning)  # said in one line by `_write_config`
        result = run(
            problem,
            optimizer,
            values,
            steps=self.steps,
            warm_start=self.warm_start,
            processes=self.processes,
            integrator=self.integrator,
            eig_every=self.eig_every,
            average_start=self.average_start,
            capture=self.capture,
            memory=self.memory,
            quiet=self.quiet or not first,
            on_start=partial(self._start, held) if first else None,
            checkpoints=None if self.distributed else self.out,
            checkpoint_every=self.checkpoint_every,
            resume=self.resume,
            keep_checkpoints=True,
        )
        if not first:
            return ENDED_EARLY if result.reason else DONE
        result.save(self.out / "run.nc")
        if "interrupted" not in result.reason and not self.distributed:
            from .checkpoints import clear

            clear(self.out)  # only now: a kill before this loses nothing
        return self._conclude(result)

    def _conclude(self, result: Run) -> int:
        """Print the verdict, or why the run ended early."""
        path = self.out / "run.nc"
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

        from .devices import start_processes

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
        from cflow_sym.files import load_optimizer

        return load_optimizer(self.optimizer, **dict.fromkeys(self.switches, True))

    def _hyperparameters(self) -> dict[str, Any]:
        named = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
        values = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        if "learning_rate" in values:
            values |= hyperparameters((f"learning_rate={values['learning_rate']}",), "--learning-rate")
        values |= hyperparameters(self.set, "--set")
        return values if is_external(self.optimizer) else values | dict.fromkeys(self.switches, True)

    def _start(self, held: contextlib.ExitStack | None, config: dict[str, Any]) -> None:
        """Take the folder, look at what it holds, write config.json; raises `_Finished` where nothing is left to do."""
        from .checkpoints import found, writing_alone
        from .files import write_text
        from .run import load

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


@dataclass(frozen=True)
class Compare:
    """Print the verdict on a run: how close each flow stays to the discrete optimizer, against fixed limits."""

    run: Annotated[Positional[Path], arg(metavar="RUN.nc")]
    """A run file."""
    json: bool = False
    """Machine-readable output."""

    def __call__(self) -> int:
        """Load, compare, print."""
        import json

        from .run import load

        comparison = load(self.run).compare()
        print(json.dumps(comparison.to_dict(), indent=2) if self.json else comparison)
        return DONE


@dataclass(frozen=True)
class Report:
    """Write one self-contained page, verdict first, with every figure, for one or more runs."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN.nc ...")] = field()
    """Run files."""
    out: Path = Path("out/report")
    """Folder for report.html and the figures."""

    def __call__(self) -> int:
        """Load, draw, write."""
        from .report import write_report
        from .run import load

        if not self.runs:
            raise InputError("no run file is given: pass the run.nc of at least one run")
        page = write_report([load(path) for path in self.runs], self.out)
        print(f"wrote {page}")
        return DONE


@dataclass(frozen=True)
class SweepCommand:
    """Run a grid of settings on many workers, one file a run; a second call goes on where the first one ended."""

    grid: Annotated[Positional[Path], arg(metavar="GRID.toml")]
    """Fixed settings in the words of `cflow run`, and a table [axes] whose lists are multiplied."""
    out: Path
    """Folder for runs/NAME.nc, summary.csv and summary.png; cells that are done there are not run again."""
    workers: int | None = None
    """How many cells at a time; the number of processors if not given."""
    executor: str = "processes"
    """processes, or dask (dask.distributed on this machine)."""
    quiet: bool = False
    """No progress bar."""

    def __call__(self) -> int:
        """Check the whole grid, run, print the table."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the workers share an accelerator
        from .sweep import sweep

        result = sweep(self.grid, self.out, self.executor, workers=self.workers, quiet=self.quiet)
        print(result)
        print(f"\nsaved {', '.join(str(path) for path in result.files)}")
        return DONE if result.complete else ENDED_EARLY


COMMANDS = {
    "optimizers": Optimizers,
    "problems": Problems,
    "derive": Derive,
    "codegen": Codegen,
    "check": Check,
    "run": RunCommand,
    "compare": Compare,
    "report": Report,
    "sweep": SweepCommand,
    "reproduce": Reproduce,
    "animate": Animate,
    "doctor": Doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code (the console script passes it to the system)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Greek letters still gets its verdict
    try:
        command = tyro.cli(
            _command_type(),
            args=arguments or ["--help"],
            prog="cflow",
            description="Derive, check and run central flows: the time-averaged paths of optimizers at the edge of "
            "stability.",
            config=(FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed what is wrong
        return BAD_INPUT if stop.code else DONE
    stop = signal.signal(signal.SIGTERM, _terminated) if _in_main_thread() else None
    try:
        return command()
    except (InputError, RunError) as error:
        return _refuse(error)
    except (ValueError, LookupError) as error:
        if not type(error).__module__.startswith("cflow_"):
            raise
        return _refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ENDED_EARLY
    except RuntimeError as error:
        if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
            raise
        first = str(error).splitlines()[0][:200]
        return _refuse(RunError(f"the machine could not compute it ({first}): try a smaller problem"))
    except BrokenPipeError:  # the reader has seen enough, as in `cflow derive NAME | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        place = error.filename or "the output"
        return _refuse(RunError(f"cannot use {place} ({error.strerror or error}): make room or choose another place"))
    finally:
        if stop is not None:
            signal.signal(signal.SIGTERM, stop)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminated(number: int, frame: Any) -> None:
    """Stop as on Ctrl-C: what was computed is saved."""
    raise KeyboardInterrupt


def _command_type() -> Any:
    from functools import reduce
    from operator import or_

    return reduce(or_, [Annotated[c, tyro.conf.subcommand(name)] for name, c in COMMANDS.items()])


def _refuse(error: Exception) -> int:
    text = " ".join(str(error.args[0] if error.args else error).split())
    print(f"cflow: {text}", file=sys.stderr)
    return BAD_INPUT


def _problem(text: str) -> Problem:
    from .problems import parsed, problem

    name, options = parsed(text)
    return problem(name, **options)


def _use_dtype(dtype: str) -> None:
    from .devices import chosen_dtype

    chosen_dtype(dtype)
    import jax

    from .cache import keep_programs

    jax.config.update("jax_enable_x64", dtype == "float64")
    keep_programs()


if __name__ == "__main__":
    sys.exit(main())

"""The `cflow` command: flat flags, one subcommand a verb. The one place that composes both packages.

Nothing slow is imported before it is needed: `--help` pays neither for JAX nor for SymPy.
Exit codes: 0 done, 1 bad input (one sentence on standard error), 2 the run ended early with a reason (data saved).
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from ..support.errors import InputError, RunError
from ..support.interrupts import interruptible, told
from .cite import Cite
from .figures import Animate, Reproduce
from .machine import Doctor
from .run import ResumeCommand, RunCommand
from .symbolic import BAD_INPUT, DONE, ENDED_EARLY, Check, Codegen, Derive, Optimizers


@dataclass(frozen=True)
class Problems:
    """List the problems with their options, and the data that networks learn."""

    def __call__(self) -> int:
        """Print the list."""
        import importlib
        import inspect

        from ..problems import PROBLEMS
        from ..problems.datasets import DATASETS

        for name, (module, function, meaning) in PROBLEMS.items():
            build = getattr(importlib.import_module(f"cflow_num.problems.{module}"), function)
            options = ", ".join(f"{k}={p.default}" for k, p in inspect.signature(build).parameters.items())
            print(f"{name:<12} {meaning}\n{'':<12} options: {options}")
        print(f"{'FILE.py':<12} one of your own\n{'':<12} options: the arguments of the file's problem(width=32, ...)")
        print("\ndata of networks, as in mlp:data=NAME")
        for name, (_, _, meaning) in DATASETS.items():
            print(f"{name:<14} {meaning}")
        return DONE


@dataclass(frozen=True)
class Compare:
    """Print the verdict on a run: how close each flow stays to the discrete optimizer, against fixed limits."""

    run: Annotated[Positional[Path], arg(metavar="RUN.nc")]
    """A run file."""
    json: bool = False
    """Machine-readable output."""

    def __call__(self) -> int:
        """Load, compare, print."""

        from ..record.run import load

        comparison = load(self.run).compare()
        print(json.dumps(comparison.to_dict(), indent=2) if self.json else comparison)
        return DONE


@dataclass(frozen=True)
class Report:
    """Write one self-contained page, verdict first, with every figure, for one or more runs."""

    INTERRUPTED: ClassVar[str] = "before the page was written: call it again"

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN.nc ...")] = field()
    """Run files."""
    out: Path = Path("out/report")
    """Folder for report.html and the figures."""

    def __call__(self) -> int:
        """Load, draw, write."""
        from ..record.run import load
        from ..report.page import write_report

        if not self.runs:
            raise InputError("no run file is given: pass the run.nc of at least one run")
        page = write_report([load(path) for path in self.runs], self.out)
        print(f"wrote {page}")
        return DONE


@dataclass(frozen=True)
class SweepCommand:
    """Run a grid of settings on many workers, one file a run; a second call goes on where the first one ended.

    With an axis seed the table also has medians and ranges over seeds, and the figure bars.
    """

    INTERRUPTED: ClassVar[str] = "before the cells began or after they ended: those that are done are kept"

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
        from ..sweeps.sweep import sweep

        result = sweep(self.grid, self.out, self.executor, workers=self.workers, quiet=self.quiet)
        print(result)
        print(f"\nsaved {', '.join(str(path) for path in result.files)}")
        if any(row.status == "not run" for row in result.rows):
            print("cflow: interrupted: cells that are done are kept, call it again to go on", file=sys.stderr)
        return DONE if result.complete else ENDED_EARLY


NOTHING = "before it was done: nothing was written"
COMMANDS = {
    "optimizers": Optimizers,
    "problems": Problems,
    "derive": Derive,
    "codegen": Codegen,
    "check": Check,
    "run": RunCommand,
    "resume": ResumeCommand,
    "compare": Compare,
    "report": Report,
    "sweep": SweepCommand,
    "reproduce": Reproduce,
    "animate": Animate,
    "doctor": Doctor,
    "cite": Cite,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code (the console script passes it to the system)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Greek letters still gets its verdict
    if "" in arguments:
        return _refuse(InputError(f"{_named(arguments)} is empty: give a value, or leave it out"))
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
    try:
        with warnings.catch_warnings(), interruptible(), told(getattr(command, "INTERRUPTED", NOTHING)):
            _warn_in_a_line()
            return command()
    except (InputError, RunError) as error:
        return _refuse(error)
    except (ValueError, LookupError) as error:
        if not type(error).__module__.startswith("cflow_"):
            raise
        return _refuse(error)
    except KeyboardInterrupt as error:
        print(f"cflow: interrupted{f' {error}' if error.args else ''}", file=sys.stderr)
        return ENDED_EARLY
    except RuntimeError as error:
        if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
            raise
        first = str(error).splitlines()[0][:200]
        return _refuse(RunError(f"the machine could not compute it ({first}): try a smaller problem"))
    except MemoryError as error:
        return _refuse(RunError(f"the memory does not suffice ({error}): try a smaller problem"))
    except BrokenPipeError:  # the reader has seen enough, as in `cflow derive NAME | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        place = error.filename or "the output"
        return _refuse(RunError(f"cannot use {place} ({error.strerror or error}): make room or choose another place"))


def _warn_in_a_line() -> None:
    """Print our own warnings as sentences, without the line of code that gave rise to them."""
    others = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.startswith("cflow_"):
            print(f"warning: {message}", file=sys.stderr)
        else:
            others(message, category, *where, **more)

    warnings.showwarning = show


def _named(arguments: list[str]) -> str:
    """Say which of the arguments is empty."""
    at = arguments.index("")
    return f"the value of {arguments[at - 1]}" if at and arguments[at - 1].startswith("-") else f"argument {at + 1}"


def _command_type() -> Any:
    from functools import reduce
    from operator import or_

    return reduce(or_, [Annotated[c, tyro.conf.subcommand(name)] for name, c in COMMANDS.items()])


def _refuse(error: Exception) -> int:
    text = " ".join(str(error.args[0] if error.args else error).split())
    print(f"cflow: {text}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())

"""`cflow run`: an optimizer and its flows side by side, with checkpoints, in one folder.

Nothing slow is imported before it is needed.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..optimizer.words import hyperparameters, is_external
from ..running.settings import Settings
from ..support.errors import GainWarning, InputError
from ..support.interrupts import told
from .symbolic import DONE, ENDED_EARLY, OPTIMIZER

if TYPE_CHECKING:
    from ..loss.problem import Problem
    from ..record.run import Run

PROBLEM = (
    "A problem (see `cflow problems`), with options as in digits-mlp:width=32,n=500. Or a Python file of your own with "
    "a function problem(width=32, seed=0) that returns a cflow_num.Problem: its arguments, all with defaults, are the "
    "options, as in my_model.py:width=16. A run is of the file as it is when it starts, and is not resumed once the "
    "file has changed."
)


@dataclass(frozen=True)
class RunCommand:
    """Run an optimizer and its flows side by side, save everything, print the verdict."""

    INTERRUPTED: ClassVar[str] = "before the first step: there is nothing to save"

    optimizer: Annotated[str, arg(metavar=OPTIMIZER)]
    """A built-in optimizer (see `cflow optimizers`), a file that defines one, or one of optax."""
    out: Path
    """Folder for config.json and run.nc; an earlier run there is replaced when this one is done."""
    problem: Annotated[str, arg(metavar="NAME|FILE.py[:OPTION=VALUE,...]", help=PROBLEM)] = "digits-mlp"
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
    start: Annotated[str | None, arg(metavar="RUN.nc")] = None
    """Begin where that run ended: with its last weights and, if the optimizer is the same, states."""
    settings: Annotated[Settings, OmitArgPrefixes] = field(default_factory=Settings)
    """What is run."""
    dtype: str = "float64"
    """Floating-point type of weights and derivatives: float32 or float64."""
    device: Annotated[str | None, arg(metavar="cpu|gpu|cuda:0|...")] = None
    """Where to run (see `cflow doctor`); JAX's default device if not given."""
    devices: Annotated[str | None, arg(metavar="all|NUMBER")] = None
    """Split the examples over all devices, or so many of them."""
    distributed: bool = False
    """Join other processes, as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (or Slurm, ...) say."""
    estimate: bool = False
    """Say what time and memory the run would take, from its first steps, and write nothing."""
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
        with contextlib.ExitStack() as held:
            return self._run(held)

    def _run(self, held: contextlib.ExitStack | None) -> int:
        _use_dtype(self.dtype)
        first = self._join()
        from ..running.run import check, finish

        optimizer, values = self._optimizer(), self._hyperparameters()
        problem = self._placed(_problem(self.problem, self.dtype))
        warnings.simplefilter("ignore", GainWarning)  # said in one line by `_start`
        if self.estimate:
            from ..running.estimate import estimate

            print(estimate(problem, optimizer, values, self.settings, start=self._begun()))
            return DONE
        prepared = check(problem, optimizer, values, self.settings, self._begun())
        earlier = self._start(held, prepared.config) if first else None
        if earlier is not None:
            print("finished already: nothing to resume", file=sys.stderr)
            return self._conclude(earlier)
        kept = None if self.distributed else self.out
        result = finish(prepared, self.quiet or not first, kept, self.checkpoint_every, self.resume)
        if not first:
            return ENDED_EARLY if result.reason else DONE
        with told(f"after the last step: what is in {self.out} is whole, add --resume to go on"):
            return self._saved(result)

    def _saved(self, result: Run) -> int:
        """Write the run file and say what it says."""
        result.save(self.out / "run.nc")
        if "interrupted" not in result.reason and not self.distributed:
            from ..running.checkpoints import clear

            clear(self.out)  # only now: a kill before this loses nothing
        return self._conclude(result)

    def _begun(self) -> Run | None:
        """Return the run to begin with."""
        from ..record.run import load

        if self.start is None:
            return None
        if Path(self.start).resolve().parent == self.out.resolve():
            raise InputError(f"--start {self.start} lies in the folder that is to be written: choose another --out")
        return load(self.start)

    def _conclude(self, result: Run) -> int:
        """Print the verdict, or why the run ended early."""
        path = self.out / "run.nc"
        for note in result.notes:
            print(f"warning: {note}", file=sys.stderr)
        if result.reason:
            more = " (add --resume to go on)" if "interrupted" in result.reason else ""
            print(f"{result.reason}; what was computed is in {path}{more}", file=sys.stderr)
            return ENDED_EARLY
        processes = set(self.settings.processes)
        if processes == {"discrete"} or {"discrete", "stable", "central"} <= processes:
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

    def _start(self, held: contextlib.ExitStack | None, config: dict[str, Any]) -> Run | None:
        """Take the folder, look at what it holds, write config.json; return the run where nothing is left to do."""
        from ..record.run import load
        from ..running.checkpoints import found, refuse_changed_file, writing_alone
        from ..support.files import write_text

        if held is not None:
            held.enter_context(writing_alone(self.out))
        unfinished, path = found(self.out), self.out / "run.nc"
        if self.resume and not unfinished and path.is_file():
            earlier = load(path)
            plain = json.loads(json.dumps(config))
            refuse_changed_file(path, earlier.config, plain)
            if earlier.config != plain:
                raise InputError(f"{path} is a finished run with other settings: choose another folder")
            if "interrupted" not in earlier.reason:
                return earlier
        if unfinished and not self.resume:
            print(
                f"note: the unfinished run in {self.out} is replaced; stop and add --resume to go on with it",
                file=sys.stderr,
            )
        if config["note"]:
            print(f"warning: {config['note']}", file=sys.stderr)
        asked = {"command": self.asked()}
        write_text(self.out / "config.json", json.dumps(config | asked, indent=2) + "\n")
        return None

    def asked(self) -> dict[str, Any]:
        """Return the command as plain data, without what `cflow resume` is told again, which may be elsewhere."""
        said = {name: x for name, x in asdict(self).items() if name not in ("out", "resume", "quiet", "estimate")}
        begun = None if self.start is None else str(Path(self.start).resolve())
        return said | {"start": begun, "problem": _anywhere(self.problem), "optimizer": _anywhere(self.optimizer)}


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with the run in a folder as it was asked for: its own config.json says how."""

    INTERRUPTED: ClassVar[str] = "before it went on: what is in the folder is as it was"

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """The folder of an unfinished run, the --out of `cflow run`."""
    quiet: bool = False
    """No progress bar."""

    def __call__(self) -> int:
        """Read the command, run it."""
        path = self.folder / "config.json"
        try:
            asked: dict[str, Any] = json.loads(path.read_text("utf-8"))["command"]
            settings = Settings(**_with_tuples(asked.pop("settings"), Settings))
            more = {"settings": settings, "out": self.folder, "resume": True, "quiet": self.quiet}
            command = RunCommand(**_with_tuples(asked, RunCommand) | more)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error}): pass the folder of a run") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path} does not say how the run was asked for: start it again") from error
        return command()


def _with_tuples(plain: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return fields of a dataclass as JSON has them, lists as tuples; raises `TypeError` for one of another type."""
    found = {name: tuple(x) if isinstance(x, list) else x for name, x in plain.items()}
    hints = get_type_hints(kind)
    for name, x in found.items():
        if isinstance(x, tuple):
            inner = next(get_args(h)[0] for h in (hints[name], *get_args(hints[name])) if get_origin(h) is tuple)
            fine = all(isinstance(one, inner) for one in x)
        else:
            fine = isinstance(x, tuple(h for h in (hints[name], *get_args(hints[name])) if isinstance(h, type)))
        if not fine:
            raise TypeError(name)
    return found


def _anywhere(text: str) -> str:
    """Return a name, or the whole path of a file with what follows it."""
    name, rest = re.fullmatch(r"(.*?\.(?:py|toml)(?=:|$)|)(.*)", text, re.DOTALL).groups()  # pyright: ignore
    return f"{Path(name).resolve()}{rest}" if name else text


def _problem(text: str, dtype: str) -> Problem:
    from ..problems import in_precision, parsed

    return in_precision(*parsed(text), dtype)


def _use_dtype(dtype: str) -> None:
    from ..support.devices import chosen_dtype

    chosen_dtype(dtype)
    import jax

    from ..support.cache import keep_programs

    jax.config.update("jax_enable_x64", dtype == "float64")
    keep_programs()

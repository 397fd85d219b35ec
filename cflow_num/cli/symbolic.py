"""The commands about optimizers as formulas: list, derive, generate code, check.

Nothing slow is imported before it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from ..optimizer.words import hyperparameters
from ..support.errors import InputError

if TYPE_CHECKING:
    from cflow_sym.spec.optimizer import OptimizerSpec

DONE, BAD_INPUT, ENDED_EARLY = 0, 1, 2
OPTIMIZER = "NAME|FILE.toml|FILE.py|optax:NAME"


@dataclass(frozen=True)
class Optimizers:
    """List the built-in optimizers with their hyperparameters and switches."""

    def __call__(self) -> int:
        """Print the list."""
        import cflow_sym as cs

        for name in cs.optimizers():
            spec = cs.optimizer(name)
            parameters = ", ".join(h.name for h in spec.hyperparameters)
            switches = f"; switches {', '.join(s.name for s in spec.switches)}" if spec.switches else ""
            print(f"{name:<27} {spec.title}: {parameters}{switches}")
        return DONE


@dataclass(frozen=True)
class Derive:
    """Derive an optimizer's flows and print the derivation, every step checked."""

    INTERRUPTED: ClassVar[str] = "before the derivation was done: files that were written before are whole"

    name: Annotated[Positional[str], arg(metavar=OPTIMIZER)] = ""
    """A built-in optimizer (see `cflow optimizers`), a file that defines one, or one of optax."""
    all: bool = False
    """Every built-in optimizer, with an index."""
    latex: bool = False
    """LaTeX instead of Markdown."""
    switches: tuple[str, ...] = ()
    """Switches and optional hyperparameters to turn on, for instance bias_correction, epsilon, schedule."""
    out: Path | None = None
    """Write files into this folder instead of printing."""
    check: bool = False
    """Write nothing; fail where a file in the folder (derivations by default) is stale."""

    def __call__(self) -> int:
        """Derive, then print or write."""
        from cflow_sym.writing.committed import write_derivations

        specs = chosen(self.name, self.all or (self.check and not self.name), self.switches, "derive")
        if specs is None or self.out is not None or self.check:
            if self.latex:
                raise InputError("--latex is for printing one optimizer: leave out --out, --all and --check")
            folder = self.out or Path("derivations")
            return written(write_derivations, folder, specs, self.check, f"cflow derive --all --out {folder}")
        d = specs[0].derive()
        print(d.to_latex() if self.latex else d.to_markdown())
        return DONE


@dataclass(frozen=True)
class Codegen:
    """Print the generated JAX module of an optimizer, or write it into a folder."""

    INTERRUPTED: ClassVar[str] = "before the code was done: files that were written before are whole"

    name: Annotated[Positional[str], arg(metavar=OPTIMIZER)] = ""
    """A built-in optimizer (see `cflow optimizers`), a file that defines one, or one of optax."""
    all: bool = False
    """Every built-in optimizer with every combination of its switches, into the package."""
    switches: tuple[str, ...] = ()
    """Switches to turn on, for instance bias_correction."""
    out: Path | None = None
    """Write files into this folder instead of printing: a module for each combination of switches."""
    check: bool = False
    """Write nothing; fail where a file is stale."""

    def __call__(self) -> int:
        """Generate, then print or write."""
        from cflow_sym import generated
        from cflow_sym.writing import codegen, committed

        specs = chosen(self.name, self.all or (self.check and not self.name), self.switches, "codegen")
        if specs is None or self.out is not None or self.check:
            folder = self.out or Path(generated.__path__[0])
            return written(committed.write_generated, folder, specs, self.check, "cflow codegen --all")
        print(codegen.generate(specs[0].with_options().derive()))
        return DONE


@dataclass(frozen=True)
class Check:
    """Try properties that every optimizer's flow must have; print a table, with counterexamples.

    An interrupt ends it with the rows so far.
    """

    INTERRUPTED: ClassVar[str] = "before the first property was tried"

    name: Annotated[Positional[str], arg(metavar=OPTIMIZER)]
    """A built-in optimizer (see `cflow optimizers`), a file that defines one, or one of optax."""
    quick: bool = False
    """A few examples and a short run: about half a minute, imports included, instead of one to two."""
    switches: tuple[str, ...] = ()
    """Switches to turn on, for instance bias_correction."""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Hyperparameters of the real run; a learning rate with an edge is looked for by default."""
    only: tuple[str, ...] = ()
    """Names of properties, to try no others, for instance "real run"."""
    device: Annotated[str | None, arg(metavar="cpu|gpu|cuda:0|...")] = None
    """Where to run (see `cflow doctor`); JAX's default device if not given."""
    quiet: bool = False
    """No progress."""

    def __call__(self) -> int:
        """Check; exit code 1 where a property fails, 2 where it was interrupted."""
        from cflow_sym.reading.files import load_optimizer

        from ..support.devices import default
        from ..testing import check

        spec = load_optimizer(self.name, **dict.fromkeys(self.switches, True))
        values = hyperparameters(self.set, "--set")

        def tell(name: str) -> None:
            if not self.quiet:
                print(f"trying {name}", file=sys.stderr, flush=True)

        with default(self.device):
            found = check(spec, quick=self.quick, hyperparameters=values, only=self.only, on_row=tell)
        print(found)
        if found.reason:
            print(f"cflow: {found.reason}", file=sys.stderr)
            return ENDED_EARLY
        return DONE if found.passed else BAD_INPUT


def chosen(name: str, every: bool, switches: Sequence[str], verb: str) -> list[OptimizerSpec] | None:
    """Return the one spec that is named, or None for every built-in one."""
    from cflow_sym.reading.files import load_optimizer

    if bool(name) == every:
        raise InputError(f"pass one optimizer or --all, for instance: cflow {verb} scalar_rmsprop")
    if every and switches:
        raise InputError("--switches is for one optimizer: leave it out with --all and --check")
    return None if every else [load_optimizer(name, **dict.fromkeys(switches, True))]


def written(write: Any, folder: Path, specs: list[OptimizerSpec] | None, check: bool, command: str) -> int:
    """Write files, or say which are stale."""
    try:
        paths = write(folder, specs, check=check)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    if check and paths:
        stale = ", ".join(str(p) for p in paths)
        raise InputError(f"stale: {stale}; renew with: {command}")
    for path in paths:
        print(f"wrote {path}")
    if check:
        print(f"{folder} is up to date")
    return DONE

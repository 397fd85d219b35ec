"""The commands that draw: the paper's figures remade, and the cycle view of a run as a film."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ..support.errors import InputError


@dataclass(frozen=True)
class Reproduce:
    """Make figures of the paper again: data, PNG, SVG and a paragraph with the numbers for each."""

    INTERRUPTED: ClassVar[str] = "before all figures were made: what is done is kept, call it again to go on"

    figures: Annotated[Positional[tuple[str, ...]], arg(metavar="FIGURE ...")] = ()
    """Names of figures (see --list)."""
    list: bool = False
    """List the figures, one a line."""
    all: bool = False
    """Make all of them."""
    scale: str = "small"
    """small (minutes on two cores), or paper: CIFAR-10 and networks of the paper's size."""
    out: Path = Path("out/figures")
    """Folder for the figures; their runs are kept in its folder runs and used again."""
    workers: int | None = None
    """How many runs are made at a time; as many as processors, or one on an accelerator and for the paper's size."""
    quiet: bool = False
    """No progress."""

    def __call__(self) -> int:
        """List, or make."""
        if self.list:
            from ..reproduce import FIGURES

            for name, entry in FIGURES.items():
                print(f"{name:<42} {entry.line}")
            return 0
        if bool(self.figures) == self.all:
            raise InputError("pass names of figures, or --all, or --list to see them")
        import jax

        from ..support.cache import keep_programs

        jax.config.update("jax_enable_x64", True)
        keep_programs()
        from ..reproduce import FIGURES, reproduce

        names = tuple(FIGURES) if self.all else self.figures
        failed = reproduce(names, self.out, self.scale, self.quiet, workers=self.workers)
        if len(failed) == len(names) == 1:
            raise InputError(next(iter(failed.values())))
        for name, reason in failed.items():
            print(f"{name} could not be made: {reason}", file=sys.stderr)
        print(f"wrote {len(names) - len(failed)} of {len(names)} figures into {self.out}")
        return 2 if failed else 0


@dataclass(frozen=True)
class Animate:
    """Write the cycle view of a run as a short film: displacement, effective sharpness and loss by step."""

    INTERRUPTED: ClassVar[str] = "before the film was whole: none was written"

    run: Annotated[Positional[Path], arg(metavar="RUN.nc")]
    """A run file."""
    out: Path = Path("cycle.gif")
    """The film; .gif, or .mp4 where ffmpeg is installed."""
    first: int | None = None
    """First step; shortly before the first crossing if not given."""
    last: int | None = None
    """Last step; 150 after the first one if not given."""
    frames: int = 90
    """Pictures at most, up to 120."""

    def __call__(self) -> int:
        """Load, draw, write."""
        from ..record.run import load
        from ..report.animation import animate

        print(f"wrote {animate(load(self.run), self.out, first=self.first, last=self.last, frames=self.frames)}")
        return 0

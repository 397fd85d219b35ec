"""A grid of runs as text or as a mapping: fixed settings, and axes whose lists are multiplied into cells."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..support.errors import InputError, nearest
from .cell import RUN, fingerprint

EXAMPLE = "[axes] with for instance learning_rate = [0.05, 0.1]"
_GENERAL = ("optimizer", "problem", "dtype", *RUN)
_MOST_CELLS = 100_000
_LONGEST = 150  # bytes of a file's name, without its ending


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its values along the axes that it has, and all its settings."""

    values: dict[str, Any]
    settings: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """A readable name for a file, unique in its grid.

        >>> Cell({"learning_rate": 0.1, "seed": 0}, {}).name
        'learning_rate=0.1,seed=0'
        """
        plain = ",".join(f"{axis}={shown(value)}" for axis, value in self.values.items())
        safe = re.sub(r"[^\w.+=,-]", "-", plain, flags=re.ASCII)[:_LONGEST]
        return safe if safe == plain else f"{safe}~{hashlib.sha256(json.dumps(self.values).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Grid:
    """Axes with their values, in order, and the cells of their product."""

    axes: dict[str, list[Any]]
    cells: list[Cell]


def shown(value: Any) -> str:
    """Return a value of an axis as it is written in names and tables.

    >>> shown(0.1), shown(True), shown(["stable", "central"])
    ('0.1', 'true', 'stable+central')
    """
    if isinstance(value, list):
        return "+".join(map(shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_grid(grid: str | os.PathLike[str] | Mapping[str, Any]) -> Grid:
    """Return the grid of a TOML file, or of a mapping of the same form.

    A key is a word of `cflow run` (`optimizer`, `problem`, `steps`, `warm_start`, ...), a hyperparameter or switch of
    an optimizer in the grid, or an option of a problem in it; likewise the keys of the table `axes`, whose lists are
    multiplied. Optimizers and problems may be files of one's own, `my_model.py:width=8`; paths are relative to where
    the command runs, as those of `cflow run` are. A hyperparameter or option holds where there is one of its name:
    cells that differ only in what they do not have are one cell.

    **Raises:** `InputError` for a file that cannot be read, an unknown key (with the nearest known one), an axis that
    is no list, is empty or says something twice.

    >>> grid = read_grid({"optimizer": "gradient_descent", "problem": "ramp", "axes": {"learning_rate": [0.1, 0.2]}})
    >>> [cell.name for cell in grid.cells]
    ['learning_rate=0.1', 'learning_rate=0.2']
    """
    origin = "the grid" if isinstance(grid, Mapping) else str(grid)
    return _Reader(origin, _table(grid)).grid()


def _table(grid: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(grid, Mapping):
        return _plain(grid)
    try:
        return _plain(tomllib.loads(Path(grid).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{grid} cannot be read ({error.strerror or error}): pass a grid file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{grid} is not TOML ({error}): put texts in quotes, lists in brackets") from error


def _plain(value: Any) -> Any:
    """Return mappings, sequences and NumPy values as what a TOML file would have held."""
    if isinstance(value, Mapping):
        return {str(key).replace("-", "_"): _plain(x) for key, x in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [_plain(x) for x in value]
    if not isinstance(value, (str, int, float, bool, type(None))):
        kind = type(value).__name__
        raise InputError(f"the grid holds a {kind}, it may hold numbers, texts, true, false and lists: {value!r}")
    return value


class _Reader:
    """Sorts the words of one grid; every complaint names where it stands."""

    def __init__(self, origin: str, table: dict[str, Any]):
        self.origin = origin
        self.axes = self.checked_axes(table.pop("axes", None))
        self.fixed = self.flattened(table)
        for name in self.fixed.keys() & self.axes.keys():
            self.fail(f'"{name}" is both fixed and an axis: leave one of them out')
        if "optimizer" not in (*self.fixed, *self.axes):
            self.fail('there is no optimizer: add for instance optimizer = "scalar_rmsprop"')
        self.problem_words: dict[str, Iterable[str]] = {}
        self.optimizer_words: dict[str, Iterable[str]] = {}

    def fail(self, text: str) -> Any:
        raise InputError(f"{self.origin}: {text}")

    def checked_axes(self, axes: Any) -> dict[str, list[Any]]:
        if not isinstance(axes, dict) or not axes:
            self.fail(f"there are no axes to multiply: add a table {EXAMPLE}")
        for name, values in axes.items():
            if not isinstance(values, list):
                self.fail(f"the axis {name} is {values!r}, it must be a list: write {name} = [{values!r}]")
            if not values:
                self.fail(f"the axis {name} is empty: give it at least one value, or leave it out")
            seen: set[Any] = set()
            for value in values:
                same = {shown(value), value if type(value) in (int, float) else shown(value)}
                if same & seen:
                    self.fail(f"the axis {name} has {value!r} twice: leave one of them out")
                seen |= same
        n = math.prod(map(len, axes.values()))
        if n > _MOST_CELLS:
            self.fail(f"it has {n} cells, it must have at most {_MOST_CELLS}: shorten an axis")
        return axes

    def flattened(self, table: dict[str, Any]) -> dict[str, Any]:
        """Return the fixed settings without the tables `problem` and `set` and the list `switches`, one level deep."""
        found: dict[str, Any] = {}

        def add(name: str, value: Any) -> None:
            if name in found:
                self.fail(f'"{name}" is given twice: leave one of them out')
            found[name] = value

        for key, value in table.items():
            if key == "problem" and isinstance(value, dict):
                if not isinstance(value.get("name"), str):
                    self.fail('the table problem needs a name: write for instance name = "digits-mlp"')
                for name, x in value.items():
                    add("problem" if name == "name" else name, x)
            elif key == "set" and isinstance(value, dict):
                for name, x in value.items():
                    add(name, x)
            elif key == "switches" and isinstance(value, list):
                for name in value:
                    add(str(name), True)
            else:
                add(key, value)
        return found

    def grid(self) -> Grid:
        optimizers, problems = (self.all_of(name) for name in ("optimizer", "problem"))
        from ..optimizer.words import words
        from ..problems import known_options, parsed

        self.optimizer_words = {text: words(text) for text in optimizers}
        self.problem_words = {text: known_options(parsed(text)[0]) for text in problems}
        self.check_words([*self.fixed, *self.axes])
        cells: dict[str, Cell] = {}
        for values in itertools.product(*self.axes.values()):
            cell = self.cell(dict(zip(self.axes, values, strict=True)))
            cells.setdefault(json.dumps(cell.values), cell)
        return Grid(self.axes, list(cells.values()))

    def all_of(self, name: str) -> Sequence[str]:
        texts = self.axes.get(name, [self.fixed.get(name, "digits-mlp")])
        for text in texts:
            if not isinstance(text, str):
                self.fail(f"{name} is {text!r}, it must be a text in quotes")
        return texts

    def check_words(self, used: Iterable[str]) -> None:
        hyperparameters, options = (
            {word for words in known.values() for word in words} for known in (self.optimizer_words, self.problem_words)
        )
        known = {*_GENERAL, "axes", *hyperparameters, *options}
        for word in used:
            if word not in known:
                self.fail(
                    f'there is no setting "{word}"{nearest(word, known)}: its keys are words of cflow run, '
                    f"hyperparameters of {', '.join(self.optimizer_words)} and options of "
                    f"{', '.join(self.problem_words)}"
                )
            if word in hyperparameters & ({*_GENERAL} | options):
                self.fail(
                    f'"{word}" is a hyperparameter and something else as well: rename it in the optimizer\'s file'
                )

    def cell(self, values: dict[str, Any]) -> Cell:
        """Return the cell with these values along the axes; those that it has no use for are left out."""
        from ..problems import parsed

        everything = self.fixed | values
        optimizer, text = everything["optimizer"], everything.get("problem", "digits-mlp")
        problem, options = parsed(text)
        hyperparameters, general = {}, {}
        for name, value in everything.items():
            if name in ("optimizer", "problem"):
                continue
            if name in _GENERAL:
                general[name] = value
            elif name in self.optimizer_words[optimizer]:
                hyperparameters[name] = value
            elif name in self.problem_words[text]:
                if name in options:
                    self.fail(f'the option "{name}" is given twice, once in "{text}": leave one of them out')
                options[name] = value
            else:
                values = {axis: x for axis, x in values.items() if axis != name}
        settings = RUN | {"dtype": "float64"} | general
        settings |= {"optimizer": optimizer, "problem": problem, "options": options}
        settings |= {"hyperparameters": hyperparameters, "fingerprint": fingerprint(optimizer)}
        for what, file in (("problem", problem), ("data", str(options.get("path", "")))):
            if found := fingerprint(file):
                settings[f"{what}_fingerprint"] = found
        return Cell(values, settings)

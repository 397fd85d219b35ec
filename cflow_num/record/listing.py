"""How a run presents itself: what was recorded as a list, the run in a few lines and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..support.html import folded, paragraph, table
from .titles import title
from .variables import VARIABLES

if TYPE_CHECKING:
    from .run import Run

HEAD = ("variable", "dimensions", "units", "processes", "meaning")


class Described(NamedTuple):
    """What a variable of a process is: dimensions, units, meaning, and whether the user asked to observe it."""

    dims: tuple[str, ...]
    units: str
    meaning: str
    observable: bool

    @classmethod
    def of(cls, name: str, dims: Sequence[Any], attrs: Any) -> Described:
        """Return what attributes say, or else what is known of a variable with that name."""
        _, units, meaning = VARIABLES.get(name, ("", "1", name))
        observable = str(attrs.get("observable", "")).lower() in ("1", "true")
        texts = str(attrs.get("units", units)), str(attrs.get("long_name", meaning))
        return cls(tuple(str(dim) for dim in dims), *texts, observable)


class Listing(dict[str, str]):
    """What was recorded, by name; printed as a table."""

    def __init__(self, rows: Sequence[tuple[str, Described, Sequence[str]]]):
        super().__init__({name: f"{x.meaning} [{x.units}] ({', '.join(whose)})" for name, x, whose in rows})
        every = max((len(whose) for *_, whose in rows), default=0)
        by = ["all" if len(whose) == every > 1 else ", ".join(whose) for *_, whose in rows]
        self.rows = [(name, ", ".join(x.dims), x.units, w, x.meaning) for (name, x, _), w in zip(rows, by, strict=True)]

    def __repr__(self) -> str:
        lines = [HEAD, *self.rows]
        wide = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        return "\n".join(
            "  ".join(f"{text:<{width}}" for text, width in zip(line, wide, strict=True)).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return table(HEAD, self.rows)


def listing(run: Run) -> Listing:
    """Return what a run recorded: dimensions, units and meaning of every variable, and of which processes it is."""
    found: dict[str, tuple[Described, list[str]]] = {}
    for process in run.processes:
        for name in run.names(process):
            found.setdefault(name, (run.described(process, name), []))[1].append(process)
    return Listing([(name, described, whose) for name, (described, whose) in sorted(found.items())])


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what a run is, line by line."""
    sizes = [run.size(process) for process in run.processes]
    known = {"processes": ", ".join(run.processes), "steps": f"0 to {max(sizes, default=1) - 1}"}
    known["problem"] = run.config.get("problem_description", "")
    known["ended early"] = run.reason
    return [(key, text) for key, text in known.items() if text] + [("warned", note) for note in run.notes]


def as_text(run: Run) -> str:
    """Return a run in a few lines."""
    return "\n".join([f"Run: {title(run)}", *(f"  {key + ':':<12} {text}" for key, text in facts(run))])


def as_html(run: Run) -> str:
    """Return a run for a notebook: what it is, and, folded, what it recorded."""
    variables = listing(run)
    rest = folded(f"{len(variables)} variables", table(HEAD, variables.rows))
    return f"<div>{paragraph(title(run), bold=True)}{table(('', ''), facts(run))}{rest}</div>"

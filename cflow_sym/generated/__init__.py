"""Generated flows, one module each: emitted by `cflow codegen`, committed, never edited by hand.

`load` imports one lazily; listing them imports neither JAX nor SymPy.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_sym.interface import OTHER_NAMES, MissingFlowError

if TYPE_CHECKING:
    from cflow_sym.interface import CompiledFlow


def optimizer_names() -> tuple[str, ...]:
    """Return the names of the built-in optimizers, read off their folder: nothing symbolic is imported.

    >>> "gradient_descent" in optimizer_names()
    True
    """
    folder = Path(__file__).parents[1] / "optimizers"
    return tuple(sorted(path.stem for path in folder.glob("[a-z]*.py")))


def available() -> tuple[str, ...]:
    """Return the names of the generated modules, in alphabetical order.

    >>> "gradient_descent" in available()
    True
    """
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def load(name: str, switches: Iterable[str] = ()) -> CompiledFlow:
    """Import the generated flow of an optimizer with the given switches on; raises `MissingFlowError`.

    The order of the switches does not matter.

    >>> load("gradient_descent").TITLE
    'Gradient descent'
    >>> load("gradient_decent")
    Traceback (most recent call last):
        ...
    cflow_sym.interface.MissingFlowError: no optimizer 'gradient_decent': did you mean 'gradient_descent'? ...
    """
    wanted = sorted(set(switches))
    if name not in optimizer_names():
        known = optimizer_names()
        near = OTHER_NAMES.get(str(name)) or difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise MissingFlowError(f"no optimizer {name!r}: did you mean {near!r}? The built-in ones are {', '.join(known)}.")
    for stem in available():
        rest = stem.removeprefix(name)
        if stem.startswith(name) and sorted(_split(rest.strip("_"), wanted)) == wanted:
            return importlib.import_module(f"{__name__}.{stem}")  # type: ignore[return-value]
    on = f" with {', '.join(wanted)}" if wanted else ""
    others = [stem for stem in available() if stem.startswith(name)]
    raise MissingFlowError(
        f"there is no generated module for {name}{on} (there: {', '.join(others) or 'none'}): "
        f"check the names of the switches, or run `cflow codegen {name}` to write it."
    )


def _split(rest: str, switches: list[str]) -> list[str]:
    """Take the names of switches off the end of a module's name, in any order."""
    found = []
    while rest:
        head = next((s for s in switches if rest == s or rest.startswith(s + "_")), None)
        if head is None:
            return ["?"]
        found.append(head)
        rest = rest[len(head) :].lstrip("_")
    return found

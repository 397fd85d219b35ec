"""The files that are committed: a generated module for each variant of the built-in optimizers, notes, their index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, combinations
from pathlib import Path

from cflow_sym.optimizers import names as optimizer_names
from cflow_sym.optimizers import optimizer
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.recipe import derive
from cflow_sym.writing.codegen import generate
from cflow_sym.writing.note_index import index
from cflow_sym.writing.render import to_markdown


def variants(name: str | OptimizerSpec) -> list[OptimizerSpec]:
    """Return the specs of the modules of one optimizer: all combinations of switches, options on.

    A spec with active switches is the only variant.

    >>> [spec.module_name for spec in variants("gradient_descent")]
    ['gradient_descent']
    """
    spec = (optimizer(name) if isinstance(name, str) else name).with_options()
    if spec.active_switches:
        return [spec]
    switches = [s.name for s in spec.switches]
    subsets = chain.from_iterable(combinations(switches, k) for k in range(len(switches) + 1))
    return [spec.configure(**dict.fromkeys(subset, True)) for subset in subsets]


def write_generated(
    folder: str | Path | None = None, names: Iterable[str | OptimizerSpec] | None = None, *, check: bool = False
) -> list[Path]:
    """Write the modules of optimizers (names or specs), return their paths; with `check`, only return stale ones.

    `folder` defaults to `cflow_sym/generated`, `names` to all built-in optimizers.

    >>> write_generated(names=["gradient_descent"], check=True)
    []
    """
    folder = Path(__file__).parents[1] / "generated" if folder is None else Path(folder)
    texts = {}
    for name in optimizer_names() if names is None else names:
        for spec in variants(name):
            texts[folder / f"{spec.module_name}.py"] = generate(derive(spec))
    return write_files(texts, check=check)


def write_files(texts: Mapping[Path, str], *, check: bool) -> list[Path]:
    """Write texts to paths through a temporary name; with `check`, return the paths whose text differs."""
    if check:
        return [p for p, text in texts.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(path.suffix + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return list(texts)


def write_derivations(
    folder: str | Path = "derivations", names: Iterable[str | OptimizerSpec] | None = None, *, check: bool = False
) -> list[Path]:
    """Write one note for each optimizer (names or specs), return the paths; with `check`, only return stale ones.

    The index is written only when all built-in optimizers are (`names=None`).
    """
    folder = Path(folder)
    specs = [optimizer(n) if isinstance(n, str) else n for n in (optimizer_names() if names is None else names)]
    texts: dict[Path, str] = {folder / f"{spec.module_name}.md": to_markdown(derive(spec)) for spec in specs}
    if names is None:
        texts[folder / "README.md"] = index(optimizer_names())
    return write_files(texts, check=check)

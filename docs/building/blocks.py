"""Parts of pages that are generated: `<!-- built: NAME -->...<!-- /built -->` is replaced when the site is built."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import refusals as sentences

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- built: (\w+) -->.*?<!-- /built -->", re.S)
SHOWN = re.compile(r'show\("([\w-]+)"\)\n```\s*!\[png\]\(([^)]+)\)')  # a figure in a rendered notebook


def filled(markdown: str) -> str:
    """Return a page with its generated parts."""
    return BLOCK.sub(lambda match: BLOCKS[match.group(1)](), markdown)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cell(text: object) -> str:
    """Return a text as it is, within a table."""
    return re.sub(r"([|*_$])", r"\\\1", str(text).replace("<", "&lt;").replace(">", "&gt;"))


def definitions() -> str:
    """Return every row that a verdict can have."""
    from cflow_num.verdict.definitions import DEFINITIONS

    rows = [(cell(q), cell(meaning), f"`{name}`") for name, (q, meaning) in DEFINITIONS.items()]
    return table(("quantity", "definition", 'in Python: `comparison["..."]`'), rows)


def limits() -> str:
    """Return the limits of a verdict, with what the source says of each."""
    from cflow_num.verdict import definitions as module

    said = dict(re.findall(r"(\w+): .*?# (.*)", inspect.getsource(module.Limits)))
    assert len(said) == len(fields(module.Limits))
    values = asdict(module.LIMITS)
    rows = [(f"`{n}`", " to ".join(f"{x:g}" for x in _several(values[n])), cell(said[n])) for n in said]
    more = (
        f"Averages are compared from {module.SETTLING} steps after the first crossing on, final distances are means "
        f"over {module.LAST} steps, and residuals and smallest eigenvalues may always be of the size of "
        f"{module.ROUNDING} rounding errors of the floating-point type."
    )
    return f"{table(('limit', 'value', 'of'), rows)}\n\n{more}"


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def variables() -> str:
    """Return every recorded variable."""
    from cflow_num.record.variables import VARIABLES

    rows = [
        (f"`{name}`", ", ".join(filter(None, ("step", dimension))), cell(units), cell(meaning))
        for name, (dimension, units, meaning) in VARIABLES.items()
    ]
    return table(("variable", "dimensions", "units", "meaning"), rows)


def symbols() -> str:
    """Return the symbol table of the derivations."""
    from cflow_sym.symbol_table import TABLE

    rows = [(f"${_safe(e.latex)}$", f"`{e.name}`", f"`{e.identifier}`", e.shape, cell(e.meaning)) for e in TABLE]
    return table(("symbol", "`cs.symbols`", "in generated code", "shape", "meaning"), rows)


def _safe(latex: str) -> str:
    return latex.replace(r"\|", r"\Vert ").replace("|", r"\vert ")


def refusals() -> str:
    """Return every refusal with its cure, a heading for each wing."""
    found, parts = sentences.refusals(), []
    for wing, heading in sentences.WINGS.items():
        here = [r for r in found if r.wing == wing]
        if here:
            rows = [(r.sentence, r.cure or "—", _as(r.error)) for r in here]
            parts.append(f"### {heading}\n\n`{wing}/`\n\n{table(('what it says', 'what to do', 'as'), rows)}")
    return "\n\n".join(parts)


def _as(error: str) -> str:
    return f"`{error}`" if error[0].isupper() else error


def settings() -> str:
    """Return the settings of a run, with flags and defaults."""
    from cflow_num.running import settings as module

    tree = ast.parse(inspect.getsource(module.Settings)).body[0]
    assert isinstance(tree, ast.ClassDef)
    said = {
        field.target.id: doc.value.value
        for field, doc in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    }
    defaults = module.Settings.defaults()
    rows = [(f"`{n}`", f"`--{n.replace('_', '-')}`", f"`{defaults[n]!r}`", cell(said[n])) for n in defaults]
    return table(("in Python", "flag", "default", "meaning"), rows)


def problems() -> str:
    """Return the named problems with their options."""
    import importlib

    from cflow_num.problems import PROBLEMS

    rows = []
    for name, (module, function, meaning) in PROBLEMS.items():
        build = getattr(importlib.import_module(f"cflow_num.problems.{module}"), function)
        options = ", ".join(f"`{k}={p.default}`" for k, p in inspect.signature(build).parameters.items())
        rows.append((f"`{name}`", cell(meaning), options))
    return table(("problem", "what it is", "options and defaults"), rows)


def optimizers() -> str:
    """Return the built-in optimizers with their hyperparameters and notes."""
    import cflow_sym as cs

    rows = []
    for name in cs.optimizers():
        spec = cs.optimizer(name)
        parameters = ", ".join(f"`{h.name}`" for h in spec.hyperparameters)
        switches = ", ".join(f"`{s.name}`" for s in spec.switches) or "—"
        rows.append((f"`{name}`", f"[{spec.title}](../derivations/{name}.md)", parameters, switches))
    return table(("name", "derivation", "hyperparameters", "switches"), rows)


def pictures() -> dict[str, tuple[str, str]]:
    """Return for each figure that is committed its picture and the page that it stands on."""
    from cflow_num.reproduce import FIGURES

    found = {}
    for page in sorted((ROOT / "notebooks" / "rendered").glob("*.md")):
        for name, picture in SHOWN.findall(page.read_text("utf-8")):
            found[name] = f"../notebooks/rendered/{picture}", f"../notebooks/rendered/{page.name}"
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        if picture.with_suffix(".md").exists():
            found[picture.stem] = f"../benchmarks/results/{picture.name}", f"../benchmarks/results/{picture.stem}.md"
    return {name: found[name] for name in FIGURES if name in found}


def figures() -> str:
    """Return the gallery: every figure with its command, and its picture where one is committed."""
    from cflow_num.reproduce import FIGURES

    known, parts = pictures(), []
    for name, entry in FIGURES.items():
        parts.append(f"### {name}\n\n{entry.line}.\n\n```sh\ncflow reproduce {name}\n```")
        if name in known:
            picture, page = known[name]
            parts.append(f"[![{entry.line}]({picture})]({page})")
    return "\n\n".join(parts)


def included(path: str) -> Callable[[], str]:
    """Return what returns a table that a command has written, without the heading of its page."""
    return lambda: re.sub(r"\A# .*\n", "", (ROOT / path).read_text("utf-8")).strip()


BLOCKS: dict[str, Callable[[], str]] = {
    "budget": included("benchmarks/results/budget.md"),
    "definitions": definitions,
    "figures": figures,
    "limits": limits,
    "optimizers": optimizers,
    "precision": included("benchmarks/results/precision.md"),
    "problems": problems,
    "refusals": refusals,
    "settings": settings,
    "symbols": symbols,
    "variables": variables,
}

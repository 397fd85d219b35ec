"""Every sentence with which cflow refuses something, read from its sources: nothing is listed by hand.

A refusal is `raise InputError(...)` or another of its errors, a sentence of a `Check`, or a warning that is given. What
stands in braces in the source is shown in italics. The cure is what follows the last colon.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {"InputError", "RunError", "SpecError", "ExpressionError", "UnknownOptimizerError", "DerivationError"}
SIGNALS = {"not there yet", "measured when it is drawn"}  # that a figure answers, no user
WARNINGS = {"GainWarning", "GrowthWarning", "KinkWarning", "PrecisionWarning", "ChangedWarning"}
# in the order in which work goes through them
WINGS = {
    "cflow_sym/spec": "Optimizers: what a spec must say",
    "cflow_sym/optimizers": "Optimizers by name",
    "cflow_sym/reading": "Optimizers from text, files, JAX and optax",
    "cflow_sym/derivation": "Derivations",
    "cflow_sym/theory": "Derivations: what has no central flow",
    "cflow_sym/writing": "Notes and generated code",
    "cflow_num/problems": "Problems and data by name",
    "cflow_num/loss": "Problems: losses and their parameters",
    "cflow_num/optimizer": "Hyperparameters and the optimizer's program",
    "cflow_num/flows": "Flows",
    "cflow_num/stepping": "Integrators",
    "cflow_num/running": "Runs",
    "cflow_num/record": "Run files",
    "cflow_num/verdict": "Verdict, onset, budget",
    "cflow_num/report": "Pictures and pages",
    "cflow_num/sweeps": "Sweeps",
    "cflow_num/reproduce": "The paper's figures",
    "cflow_num/testing": "Checks of an optimizer",
    "cflow_num/support": "Devices, files, caches",
    "cflow_num/linalg": "Linear algebra",
    "cflow_num/cli": "The command line",
}
PARTING = re.compile(r"(?:(?<!&[lg]t)[:;]|,(?= (?:use|pass|(?:it|they) must)\b)) ")


class Refusal(NamedTuple):
    """One sentence: its wing, the error it is raised as, what is wrong, and the cure (empty where it says none)."""

    wing: str
    error: str
    sentence: str
    cure: str


def refusals(root: Path = ROOT) -> list[Refusal]:
    """Return all refusals, in the order of `WINGS` and of the sources."""
    found: dict[Refusal, None] = {}
    trees = {wing: [_read(path) for path in sorted((root / wing).rglob("*.py"))] for wing in WINGS}
    shared = {name: text for wing in trees.values() for tree in wing for name, text in _constants(tree).items()}
    for wing in WINGS:
        for tree in trees[wing]:
            for error, text in _sentences(tree, shared):
                own = re.sub(r"\*[^*]*\*", "", text)
                if text not in SIGNALS and len(re.findall(r"[A-Za-z]{2,}", own)) > 1:  # not one that is handed on only
                    found[Refusal(wing, error, *_parted(text))] = None
    return list(found)


def _read(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the texts that a module names, for it and for those that import them."""
    return {name: text for name, text in _assigned(tree).items() if name.isupper()}


def _sentences(tree: ast.Module, shared: dict[str, ast.expr]) -> Iterator[tuple[str, str]]:
    """Yield each error or warning of a module with its sentence."""
    constants = shared | _constants(tree)
    for scope in _scopes(tree):
        known = constants | _assigned(scope)
        for node in _own(scope):
            if isinstance(node, ast.Return) and getattr(scope, "name", "") == "warning" and node.value is not None:
                yield "GainWarning", _text(node.value, known)
            elif found := _said(node):
                error, text = found
                yield error, _text(text, known)


def _said(node: ast.AST) -> tuple[str, ast.expr] | None:
    """Return what a raised error, a check or a warning is and says; None of anything else."""
    call = node.exc if isinstance(node, ast.Raise) else node
    if not isinstance(call, ast.Call) or not call.args:
        return None
    name, first, second = _name_of(call.func), call.args[0], call.args[min(1, len(call.args) - 1)]
    if isinstance(node, ast.Raise):
        return (name, first) if name in ERRORS else None
    if name == "warn" and _name_of(second) in WARNINGS:
        return _name_of(second), first
    if name == "format" and isinstance(call.func, ast.Attribute) and _name_of(call.func.value) == "CHANGED":
        return "ChangedWarning", call
    if name == "Check":
        return "run ended early", second
    return {"fail": ("SpecError", first), "_warn": ("PrecisionWarning", first)}.get(name)


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Walk a scope without the functions within it."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from _own(node)


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """Return texts that are given a name in a scope, for the sentences that are put together of them."""
    found: dict[str, ast.expr] = {}
    for node in _own(scope):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            (target,), value = node.targets, node.value
            pairs = zip(target.elts, value.elts, strict=False) if _both_tuples(target, value) else [(target, value)]
            for name, text in pairs:
                if isinstance(name, ast.Name) and isinstance(text, (ast.Constant, ast.JoinedStr, ast.IfExp)):
                    found.setdefault(name.id, text)
    return found


def _both_tuples(target: ast.AST, value: ast.AST) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)


def _name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _text(node: ast.AST, known: dict[str, ast.expr], depth: int = 0) -> str:
    """Return the sentence that an expression makes, as Markdown."""
    if isinstance(node, ast.Constant):
        return _plain(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, known, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, known, depth) + _text(node.right, known, depth)
    if isinstance(node, ast.IfExp):
        either = [_text(part, known, depth) for part in (node.body, node.orelse)]
        return " / ".join(text for text in either if text)
    if isinstance(node, ast.Name) and depth < 3 and _is_text(known.get(node.id)):
        return _text(known[node.id], known, depth + 1)
    if isinstance(node, ast.Call) and _name_of(node.func) == "format" and isinstance(node.func, ast.Attribute):
        return re.sub(r"\{[^}]*\}", "*…*", _text(node.func.value, known, depth))
    return _placeholder(node)


def _is_text(node: ast.AST | None) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _placeholder(node: ast.AST) -> str:
    """Return in italics what is put into a sentence when it is raised."""
    if isinstance(node, ast.Call):
        name = _name_of(node.func)
        if name == "nearest":
            return " (did you mean *…*?)"
        if name in ("join", "sorted", "list", "set", "repr", "str", "min", "max", "float", "int", "shown", "one_line"):
            return _placeholder(node.args[0]) if node.args else "*…*"
        if name == "len":
            return f"*number of {_placeholder(node.args[0]).strip('*')}*"
        return f"*{_words(name)}*" if name and not name.startswith("_") else "*…*"
    if isinstance(node, (ast.Name, ast.Attribute)):
        return f"*{_words(_name_of(node))}*"
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return _placeholder(node.generators[0].iter)
    if isinstance(node, ast.BoolOp):
        return _placeholder(node.values[0])
    if isinstance(node, ast.Subscript):
        return _placeholder(node.value)
    return "*…*"


def _words(name: str) -> str:
    return name.replace("_", " ").strip().lower() or "…"


def _plain(text: str) -> str:
    """Keep what would be markup in Markdown or HTML as it is."""
    return re.sub(r"([*_|\[\]$])", r"\\\1", text.replace("<", "&lt;").replace(">", "&gt;"))


def _parted(text: str) -> tuple[str, str]:
    """Part a sentence into what is wrong and the cure, which comes last.

    >>> _parted("n is *n*, it must be at least 1: pass a larger one")
    ('n is *n*, it must be at least 1', 'pass a larger one')
    >>> _parted("*name* is empty, use another")
    ('*name* is empty', 'use another')
    """
    text = " ".join(text.split())
    for place in reversed(list(PARTING.finditer(text))):
        wrong, cure = text[: place.start()], text[place.end() :]
        if wrong and wrong.count("(") == wrong.count(")"):
            return wrong, cure
    return text, ""

"""Derivations as lecture notes, in Markdown for GitHub and in LaTeX; rendering never re-derives."""

# SymPy annotates most results as Basic, so these checks say nothing here:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from cflow_sym.codegen import write_files
from cflow_sym.derivation import Derivation, Step
from cflow_sym.jax_printer import reading_order
from cflow_sym.notation import Coordinate, entry, latex_names, latex_of, symbols
from cflow_sym.optimizers import names as optimizer_names
from cflow_sym.optimizers import optimizer
from cflow_sym.recipe import derive
from cflow_sym.spec import OptimizerSpec
from cflow_sym.stable_flow import name_rates, rate_names

_s = symbols
CHAINED = (
    "increment_",
    "penalized_",
    "memory_",
    "theorem_slope_positive",
    "theorem_descent",
    "theorem_program_slope",
)  # shown with the expression before
HIDDEN = ("stable_t", "ansatz_t", "central_t")  # a counter counts
EXPLAINED = ("S", "u", "grad_S", "sigma_squared", "P", "c", "gradient_shift", "gradient_variance")


class NotePrinter(LatexPrinter):
    """SymPy's LaTeX printer with factors in reading order and vector brackets last."""

    def _print_Pow(self, expr: Any) -> str:
        if isinstance(expr.base, Coordinate) and expr.exp.is_Integer and expr.exp > 0:
            base = self._print(expr.base)
            base = base if len(base) < 5 and "\\" not in base else rf"\left({base}\right)"
            return rf"{base}^{{\odot {expr.exp}}}"
        return super()._print_Pow(expr)

    def _print_Mul(self, expr: Any) -> str:
        coefficient, rest = expr.as_coeff_Mul()
        if coefficient.is_negative:
            return "-" + self._factor(-coefficient * rest)
        top, bottom = sp.fraction(expr, exact=True)
        late = [f for f in sp.Mul.make_args(top) if isinstance(f, sp.Add) and is_vectorial(f)]
        if isinstance(bottom, sp.Add) and top in late:
            return rf"\frac{{{self._print(top)}}}{{{self._print(bottom)}}}"
        flips = sum(all(t.could_extract_minus_sign() for t in f.args) for f in late)
        late = [-f if all(t.could_extract_minus_sign() for t in f.args) else f for f in late]
        early = [f for f in reading_order(top) if not (isinstance(f, sp.Add) and is_vectorial(f))]
        if bottom == 1:
            front = r" ".join(self._factor(f) for f in early if f != 1)
        else:
            above = r" ".join(self._factor(f) if len(early) > 1 else self._print(f) for f in early) or "1"
            front = rf"\frac{{{above}}}{{{self._print(bottom)}}}"
        brackets = "".join(rf"\left({self._print(f)}\right)" for f in late)
        return ("-" if flips % 2 else "") + " ".join(part for part in (front, brackets) if part)

    def _factor(self, expr: Any) -> str:
        text = self._print(expr)
        return rf"\left({text}\right)" if isinstance(expr, sp.Add) else text

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        terms = sorted(expr.args, key=_place)
        text = self._print(terms[0])
        for term in terms[1:]:
            printed = self._print(term)
            text += (" - " + printed[1:].lstrip()) if printed.startswith("-") else " + " + printed
        return text


def is_vectorial(expr: sp.Expr) -> bool:
    """Say whether an expression has a representative coordinate, or a contraction, in it."""
    return bool(expr.atoms(Coordinate)) or expr.has(_s.grad_sq_norm)


def _place(term: sp.Expr) -> tuple:
    """Sort the terms of a sum: positive first, the gradient first, then by number of factors."""
    first = term in (_s.g, _s.grad_sq_norm) or bool(term.is_Integer)
    return (term.could_extract_minus_sign(), not first, int(term.count_ops()), sp.default_sort_key(term))


def latex(expr: sp.Expr) -> str:
    """Return the LaTeX of an expression in the notation of the symbol table.

    >>> latex(symbols.eta * symbols.grad_sq_norm)
    '\\\\eta \\\\|g\\\\|^2'
    """
    names = latex_names(expr)
    names.update({s: r"\|\dot w\|^2" for s in expr.atoms(sp.Symbol) if s.name == "w_dot_sq_norm"})
    minus = r"(-\langle g,\nabla S\rangle)"
    names.update({s: minus for s in expr.atoms(sp.Symbol) if s.name == "minus_grad_dot_grad_S"})
    squared = {s**k: sp.Symbol(rf"\left({v}\right)^{{{k}}}") for s, v in names.items() if "^2" in v for k in (2, 3, 4)}
    return NotePrinter({"symbol_names": names}).doprint(expr.xreplace(squared))


def shown(d: Derivation, expr: sp.Expr) -> sp.Expr:
    """Return the expression as it is displayed: with named rates once they are defined."""
    if isinstance(expr, sp.Add):
        return sp.Add(*(shown(d, term) for term in expr.args))
    if expr.is_Mul and len(expr.args) == 2 and _s.sigma_squared in expr.args:
        return sp.Mul(*(shown(d, factor) if isinstance(factor, sp.Add) else factor for factor in expr.args))
    return name_rates(d.spec, expr)


def _math(text: str) -> str:
    return f"$$\n{text}\n$$"


def _display(d: Derivation, step: Step, defined: bool) -> str:
    before, after = (shown(d, e) if defined else e for e in (step.before, step.after))
    quantity, result = step.quantity, latex(after)
    if step.key == "threshold":
        return _math(rf"\det(M+I)={latex(before)}=0\quad\Longrightarrow\quad c={result}")
    if step.key == "equilibrium":
        return _math(rf"\begin{{aligned}}u^\top(cP-H)u&={latex(before)},\\ {quantity}&={result}\end{{aligned}}")
    if step.key == "sigma_squared":
        return _math(rf"\boxed{{{quantity}={result}}}")
    if step.key.startswith("remainder_") and "text" in quantity:
        return _math(rf"{quantity}:\quad {result}")
    if step.key.startswith(CHAINED) and step.before != step.after:
        return _math(rf"\begin{{aligned}}{quantity}&={latex(before)}\\ &={result}\end{{aligned}}")
    return _math(rf"{quantity}={result}")


def _sentences(step: Step) -> list[str]:
    lines = [step.why]
    if step.assumption:
        lines.append(f"*Assumption:* {step.assumption}")
    lines.append(f"*Source:* {step.source}.")
    return lines


def _sections(d: Derivation) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in d.steps:
        if step.key not in HIDDEN and not (step.key == "threshold_drift" and step.after == 0):
            found.setdefault(step.section, []).append(step)
    return found


class Note(str):
    """Markdown text; a notebook typesets it."""

    def _repr_markdown_(self) -> str:
        return str(self)


def to_markdown(d: Derivation, keys: Sequence[str] = ()) -> Note:
    """Return the derivation as a Markdown note, or only the parts with these keys; display formulas render on GitHub.

    A key is that of a step, or `update`, `results` or `assumptions`. Raises `KeyError` for another.

    >>> to_markdown(derive("gradient_descent")).splitlines()[0]
    '# Gradient descent: from the update to the central flow'
    """
    if keys:
        parts = {"update": _update(d)} | {key: text for key, text in _parts(d) if key}
        for key in keys:
            if key not in parts:
                raise KeyError(f"no part {key!r}: the parts are {', '.join(parts)}")
        chosen = [parts[key] for key in parts if key in keys]
    else:
        chosen = [text for _, text in _parts(d)]
    return Note("\n\n".join(chosen) + "\n")


def _parts(d: Derivation) -> Iterator[tuple[str, str]]:
    """Yield the parts of the note in order: key, or nothing for headings and what stands before the steps, and text."""
    spec = d.spec
    yield "", f"# {spec.title}: from the update to the central flow"
    yield "", "<!-- generated by `cflow derive`; do not edit -->"
    yield "", _intro(d)
    yield "", "## Notation"
    yield "", _notation_table(d)
    number, defined = 0, False
    for title, steps in _sections(d).items():
        yield "", f"## {title}"
        for step in steps:
            number += 1
            parts = [
                f"**{number}. {step.rule[0].upper()}{step.rule[1:]}.** " + step.why,
                _display(d, step, defined),
                "  \n".join(_sentences(step)[1:]),
            ]
            if step.key.startswith("stable_") and rate_names(spec) and not defined:
                defined = True
                names = ",\\quad ".join(rf"{latex_of(k)}={latex(v)}" for k, v in rate_names(spec).items())
                parts.append("From here on the rate has a name, the published one of its two conventions:")
                parts.append(_math(names))
            yield step.key, "\n\n".join(parts)
    yield "", "## Results"
    yield "results", _summary(d)
    yield "", "## Assumptions"
    yield "assumptions", "\n".join(f"- {a}" for a in d.assumptions)


def _update(d: Derivation) -> str:
    spec = d.spec
    updates = [rf"{latex_of(s.name)}'&={latex(spec.resolve(s.update))}" for s in spec.states]
    updates.append(
        rf"w'&=w{_signed(latex(sp.expand(spec.resolve(spec.update)) if spec.penalty else spec.weight_update))}"
    )
    return _math(r"\begin{aligned}" + r"\\ ".join(updates) + r"\end{aligned}")


def _intro(d: Derivation) -> str:
    spec = d.spec
    order = "the published order" if d.order == "published" else "consistent order"
    opening = (
        f"One step of {spec.title} first updates its states with the gradient $g$ at the current weights, then moves "
        f"the weights with the updated states (written without a prime in the last line):"
        if spec.states
        else f"One step of {spec.title}:"
    )
    return "\n\n".join([
        opening,
        _update(d),
        "At the edge of stability the weights oscillate around a smooth path. This note derives the differential "
        f"equation of that path, the central flow, in {order} of its averages. Every step states its rule, what it "
        "assumes and where it is published; each has been checked at random exact points against brute force "
        "(two-point averages of random polynomial losses, the optimizer's own update, eigenvalues followed "
        "implicitly).",
    ])  # fmt: skip


def _signed(text: str) -> str:
    return text if text.startswith("-") else "+" + text


def _notation_table(d: Derivation) -> str:
    filtered = [n for n, kind in d.spec.kinds.items() if kind == "filtered"]
    names = [*filtered, *(s.name for s in d.spec.state_updates)] + [
        h.symbol.name for h in d.spec.active_hyperparameters
    ]
    meanings = {h.symbol.name: h.meaning for h in d.spec.active_hyperparameters}
    meanings |= {s.name: s.meaning for s in d.spec.states if s.meaning}
    shapes = {n: {"elementwise": "(n,)", "blockwise": "(B,)"}.get(k, "()") for n, k in d.spec.slow_states.items()}
    shapes |= dict.fromkeys(filtered, "(n,)")
    rows = ["| symbol | in Python | shape | meaning |", "|---|---|---|---|"]
    for name in ["w", "g", *names, *EXPLAINED]:
        row = entry(name)
        if row is None:
            rows.append(f"| ${latex_of(name)}$ | `{name}` | {shapes.get(name, '()')} | {meanings.get(name, '')} |")
        else:
            latex_name = row.latex.replace("|", r"\vert ")
            shape = shapes.get(name, row.shape)
            rows.append(f"| ${latex_name}$ | `{row.identifier}` | {shape} | {meanings.get(name) or row.meaning} |")
    rows += [
        r"| $\bar m$, ... | `filtered` | (n,) | averages of the gradient, normalized to it in the steady state; one "
        r"for each filtered state, and one without memory, $\bar g$, where the gradient itself is in the step |",
        r"| $\Delta t$ | `dt` | () | time step of the leapfrog, in optimizer steps; $x_+$ is a value after the step |",
    ]
    if filtered:
        rows.append(r"| $z$, $G(z)$, $v=G(1)$ | `filter_coefficients` | () | shift by one step; the filter's answer |")
    rows.append(
        r"| $\delta,\ \Sigma=E[\delta\delta^\top]$ | never formed | (n,), (n, n) | oscillation and its covariance |"
        "\n"
        r"| $H,\ T[\Sigma]$ | never formed | (n, n), (n,) | Hessian; gradient of $\langle\Sigma,H(w)\rangle$ with "
        r"$\Sigma$ held fixed, twice `gradient_shift` |"
        "\n"
        r"| $U,\ X$ | `U`, `X` | (n, k), (k, k) | critical directions, $HU=PU\Lambda$ and $U^\top PU=I$ for several; "
        r"covariance in them, $\Sigma=UXU^\top$ |"
        "\n"
        r"| $A$ | `slack` | (k, k) | $U^\top(cP-H)U$, the distance to the edge |"
    )
    return "\n".join(rows)


def _summary(d: Derivation) -> str:
    rows = [("P", d.preconditioner), ("c", d.threshold)]
    rows += [(rf"\dot{{{latex_of(n)}}}", e) for n, e in d.central_flow.items() if n != "t"]
    rows.append((r"\sigma^2", d.sigma_squared))
    rows += [(rf"\bar{{{latex_of(n)}}}", e) for n, e in d.stationary.items()]
    if "reduced_w" in d and d.spec.states:
        rows.append((r"\dot w\ \text{at the edge}", d["reduced_w"]))
    rows.append(("E[L]", d["predicted_loss"]))
    rows.append((r"E[\|\nabla L\|^2]", d["predicted_grad_sq_norm"]))
    body = r"\\[4pt] ".join(rf"{left}&={latex(shown(d, right))}" for left, right in rows)
    text = (
        "With one critical eigenvalue (set $\\sigma^2=0$ for the stable flow, and wherever the closed "
        "form is negative):"
    )
    return text + "\n\n" + _math(r"\begin{aligned}" + body + r"\end{aligned}")


def to_latex(d: Derivation) -> str:
    """Return the derivation as a LaTeX document.

    >>> to_latex(derive("gradient_descent")).startswith("\\\\documentclass")
    True
    """
    lines = [
        r"\documentclass{article}", r"\usepackage{amsmath,amssymb,hyperref}", r"\begin{document}",
        rf"\section*{{{d.spec.title}: from the update to the central flow}}",
        _tex(_intro(d)),
    ]  # fmt: skip
    defined = False
    for title, steps in _sections(d).items():
        lines.append(rf"\subsection*{{{title}}}")
        for step in steps:
            head, *rest = _sentences(step)
            lines.append(rf"\paragraph{{{step.rule[0].upper()}{step.rule[1:]}.}} {head}")
            lines.append(_tex(_display(d, step, defined)))
            lines += [
                line.replace("*Assumption:*", r"\emph{Assumption:}").replace("*Source:*", r"\emph{Source:}")
                for line in rest
            ]
            defined = defined or (step.key.startswith("stable_") and bool(rate_names(d.spec)))
    lines += [
        r"\subsection*{Results}",
        _tex(_summary(d)),
        r"\subsection*{Assumptions}",
        "\n".join([r"\begin{itemize}", *(rf"\item {a}" for a in d.assumptions), r"\end{itemize}"]),
        r"\end{document}",
    ]
    return "\n\n".join(lines) + "\n"


def _tex(markdown: str) -> str:
    """Write display formulas in LaTeX's own brackets."""
    return re.sub(r"\$\$\n(.*?)\n\$\$", lambda found: rf"\[{found.group(1)}\]", markdown, flags=re.S)


def write_derivations(
    folder: str | Path = "derivations", names: Iterable[str | OptimizerSpec] | None = None, *, check: bool = False
) -> list[Path]:
    """Write one note for each optimizer (names or specs), return the paths; with `check`, only return stale ones.

    The index is written only when all built-in optimizers are (`names=None`).
    """
    folder = Path(folder)
    specs = [optimizer(n) if isinstance(n, str) else n for n in (optimizer_names() if names is None else names)]
    texts = {folder / f"{spec.module_name}.md": to_markdown(derive(spec)) for spec in specs}
    if names is None:
        texts[folder / "README.md"] = index(optimizer_names())
    return write_files(texts, check=check)


def index_row(name: str) -> str:
    """Return the row of one optimizer in the index."""
    d = derive(optimizer(name))
    updates = [rf"{latex_of(s.name)}'={latex(d.spec.resolve(s.update))}" for s in d.spec.states]
    updates.append(rf"w'-w={latex(d.spec.weight_update)}")
    flow = [rf"\dot{{{latex_of(n)}}}={latex(shown(d, e))}" for n, e in d.central_flow.items() if n != "t"]
    one = [[latex(d.preconditioner)], [latex(d.threshold)], flow, [latex(shown(d, d.sigma_squared))]]
    cells = " | ".join("<br>".join(_cell(text) for text in texts) for texts in [updates, *one])
    return f"| [{d.spec.title}]({name}.md) | {cells} |"


def index(names: Iterable[str]) -> str:
    """Return the index of the notes: update, preconditioner, threshold, flow and variance of each optimizer."""
    rows = ["| optimizer | step | P | c | central flow | variance, one critical eigenvalue |", "|---" * 6 + "|"]
    rows += [index_row(name) for name in names]
    text = (
        "# Derivations\n\n<!-- generated by `cflow derive`; do not edit -->\n\n"
        "One note for each optimizer, from its update to its central flow. Every step was checked when it was made "
        "and is checked again by the tests. A state in the step is the updated one; "
        r"$\kappa_2=(1-\beta_2)/\beta_2$; symbols are explained in each note. Optional hyperparameters (epsilon, "
        "weight decay, a learning-rate schedule) are off here: `cflow derive NAME --switches epsilon schedule` "
        "shows them.\n\n"
    )
    return text + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return "$" + text.replace("|", r"\Vert ").replace(r"\\Vert ", r"\Vert ") + "$"

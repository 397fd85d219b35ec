"""LaTeX of expressions in the notation of the symbol table: factors in reading order, vector brackets last."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from cflow_sym.derivation.derivation import Derivation
from cflow_sym.notation import Coordinate, debias, latex_names, orient, rebias, symbols
from cflow_sym.theory.stable_flow import name_rates
from cflow_sym.writing.jax_printer import reading_order

_s = symbols


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
    expr = rebias(debias(sp.sympify(expr)))  # knows 1 - beta**t to be positive
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
    return orient(name_rates(d.spec, expr))


def math(text: str) -> str:
    """Return a display formula for GitHub."""
    return f"$$\n{text}\n$$"


def aligned(rows: list[tuple[str, str]], gap: str = "4pt") -> str:
    """Return a display formula of several lines, each of a left and a right side."""
    return math(r"\begin{aligned}" + rf"\\[{gap}] ".join(f"{left}&={right}" for left, right in rows) + r"\end{aligned}")

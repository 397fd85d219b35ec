"""What the notes print, held against what is meant: every formula is read back and has the value of its expression."""

from __future__ import annotations

import sympy as sp
from sympy.printing.latex import latex as plain_latex

from cflow_sym.derivation.derivation import Derivation, StepError
from cflow_sym.derivation.values import same_value
from cflow_sym.notation import latex_names, symbols
from cflow_sym.writing.latex_reader import UnreadableError, read
from cflow_sym.writing.render import latex, shown

RATES = (symbols.kappa1, symbols.kappa2)  # names of (1 - beta)/beta, except where a result is stated for any rate
# what theorems print of a product whose sign is known
WRITTEN_OUT = {sp.Symbol("minus_grad_dot_grad_S", nonnegative=True): -symbols.grad_dot_grad_S}


def printed_as_meant(d: Derivation) -> tuple[str, ...]:
    """Hold the printed form of every step's result against the result; return the keys of what is not readable.

    Raises `StepError` for the first formula that says something else, or that has one sign for two quantities.

    >>> import cflow_sym as cs
    >>> printed_as_meant(cs.derive("scalar_rmsprop"))  # an integral is outside the grammar
    ('theorem_remainder_integral',)
    """
    unread = []
    for step in d.steps:
        try:
            said = _read_back(d, step.after)
        except UnreadableError:
            unread.append(step.key)
            continue
        if not same_value(said, step.after.xreplace(WRITTEN_OUT)):
            raise StepError(f"step {step.key!r} is printed as {latex(_displayed(d, step.after))}, which says {said}; "
                            f"meant is {step.after}.")  # fmt: skip
    return tuple(unread)


def _displayed(d: Derivation, expr: sp.Expr) -> sp.Expr:
    """Return what a note prints; with options on, of which there are no notes, naming rates would take long."""
    return expr if d.spec.active_options else shown(d, expr)


def _read_back(d: Derivation, expr: sp.Expr) -> sp.Expr:
    original, expr = sp.sympify(expr), sp.sympify(_displayed(d, expr))
    names: dict[str, sp.Expr] = {}
    own = latex_names(expr)
    for symbol in sorted(expr.atoms(sp.Symbol), key=str):
        if symbol in WRITTEN_OUT:
            continue
        sign = r"\|\dot w\|^2" if symbol.name == "w_dot_sq_norm" else own.get(symbol) or plain_latex(symbol)
        if sign in names and names[sign] != symbol:
            raise StepError(f"{symbol} and {names[sign]} are both printed as {sign} in {latex(expr)}.")
        names[sign] = symbol
    rates = {sign: s for sign, s in names.items() if s in RATES and s in original.atoms(sp.Symbol)}
    return read(latex(expr), names, rates)

"""SymPy expressions as readable JAX code: `Total` becomes `jnp.sum`, operators get spaces.

States with one value for each block have shape (B,). In an expression of shape (n,) they are spread over the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import sympy as sp
from sympy.printing.numpy import JaxPrinter
from sympy.printing.precedence import PRECEDENCE

from cflow_sym.notation import BlockCoordinate, Coordinate, symbols
from cflow_sym.writing.corners import limit_at_zero, vanishes

_LIGHT = {symbols.beta1, symbols.beta2, symbols.kappa1, symbols.kappa2}


class ModulePrinter(JaxPrinter):
    """SymPy's JAX printer with `jnp` as the module's name and without stray brackets.

    `blockwise` says that the expression has shape (B,), so that states of blocks stand as they are. Where a denominator
    vanishes with the symbols in `zero`, the quotient is written with its limit (`boundary.py`); with `still` it is 0
    there, as a slope is that meets a state at rest.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        blockwise: bool = False,
        zero: Collection[sp.Symbol] = (),
        still: bool = False,
    ) -> None:
        super().__init__(settings)
        self.blockwise, self.zero, self.still, self.guarded = blockwise, zero, still, False

    def _over_weights(self, summand: sp.Expr) -> str:
        outer, self.blockwise = self.blockwise, False
        text = self._print(summand)
        self.blockwise = outer
        return text

    def _print_Symbol(self, expr: Any) -> str:
        name = super()._print_Symbol(expr)
        return f"blocks.spread({name})" if isinstance(expr, BlockCoordinate) and not self.blockwise else name

    def _print_Integer(self, expr: Any) -> str:
        return str(expr.p) if abs(expr.p) < 2**31 else repr(float(expr.p))  # larger ones overflow in JAX

    def _print_BlockTotal(self, expr: Any) -> str:
        total = f"blocks.total({self._over_weights(expr.args[0])})"
        return total if self.blockwise else f"blocks.spread({total})"

    def _print_log(self, expr: Any) -> str:
        argument = expr.args[0]
        text = self._print(argument)
        if isinstance(argument, sp.Symbol) and argument != symbols.beta2:  # a decay that may be 0: its powers are gone
            text = f"jnp.maximum({text}, 1e-30)"
        return f"jnp.log({text})"

    def _print_Frozen(self, expr: Any) -> str:
        return f"jnp.sign({self._print(expr.args[0])})"

    def _module_format(self, fqn: str, register: bool = True) -> str:
        return fqn.replace("jax.numpy.", "jnp.")

    def _print_Total(self, expr: Any) -> str:
        return f"jnp.sum({self._over_weights(expr.args[0])})"

    def _print_Mul(self, expr: Any) -> str:
        coefficient, rest = expr.as_coeff_Mul()
        if coefficient.is_negative:
            return "-" + self.parenthesize(-coefficient * rest, PRECEDENCE["Mul"], strict=True)
        numerator, denominator = sp.fraction(expr, exact=True)
        quotient = self._with_limit(numerator, denominator)
        if quotient:
            return quotient
        if denominator == 1:
            return "*".join(self.parenthesize(f, PRECEDENCE["Mul"], strict=True) for f in reading_order(expr))
        top = self.parenthesize(numerator, PRECEDENCE["Mul"], strict=True)
        return f"{top}/{self.parenthesize(denominator, PRECEDENCE['Pow'], strict=True)}"

    def _with_limit(self, numerator: sp.Expr, denominator: sp.Expr) -> str:
        """Return the quotient with its limit where the denominator vanishes, nothing where it cannot or has none."""
        if not self.zero or not vanishes(denominator, self.zero):
            return ""
        limit = 0 if self.still else limit_at_zero(numerator, denominator, self.zero)
        if limit is None:
            return ""
        outer, self.guarded = self.guarded, True
        parts = [self._print(numerator), self._print(denominator), *(["1"] if limit else [])]
        self.guarded = outer
        return f"quotient({', '.join(parts)})"

    def _is_root(self, expr: sp.Pow) -> bool:
        """Say whether the expression is a root of what may be 0, with infinite slopes there."""
        return expr.exp.is_Rational and not expr.exp.is_Integer and vanishes(expr.base, self.zero)

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        if expr.exp.could_extract_minus_sign():
            one = sp.Integer(1)
            return self._with_limit(one, 1 / expr) or "1/" + self.parenthesize(1 / expr, PRECEDENCE["Pow"], strict=True)
        if self.zero and (self.guarded or not expr.base.is_Symbol) and self._is_root(expr):
            base = self._print(expr.base)
            return f"root({base})" if expr.exp == sp.Rational(1, 2) else f"power({base}, {self._print(expr.exp)})"
        return super()._print_Pow(expr, rational=rational)

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        terms = sorted(expr.args, key=lambda a: (a.could_extract_minus_sign(), sp.default_sort_key(a)))
        text = self._print(terms[0])
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            text += (" - " if minus else " + ") + self.parenthesize(-term if minus else term, PRECEDENCE["Add"])
        return text


def reading_order(product: sp.Expr) -> list[sp.Expr]:
    """Order factors as they are read: numbers, brackets of decays, scalars, vectors, other brackets."""

    def place(factor: sp.Expr) -> tuple:
        bracket = isinstance(factor, sp.Add)
        vector = bool(factor.atoms(Coordinate)) and not bracket
        light = bracket and factor.free_symbols <= _LIGHT
        late = bracket and not light
        return (
            not factor.is_Number,
            not light,
            late,
            vector,
            factor.is_Pow or factor.has(sp.Function),
            str(factor),
        )

    return sorted(sp.Mul.make_args(product), key=place)


def jax_code(expr: sp.Expr, blockwise: bool = False, zero: Collection[sp.Symbol] = (), still: bool = False) -> str:
    """Return JAX code for an expression, elementwise in coordinates (or, of shape (B,), in blocks).

    `zero` holds the symbols that may be 0, where quotients then have their limits; see `ModulePrinter`.

    >>> s = symbols
    >>> jax_code(-s.eta * s.g / (sp.sqrt(s.nu) + s.epsilon))
    '-eta * g / (epsilon + jnp.sqrt(nu))'
    >>> jax_code(s.nu / sp.sqrt(s.nu + s.epsilon), zero={s.nu, s.epsilon})
    'quotient(nu, root(epsilon + nu))'
    """
    text = ModulePrinter({"fully_qualified_modules": True}, blockwise, zero, still).doprint(sp.sympify(expr))
    text = text.replace("**", "\0")
    text = re.sub(r"\s*([*/])\s*", r" \1 ", text)
    return text.replace("\0", "**")

"""Reads printed formulas back: the LaTeX of a note as an expression, by what its signs mean and not by who wrote them.

The grammar is that of the notes: sums and products by juxtaposition, fractions, roots, powers (elementwise ones with a
circle), logarithms, signs, sums over coordinates and over blocks. Signs that stand for a product or a contraction are
read by their meaning: T[Sigma] is twice the shift of the averaged gradient, whatever the symbol table prints for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import sympy as sp

from cflow_sym.notation import BlockTotal, Frozen, Total, symbols

_s = symbols
MEANINGS: dict[str, sp.Expr] = {
    r"T[\Sigma]": 2 * _s.gradient_shift,
    r"\|g\|^2": Total(_s.g**2),
    r"\|\nabla S\|^2": Total(_s.grad_S**2),
    r"\langle g,\nabla S\rangle": Total(_s.g * _s.grad_S),
    r"\langle w,\nabla S\rangle": Total(_s.w * _s.grad_S),
    r"\langle g,u\rangle": Total(_s.g * _s.u),
    r"\kappa_1": (1 - _s.beta1) / _s.beta1,
    r"\kappa_2": (1 - _s.beta2) / _s.beta2,
}
_SUMS = {r"\textstyle\sum_{\rm block}": BlockTotal, r"\textstyle\sum": Total}
_NUMBER = re.compile(r"\d+")
_SPACE = re.compile(r"(\s|\\,|\\quad)*")


class UnreadableError(ValueError):
    """A formula outside the grammar; the message shows the place."""


def read(text: str, names: Mapping[str, sp.Expr], given: Mapping[str, sp.Expr] | None = None) -> sp.Expr:
    r"""Return the expression that LaTeX says; `names` are the letters in it. Raises `UnreadableError`.

    A sign with a meaning of its own is read by it, unless it is `given` another one.

    >>> eta = _s.eta
    >>> read(r"\frac{\eta}{2} \left(g^{\odot 2} + \tfrac12T[\Sigma]\right)", {r"\eta": eta, "g": _s.g})
    eta*(g**2 + gradient_shift)/2
    """
    reader = _Reader(text, {**names, **MEANINGS, **(given or {})})
    result = reader.sum()
    if reader.rest():
        raise UnreadableError(f"cannot read {text!r} from {reader.rest()!r} on")
    return result


class _Reader:
    def __init__(self, text: str, names: Mapping[str, sp.Expr]) -> None:
        self.text, self.at = text, 0
        self.names = sorted(names.items(), key=lambda item: -len(item[0]))  # the longest that fits

    def rest(self) -> str:
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.text[self.at :]

    def take(self, sign: str) -> bool:
        """Go past a sign if it is next."""
        if not self.rest().startswith(sign):
            return False
        self.at += len(sign)
        return True

    def need(self, sign: str) -> None:
        if not self.take(sign):
            raise UnreadableError(f"cannot read {self.text!r}: {sign!r} is missing before {self.rest()!r}")

    def between(self, opening: str, closing: str) -> sp.Expr:
        self.need(opening)
        inner = self.sum()
        self.need(closing)
        return inner

    def sum(self) -> sp.Expr:
        total = -self.product() if self.take("-") else self.product()
        while True:
            if self.take("+"):
                total += self.product()
            elif self.take("-"):
                total -= self.product()
            else:
                return total

    def product(self) -> sp.Expr:
        result = self.power()
        while self.begins_a_factor():
            result *= self.power()
        return result

    def begins_a_factor(self) -> bool:
        rest = self.rest()
        return bool(rest) and rest[0] not in "+-)]}=&," and not rest.startswith((r"\right", r"\\", r"\end"))

    def power(self) -> sp.Expr:
        base = self.atom()
        while self.take("^"):
            if self.take("{"):
                self.take(r"\odot")
                exponent = self.sum()
                self.need("}")
            else:
                exponent = self.digit()
            base = base**exponent
        return base

    def digit(self) -> sp.Expr:
        """Read one digit, as after a fraction without braces."""
        found = self.rest()[:1]
        if not found.isdigit():
            raise UnreadableError(f"cannot read {self.text!r}: a digit is missing before {self.rest()!r}")
        self.at += 1
        return sp.Integer(found)

    def atom(self) -> sp.Expr:
        for name, value in self.names:
            if self.take(name):
                return value
        number = _NUMBER.match(self.rest())
        if number:
            self.at += number.end()
            return sp.Integer(number.group())
        if self.take(r"\tfrac"):
            return self.digit() / self.digit()
        if self.take(r"\frac"):
            return self.between("{", "}") / self.between("{", "}")
        if self.take(r"\sqrt"):
            return sp.sqrt(self.between("{", "}"))
        if self.take(r"\log"):
            self.need("{")
            inner = sp.log(self.between(r"\left(", r"\right)"))
            self.need("}")
            return inner
        if self.take(r"\mathrm{sign}"):
            return Frozen(self.between(r"\left(", r"\right)"))
        for sign, kind in _SUMS.items():
            if self.take(sign):
                return kind(self.between(r"\left[", r"\right]"))
        if self.rest().startswith(r"\left|"):
            return sp.Abs(self.between(r"\left|", r"\right|"))
        for opening, closing in ((r"\left(", r"\right)"), ("(", ")"), ("{", "}")):
            if self.rest().startswith(opening):
                return self.between(opening, closing)
        raise UnreadableError(f"cannot read {self.text!r} from {self.rest()!r} on")

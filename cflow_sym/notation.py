"""The notation: the symbols of the table (`symbol_table.py`), sums over coordinates, and how both are written.

A vector quantity is written as *its representative coordinate*: `g` stands for g_i, `nu / g**2` acts
elementwise. Contractions are written with two linear functions, `Total`, the sum over all coordinates, and
`BlockTotal`, the sum over the coordinates of the same block (layer), so that scalar, elementwise and blockwise
states go through one mechanism. `contract` pulls out of them what is constant there and gives the well-known
contractions a name: Total(g**2) becomes `grad_sq_norm`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.symbol_table import TABLE, Coordinate, Entry


class BlockCoordinate(Coordinate):
    """A coordinate of a vector that is constant on every block: one value for each of the B blocks."""


class _Sum(sp.Function):
    """A sum of coordinates: linear, real where its summand is."""

    nargs = 1
    is_commutative = True

    def _eval_is_real(self) -> bool | None:
        return self.args[0].is_real

    def _eval_is_nonnegative(self) -> bool | None:
        return self.args[0].is_nonnegative or None

    def _eval_derivative(self, s: Any) -> sp.Expr:
        if isinstance(s, Coordinate):
            raise TypeError(
                f"{type(self).__name__}(...) cannot be differentiated by the coordinate {s}; displace {s} by a "
                f"scalar instead"
            )
        return self.func(self.args[0].diff(s))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"{self._sign}\left[{printer._print(self.args[0])}\right]"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


class Total(_Sum):
    """Sum over the coordinates, `Total(g * u)` = sum_i g_i u_i; linear, contracted by `contract`."""

    _sign = r"\textstyle\sum"


KINDS = ("scalar", "elementwise", "blockwise", "filtered")  # of states
NEW, OLD = "_new", "_old"  # ends of names: an updated state, and one before its update
SCHEDULE = "schedule"  # the option with which hyperparameters depend on time


class BlockTotal(_Sum):
    """Sum over the coordinates of the same block: one value for each block, so elementwise where it stands."""

    _sign = r"\textstyle\sum_{\rm block}"


def _oriented(power: sp.Pow) -> sp.Expr:
    """Write powers of a - b and of b - a alike, without common factors.

    >>> a, b = sp.symbols("a b")
    >>> _oriented(1 / (2 * b - 2 * a)) + _oriented(1 / (2 * a - 2 * b))
    0
    """
    factor, base = power.base.primitive()
    sign = -1 if base.could_extract_minus_sign() else 1
    return (sign * factor) ** power.exp * (sign * base) ** power.exp


class Frozen(sp.Function):
    """The sign of a quantity that keeps it while the gradient passes through zero: +1 or -1, a constant.

    >>> x = sp.Symbol("x", real=True)
    >>> (Frozen(x) * x).diff(x), Frozen(x) ** 2
    (Frozen(x), 1)
    """

    nargs = 1
    is_commutative = True
    is_real = True
    is_nonzero = True

    @classmethod
    def eval(cls, arg: sp.Expr) -> sp.Expr | None:
        """Write the argument as a sum over denominators of one sign, so that the same sign is the same expression."""
        oriented = sp.expand(arg).replace(lambda e: e.is_Pow and e.base.is_Add and e.exp.is_Integer, _oriented)
        expanded = sp.expand(oriented)
        return None if expanded == arg else cls(expanded)

    def _eval_derivative(self, s: Any) -> sp.Expr:
        return sp.Integer(0)

    def _eval_power(self, exponent: Any) -> sp.Expr | None:
        if exponent.is_Integer:
            return sp.Integer(1) if exponent % 2 == 0 else self
        return None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        return rf"\mathrm{{sign}}\left({printer._print(self.args[0])}\right)"


_ENTRIES = {entry.name: entry for entry in TABLE}
_SYMBOLS = {entry.name: entry.symbol() for entry in TABLE}


class Symbols:
    """Attribute access to the symbols of the table.

    >>> symbols.eta, symbols.grad_sq_norm
    (eta, grad_sq_norm)
    """

    def __getattr__(self, name: str) -> sp.Symbol:
        try:
            return _SYMBOLS[name]
        except KeyError:
            raise AttributeError(f"no symbol {name!r} in the symbol table; it has {', '.join(_SYMBOLS)}") from None

    def __dir__(self) -> list[str]:
        return list(_SYMBOLS)


symbols = Symbols()

_s = symbols
NAMED_CONTRACTIONS: tuple[tuple[sp.Expr, sp.Expr], ...] = (
    (_s.g**2, _s.grad_sq_norm),
    (_s.g * _s.grad_S, _s.grad_dot_grad_S),
    (_s.grad_S**2, _s.grad_S_sq_norm),
    (_s.g * _s.u, _s.grad_dot_u),
    (_s.w * _s.grad_S, _s.w_dot_grad_S),
    (_s.u**2, sp.Integer(1)),
)
_NAMES = dict(NAMED_CONTRACTIONS)


def norm2(vector: sp.Expr) -> sp.Expr:
    """Return the squared norm of a vector, given as its representative coordinate.

    >>> norm2(symbols.g)
    Total(g**2)
    """
    return Total(vector**2)


def block_norm2(vector: sp.Expr) -> sp.Expr:
    """Return the squared norm of the part of a vector in the same block (layer).

    >>> block_norm2(symbols.g)
    BlockTotal(g**2)
    """
    return BlockTotal(vector**2)


_CLASSES = {"elementwise": Coordinate, "filtered": Coordinate, "blockwise": BlockCoordinate}


def state_symbol(name: str, kind: str = "scalar") -> sp.Symbol:
    """Return the symbol of a state: a `Coordinate` where it has one value for each weight (or block).

    Slow states are positive; filtered states (averages of the gradient itself) have any sign.

    >>> state_symbol("nu", "elementwise") == symbols.nu
    False
    """
    assumption = "real" if kind == "filtered" else "positive"
    return _CLASSES.get(kind, sp.Symbol)(name, **{assumption: True})


def rate_symbol(symbol: sp.Symbol) -> sp.Symbol:
    """Return the symbol of a rate of change, `nu_dot` for `nu`.

    >>> rate_symbol(symbols.eta)
    eta_dot
    """
    return (type(symbol) if isinstance(symbol, Coordinate) else sp.Symbol)(f"{symbol.name}_dot", real=True)


def is_elementwise(expr: sp.Basic) -> bool:
    """Say whether an expression has one value for each coordinate (a coordinate outside every `Total`).

    >>> is_elementwise(symbols.g**2), is_elementwise(norm2(symbols.g)), is_elementwise(block_norm2(symbols.g))
    (True, False, True)
    """
    if isinstance(expr, Coordinate):
        return True
    return not isinstance(expr, Total) and any(is_elementwise(arg) for arg in expr.args)


def is_blockwise(expr: sp.Basic) -> bool:
    """Say whether an expression is constant on every block: no coordinate but those of blocks.

    >>> is_blockwise(block_norm2(symbols.g)), is_blockwise(symbols.g), is_blockwise(symbols.eta)
    (True, False, True)
    """
    if isinstance(expr, Coordinate):
        return isinstance(expr, BlockCoordinate)
    return isinstance(expr, _Sum) or all(is_blockwise(arg) for arg in expr.args)


def contract(expr: sp.Expr) -> sp.Expr:
    """Use the linearity of `Total` and `BlockTotal`, then give named contractions their names.

    >>> contract(Total(symbols.eta * symbols.g * (symbols.g + symbols.grad_S)))
    eta*grad_dot_grad_S + eta*grad_sq_norm
    """

    def contract_one(kind: Any, argument: sp.Expr) -> sp.Expr:
        stays = is_elementwise if kind is Total else lambda factor: not is_blockwise(factor)
        result: sp.Expr = sp.Integer(0)
        for term in sp.Add.make_args(sp.expand(argument)):
            inside, outside = sp.Integer(1), sp.Integer(1)
            for factor in (part for whole in sp.Mul.make_args(term) for part in _factors_of_sum(whole)):
                if stays(factor):
                    inside *= factor
                else:
                    outside *= factor
            name = _NAMES.get(inside) if kind is Total else None
            result += outside * (kind(inside) if name is None else name)
        return result

    return sp.sympify(expr).replace(lambda e: isinstance(e, _Sum), lambda e: contract_one(e.func, e.args[0]))


def _factors_of_sum(factor: sp.Expr) -> tuple[sp.Expr, ...]:
    """Return the power of a sum as what all its terms share of coordinates, and the rest."""
    base, exponent = factor.as_base_exp()
    if not isinstance(base, sp.Add) or not is_elementwise(base):
        return (factor,)
    shared = {sp.Mul(*(f for f in sp.Mul.make_args(term) if is_elementwise(f))) for term in base.args}
    if len(shared) != 1:
        return (factor,)
    (vector,) = shared
    return vector**exponent, in_factors(sp.Add(*(term / vector for term in base.args))) ** exponent


def expand_names(expr: sp.Expr) -> sp.Expr:
    """Undo the naming of contractions: `grad_sq_norm` becomes Total(g**2) again.

    >>> expand_names(symbols.grad_sq_norm)
    Total(g**2)
    """
    return sp.sympify(expr).xreplace({name: Total(inside) for inside, name in NAMED_CONTRACTIONS if name != 1})


def drop_sums(expr: sp.Expr) -> sp.Expr:
    """Read an expression in one dimension, where every sum over coordinates is its only term.

    >>> drop_sums(symbols.nu + norm2(symbols.g))
    g**2 + nu
    """
    return sp.sympify(expr).replace(lambda e: isinstance(e, _Sum), lambda e: e.args[0])


def debias(expr: sp.Expr) -> sp.Expr:
    """Write h**t as 1 - D with a positive symbol D, so that algebra knows 1 - h**t to be positive.

    >>> debias(1 / sp.sqrt(1 - symbols.beta2**symbols.t))
    1/sqrt(debias_beta2)
    """
    t = symbols.t
    replacement = {}
    for p in sp.sympify(expr).atoms(sp.Pow):
        times, of_t = p.exp.as_coeff_Mul()
        if of_t == t and isinstance(p.base, sp.Symbol):
            replacement[p] = (1 - sp.Symbol(f"debias_{p.base}", positive=True)) ** times
    return expr.xreplace(replacement)


def rebias(expr: sp.Expr) -> sp.Expr:
    """Undo `debias`.

    >>> rebias(sp.Symbol("debias_beta2", positive=True))
    1 - beta2**t
    """
    names = {s: s.name.removeprefix("debias_") for s in expr.atoms(sp.Symbol) if s.name.startswith("debias_")}
    bases = {s: _SYMBOLS.get(name, sp.Symbol(name, positive=True)) for s, name in names.items()}
    return expr.xreplace({s: 1 - base**symbols.t for s, base in bases.items()})


def orient(expr: sp.Expr) -> sp.Expr:
    """Write factors beta - 1 as -(1 - beta), which is how rates are read; likewise with powers of the count.

    >>> orient(symbols.eta * (symbols.beta2 - 1) * symbols.nu)
    -eta*nu*(1 - beta2)
    """
    powers = [p for p in sp.sympify(expr).atoms(sp.Pow) if p.exp.has(symbols.t)]
    flipped = {h - 1: sp.Dummy(positive=True) for h in (symbols.beta1, symbols.beta2, *powers)}
    signed = expr.xreplace({old: -new for old, new in flipped.items()})
    return signed.xreplace({new: -old for old, new in flipped.items()})


def entry(symbol: sp.Symbol | str) -> Entry | None:
    """Return the row of a symbol, or None where the table has none.

    >>> entry("eta").meaning
    'learning rate'
    """
    return _ENTRIES.get(str(symbol))


def latex_of(symbol: sp.Symbol | str) -> str:
    """Return the LaTeX of a symbol; outside the table what follows an underscore is set as an index.

    >>> latex_of("nu"), latex_of("m_slow"), latex_of("beta3")
    ('\\\\nu', 'm_{\\\\rm slow}', '\\\\beta_{3}')
    """
    row = entry(symbol)
    if str(symbol).startswith("mean_"):
        return rf"\tilde {{{latex_of(str(symbol).removeprefix('mean_'))}}}"
    if row:
        return row.latex
    letter, _, index = str(symbol).partition("_")
    base = row_of.latex if (row_of := entry(letter)) else sp.latex(sp.Symbol(letter))
    base = base if len(letter) == 1 or "\\" in base or "_" in base else rf"\mathrm{{{letter}}}"
    words = index.replace("_", r"\ ")
    return base + (rf"_{{{words}}}" if len(words) == 1 else rf"_{{\rm {words}}}" if words else "")


def latex_names(expr: sp.Basic) -> dict[sp.Symbol, str]:
    """Return the LaTeX of every symbol in an expression, for SymPy's printer.

    >>> latex_names(symbols.grad_sq_norm)[symbols.grad_sq_norm]
    '\\\\|g\\\\|^2'
    """
    decorated = {"_dot": r"\dot{%s}", "_old": r"{%s}_{t-1}", "_new": r"{%s}'"}
    names: dict[sp.Symbol, str] = {}
    for symbol in expr.atoms(sp.Symbol):
        row = entry(symbol)
        if row is not None or not symbol.name.startswith("root"):
            names[symbol] = latex_of(symbol)
        for suffix, pattern in decorated.items():
            base = symbol.name.removesuffix(suffix)
            if base != symbol.name:
                names[symbol] = pattern % latex_of(base)
    return names

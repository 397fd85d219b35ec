"""Expressions as text, read by a whitelist: numbers, known names, + - * / **, and a few functions; never `eval`.

Python's own parser makes the tree, which is then translated node by node, so that nothing in the text is ever
executed. Numbers stay exact ("0.99" is 99/100). Before a power is computed its size is estimated, so that no short
text can ask for endless work.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import sympy as sp

from cflow_sym.constants import as_read
from cflow_sym.notation import TABLE, block_norm2, norm2, symbols

MOST_CHARACTERS, MOST_LEVELS, MOST_DIGITS, LARGEST_EXPONENT = 2000, 60, 40, 64
_LARGEST, _MOST_BITS, _MOST_WORK = 1e300, 4096, 2**22
_NUMBER = re.compile(r"(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?")
_COMPARISONS = {ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge}
_SUMS, _PRODUCTS = (ast.Add, ast.Sub), (ast.Mult, ast.Div)


class ExpressionError(ValueError):
    """A text that is no expression of the whitelist; the message says what is wrong with it and what to write."""


class _Part(NamedTuple):
    """An expression, with its approximate value where it is a number."""

    expr: sp.Expr
    value: float | None


class _Function(NamedTuple):
    build: Callable[..., sp.Expr]
    value: Callable[..., float]
    least: int = 1
    most: int = 1


def _cbrt(x: sp.Expr) -> sp.Expr:
    return sp.cbrt(x) if x.is_nonnegative else sp.sign(x) * sp.cbrt(sp.Abs(x))


FUNCTIONS: Mapping[str, _Function] = {
    "sqrt": _Function(sp.sqrt, math.sqrt),
    "cbrt": _Function(_cbrt, math.cbrt),
    "exp": _Function(sp.exp, math.exp),
    "log": _Function(sp.log, math.log),
    "tanh": _Function(sp.tanh, math.tanh),
    "cos": _Function(sp.cos, math.cos),
    "sin": _Function(sp.sin, math.sin),
    "abs": _Function(sp.Abs, abs),
    "sign": _Function(sp.sign, lambda x: float((x > 0) - (x < 0))),
    "max": _Function(sp.Max, max, 2, 8),
    "min": _Function(sp.Min, min, 2, 8),
    "norm2": _Function(norm2, math.nan),  # type: ignore[arg-type]
    "block_norm2": _Function(block_norm2, math.nan),  # type: ignore[arg-type]
    "where": _Function(sp.Piecewise, math.nan, 3, 3),  # type: ignore[arg-type]
}
_OF_VECTORS = ("norm2", "block_norm2")
_CHOICES = ("abs", "sign", "max", "min")  # of numbers: decided by their values, which needs no algebra


def table_names() -> dict[str, sp.Expr]:
    """Return the symbols of the symbol table by name and by Python identifier.

    >>> table_names()["learning_rate"] == table_names()["eta"] == symbols.eta
    True
    """
    by_identifier = {row.identifier: getattr(symbols, row.name) for row in TABLE}
    return by_identifier | {row.name: getattr(symbols, row.name) for row in TABLE}


def parse(text: str, names: Mapping[str, sp.Expr] | None = None) -> sp.Expr:
    """Return the SymPy expression that a text stands for; raises `ExpressionError`.

    **Arguments:**

    - `text`: numbers, names, `+ - * / **`, parentheses, `pi`, and calls of `FUNCTIONS`; `where(a < b, x, y)` is x
      where the comparison holds and y elsewhere.
    - `names`: what every name stands for; the symbol table by default.

    >>> parse("-eta * g / sqrt(nu)")
    -g*eta/sqrt(nu)
    >>> parse("0.1 * exp(-t / 500)")
    exp(-t/500)/10
    >>> parse("nu ^ 2")
    Traceback (most recent call last):
    cflow_sym.reading.expressions.ExpressionError: 'nu ^ 2' uses ^: write ** for a power
    """
    return _Reader(text, {"pi": sp.pi, **(table_names() if names is None else names)}).read()


class _Reader:
    """Translates one text; holds the text and what its names stand for."""

    def __init__(self, text: str, names: Mapping[str, sp.Expr]) -> None:
        self.text = re.sub(r"\s", " ", text) if isinstance(text, str) else text
        self.names = names

    def read(self) -> sp.Expr:
        tree = self.tree()
        try:
            return self.part(tree, 1).expr
        except ExpressionError:
            raise
        except (RecursionError, MemoryError):
            self.fail(tree, "is nested too deeply: split it into named parts")
        except Exception as error:  # SymPy refuses in many ways; none of them is the user's to read
            self.fail(tree, f"cannot be computed ({type(error).__name__}): write it in another way")

    def tree(self) -> ast.expr:
        text = self.text
        if not isinstance(text, str):
            raise ExpressionError(f"an expression is a text, not {text!r}: put it in quotes")
        if not text.strip():
            raise ExpressionError("the expression is empty: write for instance -eta * g / sqrt(nu)")
        if len(text) > MOST_CHARACTERS:
            raise ExpressionError(
                f"the expression has {len(text)} characters, at most {MOST_CHARACTERS} are read: split it into named "
                "parts"
            )
        if "#" in text:
            raise ExpressionError(f"{_short(text)} contains #: comments belong outside the expression")
        level = 0
        for letter in text:
            level += (letter == "(") - (letter == ")")
            if level > MOST_LEVELS:
                raise ExpressionError(f"{_short(text)} is nested deeper than {MOST_LEVELS} levels: split it into parts")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(text.lstrip(), mode="eval").body
        except SyntaxError as error:
            at = min((error.offset or 1) + len(text) - len(text.lstrip()), len(text) + 1)
            raise ExpressionError(
                f"{_short(text)} cannot be read at character {at} ({error.msg}): check brackets and operators"
            ) from None
        except (RecursionError, MemoryError):
            raise ExpressionError(f"{_short(text)} is nested too deeply: split it into named parts") from None
        except ValueError:  # null bytes and lone surrogates
            raise ExpressionError(f"{_short(text)} contains characters that no expression has: remove them") from None

    # Nodes

    def part(self, node: ast.expr, level: int) -> _Part:
        if level > MOST_LEVELS:
            self.fail(node, f"is nested deeper than {MOST_LEVELS} levels: split it into named parts")
        if isinstance(node, ast.Constant):
            return self.number(node)
        if isinstance(node, ast.Name):
            return self.checked(node, self.name(node), None)
        if isinstance(node, ast.Call):
            return self.call(node, level)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd):
            return self.part(node.operand, level + 1)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.product(node, level)
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, _SUMS):
                return self.sum(node, level)
            if isinstance(node.op, _PRODUCTS):
                return self.product(node, level)
            if isinstance(node.op, ast.Pow):
                return self.power(node, level)
        self.refuse(node)

    def refuse(self, node: ast.expr) -> NoReturn:
        """Say why a node is not on the whitelist."""
        if isinstance(node, ast.Attribute):
            self.fail(node, "reads an attribute: write plain names only")
        if isinstance(node, ast.Subscript):
            self.fail(node, "takes an element: write expressions for every coordinate at once, without indices")
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            self.fail(node, "defines a function or a loop: write one plain expression")
        if isinstance(node, (ast.Compare, ast.BoolOp)):
            self.fail(node, "is a condition, which stands in where(a < b, x, y) only, one comparison in each")
        if isinstance(node, ast.IfExp):
            self.fail(node, "uses if: write where(a < b, x, y)")
        if isinstance(node, ast.JoinedStr):
            self.fail(node, "is a text: write names and numbers without quotes")
        if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
            self.fail(node, "is a list: write one expression (a decimal point, not a comma, in numbers)")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
            self.fail(node, "uses ^: write ** for a power")
        if isinstance(node, (ast.BinOp, ast.UnaryOp)):
            self.fail(node, "uses an operator other than + - * / **: write it with those")
        self.fail(node, "is not allowed: write names, numbers, + - * / ** and functions only")

    def number(self, node: ast.Constant) -> _Part:
        if isinstance(node.value, (str, bytes)):
            self.fail(node, "is a text: write names and numbers without quotes")
        if isinstance(node.value, complex):
            self.fail(node, "is a complex number: write real numbers")
        found = _NUMBER.fullmatch(self.source(node))
        if isinstance(node.value, bool) or found is None:
            self.fail(node, "is not a decimal number: write for instance 0.99 or 1e-8")
        if len(re.sub(r"\D", "", found[1])) > MOST_DIGITS:
            self.fail(node, f"has more than {MOST_DIGITS} digits: round it")
        exact = re.sub(r"\D", "", found[1]).strip("0") == ""
        if not exact and not 1 / _LARGEST < float(node.value) < _LARGEST:
            self.fail(node, f"is beyond the range of numbers, {1 / _LARGEST:g} to {_LARGEST:g}: change the units")
        return _Part(sp.Integer(0) if exact else as_read(found[0].replace("_", "")), float(node.value))

    def name(self, node: ast.Name) -> sp.Expr:
        name = node.id
        if name in self.names:
            return self.names[name]
        if name.startswith("__"):
            self.fail(node, "begins with two underscores: names of Python's own are not allowed")
        if name in FUNCTIONS:
            self.fail(node, f"is a function: write its arguments, as in {name}(...)")
        self.fail(node, f"is not a known name{_nearest(name, self.names)}", "use one of ", self.names)

    def call(self, node: ast.Call, level: int) -> _Part:
        if not isinstance(node.func, ast.Name):
            if isinstance(node.func, (ast.Attribute, ast.Subscript, ast.Lambda)):
                self.refuse(node.func)
            self.fail(node, "calls something that is not a function: write * between factors")
        name = node.func.id
        if name.startswith("__"):
            self.fail(node.func, "begins with two underscores: names of Python's own are not allowed")
        if name not in FUNCTIONS and name in self.names:
            self.fail(node, f"calls {name}, which is not a function: write {name} * (...) for a product")
        if name not in FUNCTIONS:
            self.fail(node.func, f"is not a known function{_nearest(name, FUNCTIONS)}", "use one of ", FUNCTIONS)
        if node.keywords:
            self.fail(node, "passes an argument by name: write the arguments in order")
        function = FUNCTIONS[name]
        if not function.least <= len(node.args) <= function.most:
            wanted = {1: "1 argument", 2: f"2 to {function.most} arguments", 3: "3 arguments"}[function.least]
            self.fail(node, f"has {len(node.args)} arguments: {name} takes {wanted}")
        if name == "where":
            return self.where(node, level)
        arguments = [self.part(a, level + 1) for a in node.args]
        if name in _OF_VECTORS:
            if arguments[0].value is not None:
                self.fail(node, f"is the norm of a number: {name} takes a vector such as g")
            return self.checked(node, function.build(arguments[0].expr), None)
        values = [a.value for a in arguments]
        value = None if None in values else self.float(node, function.value, values)
        if value is not None and name in _CHOICES:
            return self.chosen(node, name, arguments, value)
        if name == "exp" and arguments[0].expr.has(sp.log):  # exp(n log x) is x**n
            self.small_enough(node, arguments[0].expr, arguments[0].expr)
        return self.checked(node, function.build(*(a.expr for a in arguments)), value)

    def chosen(self, node: ast.Call, name: str, arguments: list[_Part], value: float) -> _Part:
        """Decide a choice between numbers by their values."""
        if name in ("max", "min"):
            return next(a for a in arguments if a.value == value)
        (x,) = arguments
        if name == "sign":
            return _Part(sp.Integer(int(value)), value)
        return self.checked(node, -x.expr if (x.value or 0) < 0 else x.expr, value)

    def where(self, node: ast.Call, level: int) -> _Part:
        condition, *branches = node.args
        if not isinstance(condition, ast.Compare) or len(condition.ops) != 1:
            self.fail(condition, "is not one comparison: where needs a condition like t < 100")
        kind = _COMPARISONS.get(type(condition.ops[0]))
        if kind is None:
            self.fail(condition, "does not compare by < <= > >=: where needs a condition like t < 100")
        left, right = (self.part(side, level + 2) for side in (condition.left, condition.comparators[0]))
        yes, no = (self.part(branch, level + 1) for branch in branches)
        if left.value is not None and right.value is not None:
            return yes if bool(kind(sp.Float(left.value), sp.Float(right.value))) else no
        holds = kind(left.expr, right.expr, evaluate=False)
        return self.checked(node, sp.Piecewise((yes.expr, holds), (no.expr, True), evaluate=False), None)

    def sum(self, node: ast.expr, level: int) -> _Part:
        """Add up a whole chain a + b - c at once: it is one level however long."""
        terms: list[tuple[int, _Part]] = []
        for rest, operator in self.chain(node, _SUMS):
            sign = -1 if isinstance(operator, ast.Sub) else 1
            terms.append((sign, self.part(rest, level + 1)))
        values = [p.value for _, p in terms]
        value = None if None in values else sum(s * v for (s, _), v in zip(terms, values, strict=True))
        return self.checked(node, sp.Add(*(s * p.expr for s, p in terms)), value)

    def product(self, node: ast.expr, level: int) -> _Part:
        """Multiply a whole chain -a * b / c at once."""
        expr_factors: list[sp.Expr] = []
        values: list[float | None] = []
        for rest, operator in self.chain(node, _PRODUCTS):
            while isinstance(rest, ast.UnaryOp) and isinstance(rest.op, ast.USub) and not expr_factors:
                rest, level = rest.operand, level + 1
                expr_factors.append(sp.Integer(-1))
                values.append(-1.0)
            factor = self.part(rest, level + 1)
            if isinstance(operator, ast.Div):
                if factor.expr == 0 or factor.value == 0:
                    self.fail(node, "divides by zero: change the denominator")
                expr_factors.append(1 / factor.expr)
                values.append(None if factor.value is None else 1 / factor.value)
            else:
                expr_factors.append(factor.expr)
                values.append(factor.value)
        value = None if None in values else math.prod(v for v in values if v is not None)
        return self.checked(node, sp.Mul(*expr_factors), value)

    @staticmethod
    def chain(node: ast.expr, operators: tuple[type, ...]) -> Iterator[tuple[ast.expr, Any]]:
        """Yield the operands of a left-associative chain in order, each with the operator before it."""
        found: list[tuple[ast.expr, Any]] = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, operators):
            found.append((node.right, node.op))
            node = node.left
        return iter([(node, None), *reversed(found)])

    def power(self, node: ast.BinOp, level: int) -> _Part:
        exponent, base = self.part(node.right, level + 1), self.part(node.left, level + 1)
        if exponent.value is not None and abs(exponent.value) > LARGEST_EXPONENT:
            self.fail(
                node,
                f"has the exponent {exponent.value:g}: at most {LARGEST_EXPONENT} in absolute value is allowed, use "
                "exp or log for more",
            )
        if base.expr == 0 and exponent.value is not None and exponent.value < 0:
            self.fail(node, "divides by zero: change the denominator")
        self.small_enough(node, base.expr, exponent.expr)
        fractional = exponent.value is not None and exponent.expr.is_integer is not True
        if fractional and base.value is None and base.expr.is_negative:
            self.fail(node, "is the root of a negative quantity: real results only are allowed")
        values = (base.value, exponent.value)
        value = None if None in values else self.float(node, math.pow, values)
        return self.checked(node, base.expr**exponent.expr, value)

    # Checks

    def small_enough(self, node: ast.expr, base: sp.Expr, exponent: sp.Expr) -> None:
        """Refuse a power whose coefficients could have millions of digits, before it is computed."""
        inner = [e for p in base.atoms(sp.Pow) for e in p.exp.atoms(sp.Rational)]
        work = max((_bits(x) for x in base.atoms(sp.Rational)), default=1)
        for numbers in (inner, exponent.atoms(sp.Rational)):
            work *= max((math.ceil(abs(x)) for x in numbers), default=1) or 1
        if work > _MOST_WORK:
            self.fail(node, "is a huge power: use smaller numbers in exponents")

    def float(self, node: ast.expr, function: Callable[..., float], arguments: Any) -> float:
        try:
            return float(function(*arguments))
        except OverflowError:
            return math.inf
        except (ValueError, ZeroDivisionError):
            self.fail(node, "is not a real number: check what stands in roots, logarithms and denominators")

    def checked(self, node: ast.expr, expr: sp.Expr, value: float | None) -> _Part:
        """Refuse what is no finite real expression; find the value of what has turned out to be a number."""
        numbers = expr.atoms(sp.Number, type(sp.zoo), type(sp.I))
        if sp.I in numbers or expr.is_commutative is not True:
            self.fail(node, "is not a real number: check what stands in roots and logarithms")
        if value is None and not expr.free_symbols:
            value = float(sp.N(expr))
        finite = all(x.is_finite for x in numbers) and (value is None or abs(value) < _LARGEST)
        if not finite or (value is not None and abs(value) <= 1 / _LARGEST and expr != 0):
            self.fail(node, f"is beyond the range of numbers, {1 / _LARGEST:g} to {_LARGEST:g}: change the units")
        if any(_bits(x) > _MOST_BITS for x in numbers if x.is_Rational):
            self.fail(node, "contains a number of more than a thousand digits: use smaller exponents")
        return _Part(expr, value)

    def fail(self, node: ast.AST, problem: str, use: str = "", known: Mapping[str, Any] | None = None) -> NoReturn:
        names = list(known or ())
        remedy = "" if known is None else f": {use}{', '.join(names)}" if len(names) <= 16 else ": " + _DECLARE
        raise ExpressionError(f"{_short(self.source(node))} {problem}{remedy}")

    def source(self, node: ast.AST) -> str:
        data = self.text.lstrip().encode("utf-8", "surrogatepass")
        piece = data[getattr(node, "col_offset", 0) : getattr(node, "end_col_offset", len(data))]
        return piece.decode("utf-8", "replace")


_DECLARE = "use a name of the symbol table, or declare it as a state or a hyperparameter"


def _bits(number: sp.Rational) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 50 else text[:47] + "...")


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""

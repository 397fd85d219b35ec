"""The whitelist parser: what it reads, what it refuses and with which sentence."""

import math
import string
import time

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_sym.notation import symbols as s
from cflow_sym.reading.expressions import FUNCTIONS, ExpressionError, parse, table_names

X = sp.Symbol("x", positive=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-eta * g / sqrt(nu)", -s.eta * s.g / sp.sqrt(s.nu)),
        ("-learning_rate*g/(nu**0.5 + epsilon)", -s.eta * s.g / (sp.sqrt(s.nu) + s.epsilon)),
        ("beta2 * nu + (1 - beta2) * g**2", s.beta2 * s.nu + (1 - s.beta2) * s.g**2),
        ("0.1 * exp(-t / 500)", sp.exp(-s.t / 500) / 10),
        ("2 ** -1 - -3 + +1", sp.Rational(9, 2)),
        ("max(1, 2, 0.5)", sp.Integer(2)),
        ("1e-8 + 1_000", sp.Rational(1000) + sp.Rational(1, 10**8)),
        ("where(t < 10, t / 10, 1)", sp.Piecewise((s.t / 10, s.t < 10), (1, True))),
        ("  cos(pi)  ", sp.Integer(-1)),
    ],
)
def test_what_is_read(text, expected):
    assert sp.simplify(parse(text) - expected) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g.__class__", "reads an attribute"),
        ("().__class__.__bases__[0]", "reads an attribute|takes an element"),
        ("__import__('os').system('true')", "attribute|two underscores"),
        ("__name__", "two underscores"),
        ("__builtins__(1)", "two underscores"),
        ("eval('1')", "is not a known function"),
        ("open(g)", "is not a known function"),
        ("nu(2)", "calls nu, which is not a function: write nu"),
        ("sqrt", "is a function"),
        ("gama * g", "is not a known name"),
        ("bta2 * g", "did you mean 'beta2'"),
        ("2 ** 1000", "exponent 1000"),
        ("g ** g ** g ** 65", "exponent 65"),
        ("((2**64)**64)**64", "huge power|thousand digits|beyond the range"),
        ("(1 + g)**64**64", "exponent"),
        ("9**64**2", "exponent"),
        ("nu ^ 2", r"uses \^: write \*\*"),
        ("g @ g", "operator other than"),
        ("g // 2", "operator other than"),
        ("~g", "operator other than"),
        ("g if t else 1", "write where"),
        ("g < 2", "is a condition"),
        ("where(g, 1, 2)", "is not one comparison"),
        ("where(1 < t < 3, 1, 2)", "is not one comparison"),
        ("where(t == 3, 1, 2)", "does not compare by"),
        ("lambda: g", "defines a function"),
        ("[g for g in g]", "defines a function or a loop"),
        ("(g, g)", "is a list"),
        ("g[0]", "takes an element"),
        ("'g'", "is a text"),
        ("f'{g}'", "is a text"),
        ("1j", "is a complex number"),
        ("True", "is not a decimal number"),
        ("0x10", "is not a decimal number"),
        ("None", "is not a"),
        ("...", "is not"),
        ("1e999", "beyond the range"),
        ("1e-400", "beyond the range"),
        ("1" * 60, "more than 40 digits"),
        ("1 / 0", "divides by zero"),
        ("g / (1 - 1)", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("sqrt(-1)", "not a real number"),
        ("log(0)", "not a real number"),
        ("(-2) ** 0.5", "not a real number"),
        ("sqrt(1, 2)", "takes 1 argument"),
        ("max(1)", "takes 2 to 8 arguments"),
        ("sqrt(x=1)", "by name"),
        ("norm2(3)", "norm of a number"),
        ("", "is empty"),
        ("   ", "is empty"),
        ("g +", "cannot be read at character"),
        ("(g", "cannot be read"),
        ("g # comment", "contains #"),
        ("g; g", "cannot be read"),
        ("x := 3", "cannot be read"),
        ("import os", "cannot be read"),
        ("(" * 80 + "g" + ")" * 80, "nested deeper"),
        ("-" * 300 + "g", "nested"),
        ("+".join(["g"] * 2000), "characters"),
        ("g\x00", "null bytes|characters that no expression has"),
    ],
)
def test_what_is_refused(text, message):
    began = time.monotonic()
    with pytest.raises(ExpressionError, match=message):
        parse(text)
    assert time.monotonic() - began < 5  # no endless work, with a wide margin
    with pytest.raises(ExpressionError):
        parse(text, {"g": s.g})


def test_only_texts_are_read():
    for wrong in (3, None, b"g", ["g"]):
        with pytest.raises(ExpressionError, match="is a text"):
            parse(wrong)


@settings(max_examples=300)
@given(st.text(string.ascii_letters[:6] + "gtnu0123456789.+-*/()<> ,_[]'\"^@:=\\", max_size=40))
def test_any_text_gives_a_finite_expression_or_a_sentence(text):
    try:
        found = parse(text)
    except ExpressionError as error:
        refusal, found = str(error), None
    if found is None:
        assert "\n" not in refusal
        assert len(refusal) < 400
        return
    assert isinstance(found, sp.Expr)
    assert not found.has(sp.nan, sp.zoo, sp.oo, sp.I)
    assert found.free_symbols <= set(table_names().values())


LEAVES = st.one_of(st.just("x"), st.integers(0, 20).map(str), st.floats(0.01, 50).map(lambda v: f"{v:.3f}"))


def _grow(parts):
    binary = st.tuples(parts, st.sampled_from("+-*"), parts).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    quotient = parts.map(lambda a: f"1 / (1 + abs({a}))")
    call = st.tuples(st.sampled_from(["exp", "tanh", "cos", "sqrt", "log"]), parts).map(_called)
    power = st.tuples(parts, st.integers(0, 3)).map(lambda p: f"({p[0]}) ** {p[1]}")
    return st.one_of(binary, quotient, call, power)


def _called(parts):
    name, inside = parts
    return f"{name}(-abs({inside}))" if name == "exp" else f"{name}(1 + abs({inside}))"


@settings(max_examples=150)
@given(st.recursive(LEAVES, _grow, max_leaves=8), st.floats(0.2, 3.0))
def test_the_value_is_that_of_python(text, x):
    names = {"x": x, "abs": abs, **{n: getattr(math, n) for n in ("exp", "tanh", "cos", "sqrt", "log")}}
    try:
        found = parse(text, {"x": X})
    except ExpressionError as error:
        refusal, found = str(error), None
    if found is None:
        assert any(word in refusal for word in ("range", "thousand", "huge"))
        return
    expected = eval(text, {"__builtins__": {}}, names)  # the test's own text, not a user's
    assert float(found.subs(X, sp.Float(x, 30))) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_names_of_functions_are_not_names_of_symbols():
    assert not set(FUNCTIONS) & set(table_names())

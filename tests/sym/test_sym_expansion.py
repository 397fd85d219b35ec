"""For all random polynomial losses of degree at most 4: expansions against exact averages."""

import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cflow_sym.derivation.exact import (
    LocalModel,
    Point,
    Polynomial,
    add,
    is_zero,
    mean,
    moments,
    scale,
    two_point_average,
)
from cflow_sym.notation import norm2, symbols
from cflow_sym.theory import averaging, expansion

s = symbols
SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)
small = st.integers(-6, 6).map(lambda k: sp.Rational(k, 3))


@st.composite
def losses(draw, degree=4):
    """A polynomial with random rational coefficients and one to three displacements."""
    n = draw(st.integers(1, 4))
    exponents = st.lists(st.integers(0, n - 1), min_size=1, max_size=degree).map(
        lambda ix: tuple(ix.count(i) for i in range(n))
    )
    terms = draw(st.dictionaries(exponents, small, min_size=2, max_size=12))
    vectors = st.lists(st.tuples(*[small] * n), min_size=1, max_size=3)
    model = LocalModel(Polynomial(tuple(terms.items())), ((sp.Integer(1),) * n,))
    return model, draw(vectors)


def value(expr, model, deltas):
    """Evaluate an expansion in the moments of the displacements."""
    g = model.gradient((0,) * model.dimension)
    return Point({s.g: g, **moments(model, deltas)}, model.dimension).vector(expr)


def average(f, model, deltas):
    n = model.dimension
    return two_point_average(model, deltas, lambda g: Point({s.g: g}, n).vector(f))


def remainder(f, expr, model, deltas):
    return add(average(f, model, deltas), scale(-1, value(expr, model, deltas)))


def coefficients(f, model, deltas, expr):
    """Return the powers of the amplitude in (exact average - expansion): a polynomial, so exactly."""
    x = sp.Symbol("x_amplitude")
    exact = average(f, model, [scale(x, d) for d in deltas])
    shift = {k: scale(x**2, v) for k, v in moments(model, deltas).items()}
    g = model.gradient((0,) * model.dimension)
    stated = Point({s.g: g, **shift}, model.dimension).vector(expr)
    return [sp.Poly(sp.expand(a - b), x) for a, b in zip(exact, stated, strict=True)]


@SETTINGS
@given(losses())
def test_averaged_gradient_is_exact_up_to_degree_four(case):
    model, deltas = case
    assert is_zero(add(average(s.g, model, deltas), scale(-1, value(s.g + s.gradient_shift, model, deltas))))


@SETTINGS
@given(losses(degree=6))
def test_remainder_of_the_averaged_gradient_is_the_stated_one(case):
    model, deltas = case
    fourth = mean([model.derivative(d, d, d, d) for d in deltas])
    difference = add(average(s.g, model, deltas), scale(-1, value(s.g + s.gradient_shift, model, deltas)))
    assert is_zero(add(difference, scale(-sp.Rational(1, 24), fourth)))


@SETTINGS
@given(losses())
def test_consistent_order_leaves_fourth_powers(case):
    model, deltas = case
    for f in (s.g**2, norm2(s.g)):
        for p in coefficients(f, model, deltas, expansion.expand(f, "consistent")):
            assert all(power >= 4 for (power,), c in p.terms() if c != 0)


@SETTINGS
@given(losses())
def test_published_order_drops_the_cross_term_and_nothing_else_of_its_power(case):
    model, deltas = case
    for f in (s.g**2, norm2(s.g)):
        cross = averaging.name_moments(averaging.orders_of_average(f)[1])[1]
        stated = value(cross, model, deltas)
        for p, expected in zip(coefficients(f, model, deltas, expansion.expand(f, "published")), stated, strict=True):
            assert p.coeff_monomial(1) == 0
            assert p.coeff_monomial(p.gen**2) == expected


@SETTINGS
@given(losses())
def test_remainder_scales_with_the_fourth_power(case):
    model, deltas = case
    for f in (s.g**2, norm2(s.g)):
        expr = expansion.expand(f, "consistent")
        amplitudes = (sp.Integer(1), sp.Rational(1, 2), sp.Rational(1, 4))
        left = [remainder(f, expr, model, [scale(x, d) for d in deltas]) for x in amplitudes]
        # powers 4 and 6 are all that a loss of degree 4 leaves: two amplitudes predict the third
        for a, b, c in zip(*left, strict=True):
            sixth = (a - 16 * b) / (1 - sp.Rational(16, 64))
            fourth = a - sixth
            assert is_zero(c - fourth / 4**4 - sixth / 4**6)


@SETTINGS
@given(losses(degree=3))
def test_averaged_loss_is_exact_up_to_degree_three(case):
    model, deltas = case
    origin = (sp.Integer(0),) * model.dimension
    brute = mean([model.loss(scale(sign, d)) for d in deltas for sign in (1, -1)])
    curvature = mean([sp.Add(*(a * b for a, b in zip(d, model.derivative(d), strict=True))) for d in deltas])
    assert is_zero(brute - model.loss(origin) - curvature / 2)


def test_a_wrong_expansion_is_refuted():
    x, y = (2, 1), (1, 2)
    quadratic = (((2, 0), sp.Integer(3)), ((1, 1), sp.Integer(1)))  # without it the variance would vanish
    terms = ((x, sp.Integer(1)), (y, sp.Integer(2)), ((1, 0), sp.Integer(1)), *quadratic)
    model = LocalModel(Polynomial(terms), ((1, 0),))
    deltas = [(sp.Integer(1), sp.Integer(1))]
    wrong = s.g**2 + 2 * s.g * s.gradient_shift + 2 * s.gradient_variance
    assert any(p.coeff_monomial(p.gen**2) != 0 for p in coefficients(s.g**2, model, deltas, wrong))
    published = expansion.expand(s.g**2, "published")
    assert any(p.coeff_monomial(p.gen**2) != 0 for p in coefficients(s.g**2, model, deltas, published))

"""Which number a floating-point constant stands for: one place for the constants of programs, files and specs.

A constant is what its shortest decimal says, 0.9 or 1e-8. One that a program computed before it was traced, such as
1 - 0.9 = 0.09999999999999998, has a long decimal and stands for the simple number that it misses by rounding only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

ROUNDINGS = 16  # units in the last place that a few operations can miss a simple number by
LARGEST_DENOMINATOR = {np.float64: 1000, np.float32: 20}  # of a fraction that is no short decimal, like 1/3


def stands_for(number: Any) -> sp.Rational:
    """Return the rational number that a finite constant stands for, in double precision or in its own.

    The constant changes by rounding at most.

    >>> stands_for(0.1), stands_for(1 - 0.9), stands_for(1 - 0.9999), stands_for(2 / 3)
    (1/10, 1/10, 1/10000, 2/3)
    >>> stands_for(np.float32(0.1)), stands_for(1 - np.float32(0.9)), stands_for(0.1234567890123456)
    (1/10, 1/10, 19290123283179/156250000000000)
    """
    value = number if isinstance(number, np.floating) else np.float64(number)
    kind, written = type(value), sp.Rational(str(value))
    short = int(np.finfo(kind).precision) - 2  # the digits of a short decimal
    if value < 0:
        return -stands_for(-value)
    if _digits(value) <= short or kind not in LARGEST_DENOMINATOR:
        return written
    rest = kind(1) - value  # of a decay that was subtracted from 1
    if rest > 0 and _digits(rest) <= short and kind(1) - kind(str(rest)) == value:
        return 1 - sp.Rational(str(rest))
    close = ROUNDINGS * sp.Rational(float(np.finfo(kind).eps)) * written
    fraction = written.limit_denominator(LARGEST_DENOMINATOR[kind])
    simple = (sp.Rational(f"{value:.{short - 2}g}"), fraction)
    return next((q for q in simple if abs(q - written) <= close), written)


def as_read(text: str) -> sp.Rational:
    """Return the rational number that a decimal in a text stands for: every digit counts if it is no computed one.

    >>> as_read("0.09999999999999998"), as_read("0.12345678901234567")
    (1/10, 12345678901234567/100000000000000000)
    """
    written, number = sp.Rational(text), stands_for(float(text))
    return written if number == sp.Rational(repr(float(text))) else number


def _digits(value: Any) -> int:
    """Return the number of significant digits of the shortest decimal.

    >>> _digits(1e-8), _digits(0.1 + 0.2)
    (1, 17)
    """
    mantissa = str(abs(value)).partition("e")[0].replace(".", "")
    return len(mantissa.strip("0")) or 1

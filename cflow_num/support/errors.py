"""Bad input: one sentence with the value, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

NO_GRADIENT = (  # what to do about it
    "the root or the norm of zero has none, nor has a quotient 0/0, even in a branch of jnp.where that is not chosen; "
    "add a small number under the root, or make its argument safe with a jnp.where of its own"
)


class InputError(ValueError):
    """Input that no work can start with; its message is one sentence meant for the user.

    >>> raise InputError("learning rate is -1, it must be positive: pass for instance 0.1")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: learning rate is -1, it must be positive: pass for instance 0.1
    """


class RunError(RuntimeError):
    """A computation that cannot go on; its message is one sentence meant for the user."""


class GainWarning(UserWarning):
    """The optimizer's oscillation grows so fast beyond the edge that bursts are to be expected."""


class KinkWarning(UserWarning):
    """The loss has kinks, where third derivatives do not exist."""


class PrecisionWarning(UserWarning):
    """Weights, or the loss, have fewer digits than was asked for."""


class GrowthWarning(UserWarning):
    """A process ended far above where it began, without leaving finite numbers."""


class ChangedWarning(UserWarning):
    """A loss reads something that has changed since its problem was made: it is taken as it is now."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` for the known name closest to `name`, or an empty string.

    >>> nearest("digits-mpl", ["quadratic", "digits-mlp"])
    ' (did you mean "digits-mlp"?)'
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f' (did you mean "{close[0]}"?)' if close else ""


def check_one_of(what: str, name: Any, known: Iterable[str]) -> None:
    """Raise `InputError` with what is known, and the closest of it, unless `name` is one of them.

    >>> check_one_of("data", "digit", ["digits", "sorting"])
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: data "digit" is not one of digits, sorting (did you mean "digits"?)
    """
    known = list(known)
    if not isinstance(name, str):
        raise InputError(f"{what} is {name!r}, it must be one of {', '.join(known)}")
    if name not in known:
        raise InputError(f'{what} "{name}" is not one of {", ".join(known)}{nearest(name, known)}')


def check_flag(name: str, value: Any) -> bool:
    """Return a value that is true or false; raises `InputError` for any other.

    >>> check_flag("examples", "yes")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: examples is 'yes', it must be True or False
    """
    if not isinstance(value, bool) and type(value).__name__ != "bool":  # NumPy's own as well
        raise InputError(f"{name} is {value!r}, it must be True or False")
    return bool(value)

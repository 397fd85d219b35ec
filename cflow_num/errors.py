"""Bad input: one sentence with the value, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that no work can start with; its message is one sentence meant for the user.

    >>> raise InputError("learning rate is -1, it must be positive: pass for instance 0.1")
    Traceback (most recent call last):
    cflow_num.errors.InputError: learning rate is -1, it must be positive: pass for instance 0.1
    """


class RunError(RuntimeError):
    """A computation that cannot go on; its message is one sentence meant for the user."""


class GainWarning(UserWarning):
    """The optimizer's oscillation grows so fast beyond the edge that bursts are to be expected."""


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


def check_one_of(what: str, name: str, known: Iterable[str]) -> None:
    """Raise `InputError` with what is known, and the closest of it, unless `name` is one of them.

    >>> check_one_of("data", "digit", ["digits", "sorting"])
    Traceback (most recent call last):
    cflow_num.errors.InputError: data "digit" is not one of digits, sorting (did you mean "digits"?)
    """
    known = list(known)
    if name not in known:
        raise InputError(f'{what} "{name}" is not one of {", ".join(known)}{nearest(name, known)}')

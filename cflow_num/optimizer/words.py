"""How texts name optimizers and hyperparameters: on the command line, in the settings of a sweep, in Python.

A text may name a spec that must be derived first, so this reads the symbolic side. Nothing slow is imported before it
is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ..support.errors import InputError


def is_external(text: str) -> bool:
    """Say whether a text names an optimizer that is not built in.

    >>> is_external("rmsprop"), is_external("optax:adam"), is_external("my.toml")
    (False, True, True)
    """
    return text.startswith("optax:") or text.endswith((".toml", ".py"))


@functools.lru_cache(maxsize=32)
def compiled(text: str, switches: tuple[tuple[str, bool], ...] = (), version: str = "") -> Any:
    """Derive and compile an optimizer once in a process; another `version` of its file is another one."""
    from cflow_sym.reading.files import load_optimizer

    return load_optimizer(text, **dict(switches)).compile()


def words(text: str) -> tuple[str, ...]:
    """Return the names of an optimizer's hyperparameters and switches.

    >>> words("scalar_adam")
    ('learning_rate', 'beta1', 'beta2', 'epsilon', 'weight_decay', 'l2')
    """
    from cflow_sym.reading.files import load_optimizer

    spec = load_optimizer(text)
    return tuple(x.name for x in (*spec.hyperparameters, *spec.switches))


def hyperparameters(items: Sequence[str], flag: str) -> dict[str, Any]:
    """Return NAME=VALUE texts as numbers or schedules, by name.

    >>> hyperparameters(("beta2=0.99",), "--set")
    {'beta2': 0.99}
    """
    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (equals and name and value):
            raise InputError(f"{flag} {item}: write NAME=VALUE, for instance --set beta2=0.99")
        if name in found:
            raise InputError(f"{flag} gives {name} twice ({found[name]} and {value}): leave one out")
        found[name] = value_of(name, value)
    return found


def value_of(name: str, text: str) -> Any:
    """Return the number that a text is, or the schedule: an expression in t, the number of steps taken.

    >>> value_of("learning_rate", "0.1"), value_of("learning_rate", "0.1 * exp(-t / 500)").text
    (0.1, '0.1 * exp(-t / 500)')
    """
    try:
        return float(text)
    except ValueError:
        from cflow_sym.reading.files import schedule
    try:
        return schedule(text)
    except ValueError as error:
        raise InputError(f"{name} is neither a number nor an expression in t: {error}") from None

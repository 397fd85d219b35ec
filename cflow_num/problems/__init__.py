"""Named problems: `problem("digits-mlp", width=32)`. One problem a file; importing this package imports none."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..support.errors import InputError, check_one_of, nearest

if TYPE_CHECKING:
    from ..loss.problem import Problem

# name: (module, function, one line for listings)
PROBLEMS = {
    "digits-mlp": (
        "digits_mlp",
        "digits_mlp",
        "a small MLP on handwritten digits, squared error (1,960 weights)",
    ),
    "quadratic": ("quadratic", "quadratic", "a convex quadratic with a chosen spectrum"),
    "valley": ("valley", "valley", "a valley that sharpens: gradient descent's central flow in closed form"),
    "ramp": ("ramp", "ramp", "a valley with a constant slope: Scalar RMSProp's central flow in closed form"),
    "mlp": ("networks", "mlp", "a multi-layer perceptron on digits or other data"),
    "cnn": ("networks", "cnn", "a convolutional network on images"),
    "resnet": ("networks", "resnet", "a residual network with group norm on images"),
    "vit": ("networks", "vit", "a vision transformer on images"),
    "lstm": ("networks", "lstm", "a recurrent network on sequences of tokens"),
    "transformer": ("networks", "transformer", "a causal transformer on sequences of tokens"),
    "mamba": ("networks", "mamba", "a selective state-space model on sequences of tokens"),
}


def problem(name: str, **options: Any) -> Problem:
    """Return the named problem; `options` are the keyword arguments of its function.

    **Raises:** `InputError` for an unknown name or option (with the nearest one) and for values out of range.

    >>> problem("digits-mlp", n=50, width=8).n_weights
    610
    """
    build = _builder(name)
    known = inspect.signature(build).parameters
    for option, value in options.items():
        if option not in known:
            raise InputError(
                f'problem {name} has no option "{option}", it has {", ".join(known)}{nearest(option, known)}'
            )
        expected = type(known[option].default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            options[option] = float(value)
        elif not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
            raise InputError(
                f"option {option} of problem {name} is {value!r}, it must be of type {expected.__name__} "
                f"like its default {known[option].default!r}"
            )
    return build(**options)


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of a problem from a text; raises `InputError` for one without a value or given twice.

    >>> parsed("digits-mlp:width=8,noise=0.4,parity=true")
    ('digits-mlp', {'width': 8, 'noise': 0.4, 'parity': True})
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f'problem option "{item}" has no value: write {name}:{key}=VALUE')
        if key in options:
            raise InputError(f'problem option "{key}" is given twice ({options[key]} and {value}): leave one out')
        options[key] = _value(value)
    return name, options


def known_options(name: str) -> dict[str, Any]:
    """Return the options of a problem with their defaults; raises `InputError` for an unknown problem.

    >>> known_options("quadratic")
    {'n': 20, 'sharpness': 1.0, 'condition': 100.0, 'seed': 0}
    """
    return {option: parameter.default for option, parameter in inspect.signature(_builder(name)).parameters.items()}


def _builder(name: str) -> Callable[..., Problem]:
    check_one_of("problem", name, PROBLEMS)
    module, function, _ = PROBLEMS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)

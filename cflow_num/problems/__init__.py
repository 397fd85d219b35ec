"""Named problems: `problem("digits-mlp", width=32)`, or `problem("my_model.py", width=32)` of a file of one's own.

One problem a file; importing this package imports none.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from ..support.errors import InputError, PrecisionWarning, check_one_of, nearest
from .files import ENDING, builder, is_file

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


def problem(name: str | os.PathLike[str], **options: Any) -> Problem:
    """Return the named problem; `options` are the keyword arguments of its function.

    A name that ends in `.py` is that of a file with a function `problem(width=32, ...)` that returns a `Problem`, and
    `options` are its arguments. What the file sets of JAX's precision is undone.

    **Raises:** `InputError` for an unknown name or option (with the nearest one) and for values out of range; for a
    file with the line that is wrong.

    >>> problem("digits-mlp", n=50, width=8).n_weights
    610
    >>> import tempfile, pathlib
    >>> text = '''import jax.numpy as jnp, cflow_num as cn
    ... def problem(n=2):
    ...     return cn.Problem(lambda w: jnp.sum(w**2), jnp.ones(n))'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "my_model.py"
    ...     path.write_text(text) and problem(path, n=3).name
    'my_model(n=3)'
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    build = _builder(name)
    known = inspect.signature(build).parameters
    types = _annotations(build)
    for option, value in options.items():
        if option not in known:
            has = f"it has {', '.join(known)}{nearest(option, known)}" if known else "it has none"
            raise InputError(f'problem {name} has no option "{option}", {has}')
        default = known[option].default
        allowed = _allowed(default, types.get(option))
        if float in allowed and int not in allowed and isinstance(value, int) and not isinstance(value, bool):
            options[option] = float(value)
        elif allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            expected = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
            raise InputError(
                f"option {option} of problem {name} is {value!r}, it must be of type {expected} "
                f"like its default {default!r}"
            )
    return build(**options)


def in_precision(name: str, options: Mapping[str, Any], dtype: str) -> Problem:
    """Return a problem whose weights and data have a floating-point type, also where a file makes them of another one.

    **Raises:** `InputError` as `problem` does, and where the loss has captured arrays of the other type.

    >>> in_precision("quadratic", {"n": 2}, "float32").w0.dtype.name
    'float32'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        found = problem(name, **options)
    if found.w0.dtype != dtype and not found.castable:
        raise InputError(
            f"the weights of {found.name} are {found.w0.dtype.name} and its loss has captured arrays of that type: "
            f"pass these as data, or ask for dtype {found.w0.dtype.name}"
        )
    return found.astype(dtype)


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of a problem from a text; raises `InputError` for one without a value or given twice.

    >>> parsed("digits-mlp:width=8,noise=0.4,parity=true")
    ('digits-mlp', {'width': 8, 'noise': 0.4, 'parity': True})
    >>> parsed("my_model.py:width=8")
    ('my_model.py', {'width': 8})
    """
    file, ending, after = text.partition(f"{ENDING}:")  # a path may have colons, too
    name, _, rest = (file + ending[:-1], ":", after) if ending else (text, "", "")
    if not is_file(name):
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
    if isinstance(name, str) and is_file(name):
        return builder(name)
    check_one_of("problem", name, [*PROBLEMS, f"FILE{ENDING}"])
    module, function, _ = PROBLEMS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def _annotations(build: Callable[..., Problem]) -> dict[str, Any]:
    """Return the types of a function's arguments; none where they name what is not there."""
    try:
        return inspect.get_annotations(build, eval_str=True)
    except Exception:  # whatever evaluating a text raises
        return {}


def _allowed(default: Any, annotation: Any) -> tuple[type, ...]:
    """Return the types that an option may have: those it is declared with, or that of its default; empty for any.

    >>> _allowed(8, int | None), _allowed(1, float), _allowed(8, None), _allowed(None, None)
    ((<class 'int'>, <class 'NoneType'>), (<class 'float'>,), (<class 'int'>,), ())
    """
    declared = get_args(annotation) or (annotation,)
    if annotation is not None and all(kind in (bool, int, float, str, type(None)) for kind in declared):
        return declared
    return () if default is None else (type(default),)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)

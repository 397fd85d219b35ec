"""Problems of one's own: a Python file with a function `problem(...)` that returns a `Problem`.

The function's arguments are the problem's options, each with a default. The file is run as any program that its user
starts, in the way in which files with optimizers are; JAX's precision is the caller's, whatever the file sets.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_sym.python_file import PythonFileError, digest, failures_of, run_file

from ..support.errors import InputError

if TYPE_CHECKING:
    from ..loss.problem import Problem

ENDING = ".py"
FUNCTION = "problem"
_EXAMPLE = "def problem(width=32): return cflow_num.Problem(loss, params)"
_UNNAMED = "custom"  # the name of a problem that was given none


def is_file(name: str) -> bool:
    """Say whether a problem's name is that of a file.

    >>> is_file("my_model.py"), is_file("mlp")
    (True, False)
    """
    return name.endswith(ENDING)


def builder(name: str) -> Callable[..., Problem]:
    """Return the function `problem` of a file, which names what it makes after the file and the options it was given.

    **Raises:** `InputError` with the file and the line where it is missing, fails, or has no such function.
    """
    path = Path(name)
    with _caller_precision(), _said():
        module = run_file(path, f"a function {FUNCTION}(...) that returns a cflow_num.Problem")
        made_of = digest(path)
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        found = "no function" if function is None else f"a {type(function).__name__} in place of the function"
        raise InputError(f"{path} has {found} {FUNCTION}: write for instance {_EXAMPLE}")
    _check_options(path, function)

    @functools.wraps(function)
    def build(**options: Any) -> Problem:
        from ..loss.problem import Problem
        from ..loss.weights import Label

        with _caller_precision(), _said(), failures_of(path):
            made = function(**options)
        if not isinstance(made, Problem):
            raise InputError(
                f"{FUNCTION} of {path} returns a {type(made).__name__}, it must return a cflow_num.Problem: write "
                f"for instance {_EXAMPLE}"
            )
        own = path.stem if made.name == _UNNAMED else made.name
        given = ", ".join(f"{option}={value}" for option, value in options.items())
        label = Label.of(f"{own}({given})" if given else own, made.description or f"problem of {path.name}", made_of)
        return made.replaced(label=label)

    return build


def _check_options(path: Path, function: Callable[..., Any]) -> None:
    """Raise `InputError` where an argument of the function cannot be an option."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise InputError(
                f"{FUNCTION} of {path} takes {parameter}, its options must have names: write for instance "
                f"{FUNCTION}(width=32, seed=0)"
            )
        if parameter.default is parameter.empty:
            raise InputError(
                f"the option {name} of {FUNCTION} in {path} has no default: write for instance {FUNCTION}({name}=1)"
            )


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Raise what a file did wrong as bad input."""
    try:
        yield
    except PythonFileError as error:
        raise InputError(str(error)) from error


@contextlib.contextmanager
def _caller_precision() -> Iterator[None]:
    """Undo what a file sets of JAX's precision: the caller, or --dtype, has chosen it."""
    import jax

    before = _precision_of_all()
    try:
        yield
    finally:
        if _precision_of_all() != before:
            jax.config.update("jax_enable_x64", before)


def _precision_of_all() -> bool:
    """Return whether JAX has 64-bit floats for the whole process, whatever holds in a context of this thread."""
    import jax

    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(jax.config.read, "jax_enable_x64").result()

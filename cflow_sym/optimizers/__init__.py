"""The built-in optimizers, one spec a file; calling the package, `cflow_sym.optimizers()`, lists them."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cflow_sym.interface import OTHER_NAMES

if TYPE_CHECKING:
    from cflow_sym.spec.optimizer import OptimizerSpec


class UnknownOptimizerError(ValueError):
    """No built-in optimizer has this name; the message suggests the nearest one."""


def names() -> tuple[str, ...]:
    """Return the names of the built-in optimizers, in alphabetical order.

    >>> "scalar_rmsprop" in names()
    True
    """
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def optimizer(name: str, **switches: bool) -> OptimizerSpec:
    """Return a built-in spec with switches turned on; raises `UnknownOptimizerError`.

    >>> optimizer("scalar_rmsprop", bias_correction=True).module_name
    'scalar_rmsprop_bias_correction'
    >>> optimizer("scalar_rmsporp")
    Traceback (most recent call last):
        ...
    cflow_sym.optimizers.UnknownOptimizerError: no optimizer 'scalar_rmsporp': did you mean ...
    """
    if name not in names():
        near = OTHER_NAMES.get(str(name)) or difflib.get_close_matches(str(name), names(), n=1, cutoff=0.0)[0]
        raise UnknownOptimizerError(
            f"no optimizer {name!r}: did you mean {near!r}? The built-in ones are {', '.join(names())}."
        )
    return importlib.import_module(f"{__name__}.{name}").SPEC.configure(**switches)


class _Family(ModuleType):
    """A package that can be called: `cflow_sym.optimizers()` and `cflow_sym/optimizers/` share a name."""

    def __call__(self) -> tuple[str, ...]:
        return names()


sys.modules[__name__].__class__ = _Family

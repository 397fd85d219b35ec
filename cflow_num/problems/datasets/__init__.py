"""Named data sets: `dataset("sorting", n=100)`. One a file; importing this package imports none."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ...support.errors import InputError, check_one_of

if TYPE_CHECKING:
    from .base import Dataset

# name: (module, function, one line for listings)
DATASETS = {
    "digits": ("digits", "digits", "handwritten digits, 8 x 8 pixels, bundled with scikit-learn"),
    "cifar10": ("cifar10", "cifar10", "photographs, 32 x 32 pixels in color, from a local folder"),
    "fashion-mnist": (
        "mnist",
        "fashion_mnist",
        "clothes, 28 x 28 grey pixels, from a local folder or Debian's package",
    ),
    "mnist": ("mnist", "mnist", "handwritten digits, 28 x 28 grey pixels, from a local folder"),
    "sorting": ("sorting", "sorting", "sequences of eight tokens, to be sorted"),
    "npz": ("npz", "npz", "arrays x and y of an .npz file"),
}


def dataset(name: str, **options: Any) -> Dataset:
    """Return the named data; `options` are the keyword arguments of its function.

    **Raises:** `InputError` for an unknown name or option (with the nearest one) and for data that cannot be had.

    >>> dataset("digits", n=50).x.shape
    (50, 8, 8, 1)
    """
    check_one_of("data", name, DATASETS)
    module, function, _ = DATASETS[name]
    build = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise InputError(f"data {name} has no option {option}, it has {', '.join(known)}: leave it out")
    return build(**options)

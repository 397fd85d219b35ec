"""What sets of labelled images share: where their files lie, checksums, a choice of classes, standardized pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...support.errors import InputError

VARIABLE = "CFLOW_DATA"
PIECE = 1 << 20  # bytes at a time


def place_of(folder: str) -> Path | None:
    """Return the folder asked for, else that of the environment variable `CFLOW_DATA`, else None.

    >>> place_of("mine").name
    'mine'
    """
    chosen = folder or os.environ.get(VARIABLE, "")
    return Path(chosen).expanduser() if chosen else None


def md5_of(file: BinaryIO) -> str:
    """Return the md5 checksum of what is left of a file.

    >>> import tempfile
    >>> with tempfile.TemporaryFile("w+b", buffering=0) as file:
    ...     md5_of(file)  # of nothing
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    digest = hashlib.md5(usedforsecurity=False)
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def check_classes(classes: int, n: int, available: int) -> None:
    """Raise `InputError` unless there are that many classes and an image for each of them.

    >>> check_classes(4, 3, 10)
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: n is 3, it must be at least 4: one image of each class
    """
    if not 2 <= classes <= available:
        raise InputError(f"classes is {classes}, it must be between 2 and {available}: the first that many are taken")
    if n < classes:
        raise InputError(f"n is {n}, it must be at least {classes}: one image of each class")


def first_of_each(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], n: int, classes: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, ...): the first n/classes images of each of the first classes, in order.

    **Arguments:**

    - `batches`: labels (m,) and pixels (m, ...) of some images each; no more of them are read than are needed.
    - `n`, `classes`: how many images, and of how many classes.
    - `source`: what has the images, for the error.

    **Raises:** `InputError` where there are fewer.

    >>> labels, pixels = first_of_each([(np.array([1, 2, 0, 1, 0]), np.arange(5))], 3, 2, "the file")
    >>> labels.tolist(), pixels.tolist()
    ([1, 0, 0], [0, 2, 4])
    """
    needed = [n // classes + (c < n % classes) for c in range(classes)]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for labels, pixels in batches:
        chosen = [np.flatnonzero(labels == c)[:k] for c, k in enumerate(needed)]
        needed = [k - len(indices) for k, indices in zip(needed, chosen, strict=True)]
        indices = np.sort(np.concatenate(chosen))
        found.append((labels[indices], pixels[indices]))
        if not any(needed):
            break
    labels, pixels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if any(needed):
        raise InputError(f"n is {n}, but {source} has only {len(labels)} of them, equally many a class: pass fewer")
    return labels.astype(np.int64), pixels


def standardized(pixels: np.ndarray, mean: tuple[float, ...], deviation: tuple[float, ...]) -> np.ndarray:
    """Return pixels (n, height, width, channels), a byte each, in units in which the channels have mean 0, deviation 1.

    >>> standardized(np.full((1, 1, 1, 1), 255, np.uint8), (0.5,), (0.25,)).item()
    2.0
    """
    return (pixels / 255 - np.array(mean)) / np.array(deviation)

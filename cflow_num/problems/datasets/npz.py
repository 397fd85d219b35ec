"""Your own data: arrays x and y of an .npz file, as `numpy.savez("mine.npz", x=x, y=y)` writes it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from .base import Dataset, Images, Tokens, Vectors, check_number


def npz(*, path: str = "", n: int = 0) -> Dataset:
    """Return the first n examples of a file; all for n = 0.

    **Arguments:**

    - `path`: the file. Its array `x` holds the inputs: images (n, height, width) or (n, height, width, channels),
      vectors (n, features), or sequences of tokens, which are whole numbers (n, length). Images of bytes are divided
      by 255; nothing else is scaled. Its array `y` holds labels, whole numbers from 0 on, (n,) or for sequences also
      (n, answers), which belong to the last tokens; or, for squared error, real targets (n, K).

    **Raises:** `InputError` for a file that is missing or damaged, and for arrays of other shapes or kinds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mine.npz", x=np.ones((6, 5)), y=np.array([0, 1, 2, 0, 1, 2]))
    ...     npz(path=f"{folder}/mine.npz").inputs
    Vectors(features=5)
    """
    x, y = _read(path)
    if len(x) != len(y) or not len(x):
        raise InputError(f"{path} has {len(x)} inputs x and {len(y)} labels y: they must be equally many, at least one")
    if n:
        check_number(n, len(x), path)
        x, y = x[:n], y[:n]
    for name, array in (("x", x), ("y", y)):
        if not np.isfinite(array).all():
            raise InputError(f"{name} in {path} holds nan or infinity: remove those examples")
    inputs, x = _inputs(path, x, y)
    y, classes = _labels(path, y, inputs)
    return Dataset(inputs, x, y, classes, f"{len(x)} examples of {Path(path).name}")


def _read(path: str) -> tuple[np.ndarray, np.ndarray]:
    if not path:
        raise InputError("data npz needs a file: pass path=FILE.npz")
    if not Path(path).is_file():
        raise InputError(f'there is no file "{path}": pass the path of an .npz file with arrays x and y')
    try:
        with open(path, "rb") as raw, np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
            missing = [name for name in ("x", "y") if name not in file.files]
            if missing:
                found = ", ".join(file.files) or "none"
                raise InputError(
                    f"{path} has no array {missing[0]}, its arrays are {found}: write numpy.savez(path, x=x, y=y)"
                )
            x, y = file["x"], file["y"]
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as .npz of numbers ({error}): write it with numpy.savez(path, x=x, y=y)"
        ) from error
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "buif" or not array.ndim:
            raise InputError(
                f"{name} in {path} is of type {array.dtype} and shape {array.shape}: it must be an array of real "
                "numbers"
            )
    return x, y


def _inputs(path: str, x: np.ndarray, y: np.ndarray) -> tuple[Images | Tokens | Vectors, np.ndarray]:
    whole = x.dtype.kind in "bui"
    if x.ndim == 2 and 0 not in x.shape:
        if not whole:
            return Vectors(x.shape[1]), x.astype(float)
        if x.min() < 0:
            raise InputError(f"x in {path} holds the token {x.min()}: tokens are whole numbers from 0 on")
        answers = y.shape[1] if y.ndim == 2 and y.dtype.kind in "bui" else 1
        if not 1 <= answers <= x.shape[1]:
            raise InputError(f"y in {path} has {answers} answers to {x.shape[1]} tokens: at most one for each token")
        return Tokens(x.shape[1], int(x.max()) + 1, answers), x.astype(np.int32)
    if x.ndim in (3, 4) and 0 not in x.shape:
        x = x[..., None] if x.ndim == 3 else x
        return Images(*x.shape[1:]), x.astype(float) / (255 if x.dtype == np.uint8 else 1)
    raise InputError(
        f"x in {path} has shape {x.shape}: it must be (n, features), (n, length), (n, height, width) or "
        "(n, height, width, channels)"
    )


def _labels(path: str, y: np.ndarray, inputs: Images | Tokens | Vectors) -> tuple[np.ndarray, int]:
    if y.dtype.kind == "f":
        if y.ndim != 2 or isinstance(inputs, Tokens):
            raise InputError(
                f"y in {path} holds real numbers of shape {y.shape}: real targets must be (n, K), for images or "
                "vectors; labels must be whole numbers"
            )
        return y.astype(float), y.shape[1]
    if y.ndim > 1 + isinstance(inputs, Tokens):
        raise InputError(f"y in {path} has shape {y.shape}: labels must be (n,), or (n, answers) for sequences")
    y = y.astype(np.int64)
    classes = max(int(y.max()) + 1, 2)
    if y.min() < 0 or classes > max(y.size, 2):
        bad = y.min() if y.min() < 0 else y.max()
        raise InputError(f"y in {path} holds the label {bad}: labels must be 0, 1, 2 and so on, without large gaps")
    if isinstance(inputs, Tokens) and y.ndim == 1:
        y = y[:, None]
    return y, classes

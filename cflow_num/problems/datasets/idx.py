"""The IDX format of MNIST's files: an array of bytes behind a header that says its shape, often within gzip.

The header is two zeros, the type of an element (8: a byte without sign) and the number of axes, a byte each, and the
length of every axis as four bytes, the highest first.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from ...support.errors import InputError

BYTE = 8  # the type of an element
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, axes: int, again: str) -> np.ndarray:
    """Return the bytes of an IDX file, compressed or not, as an array with that many axes.

    **Arguments:**

    - `path`: the file; whether it is compressed is seen from its first bytes.
    - `axes`: how many the array must have: 3 for images (n, height, width), 1 for labels (n,).
    - `again`: where to get the file, for errors.

    **Raises:** `InputError` for a file that cannot be read, is damaged or incomplete, or holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]))
    ...     read_idx(path, 1, "get it again").tolist()
    [7, 0, 9]
    """
    content = _content(path, again)
    if len(content) < 4 or content[:2] != bytes(2):
        raise InputError(f"{path} is not an IDX file, which begins with two zeros and has a header: {again}")
    kind, found = content[2], content[3]
    if kind != BYTE or found != axes:
        raise InputError(
            f"{path} is an IDX file of {found} axes with elements of type {kind}, it must have {axes} axes and "
            f"elements of type {BYTE} (bytes): {again}"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise InputError(f"{path} has {len(content)} bytes and ends within its header of {start}: {again}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", axes, offset=4))
    if len(content) != start + math.prod(shape):
        raise InputError(
            f"{path} has {len(content)} bytes, and must have {start + math.prod(shape)} by its header (shape {shape}): "
            f"it is incomplete or damaged, {again}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def md5_of(array: np.ndarray) -> str:
    """Return the md5 checksum of an uncompressed IDX file with these bytes, which does not depend on the compression.

    >>> md5_of(np.array([7, 0, 9], np.uint8)) == hashlib.md5(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9])).hexdigest()
    True
    """
    header = bytes([0, 0, BYTE, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def _content(path: Path, again: str) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged ({error}): {again}") from error
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}): {again}") from None

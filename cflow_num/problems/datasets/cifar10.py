"""CIFAR-10 (Krizhevsky, 2009): photographs, 32 x 32 pixels in color, read from its binary version.

    https://www.cs.toronto.edu/~kriz/cifar.html

A record is a label and the red, green and blue values of 32 x 32 pixels, a byte each. The Python version is not read:
it consists of pickles, which can run code when they are opened.
"""

from __future__ import annotations

import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...support.errors import InputError
from ...support.files import replacing
from .base import Dataset, Images
from .images import PIECE, VARIABLE, check_classes, first_of_each, md5_of, place_of, standardized

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of that archive, as published on its page
ARCHIVE, INSIDE = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the channels, over the training images


def cifar10(*, n: int = 1000, classes: int = 4, folder: str = "", download: bool = False) -> Dataset:
    """Return n training images of the first classes, the first n/classes of each, every channel standardized.

    **Arguments:**

    - `classes`: 2 to 10, the first that many of airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.
    - `folder`: where `cifar-10-binary.tar.gz` or the files in it lie; by default the environment variable `CFLOW_DATA`.
    - `download`: fetch that archive (170 MB) into the folder if it is not there.

    **Raises:** `InputError` for files that are missing or damaged, and for more images than there are.

    >>> cifar10(n=8, folder="nowhere")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: there is no cifar-10-binary.tar.gz and no data_batch_1.bin in "nowhere": ...
    """
    check_classes(classes, n, CLASSES)
    place = _place(folder)
    if download and not _has_data(place):
        fetch(place)
    labels, planes = first_of_each((_records(*batch) for batch in _batches(place)), n, classes, str(place))
    x = standardized(planes.reshape(n, 3, 32, 32).transpose(0, 2, 3, 1), MEAN, DEVIATION)
    return Dataset(Images(32, 32, 3), x, labels, classes, f"{n} CIFAR-10 images of {classes} classes")


def fetch(folder: Path) -> Path:
    """Download the archive into a folder and return its path; nothing is left behind where that fails.

    **Raises:** `InputError` where the server cannot be reached or what it sends is not the archive.
    """
    path = folder / ARCHIVE
    with replacing(path) as temporary:
        try:
            with urllib.request.urlopen(URL, timeout=60) as source, temporary.open("wb") as file:
                while piece := source.read(PIECE):
                    file.write(piece)
        except OSError as error:
            raise InputError(f"cannot download {URL} ({error}): get it by hand and put it into {folder}") from error
        with temporary.open("rb") as file:
            _check_sum(file, f"what {URL} sent")
    return path


def _place(folder: str) -> Path:
    place = place_of(folder)
    if place is None:
        raise InputError(
            f"data cifar10 lies in a folder of yours: pass folder=FOLDER or set {VARIABLE}, and download=true "
            f"to fetch {ARCHIVE} (170 MB) into it"
        )
    return place


def _has_data(place: Path) -> bool:
    return place.is_file() or any((place / name).is_file() for name in (ARCHIVE, BATCHES[0], f"{INSIDE}/{BATCHES[0]}"))


def _batches(place: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of training images, in order, from a folder or an archive."""
    for folder in (place, place / INSIDE):
        if (folder / BATCHES[0]).is_file():
            yield from _from_folder(folder)
            return
    archive = place if place.is_file() else place / ARCHIVE
    if archive.is_file():
        yield from _from_archive(archive)
        return
    python = "data_batch_1" if (place / "data_batch_1").is_file() else ""
    instead = f", and {python} is of the Python version, which is not read" if python else ""
    raise InputError(
        f'there is no {ARCHIVE} and no {BATCHES[0]} in "{place}"{instead}: get the binary version from {URL}, or pass '
        "download=true"
    )


def _from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in BATCHES:
        path = folder / name
        try:
            yield str(path), path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read {path} ({error.strerror}): pass a smaller n or unpack {ARCHIVE} again"
            ) from None


def _from_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of training images without writing anything: other names in the archive are never touched."""
    try:
        with path.open("rb") as file:
            _check_sum(file, str(path))
        with tarfile.open(path, "r:gz") as archive:
            for name in BATCHES:
                member = archive.getmember(f"{INSIDE}/{name}")
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    raise InputError(f"{name} in {path} is not a file: get the archive from {URL}")
                yield f"{name} in {path}", content.read()
    except KeyError:
        raise InputError(f"{path} has no {INSIDE}/{name}: get the archive from {URL}") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): get it again from {URL}") from error


def _check_sum(file: BinaryIO, name: str) -> None:
    if (found := md5_of(file)) != MD5:
        raise InputError(
            f"{name} has the md5 checksum {found} and must have {MD5}: it is incomplete or not the binary "
            f"version, get it again from {URL}"
        )


def _records(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (n,) and color planes (n, 3072) of a file."""
    if not content or len(content) % RECORD:
        raise InputError(
            f"{name} has {len(content)} bytes, which is not a number of records of {RECORD}: it is incomplete, get it "
            f"again from {URL}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if records[:, 0].max() >= CLASSES:
        raise InputError(
            f"{name} has the label {records[:, 0].max()}, labels of CIFAR-10 are 0 to 9: it is damaged or of another "
            f"data set, get it again from {URL}"
        )
    return records[:, 0], records[:, 1:]

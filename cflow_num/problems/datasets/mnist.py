"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017): digits and clothes, 28 x 28 grey pixels.

    https://github.com/zalandoresearch/fashion-mnist

Both come as four files of the same names, of which the two with training images and their labels are read. What tells
one set from the other is only what is in them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from .base import Dataset, Images
from .idx import md5_of, read_idx
from .images import VARIABLE, check_classes, first_of_each, place_of, standardized

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SIDE, CLASSES = 28, 10
WHOLE = 60_000  # examples of the published files


@dataclasses.dataclass(frozen=True)
class Published:
    """A set of images as it was published.

    - `name`: of the data, also of the folder inside the user's that may hold it.
    - `title`: for people.
    - `mean`, `deviation`: of the pixels, over all training images, in units of 255.
    - `source`: where to get it.
    - `md5`: of the two files, uncompressed.
    - `installed`: where a package of the system puts it, or nothing.
    """

    name: str
    title: str
    mean: float
    deviation: float
    source: str
    md5: tuple[str, str]
    installed: str = ""


FASHION = Published(
    "fashion-mnist",
    "Fashion-MNIST",
    0.2860,
    0.3530,
    "https://github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist",
    ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
    "/usr/share/datasets/fashion-mnist",
)
DIGITS = Published(
    "mnist",
    "MNIST",
    0.1307,
    0.3081,
    "http://yann.lecun.com/exdb/mnist or a mirror of it",
    ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
)


def fashion_mnist(*, n: int = 1000, classes: int = CLASSES, folder: str = "") -> Dataset:
    """Return n training images of clothes, the first n/classes of each class, standardized.

    **Arguments:**

    - `classes`: 2 to 10, the first that many of T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag,
      ankle boot.
    - `folder`: where `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz` lie, compressed or not, or a folder
      `fashion-mnist` with them; by default the environment variable `CFLOW_DATA`, or where Debian's package
      `dataset-fashion-mnist` puts them.

    **Raises:** `InputError` for files that are missing, damaged or of another data set, and for more images than there
    are.

    >>> fashion_mnist(n=8, classes=2, folder="nowhere")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: there is no train-images-idx3-ubyte.gz in "nowhere": get it from ...
    """
    return _images(FASHION, n, classes, folder)


def mnist(*, n: int = 1000, classes: int = CLASSES, folder: str = "") -> Dataset:
    """Return n training images of handwritten digits, the first n/classes of each class, standardized.

    **Arguments:**

    - `classes`: 2 to 10, the first that many digits from 0 on.
    - `folder`: as of `fashion_mnist`, for a folder `mnist`; no package of the system is looked for.

    **Raises:** as `fashion_mnist`.

    >>> mnist(n=8, classes=2, folder="nowhere")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: there is no train-images-idx3-ubyte.gz in "nowhere": get it from ...
    """
    return _images(DIGITS, n, classes, folder)


def _images(wanted: Published, n: int, classes: int, folder: str) -> Dataset:
    check_classes(classes, n, CLASSES)
    again = f"get it from {wanted.source}"
    place = _place(wanted, folder)
    paths = [_file(place, name, again) for name in (IMAGES, LABELS)]
    pixels, labels = read_idx(paths[0], 3, again), read_idx(paths[1], 1, again)
    _check(wanted, paths, pixels, labels, again)
    labels, pixels = first_of_each([(labels, pixels)], n, classes, str(place))
    x = standardized(pixels[..., None], (wanted.mean,), (wanted.deviation,))
    return Dataset(Images(SIDE, SIDE, 1), x, labels, classes, f"{n} {wanted.title} images of {classes} classes")


def _place(wanted: Published, folder: str) -> Path:
    """Return the folder that has the images, or the first one to look in where none has them."""
    chosen = place_of(folder)
    places = [] if chosen is None else [chosen / wanted.name, chosen]
    if wanted.installed and not folder:
        places.append(Path(wanted.installed))
    for place in places:
        if any((place / name).is_file() for name in _names(IMAGES)):
            return place
    if chosen is None:
        raise InputError(
            f"data {wanted.name} lies in a folder of yours: get {IMAGES}.gz and {LABELS}.gz from {wanted.source} and "
            f"pass folder=FOLDER or set {VARIABLE}"
        )
    return chosen


def _names(name: str) -> tuple[str, str]:
    return name, f"{name}.gz"


def _file(place: Path, name: str, again: str) -> Path:
    for path in (place / found for found in _names(name)):
        if path.is_file():
            return path
    raise InputError(f'there is no {name}.gz in "{place}": {again}')


def _check(wanted: Published, paths: list[Path], pixels: np.ndarray, labels: np.ndarray, again: str) -> None:
    """Raise `InputError` unless images and labels belong together and may be those that are wanted."""
    if pixels.shape[1:] != (SIDE, SIDE) or not len(pixels):
        raise InputError(
            f"{paths[0]} holds {len(pixels)} images of {pixels.shape[1]} x {pixels.shape[2]} pixels, images of "
            f"{wanted.title} have {SIDE} x {SIDE} and there must be at least one: {again}"
        )
    if len(pixels) != len(labels):
        raise InputError(
            f"{paths[0]} has {len(pixels)} images and {paths[1]} has {len(labels)} labels, they must be equally many: "
            f"{again}"
        )
    if labels.max() >= CLASSES:
        raise InputError(
            f"{paths[1]} has the label {labels.max()}, labels of {wanted.title} are 0 to {CLASSES - 1}: it is damaged "
            f"or of another data set, {again}"
        )
    if len(labels) != WHOLE:
        return
    for i, array in enumerate((pixels, labels)):
        if (found := md5_of(array)) != wanted.md5[i]:
            others = [other for other in (FASHION, DIGITS) if found == other.md5[i]]
            what = f"is that of data={others[0].name}" if others else "is damaged or of another data set"
            raise InputError(
                f"{paths[i]}, uncompressed, has the md5 checksum {found} and must have {wanted.md5[i]}: it "
                f"{what}, {again}"
            )

"""Handwritten digits, 8 x 8 pixels in grey, bundled with scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from .base import Dataset, Images, check_number

FILE = "datasets/data/digits.csv.gz"


def digits(*, n: int = 500) -> Dataset:
    """Return the first n of 1,797 digits; pixels are divided by 16 and centred.

    >>> data = digits(n=20)
    >>> data.x.shape, data.y[:5].tolist()
    ((20, 8, 8, 1), [0, 1, 2, 3, 4])
    """
    X, labels = bundled()
    check_number(n, len(X), "the bundled set of digits")
    X = X[:n] / 16
    X = X - X.mean(axis=0)
    labels = labels[:n]
    return Dataset(Images(8, 8, 1), X.reshape(n, 8, 8, 1), labels, 10, f"{n} handwritten digits")


def bundled() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels `(1797, 64)` and labels `(1797,)`, from scikit-learn's file: its import takes seconds."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / FILE if package and package.origin else None
    if file is None or not file.exists():
        from sklearn.datasets import load_digits

        X, labels = load_digits(return_X_y=True)
        return np.asarray(X), np.asarray(labels)
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)

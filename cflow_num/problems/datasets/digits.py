"""Handwritten digits, 8 x 8 pixels in grey, bundled with scikit-learn."""

from __future__ import annotations

import numpy as np

from .base import Dataset, Images, check_number


def digits(*, n: int = 500) -> Dataset:
    """Return the first n of 1,797 digits; pixels are divided by 16 and centred.

    >>> data = digits(n=20)
    >>> data.x.shape, data.y[:5].tolist()
    ((20, 8, 8, 1), [0, 1, 2, 3, 4])
    """
    from sklearn.datasets import load_digits

    X, labels = load_digits(return_X_y=True)
    check_number(n, len(X), "the bundled set of digits")
    X = X[:n] / 16
    X = X - X.mean(axis=0)
    labels = np.asarray(labels)[:n]
    return Dataset(Images(8, 8, 1), X.reshape(n, 8, 8, 1), labels, 10, f"{n} handwritten digits")

"""What a data set is: inputs of a known form, and labels or targets for them."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...support.errors import InputError


@dataclasses.dataclass(frozen=True)
class Images:
    """Inputs (height, width, channels), real."""

    height: int
    width: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Inputs (length,), whole numbers below `vocabulary`; what is asked for belongs to the last `answers` of them.

    With several answers, each token but the first of the last `answers` is the answer before it, as in next-token
    prediction: models that read from left to right are given it, others must not look at it.
    """

    length: int
    vocabulary: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Inputs (features,), real."""

    features: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples to train on.

    - `inputs`: the form of one example.
    - `x`: (n, ...), all examples.
    - `y`: labels below `classes`, whole numbers (n,) or for several answers (n, answers); or real targets (n, K).
    - `classes`: how many labels there are.
    - `description`: for reports.
    """

    inputs: Images | Tokens | Vectors
    x: np.ndarray
    y: np.ndarray
    classes: int
    description: str


def noisy(labels: np.ndarray, share: float, classes: int = 10) -> np.ndarray:
    """Return the labels with a share of them replaced by random ones; always the same ones.

    >>> noisy(np.arange(5), 0.0).tolist()
    [0, 1, 2, 3, 4]
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(labels.size)[: round(share * labels.size)]
    out = labels.copy()
    out.flat[chosen] = rng.integers(0, classes, chosen.size)
    return out


def check_number(n: int, available: int, source: str) -> None:
    """Raise `InputError` unless that many examples are to be had.

    >>> check_number(9, 5, "the file")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: n is 9, the file has 5 examples: pass at most that
    """
    if n < 1:
        raise InputError(f"n is {n}, it must be at least 1")
    if n > available:
        raise InputError(f"n is {n}, {source} has {available} examples: pass at most that")

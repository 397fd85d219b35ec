"""A synthetic task for sequence models: to write a short sequence of tokens down in order.

As in Karpathy's minGPT (demo.ipynb) and in arXiv 2410.24206: a sequence followed by its sorted version is read from
left to right, the next token is predicted, and only the sorted half counts.
"""

from __future__ import annotations

import numpy as np

from .base import Dataset, Tokens, check_number

VOCABULARY, LENGTH = 4, 8


def sorting(*, n: int = 1000) -> Dataset:
    """Return n sequences of 8 tokens out of 4, each followed by the first 7 of it in order; always the same ones.

    Labels are the sequence in order: the answer to position 7 (counted from 0) is the smallest token, and so on.

    >>> data = sorting(n=100)
    >>> data.x[0].tolist(), data.y[0].tolist()
    ([3, 2, 2, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2, 2, 3])
    """
    check_number(n, VOCABULARY**LENGTH, "the set of all sequences")
    x = np.random.default_rng(0).integers(0, VOCABULARY, size=(n, LENGTH))
    y = np.sort(x, axis=1)
    tokens = np.concatenate([x, y[:, :-1]], axis=1)
    description = f"{n} sequences of {LENGTH} tokens out of {VOCABULARY}, to be sorted"
    return Dataset(Tokens(tokens.shape[1], VOCABULARY, LENGTH), tokens, y, VOCABULARY, description)

"""Named networks: `architecture("cnn", Images(8, 8, 1), 10)`. One a file; importing this package imports none.

A network is an equinox module, a pure function of one example; its arrays are the weights. All are smooth to all
orders, which the third derivatives of a flow need: GELU, averages in place of maxima, and layer or group norm in
place of batch norm, so that a loss stays a mean over examples.

Sizes: `small` has 1,000 to 4,000 weights on the default data, for slow processors; `paper` has the widths and depths
of arXiv 2410.24206.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...support.errors import InputError, check_one_of

if TYPE_CHECKING:
    import equinox as eqx

    from ..datasets.base import Images, Tokens, Vectors

# name: (module, class, one line for listings)
ARCHITECTURES = {
    "mlp": ("mlp", "Mlp", "a multi-layer perceptron"),
    "cnn": ("cnn", "Cnn", "a convolutional network"),
    "resnet": ("resnet", "ResNet", "a residual network with group norm"),
    "vit": ("vit", "ViT", "a vision transformer"),
    "lstm": ("lstm", "Lstm", "a recurrent network of long short-term memory cells"),
    "transformer": ("transformer", "Transformer", "a causal transformer"),
    "mamba": ("mamba", "Mamba", "a selective state-space model"),
}
SIZES = ("small", "paper")
_FORMS = {"Images": "images", "Tokens": "sequences of tokens", "Vectors": "vectors"}


def architecture(
    name: str, inputs: Images | Tokens | Vectors, outputs: int, *, size: str = "small", seed: int = 0
) -> eqx.Module:
    """Return the named network with random weights.

    **Arguments:**

    - `name`: one of `ARCHITECTURES`.
    - `inputs`: the form of one example.
    - `outputs`: how many numbers come out, for sequences at each of the answers.
    - `size`: `"small"` or `"paper"`.
    - `seed`: of the weights.

    **Raises:** `InputError` for an unknown name or size (with the nearest one) and for inputs of another form.

    >>> import jax.numpy as jnp
    >>> from cflow_num.problems.datasets.base import Images
    >>> architecture("cnn", Images(8, 8, 1), 10)(jnp.ones((8, 8, 1))).shape
    (10,)
    """
    check_one_of("network", name, ARCHITECTURES)
    check_one_of("size", size, SIZES)
    if seed < 0:
        raise InputError(f"seed is {seed}, it must be at least 0")
    module, kind, _ = ARCHITECTURES[name]
    found: Any = importlib.import_module(f"{__name__}.{module}")
    if not isinstance(inputs, found.INPUTS):
        forms = " or ".join(_FORMS[form.__name__] for form in found.INPUTS)
        raise InputError(
            f"{name} takes {forms}, but these data are {_FORMS[type(inputs).__name__]}: choose other data or another "
            f"of {', '.join(ARCHITECTURES)}"
        )
    import numpy as np

    return getattr(found, kind)(inputs, outputs, rng=np.random.default_rng(seed), **found.SIZES[size])

"""A problem: any smooth scalar loss on any pytree, and the derivatives that flows need of it.

Inside cflow weights are one vector `w (n,)`. What is computed of them, the loss and its derivatives, is in `function`,
where and in which precision in `placement`, in how much memory in `memory`. Here a problem is made and checked.
A loss is a Python function, and what it reads from outside is what it is when it is called: a run traces it at its
start (`traced`), and compiled code is found by what was traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ..support.cache import keep_by_default
from ..support.errors import InputError, check_flag
from ..support.jax_settings import default_settings
from ..support.typed import PyTree, keystr, map_with_path, tree_map
from . import parameters, placement
from .differentiable import check_loss
from .function import Function
from .means import check_mean
from .memory import fastest, fitting, needed
from .parts import Chunks, parse_memory
from .traced import Traced
from .weights import Blocks, Fixed, Label, Raveler, comparable, without


class Problem(Function):
    """A loss to minimize: `Problem(loss, params)` or `Problem(loss, params, data=data)`.

    **Arguments:**

    - `loss`: `loss(params)`, or `loss(params, data)` where `data` is given; returns a real scalar, smooth enough
      for third derivatives.
    - `params`: where training starts; any pytree. Its floating-point arrays are the weights, the rest stays fixed: in
      flax modules all but `nnx.Param`, in equinox modules states and everything that is no array.
    - `data`: any pytree of arrays, handed to `loss` as its second argument.
    - `examples`: whether the first axis of every array of the data counts examples and the loss is their mean; then
      it can be summed in parts (`within`, `in_chunks`) and over devices (`sharded`).
    - `outputs`: optional `outputs(params)` (or `outputs(params, data)`) for predictions over time.
    - `name`, `description`: for reports.

    Arrays of NumPy are copied: what happens to them later changes nothing. Data in arrays of JAX are shared, and must
    not be deleted or donated while the problem is used.

    **Raises:** `InputError` where `loss` does not return one real number, does not depend on the weights or has no
    third derivatives for JAX, `params` holds no weight or what only may be one, `data` hold no numbers or have no
    common axis of examples.

    **Warns:** `KinkWarning` where the loss is not smooth, with the place; `PrecisionWarning` where weights have fewer
    digits than JAX is set to.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda p: jnp.sum(p["a"] ** 2), {"a": jnp.array([1.0, 2.0])})
    >>> float(problem.value(problem.w0)), problem.gradient(problem.w0).tolist()
    (5.0, [2.0, 4.0])
    """

    _held: PyTree  # arrays that the optimizer keeps at their values, which are among the fixed; None where it has none

    @default_settings()
    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        *,
        data: PyTree = None,
        examples: bool = False,
        outputs: Callable[..., Any] | None = None,
        name: str = "custom",
        description: str = "",
    ):
        keep_by_default()
        weights, fixed = parameters.split(params)
        parameters.warn_of_precision(params, weights)
        self.raveler, self.fixed, self._held = Raveler.of(weights), Fixed.of(fixed), None
        self.w0 = self.raveler.ravel(weights)
        self.shares, self.others = parameters.as_data(data), None
        self.label = Label.of(name, description)
        self.examples, self.chunks, self.mesh = check_flag("examples", examples), Chunks(), None
        self.loss, self.outputs_of = comparable(loss), None if outputs is None else comparable(outputs)
        self.made, self.verified, self.source = "", "", None
        self.examine()
        now = self.program()
        self.made, self.castable = now.digest, not now.captured
        self.chunks = fastest(self)
        self.verified = self.checked().verified

    @property
    def description(self) -> str:
        """One line about the problem, for reports."""
        return self.label.description

    @property
    def blocks(self) -> Blocks:
        """The arrays of the parameters as blocks of weights."""
        return Blocks(tuple(int(np.prod(shape)) for shape in self.raveler.shapes))

    def weights(self, w: Float[Array, " n"]) -> PyTree:
        """Return the trained arrays alone for the weight vector `w`, with `None` for everything else."""
        return self.raveler.unravel(w)

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return the weight vector of a pytree like the one the problem was made with."""
        weights = parameters.split(params)[0]
        return self.raveler.ravel(weights if self._held is None else without(weights, self._held))

    @property
    def held(self) -> PyTree:
        """The arrays that an optimizer keeps at their values, in a pytree like the weights; None in their place."""
        return tree_map(lambda x: None, self.weights(self.w0)) if self._held is None else self._held

    def holding(self, names: Sequence[str]) -> Problem:
        """Return the problem in which the arrays of these names (paths in the parameters) keep their values.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda p: jnp.sum(p["a"] * p["b"]), {"a": jnp.ones(2), "b": jnp.ones(2)})
        >>> problem.holding(["['b']"]).n_weights
        2
        """
        assert self.fixed is not None, "arrays are held before the loss is traced"
        path_of, weights = keystr, self.weights(self.w0)
        held = map_with_path(lambda path, x: x if path_of(path) in names else None, weights)
        free = without(weights, held)
        raveler = Raveler.of(free)
        new = self.replaced(w0=raveler.ravel(free), raveler=raveler, fixed=self.fixed.holding(held), _held=held)
        now = new.program()
        return new.replaced(castable=not now.captured, made=self.made if self.changed else now.digest)

    def with_numbers(self, w0: Float[Array, " n"], data: PyTree) -> Problem:
        """Return this problem with other weights to start from and other data."""
        return placement.with_numbers(self, w0, data)

    @property
    def digest(self) -> str:
        """A checksum of the loss as it is now: it changes with all that the loss reads from outside."""
        return self.program().digest

    @property
    def changed(self) -> bool:
        """Whether the loss is another function than it was when the problem was made.

        >>> import jax.numpy as jnp
        >>> scale = [1.0]
        >>> problem = Problem(lambda w: scale[0] * jnp.sum(w**2), jnp.ones(2))
        >>> scale[0] = 2.0
        >>> problem.changed
        True
        """
        return bool(self.made) and self.made != self.digest

    def examine(self) -> None:
        """Check the loss as it is now; raises `InputError` where no flow can be computed, warns where it has kinks."""
        weights = jax.tree.leaves(self.raveler.unravel(self.w0))
        check_loss(self.function, weights, () if self.shares is None else (self.shares,))

    def checked(self, whole: Problem | None = None, budget: int | None = None) -> Problem:
        """Return the problem, known to have a loss that is the mean of those over the parts in which it is summed.

        Loss and gradient are compared on all examples. `whole`: the problem on one device, `budget`: bytes for that.

        **Raises:** `InputError` with both losses where it is no mean.
        """
        cut = self.chunks.examples is not None or (self.mesh is not None and self.mesh.size > 1)
        if not (self.examples and cut) or self.verified == (digest := self.digest):
            return self
        whole = whole or placement.together(self)
        try:
            check_mean(self, whole.replaced(chunks=Chunks()), budget)
        except InputError:
            raise
        except (TypeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".:")
            raise InputError(
                f"the loss of {self.name} fails on a part of the data ({reason}): the first axis of every array of the "
                "data must count examples; leave examples=True out where it does not"
            ) from error
        return self.replaced(verified=digest)

    def in_chunks(self, examples: int | None = None, vectors: int | None = None) -> Problem:
        """Return the problem that works on so many examples (on each device) and so many vectors at a time.

        Nothing changes but rounding and the working memory. None means all at a time.

        **Raises:** `InputError` for sizes below one, and for `examples` where the loss is not a mean over examples.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(2), data=jnp.ones((5, 2)), examples=True)
        >>> float(problem.in_chunks(examples=2).value(problem.w0))
        4.0
        """
        if examples is not None:
            self.require_examples("summed in parts")
        return self.replaced(chunks=Chunks(examples, vectors)).checked()

    def within(self, memory: Any) -> Problem:
        """Return the problem in chunks such that the data and each block of derivatives fit a memory budget.

        Counted is what the compiler reports for eight Hessian-vector products and for a block of third derivatives, on
        each device: data, weights, vectors, results and all between them. What flows keep beside these grows with the
        number of weights only.

        **Arguments:**

        - `memory`: bytes, or a text such as `"2GB"`.

        **Raises:** `InputError` for what is no size, and, with the least that is needed, for a size that is too small.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 4), jnp.ones(2), data=jnp.ones((500, 2)), examples=True)
        >>> problem.within("1MB").chunks.examples, problem.within("20kB").chunks.examples < 500
        (None, True)
        """
        budget = parse_memory(memory)
        return self.replaced(chunks=fitting(self, budget)).checked(budget=budget)

    def memory(self) -> int:
        """Return the bytes, on each device, of eight Hessian-vector products or a block of third derivatives.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda w: jnp.sum(w**4), jnp.ones(2))
        >>> problem.memory() >= 3 * problem.w0.nbytes  # weights, vectors, results
        True
        """
        return needed(self)

    def sharded(self, over: Any = "all") -> Problem:
        """Return the problem with its examples split over devices and all else on each of them.

        Examples that do not divide evenly are on every device. Nothing changes but rounding.

        **Arguments:**

        - `over`: `"all"`, a number, a list of devices or a `Mesh`.

        **Raises:** `InputError` where the loss is not a mean over examples, or there are more devices than examples.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(2), data=jnp.ones((5, 2)), examples=True)
        >>> float(problem.sharded(1).value(problem.w0))
        4.0
        """
        return placement.sharded(self, over).checked(self)

    def on(self, device: Any) -> Problem:
        """Return the problem on one device, by name as in `"cpu"`, `"gpu"` or `"cuda:1"`; flows follow it there.

        **Raises:** `InputError` with the names of the devices where there is no such device.

        >>> import jax.numpy as jnp
        >>> problem = Problem(lambda w: jnp.sum(w**2), jnp.ones(2)).on("cpu")
        >>> float(problem.value(problem.w0))
        2.0
        """
        return placement.on(self, device)

    def astype(self, dtype: Any) -> Problem:
        """Return the problem with weights and data of another floating-point type, `float32` or `float64`.

        **Raises:** `InputError` for other types, for 64 bits where JAX has them switched off, and for a loss that
        captured arrays, whose type is fixed.

        >>> import jax.numpy as jnp
        >>> Problem(lambda w: jnp.sum(w**2), jnp.ones(2)).astype("float32").w0.dtype.name
        'float32'
        """
        cast = placement.astype(self, dtype)
        if cast is self:
            return self
        if isinstance(self.loss, Traced):
            return cast.traced()  # in the parts that were found to add up
        parts = fastest(cast) if self.chunks == fastest(self) else self.chunks
        return cast.replaced(made=cast.digest, chunks=parts).checked()

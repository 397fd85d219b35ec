"""A problem: any smooth scalar loss on any pytree, and the derivatives that flows need of it.

Inside cflow weights are one vector `w (n,)`. Everything here is exact (automatic differentiation), pure, and
takes data and weights as arguments, never as closures: captured arrays would be folded into the compiled program.
A loss is a Python function, and what it reads from outside is what it is when it is called: a run traces it at its
start (`traced`), and compiled code is found by what was traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from ..support import devices
from ..support.errors import InputError, check_flag
from ..support.jax_settings import default_settings
from . import calls, parameters
from . import parts as chunks
from .differentiable import check_loss
from .means import check_mean
from .parts import Chunks
from .polarization import DIRECTIONS_AT_ONCE, polarized
from .traced import Source, Traced, has_value, traced
from .weights import Blocks, Fixed, Label, Raveler, comparable, is_weight, without


class Problem(eqx.Module):
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

    w0: Float[Array, " n"]
    _data: PyTree
    _others: PyTree  # examples that do not divide evenly over the devices
    _fixed: Fixed | None
    _held: PyTree  # arrays that the optimizer keeps at their values, which are among the fixed; None where it has none
    _loss: Callable
    _outputs: Callable | None
    _raveler: Raveler = eqx.field(static=True)
    _label: Label = eqx.field(static=True)
    examples: bool = eqx.field(static=True)
    chunks: Chunks = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    castable: bool = eqx.field(static=True)  # to other floating-point types: not where the loss captured arrays
    _made: str = eqx.field(static=True)  # a digest of the loss as it was when the problem was made
    _verified: str = eqx.field(static=True)  # the same, if it was found to be the mean over its parts
    _source: Source | None = eqx.field(static=True)

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
        weights, fixed = parameters.split(params)
        parameters.warn_of_precision(params, weights)
        self._raveler, self._fixed, self._held = Raveler.of(weights), Fixed.of(fixed), None
        self.w0 = self._raveler.ravel(weights)
        self._data, self._others = parameters.as_data(data), None
        self._label = Label.of(name, description)
        self.examples, self.chunks, self.mesh = check_flag("examples", examples), Chunks(), None
        self._loss, self._outputs = comparable(loss), None if outputs is None else comparable(outputs)
        self._made, self._verified, self._source = "", "", None
        self.examine()
        now = calls.whole(self)
        self._made, self.castable = now.digest, not now.captured
        self.chunks = self._fastest()
        self._verified = self.checked()._verified

    @property
    def name(self) -> str:
        """The name, for reports."""
        return self._label.name

    @property
    def description(self) -> str:
        """One line about the problem, for reports."""
        return self._label.description

    @property
    def n_weights(self) -> int:
        """Number n of weights."""
        return self.w0.size

    @property
    def data(self) -> PyTree:
        """The data, as they were given."""
        if self._others is None:
            return self._data
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), self._data, self._others)

    @property
    def raveler(self) -> Raveler:
        """How the weights, a pytree of arrays, became one vector."""
        return self._raveler

    @property
    def blocks(self) -> Blocks:
        """The arrays of the parameters as blocks of weights."""
        return Blocks(tuple(int(np.prod(shape)) for shape in self._raveler.shapes))

    def params(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree of parameters for the weight vector `w`."""
        assert self._fixed is not None, "a traced loss has the weights' arrays only"
        return self._fixed.joined(self._raveler.unravel(w))

    def weights(self, w: Float[Array, " n"]) -> PyTree:
        """Return the trained arrays alone for the weight vector `w`, with `None` for everything else."""
        return self._raveler.unravel(w)

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return the weight vector of a pytree like the one the problem was made with."""
        weights = parameters.split(params)[0]
        return self._raveler.ravel(weights if self._held is None else without(weights, self._held))

    @property
    def held(self) -> PyTree:
        """The arrays that an optimizer keeps at their values, in a pytree like the weights; None in their place."""
        return jax.tree.map(lambda x: None, self.weights(self.w0)) if self._held is None else self._held

    def holding(self, names: Sequence[str]) -> Problem:
        """Return the problem in which the arrays of these names (paths in the parameters) keep their values.

        >>> problem = Problem(lambda p: jnp.sum(p["a"] * p["b"]), {"a": jnp.ones(2), "b": jnp.ones(2)})
        >>> problem.holding(["['b']"]).n_weights
        2
        """
        assert self._fixed is not None, "arrays are held before the loss is traced"
        path_of, weights = jax.tree_util.keystr, self.weights(self.w0)
        held = jax.tree_util.tree_map_with_path(lambda path, x: x if path_of(path) in names else None, weights)
        free = without(weights, held)
        raveler = Raveler.of(free)
        new = self._with(w0=raveler.ravel(free), _raveler=raveler, _fixed=self._fixed.holding(held), _held=held)
        now = calls.whole(new)
        return new._with(castable=not now.captured, _made=self._made if self.changed else now.digest)

    def with_numbers(self, w0: Float[Array, " n"], data: PyTree) -> Problem:
        """Return this problem with other weights to start from and other data."""
        if self.mesh is None:
            return self._with(w0=w0, _data=data)
        shares, others = devices.split(data, self.mesh)
        return self._with(w0=devices.everywhere(w0, self.mesh), _data=shares, _others=others)

    @property
    def digest(self) -> str:
        """A checksum of the loss as it is now: it changes with all that the loss reads from outside."""
        return calls.whole(self).digest

    @property
    def changed(self) -> bool:
        """Whether the loss is another function than it was when the problem was made.

        >>> scale = [1.0]
        >>> problem = Problem(lambda w: scale[0] * jnp.sum(w**2), jnp.ones(2))
        >>> scale[0] = 2.0
        >>> problem.changed
        True
        """
        return bool(self._made) and self._made != self.digest

    def examine(self) -> None:
        """Check the loss as it is now; raises `InputError` where no flow can be computed, warns where it has kinks."""
        weights = jax.tree.leaves(self._raveler.unravel(self.w0))
        check_loss(calls.function(self), weights, () if self._data is None else (self._data,))

    def traced(self, *sizes: int) -> Problem:
        """Return the problem with its loss as the programs that are traced of it now, which fix all that it reads.

        `sizes` are the numbers of examples that it will be evaluated on, by default those of its parts.
        """
        wanted = [calls.shapes(self, size) for size in sizes or calls.sizes(self)]
        if isinstance(self._loss, Traced) and self._loss.covers(*wanted):
            return self
        source = Source(calls.function(self))
        loss = traced(source.function, *wanted, derivatives=True)
        if self.mesh is not None:
            loss = devices.everywhere(loss, self.mesh)
        elif isinstance(self.w0, jax.Array) and has_value(self.w0):
            loss = jax.device_put(loss, self.w0.sharding)
        plain = {"_fixed": None, "_outputs": None, "_made": "", "_verified": "", "_raveler": self._raveler.flat()}
        return self._with(_loss=loss, _source=source, **plain)

    def checked(self, whole: Problem | None = None, budget: int | None = None) -> Problem:
        """Return the problem, known to have a loss that is the mean of those over the parts in which it is summed.

        Loss and gradient are compared on all examples. `whole`: the problem on one device, `budget`: bytes for that.

        **Raises:** `InputError` with both losses where it is no mean.
        """
        cut = self.chunks.examples is not None or (self.mesh is not None and self.mesh.size > 1)
        if not (self.examples and cut) or self._verified == (digest := self.digest):
            return self
        whole = whole or self._with(_data=self.data, _others=None, mesh=None)
        try:
            check_mean(self, whole._with(chunks=Chunks()), budget)
        except InputError:
            raise
        except (TypeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".:")
            raise InputError(
                f"the loss of {self.name} fails on a part of the data ({reason}): the first axis of every array of the "
                "data must count examples; leave examples=True out where it does not"
            ) from error
        return self._with(_verified=digest)

    def value(self, w: Float[Array, " n"]) -> Float[Array, ""]:
        """Return the loss L(w)."""
        return self._mean(self._value_on, w)

    def outputs(self, w: Float[Array, " n"]) -> PyTree:
        """Return the model's outputs at `w`; raises `InputError` where the problem has none."""
        if self._outputs is None:
            raise InputError(f'problem "{self.name}" has no outputs: pass outputs= to Problem')
        args = (self.params(w),) if self.data is None else (self.params(w), self.data)
        return self._outputs(*args)

    def gradient(self, w: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return g = grad L(w)."""
        return self._mean(jax.grad(self._value_on), w)

    def value_and_gradient(self, w: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Return L(w) and its gradient."""
        return self._mean(jax.value_and_grad(self._value_on), w)

    def hessian_vectors(self, w: Float[Array, " n"], V: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return H(w) V; about one gradient per column."""

        def on(w: Array, V: Array, data: PyTree) -> Array:
            return jax.vmap(lambda v: self._hessian_vector_on(w, v, data), in_axes=1, out_axes=1)(V)

        return chunks.over_vectors(lambda V: self._mean(on, w, V), V, self.chunks.vectors, axis=1)

    def third_derivative(self, w: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return T(v) = D^3 L(w)[v, v, .], the gradient of v' H(w) v with v held fixed; about two gradients."""
        return self._mean(self._third_derivative_on, w, v)

    def _third_derivatives(self, w: Float[Array, " n"], Z: Float[Array, "m n"]) -> Float[Array, "m n"]:
        """Return T of each row of Z."""
        on = jax.vmap(self._third_derivative_on, in_axes=(None, 0, None))
        return chunks.over_vectors(lambda Z: self._mean(on, w, Z), Z, self.chunks.vectors)

    @default_settings()
    def _value_on(self, w: Float[Array, " n"], data: PyTree) -> Float[Array, ""]:
        """Return the loss on some of the data; so do all that end in `_on`."""
        args = (self._raveler.unravel(w),) if data is None else (self._raveler.unravel(w), data)
        loss = self._loss if isinstance(self._loss, Traced) else calls.function(self)
        return jnp.asarray(loss(*args), dtype=w.dtype)

    def _hessian_vector_on(self, w: Float[Array, " n"], v: Float[Array, " n"], data: PyTree) -> Float[Array, " n"]:
        return jax.jvp(lambda w: jax.grad(self._value_on)(w, data), (w,), (v,))[1]

    def _third_derivative_on(self, w: Float[Array, " n"], v: Float[Array, " n"], data: PyTree) -> Float[Array, " n"]:
        return jax.jvp(lambda w: self._hessian_vector_on(w, v, data), (w,), (v,))[1]

    def _mean(self, fn: Callable[..., PyTree], *args: Array) -> PyTree:
        """Return the mean of `fn(*args, data)` over all examples."""
        return chunks.mean(fn, args, self._data, self._others, self.chunks.examples, self.mesh)

    def curvature_gradients(
        self,
        w: Float[Array, " n"],
        U: Float[Array, "n k"],
        n_active: Int[Array, ""] | int | None = None,
        n_coupled: Int[Array, ""] | int | None = None,
    ) -> Float[Array, "m n"]:
        """Return D (m, n): the gradients of svec(U' H(w) U), columns of U held fixed, m = k(k+1)/2.

        Row (i, j) is d_ij, times sqrt 2 off the diagonal, in the order of `symmetric.svec`. By polarization,
        d_ij = [T(u_i + u_j) - T(u_i) - T(u_j)] / 2 with `third_derivative` T: exact, about two gradients a pair.

        Only the first `n_active` columns of U are evaluated, and pairs of different ones only among the first
        `n_coupled` (all active ones where not given); other rows are zero. The cost follows both, which may be traced.
        """
        return polarized(lambda Z: self._third_derivatives(w, Z), U, n_active, n_coupled)

    def in_chunks(self, examples: int | None = None, vectors: int | None = None) -> Problem:
        """Return the problem that works on so many examples (on each device) and so many vectors at a time.

        Nothing changes but rounding and the working memory. None means all at a time.

        **Raises:** `InputError` for sizes below one, and for `examples` where the loss is not a mean over examples.

        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(2), data=jnp.ones((5, 2)), examples=True)
        >>> float(problem.in_chunks(examples=2).value(problem.w0))
        4.0
        """
        if examples is not None:
            self._check_examples("summed in parts")
        return self._with(chunks=Chunks(examples, vectors)).checked()

    def within(self, memory: Any) -> Problem:
        """Return the problem in chunks such that the data and each block of derivatives fit a memory budget.

        Counted is what the compiler reports for eight Hessian-vector products and for a block of third derivatives, on
        each device: data, weights, vectors, results and all between them. What flows keep beside these grows with the
        number of weights only.

        **Arguments:**

        - `memory`: bytes, or a text such as `"2GB"`.

        **Raises:** `InputError` for what is no size, and, with the least that is needed, for a size that is too small.

        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 4), jnp.ones(2), data=jnp.ones((500, 2)), examples=True)
        >>> problem.within("1MB").chunks.examples, problem.within("20kB").chunks.examples < 500
        (None, True)
        """
        budget, n = chunks.parse_memory(memory), None
        if self.examples:
            n = chunks.count(self._data) // (self.mesh.size if self.mesh else 1)
        parts, _ = chunks.choose(budget, n, lambda parts: self._with(chunks=parts).memory())
        return self._with(chunks=parts).checked(budget=budget)

    def memory(self) -> int:
        """Return the bytes, on each device, of eight Hessian-vector products or a block of third derivatives.

        >>> problem = Problem(lambda w: jnp.sum(w**4), jnp.ones(2))
        >>> problem.memory() >= 3 * problem.w0.nbytes  # weights, vectors, results
        True
        """
        arrays, static = eqx.partition(self, eqx.is_array)
        V, Z = (
            jax.ShapeDtypeStruct((k, self.n_weights), self.w0.dtype)
            for k in (min(chunks.VECTORS, self.n_weights), DIRECTIONS_AT_ONCE)
        )

        def products(arrays: PyTree, V: Array) -> Array:
            problem = eqx.combine(arrays, static)
            return problem.hessian_vectors(problem.w0, V.T)

        def third(arrays: PyTree, Z: Array) -> Array:
            problem = eqx.combine(arrays, static)
            return problem._third_derivatives(problem.w0, Z)

        return max(chunks.memory_of(products, arrays, V), chunks.memory_of(third, arrays, Z))

    def sharded(self, over: Any = "all") -> Problem:
        """Return the problem with its examples split over devices and all else on each of them.

        Examples that do not divide evenly are on every device. Nothing changes but rounding.

        **Arguments:**

        - `over`: `"all"`, a number, a list of devices or a `Mesh`.

        **Raises:** `InputError` where the loss is not a mean over examples, or there are more devices than examples.

        >>> problem = Problem(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(2), data=jnp.ones((5, 2)), examples=True)
        >>> float(problem.sharded(1).value(problem.w0))
        4.0
        """
        mesh = devices.mesh_of(over)
        self._check_examples("split over devices")
        n = chunks.count(self.data)
        if n < mesh.size:
            raise InputError(f"{n} examples cannot be split over {mesh.size} devices: use at most {n} of them")
        data, others = devices.split(self.data, mesh)
        rest = devices.everywhere(self._with(_data=None, _others=None), mesh)
        return rest._with(_data=data, _others=others, mesh=mesh).checked(self)

    def on(self, device: Any) -> Problem:
        """Return the problem on one device, by name as in `"cpu"`, `"gpu"` or `"cuda:1"`; flows follow it there.

        **Raises:** `InputError` with the names of the devices where there is no such device.

        >>> problem = Problem(lambda w: jnp.sum(w**2), jnp.ones(2)).on("cpu")
        >>> float(problem.value(problem.w0))
        2.0
        """
        place = devices.find(device)
        plain = self._with(_data=self.data, _others=None, mesh=None)
        return jax.tree.map(lambda x: jax.device_put(x, place) if eqx.is_array(x) else x, plain)

    def astype(self, dtype: Any) -> Problem:
        """Return the problem with weights and data of another floating-point type, `float32` or `float64`.

        **Raises:** `InputError` for other types, for 64 bits where JAX has them switched off, and for a loss that
        captured arrays, whose type is fixed.

        >>> Problem(lambda w: jnp.sum(w**2), jnp.ones(2)).astype("float32").w0.dtype.name
        'float32'
        """
        name = devices.chosen_dtype(dtype)
        if name == self.w0.dtype.name and all(d == name for d in self._raveler.dtypes):
            return self
        if name == "float64" and not jax.config.read("jax_enable_x64"):
            raise InputError(
                'dtype is float64, which JAX has switched off: call jax.config.update("jax_enable_x64", True)'
            )
        if not self.castable:
            raise InputError(f"the loss of {self.name} captured arrays, whose type is fixed: pass them as data")
        raveler = dataclasses.replace(self._raveler, dtypes=(name,) * len(self._raveler.dtypes))
        cast = jax.tree.map(lambda x: x.astype(name) if is_weight(x) else x, self)._with(_raveler=raveler)
        if isinstance(self._loss, Traced):
            return cast.traced()  # in the parts that were found to add up
        cast = cast._with(_made=cast.digest, chunks=cast._fastest() if self.chunks == self._fastest() else self.chunks)
        return cast.checked()

    def _fastest(self) -> Chunks:
        """Return the parts that are chosen where none are asked for."""
        n = chunks.count(self._data) if self.examples else None
        return chunks.fastest(jax.grad(self._value_on), (self.w0, self._data), n)

    def _with(self, **changes: Any) -> Problem:
        """Return a copy with some fields changed; whether its parts add up must be seen again where these did."""
        if {"_data", "_others", "chunks", "mesh"} & changes.keys():
            changes = {"_verified": ""} | changes
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(new, field.name, changes.get(field.name, getattr(self, field.name)))
        return new

    def _check_examples(self, verb: str) -> None:
        """Raise `InputError` where nobody says that the loss is a mean over examples."""
        if not self.examples:
            raise InputError(
                f"the loss of {self.name} cannot be {verb}: pass examples=True to Problem if it is a mean over examples"
            )

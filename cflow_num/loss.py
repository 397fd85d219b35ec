"""A problem: any smooth scalar loss on any pytree, and the derivatives that flows need of it.

Inside cflow weights are one vector `w (n,)`. Everything here is exact (automatic differentiation), pure, and
takes data and weights as arguments, never as closures: captured arrays would be folded into the compiled program.
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

from . import chunks, devices
from .chunks import Chunks
from .errors import InputError
from .polarization import DIRECTIONS_AT_ONCE, polarized
from .weights import Blocks, Hoisted, Label, Raveler, comparable, hoist, is_weight, without


class Problem(eqx.Module):
    """A loss to minimize: `Problem(loss, params)` or `Problem(loss, params, data=data)`.

    **Arguments:**

    - `loss`: `loss(params)`, or `loss(params, data)` where `data` is given; returns a real scalar, smooth enough
      for third derivatives.
    - `params`: where training starts; any pytree. Its floating-point arrays are the weights, the rest is kept.
    - `data`: any pytree of arrays, handed to `loss` as its second argument.
    - `examples`: whether the first axis of every array of the data counts examples and the loss is their mean; then
      it can be summed in parts (`within`, `in_chunks`) and over devices (`sharded`).
    - `outputs`: optional `outputs(params)` (or `outputs(params, data)`) for predictions over time.
    - `name`, `description`: for reports.

    **Raises:** `InputError` where `loss` does not return one real number, `params` holds no weight or `data` have no
    common axis of examples.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda p: jnp.sum(p["a"] ** 2), {"a": jnp.array([1.0, 2.0])})
    >>> float(problem.value(problem.w0)), problem.gradient(problem.w0).tolist()
    (5.0, [2.0, 4.0])
    """

    w0: Float[Array, " n"]
    _data: PyTree
    _others: PyTree  # examples that do not divide evenly over the devices
    _static: PyTree
    _loss: Callable
    _outputs: Callable | None
    _raveler: Raveler = eqx.field(static=True)
    _label: Label = eqx.field(static=True)
    examples: bool = eqx.field(static=True)
    chunks: Chunks = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

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
        weights, static = eqx.partition(params, is_weight)
        weights = jax.tree.map(jnp.asarray, weights)
        if not jax.tree.leaves(weights):
            raise InputError("params holds no floating-point array, so there is nothing to train: pass the weights")
        self._raveler, self._static = Raveler.of(weights), static
        self.w0 = self._raveler.ravel(weights)
        self._data, self._others = jax.tree.map(jnp.asarray, data), None
        self._label = Label(name, description)
        self.examples, self.chunks, self.mesh = examples, Chunks(), None
        args = (weights,) if data is None else (weights, self._data)

        def of_weights(fn: Callable) -> Callable:
            return lambda weights, *data: fn(eqx.combine(weights, static), *data)

        _check_scalar(of_weights(loss), args)
        hoisted = hoist(of_weights(loss), *args)
        self._loss = hoisted if isinstance(hoisted, Hoisted) else comparable(loss)
        self._outputs = None if outputs is None else comparable(outputs)
        self.chunks = self._fastest()
        if self.chunks.examples is not None:
            self._check_mean("summed in parts")

    @property
    def name(self) -> str:
        """The name, for reports."""
        return self._label.name

    @property
    def castable(self) -> bool:
        """Whether the problem exists in other floating-point types: not where its loss captured arrays."""
        return not isinstance(self._loss, Hoisted)

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
    def weights(self) -> PyTree:
        """The weights to start from as a pytree like the parameters, without what is not trained."""
        return self._raveler.unravel(self.w0)

    @property
    def blocks(self) -> Blocks:
        """The arrays of the parameters as blocks of weights."""
        return Blocks(tuple(int(np.prod(shape)) for shape in self._raveler.shapes))

    def params(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree of parameters for the weight vector `w`."""
        return eqx.combine(self._raveler.unravel(w), self._static)

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return the weight vector of a pytree like the one the problem was made with."""
        return self._raveler.ravel(without(eqx.filter(params, is_weight), self.held))

    @property
    def held(self) -> PyTree:
        """The arrays that keep their values, in a pytree like the parameters; None in the place of weights."""
        return eqx.filter(self._static, is_weight)

    def holding(self, names: Sequence[str]) -> Problem:
        """Return the problem in which the arrays of these names (paths in the parameters) keep their values.

        >>> problem = Problem(lambda p: jnp.sum(p["a"] * p["b"]), {"a": jnp.ones(2), "b": jnp.ones(2)})
        >>> problem.holding(["['b']"]).n_weights
        2
        """
        path_of = jax.tree_util.keystr
        held = jax.tree_util.tree_map_with_path(lambda path, x: x if path_of(path) in names else None, self.weights)
        free = without(self.weights, held)
        raveler = Raveler.of(free)
        return self._with(w0=raveler.ravel(free), _raveler=raveler, _static=eqx.combine(self._static, held))

    def same_function(self, other: Problem) -> bool:
        """Whether the other problem is the same function of weights and data."""
        here, there = (eqx.filter(p._with(w0=None, _data=None), eqx.is_array, inverse=True) for p in (self, other))
        return bool(eqx.tree_equal(here, there)) and self._loss == other._loss

    def with_numbers(self, w0: Float[Array, " n"], data: PyTree) -> Problem:
        """Return this problem with other weights to start from and other data."""
        return self._with(w0=w0, _data=data)

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

    def _value_on(self, w: Float[Array, " n"], data: PyTree) -> Float[Array, ""]:
        """Return the loss on some of the data; so do all that end in `_on`."""
        params = self.params(w)
        params = eqx.filter(params, is_weight) if isinstance(self._loss, Hoisted) else params
        args = (params,) if data is None else (params, data)
        return jnp.asarray(self._loss(*args), dtype=w.dtype)

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
            self._check_mean("summed in parts")
        return self._with(chunks=Chunks(examples, vectors))

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
            self._check_mean("summed in parts")
            n = chunks.count(self._data) // (self.mesh.size if self.mesh else 1)
        return self._with(chunks=chunks.choose(budget, n, lambda parts: self._with(chunks=parts).memory())[0])

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
        self._check_mean("split over devices")
        n = chunks.count(self.data)
        if n < mesh.size:
            raise InputError(f"{n} examples cannot be split over {mesh.size} devices: use at most {n} of them")
        data, others = devices.split(self.data, mesh)
        rest = devices.everywhere(self._with(_data=None, _others=None), mesh)
        return rest._with(_data=data, _others=others, mesh=mesh)

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
        return cast._with(chunks=cast._fastest()) if self.chunks == self._fastest() else cast

    def _fastest(self) -> Chunks:
        """Return the parts that are chosen where none are asked for."""
        n = chunks.count(self._data) if self.examples else None
        return chunks.fastest(jax.grad(self._value_on), (self.w0, self._data), n)

    def _with(self, **changes: Any) -> Problem:
        """Return a copy with some fields changed."""
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(new, field.name, changes.get(field.name, getattr(self, field.name)))
        return new

    def _check_mean(self, verb: str) -> None:
        """Raise `InputError` unless the loss is a mean over examples, as far as a few of them tell."""
        if not self.examples:
            raise InputError(
                f"the loss of {self.name} cannot be {verb}: pass examples=True to Problem if it is a mean over examples"
            )
        some = jax.tree.map(lambda x: x[:3], self.data)
        n = chunks.count(some)
        value = jax.jit(lambda w, some: self._value_on(w, some))
        together = float(value(self.w0, some))
        parts = [float(value(self.w0, jax.tree.map(lambda x, i=i: x[i : i + 1], some))) for i in range(n)]
        if not np.isclose(together, np.mean(parts), rtol=1e-3, atol=1e-6 * max(map(abs, parts))):
            raise InputError(
                f"the loss of {self.name} is {together:.6g} on {n} examples together and {np.mean(parts):.6g} on "
                "average over them one by one: it must be a mean over examples"
            )


def _check_scalar(loss: Callable, args: tuple) -> None:
    try:
        out = jax.eval_shape(loss, *args)
    except InputError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"loss cannot be evaluated on params: {type(error).__name__}: {first}") from error
    leaves = jax.tree.leaves(out)
    shape = getattr(leaves[0], "shape", None) if len(leaves) == 1 else None
    if shape != ():
        found = f"shape {shape}" if shape is not None else f"{len(leaves)} values"
        raise InputError(f"loss returns {found}, it must return one number: take the mean or the sum")
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise InputError(f"loss returns {leaves[0].dtype}, it must return a real floating-point number")

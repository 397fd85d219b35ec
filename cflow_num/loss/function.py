"""A loss as a function of one vector of weights: its value, its derivatives, and the programs that compute them.

Everything here is exact (automatic differentiation), pure, and takes data and weights as arguments, never as closures:
captured arrays would be folded into the compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ..support import devices
from ..support.errors import InputError
from ..support.jax_settings import default_settings
from ..support.typed import PyTree, device_put, grad, jvp, tree_map, value_and_grad
from . import calls
from . import parts as chunks
from .parts import Chunks
from .polarization import polarized
from .traced import Source, Traced, has_value, traced
from .weights import Fixed, Label, Raveler

F = TypeVar("F", bound="Function")


class Function(eqx.Module):
    """What a `Problem` computes, from these fields alone."""

    w0: Float[Array, " n"]
    shares: PyTree  # the data; on several devices those examples that divide evenly over them
    others: PyTree  # the examples that do not
    fixed: Fixed | None  # what of the parameters is not trained; None where the loss is traced
    loss: Callable[..., Any]
    outputs_of: Callable[..., Any] | None
    raveler: Raveler = eqx.field(static=True)  # how the weights, a pytree of arrays, became one vector
    label: Label = eqx.field(static=True)
    examples: bool = eqx.field(static=True)
    chunks: Chunks = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    castable: bool = eqx.field(static=True)  # to other floating-point types: not where the loss captured arrays
    made: str = eqx.field(static=True)  # a digest of the loss as it was when the problem was made
    verified: str = eqx.field(static=True)  # the same, if it was found to be the mean over its parts
    source: Source | None = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The name, for reports."""
        return self.label.name

    @property
    def n_weights(self) -> int:
        """Number n of weights."""
        return self.w0.size

    @property
    def data(self) -> PyTree:
        """The data, as they were given."""
        if self.others is None:
            return self.shares
        return tree_map(lambda x, y: jnp.concatenate([x, y]), self.shares, self.others)

    @property
    def function(self) -> Callable[..., Any]:
        """The loss as a Python function of the weights' arrays, in a list or any tree, and of data."""
        if self.source is not None:
            return self.source.function
        assert self.fixed is not None, "only a traced loss has no parameters"
        return calls.of_arrays(self.loss, self.fixed, self.raveler.treedef)

    def params(self, w: Float[Array | np.ndarray, " n"]) -> PyTree:
        """Return the pytree of parameters for the weight vector `w`."""
        assert self.fixed is not None, "a traced loss has the weights' arrays only"
        return self.fixed.joined(self.raveler.unravel(jnp.asarray(w)))

    def outputs(self, w: Float[Array, " n"]) -> PyTree:
        """Return the model's outputs at `w`; raises `InputError` where the problem has none."""
        if self.outputs_of is None:
            raise InputError(f'problem "{self.name}" has no outputs: pass outputs= to Problem')
        args = (self.params(w),) if self.data is None else (self.params(w), self.data)
        return self.outputs_of(*args)

    def value(self, w: Float[Array, " n"]) -> Float[Array, ""]:
        """Return the loss L(w)."""
        return self.mean(self.value_on, w)

    def gradient(self, w: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return g = grad L(w)."""
        return self.mean(grad(self.value_on), w)

    def value_and_gradient(self, w: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Return L(w) and its gradient."""
        return self.mean(value_and_grad(self.value_on), w)

    def hessian_vectors(self, w: Float[Array, " n"], V: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return H(w) V; about one gradient per column."""

        def on(w: Array, V: Array, data: PyTree) -> Array:
            def product(v: Array) -> Array:
                return self._hessian_vector_on(w, v, data)

            return jax.vmap(product, in_axes=1, out_axes=1)(V)

        return chunks.over_vectors(lambda V: self.mean(on, w, V), V, self.chunks.vectors, axis=1)

    def third_derivative(self, w: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return T(v) = D^3 L(w)[v, v, .], the gradient of v' H(w) v with v held fixed; about two gradients."""
        return self.mean(self._third_derivative_on, w, v)

    def third_derivatives(self, w: Float[Array, " n"], Z: Float[Array, "m n"]) -> Float[Array, "m n"]:
        """Return T of each row of Z."""
        on = jax.vmap(self._third_derivative_on, in_axes=(None, 0, None))
        return chunks.over_vectors(lambda Z: self.mean(on, w, Z), Z, self.chunks.vectors)

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
        return polarized(lambda Z: self.third_derivatives(w, Z), U, n_active, n_coupled)

    @default_settings()
    def value_on(self, w: Float[Array, " n"], data: PyTree) -> Float[Array, ""]:
        """Return the loss on some of the data; so do all that end in `_on`."""
        args = (self.raveler.unravel(w),) if data is None else (self.raveler.unravel(w), data)
        loss = self.loss if isinstance(self.loss, Traced) else self.function
        return jnp.asarray(loss(*args), dtype=w.dtype)

    def _hessian_vector_on(self, w: Float[Array, " n"], v: Float[Array, " n"], data: PyTree) -> Float[Array, " n"]:
        return jvp(lambda w: grad(self.value_on)(w, data), (w,), (v,))[1]

    def _third_derivative_on(self, w: Float[Array, " n"], v: Float[Array, " n"], data: PyTree) -> Float[Array, " n"]:
        return jvp(lambda w: self._hessian_vector_on(w, v, data), (w,), (v,))[1]

    def mean(self, fn: Callable[..., PyTree], *args: Array) -> PyTree:
        """Return the mean of `fn(*args, data)` over all examples."""
        return chunks.mean(fn, args, self.shares, self.others, self.chunks.examples, self.mesh)

    def program(self) -> Traced:
        """Return the program of the loss on all data, as it is now, whatever precision products have at the moment."""
        n = chunks.count(self.data) if self.examples else None
        with jax.default_matmul_precision("highest"):
            return traced(self.function, calls.shapes(self.raveler, self.shares, n), derivatives=True)

    def traced(self: F, *sizes: int) -> F:
        """Return the problem with its loss as the programs that are traced of it now, which fix all that it reads.

        `sizes` are the numbers of examples that it will be evaluated on, by default those of its parts.
        """
        wanted = [calls.shapes(self.raveler, self.shares, size) for size in sizes or self._sizes()]
        if isinstance(self.loss, Traced) and self.loss.covers(*wanted):
            return self
        source = Source(self.function)
        loss = traced(source.function, *wanted, derivatives=True)
        if self.mesh is not None:
            loss = devices.everywhere(loss, self.mesh)
        elif eqx.is_array(self.w0) and has_value(self.w0):
            loss = device_put(loss, self.w0.sharding)
        plain = {"fixed": None, "outputs_of": None, "made": "", "verified": "", "raveler": self.raveler.flat()}
        return self.replaced(loss=loss, source=source, **plain)

    def _sizes(self) -> tuple[int | None, ...]:
        """Return on how many examples the loss is evaluated at a time, None for data as they are."""
        if not self.examples:
            return (None,)
        return calls.sizes(self.shares, self.others, self.chunks.examples, self.mesh)

    def replaced(self: F, **changes: Any) -> F:
        """Return a copy with some fields changed; whether its parts add up must be seen again where these did."""
        if {"shares", "others", "chunks", "mesh"} & changes.keys():
            changes = {"verified": ""} | changes
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(new, field.name, changes.get(field.name, getattr(self, field.name)))
        return new

    def require_examples(self, verb: str) -> None:
        """Raise `InputError` where nobody says that the loss is a mean over examples."""
        if not self.examples:
            raise InputError(
                f"the loss of {self.name} cannot be {verb}: pass examples=True to Problem if it is a mean over examples"
            )

"""A problem: any smooth scalar loss on any pytree, and the derivatives that flows need of it.

Inside cflow weights are one vector `w (n,)`. Everything here is exact (automatic differentiation), pure, and
takes data and weights as arguments, never as closures: captured arrays would be folded into the compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .errors import InputError

_DIRECTIONS_AT_ONCE = 4  # third-derivative directions evaluated together: fills the cores, bounds memory


@dataclasses.dataclass(frozen=True)
class Raveler:
    """How a pytree of arrays became one vector; hashable, so that equal problems share compiled code."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, params: PyTree) -> Raveler:
        """Describe the pytree `params` of arrays."""
        leaves, treedef = jax.tree.flatten(params)
        return cls(treedef, tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves))

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return all entries of `params` in one vector, in the order of its leaves."""
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])

    def unravel(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree whose entries are `w`; the inverse of `ravel`."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = jnp.split(w, list(np.cumsum(sizes)[:-1]))
        leaves = [x.reshape(s).astype(d) for x, s, d in zip(parts, self.shapes, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


class _Labels:
    """Name and description of a problem; all labels are equal, so that they do not tell compiled programs apart."""

    def __init__(self, name: str, description: str):
        self.name, self.description = name, description

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Labels)

    def __hash__(self) -> int:
        return hash(_Labels)


class Blocks(eqx.Module):
    """The blocks that the weights fall into: one for each array of the parameters, in order.

    >>> blocks = Blocks((2, 1))
    >>> blocks.total(jnp.array([1.0, 2.0, 3.0])).tolist(), blocks.spread(jnp.array([5.0, 6.0])).tolist()
    ([3.0, 3.0], [5.0, 5.0, 6.0])
    """

    sizes: tuple[int, ...] = eqx.field(static=True)

    def total(self, v: Float[Array, " n"]) -> Float[Array, " B"]:
        """Return the sums over the blocks."""
        return jnp.stack([jnp.sum(part) for part in jnp.split(v, np.cumsum(self.sizes)[:-1].tolist())])

    def spread(self, x: Float[Array, " B"]) -> Float[Array, " n"]:
        """Return each block's value at each of its weights."""
        return jnp.repeat(x, np.array(self.sizes), total_repeat_length=sum(self.sizes))


class _Hoisted(eqx.Module):
    """A function whose captured arrays have become arguments, through its jaxpr."""

    consts: list[Array]
    jaxpr: Any = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def __call__(self, *args: PyTree) -> PyTree:
        closed = jex.core.ClosedJaxpr(self.jaxpr, self.consts)
        return jax.tree.unflatten(self.treedef, jex.core.jaxpr_as_fun(closed)(*jax.tree.leaves(args)))


def _hoist(fn: Callable, *args: PyTree) -> Callable:
    """Return `fn` itself if it captures no array, else an equivalent with the captured arrays as data."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    if not any(np.size(c) > 1 for c in closed.consts):
        return fn
    return _Hoisted([jnp.asarray(c) for c in closed.consts], closed.jaxpr, jax.tree.structure(shape))


class Problem(eqx.Module):
    """A loss to minimize: `Problem(loss, params)` or `Problem(loss, params, data=data)`.

    **Arguments:**

    - `loss`: `loss(params)`, or `loss(params, data)` where `data` is given; returns a real scalar, smooth enough
      for third derivatives.
    - `params`: where training starts; any pytree. Its floating-point arrays are the weights, the rest is kept.
    - `data`: any pytree of arrays, handed to `loss` as its second argument.
    - `outputs`: optional `outputs(params)` (or `outputs(params, data)`) for predictions over time.
    - `name`, `description`: for reports.

    **Raises:** `InputError` where `loss` does not return one real number or `params` holds no weight.

    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda p: jnp.sum(p["a"] ** 2), {"a": jnp.array([1.0, 2.0])})
    >>> float(problem.value(problem.w0)), problem.gradient(problem.w0).tolist()
    (5.0, [2.0, 4.0])
    """

    w0: Float[Array, " n"]
    data: PyTree
    _static: PyTree
    _loss: Callable
    _outputs: Callable | None
    _raveler: Raveler = eqx.field(static=True)
    _labels: _Labels = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        *,
        data: PyTree = None,
        outputs: Callable[..., Any] | None = None,
        name: str = "custom",
        description: str = "",
    ):
        weights, static = eqx.partition(params, _is_weight)
        weights = jax.tree.map(jnp.asarray, weights)
        if not jax.tree.leaves(weights):
            raise InputError("params holds no floating-point array, so there is nothing to train: pass the weights")
        self._raveler, self._static = Raveler.of(weights), static
        self.w0 = self._raveler.ravel(weights)
        self.data = jax.tree.map(jnp.asarray, data)
        self._labels = _Labels(name, description)
        args = (weights,) if data is None else (weights, self.data)

        def of_weights(fn: Callable) -> Callable:
            return lambda weights, *data: fn(eqx.combine(weights, static), *data)

        _check_scalar(of_weights(loss), args)
        hoisted = _hoist(of_weights(loss), *args)
        self._loss = hoisted if isinstance(hoisted, _Hoisted) else loss
        self._outputs = None if outputs is None else outputs

    @property
    def name(self) -> str:
        """Name for reports."""
        return self._labels.name

    @property
    def description(self) -> str:
        """Description for reports."""
        return self._labels.description

    @property
    def n_weights(self) -> int:
        """Number n of weights."""
        return self.w0.size

    @property
    def blocks(self) -> Blocks:
        """The arrays of the parameters as blocks of weights."""
        return Blocks(tuple(int(np.prod(shape)) for shape in self._raveler.shapes))

    def params(self, w: Float[Array, " n"]) -> PyTree:
        """Return the pytree of parameters for the weight vector `w`."""
        return eqx.combine(self._raveler.unravel(w), self._static)

    def ravel(self, params: PyTree) -> Float[Array, " n"]:
        """Return the weight vector of a pytree like the one the problem was made with."""
        return self._raveler.ravel(eqx.filter(params, _is_weight))

    def value(self, w: Float[Array, " n"]) -> Float[Array, ""]:
        """Return the loss L(w)."""
        weights = self._raveler.unravel(w)
        params = weights if isinstance(self._loss, _Hoisted) else eqx.combine(weights, self._static)
        args = (params,) if self.data is None else (params, self.data)
        return jnp.asarray(self._loss(*args), dtype=w.dtype)

    def outputs(self, w: Float[Array, " n"]) -> PyTree:
        """Return the model's outputs at `w`; raises `InputError` where the problem has none."""
        if self._outputs is None:
            raise InputError(f'problem "{self.name}" has no outputs: pass outputs= to Problem')
        args = (self.params(w),) if self.data is None else (self.params(w), self.data)
        return self._outputs(*args)

    def gradient(self, w: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return g = grad L(w)."""
        return jax.grad(self.value)(w)

    def value_and_gradient(self, w: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Return L(w) and its gradient."""
        return jax.value_and_grad(self.value)(w)

    def hessian_vectors(self, w: Float[Array, " n"], V: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return H(w) V; about one gradient per column."""
        return jax.vmap(lambda v: self._hessian_vector(w, v), in_axes=1, out_axes=1)(V)

    def _hessian_vector(self, w: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jax.jvp(self.gradient, (w,), (v,))[1]

    def third_derivative(self, w: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return T(v) = D^3 L(w)[v, v, .], the gradient of v' H(w) v with v held fixed; about two gradients."""
        return jax.jvp(lambda q: self._hessian_vector(q, v), (w,), (v,))[1]

    def curvature_gradients(
        self, w: Float[Array, " n"], U: Float[Array, "n k"], n_active: Int[Array, ""] | int | None = None
    ) -> Float[Array, "m n"]:
        """Return D (m, n): the gradients of svec(U' H(w) U), columns of U held fixed, m = k(k+1)/2.

        Row (i, j) is d_ij, times sqrt 2 off the diagonal, in the order of `symmetric.svec`. By polarization,
        d_ij = [T(u_i + u_j) - T(u_i) - T(u_j)] / 2 with `third_derivative` T: exact, about two gradients a pair.

        Only the first `n_active` columns of U are evaluated; rows that belong to others are zero. The cost follows
        `n_active`, which may be traced.
        """
        n, k = U.shape
        pairs = [(i, j) for j in range(k) for i in range(j + 1)]  # the first a(a+1)/2 pairs are those of i, j < a
        m, size = len(pairs), _directions_at_once(k)
        padded = -(-m // size) * size
        I, J = (np.array([p[x] for p in pairs] + [0] * (padded - m)) for x in (0, 1))
        Z = jnp.where(jnp.asarray(I == J)[:, None], U.T[J], U.T[I] + U.T[J])  # (padded, n)
        a = jnp.asarray(k if n_active is None else n_active)
        n_blocks = directions_evaluated(k, a) // size

        def block(b: Array, TZ: Array) -> Array:
            z = jax.lax.dynamic_slice_in_dim(Z, b * size, size)
            return jax.lax.dynamic_update_slice_in_dim(
                TZ, jax.vmap(lambda v: self.third_derivative(w, v))(z), b * size, axis=0
            )

        TZ = jax.lax.fori_loop(0, n_blocks, block, jnp.zeros((padded, n), w.dtype))[:m]
        diagonal = np.array([j * (j + 1) // 2 + j for j in range(k)])  # place of (j, j) in `pairs`
        mixed = (TZ - TZ[diagonal[I[:m]]] - TZ[diagonal[J[:m]]]) / 2
        off = jnp.asarray(I[:m] != J[:m])[:, None]
        active = (jnp.asarray(J[:m]) < a)[:, None]
        D = jnp.where(active, jnp.where(off, np.sqrt(2.0).item() * mixed, TZ), 0.0)
        rows, columns = np.triu_indices(k)  # the order of svec
        return D[columns * (columns + 1) // 2 + rows]


def directions_evaluated(k: int, n_active: Int[Array, ""]) -> Int[Array, ""]:
    """Return how many third-derivative directions `curvature_gradients` evaluates: whole blocks of them.

    >>> int(directions_evaluated(4, jnp.asarray(1))), int(directions_evaluated(4, jnp.asarray(3)))
    (4, 8)
    """
    size = _directions_at_once(k)
    return -(-(n_active * (n_active + 1) // 2) // size) * size


def _directions_at_once(k: int) -> int:
    return min(_DIRECTIONS_AT_ONCE, k * (k + 1) // 2)


def _is_weight(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray)) and jnp.issubdtype(x.dtype, jnp.floating)


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

"""What is recorded of each process, step by step, and how weights are compared in lockstep instead of being kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array

from ..flows.base import Flow, Observation
from ..flows.discrete import midpoints
from ..record.variables import VARIABLES
from ..support.programs import compiled_for
from .chunk import Records
from .diagnostics import summed


class About(NamedTuple):
    """What is said of a variable that is not in `VARIABLES`: its dimensions after `step`, meaning, attributes."""

    dims: tuple[str, ...]
    meaning: str
    attrs: dict[str, Any]


class Recorder:
    """Arrays over steps 0..steps for one process, filled as chunks arrive; nan where nothing is known."""

    def __init__(self, steps: int, coordinates: tuple[int, ...] = (), own: dict[str, About] | None = None):
        self.steps, self.coordinates, self.own = steps, coordinates, own or {}
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, name: str, first: int, values: Any) -> None:
        """Store `values` (leading axis: steps from `first` on), cutting what reaches beyond the last step."""
        values = np.asarray(values)[: max(self.steps + 1 - first, 0)]
        old = self.arrays.get(name)
        width = values.shape[1:]
        if old is None:
            old = np.full((self.steps + 1, *width), np.nan)
        elif width and old.shape[1] < width[0]:
            old = np.pad(old, ((0, 0), (0, width[0] - old.shape[1])), constant_values=np.nan)
        if width:
            old[first : first + len(values), : width[0]] = values
        else:
            old[first : first + len(values)] = values
        self.arrays[name] = old

    def start(self, seen: Observation, constrained: bool, interpolates: bool = False) -> None:
        """Store step 0: nothing has been spent, nothing oscillates."""
        self._observe(0, jax.tree.map(lambda x: x[None], seen._replace(V=seen.loss)))
        zero = np.zeros(1)
        self.put("seconds", 0, zero)
        self.put("n_gradients", 0, zero)
        if interpolates:
            self.put("eigenvalues_exact", 0, np.ones(1))
        if constrained:
            self.put("sigma_eigenvalues", 0, np.zeros((1, seen.effective_eigenvalues.shape[0])))
            self.put("predicted_loss", 0, seen.loss[None])
            self.put("predicted_squared_gradient_norm", 0, seen.gradient_norm[None] ** 2)
            for name in ("residual", "n_hessian_vectors", "n_curvature_gradients"):
                self.put(name, 0, zero)

    def chunk(self, first: int, records: Records, began: float, ended: float) -> None:
        """Store the steps from `first` on, which took from `began` to `ended` seconds of the process's time."""
        self._observe(first, records.seen)
        n = records.w.shape[0]
        self.put("seconds", first, began + (ended - began) * np.arange(1, n + 1) / n)
        self.put(
            "n_gradients", first, self.arrays["n_gradients"][first - 1] + np.cumsum(np.asarray(records.n_gradients))
        )
        if records.exact is not None:
            self.put("eigenvalues_exact", first, np.asarray(records.exact, float))
        for name, values in (records.predictions | records.captured).items():
            self.put(name, first, values)
        if records.log is not None:
            for name in (
                "sigma_eigenvalues",
                "residual",
                "eigen_residual",
                "n_hessian_vectors",
                "n_curvature_gradients",
            ):
                self.put(name, first, getattr(records.log, name))

    def _observe(self, first: int, seen: Observation) -> None:
        for name in ("loss", "gradient_norm", "effective_eigenvalues", "threshold", "growth", "offset"):
            self.put(name, first, getattr(seen, name))
        self.put("eigen_converged", first, np.asarray(seen.converged, float))
        for name, values in seen.scalars.items():
            self.put(name, first, values)

    def diagnose(self) -> None:
        """Store what follows from sums over steps."""
        for name, values in summed(self.arrays).items():
            self.put(name, 0, values)

    def forget_after(self, last: int, *names: str) -> None:
        """Make everything (or the variables named) after step `last` unknown: what a failed process left there."""
        for name in names or tuple(self.arrays):
            if name in self.arrays:
                self.arrays[name][last + 1 :] = np.nan

    def dataset(self, end: int, attrs: dict[str, Any]) -> xr.Dataset:
        """Return the first `end` + 1 steps as a dataset with units and meanings."""
        variables = {}
        for name, values in self.arrays.items():
            dim, units, meaning = VARIABLES.get(name, ("", "1", name))
            about = self.own.get(name) or About((dim or "coordinate",) * (values.ndim - 1), meaning, {"units": units})
            told = about.attrs | {"long_name": about.meaning}
            variables[name] = xr.Variable(("step", *about.dims), values[: end + 1], told)
        widest = max((v.sizes["eig"] for v in variables.values() if "eig" in v.dims), default=0)
        for name, variable in variables.items():
            if "eig" in variable.dims:
                variables[name] = variable.pad({"eig": (0, widest - variable.sizes["eig"])}, constant_values=np.nan)
        coords = {"step": ("step", np.arange(end + 1), {"units": "1", "long_name": "optimizer steps = flow time"})}
        if widest:
            rank = {"units": "1", "long_name": "rank of the eigenvalue, the largest first"}
            coords["eig"] = ("eig", np.arange(1, widest + 1), rank)
        if self.coordinates:
            coords["coordinate"] = ("coordinate", np.array(self.coordinates), {"long_name": "index of the weight"})
        return xr.Dataset(variables, coords=coords, attrs=attrs)


@eqx.filter_jit
def _losses(flow: Flow, path: Array | np.ndarray) -> Array:
    return jax.lax.map(flow.value, jnp.asarray(path))


class Lockstep:
    """Compares weights chunk by chunk, so that they need not be kept: distances and displacements."""

    def __init__(self, flow: Flow, recorders: dict[str, Recorder], starts: dict[str, np.ndarray], effort: str):
        self.recorders, self.effort = recorders, effort
        self.w0 = next(iter(starts.values()))
        self.tails: dict[str, np.ndarray] = {name: w[None] for name, w in starts.items()}
        self.covectors: np.ndarray | None = None
        self.flow = flow

    def add(self, reached: int, chunk: dict[str, Records]) -> None:
        """Add the steps from `reached` + 1 on; midpoints are known up to the last but one."""
        if "discrete" in chunk:
            with np.errstate(over="ignore", invalid="ignore"):  # a diverging run reaches infinity before it is stopped
                self._add(reached, chunk)

    def _add(self, reached: int, chunk: dict[str, Records]) -> None:
        windows = {name: np.concatenate([self.tails[name], np.asarray(r.w)]) for name, r in chunk.items()}
        path = windows["discrete"]  # (T + 2, n), (T + 1, n) at first
        first = reached if len(self.tails["discrete"]) == 2 else reached + 1
        middle = np.asarray(midpoints(path))
        recorder = self.recorders["discrete"]
        losses = compiled_for(_losses, (self.flow, middle), self.effort)(self.flow, middle)
        recorder.put("midpoint_loss", first, losses)
        recorder.put("distance_from_start", first, np.linalg.norm(middle - self.w0, axis=1))
        for name, window in windows.items():
            if name != "discrete":
                aligned = window[-len(middle) - 1 : -1]  # (T, n) same steps as the midpoints
                distance = np.linalg.norm(aligned - middle, axis=1)
                self.recorders[name].put("distance_to_discrete", first, distance)
        log = chunk["central"].log if "central" in chunk else None
        if log is not None:
            covectors = np.asarray(log.sigma_covectors)  # (T, n, k) steps reached + 1 ...
            if self.covectors is not None:
                more = covectors.shape[2] - self.covectors.shape[2]
                last = np.pad(self.covectors, ((0, 0), (0, 0), (0, more)))
                covectors = np.concatenate([last, covectors])
            used = covectors[-len(middle) - 1 : -1]
            start = first + len(middle) - len(used)
            delta = path[1:-1][-len(used) :] - middle[-len(used) :]  # (T, n) w_t - midpoint
            recorder.put("displacement", start, np.einsum("tnk,tn->tk", used, delta))
            self.covectors = np.asarray(log.sigma_covectors[-1:])
        self.tails = {name: window[-2:] if name == "discrete" else window[-1:] for name, window in windows.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return what is compared with the next chunk, by name."""
        covectors = {} if self.covectors is None else {"covectors": self.covectors}
        return covectors | {f"tail/{name}": tail for name, tail in self.tails.items()}

    def resume(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` returned."""
        self.covectors = state.get("covectors")
        self.tails = {name.removeprefix("tail/"): x for name, x in state.items() if name.startswith("tail/")}

    def close(self, last: int) -> None:
        """Make unknown what needs the step after the last one: the midpoint there and all that is measured from it."""
        for recorder in self.recorders.values():
            recorder.forget_after(
                last - 1, "midpoint_loss", "distance_from_start", "displacement", "distance_to_discrete"
            )

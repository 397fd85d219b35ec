"""`Run`: what is kept of a run, in one file. Reading it takes neither JAX nor an integrator."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import cflow_num  # for the verbs of later stages, by name

from ..support.errors import InputError
from ..support.files import replacing
from .stored import Stored

if TYPE_CHECKING:
    import xarray as xr

    from ..verdict.compare import Comparison


class Run:
    """The result of `run`: everything recorded, step by step.

    `tree` is an xarray DataTree with one group per process (`/discrete`, `/stable`, `/central`, ...) and dimensions
    `step` (0 is the state after the warm start) and `eig`. `reason` says why the run ended early, or is empty.
    """

    def __init__(self, tree: xr.DataTree | Stored):
        self._tree = None if isinstance(tree, Stored) else tree
        self._stored = tree if isinstance(tree, Stored) else None

    @property
    def tree(self) -> xr.DataTree:
        """Everything recorded; of a run that was read from a file it is made when it is first asked for."""
        stored = self._stored
        if self._tree is None:
            import xarray

            assert stored is not None
            arrays: Any = xarray  # whose annotations are incomplete
            self._tree = arrays.load_datatree(io.BytesIO(stored.content), engine="h5netcdf")
            self._stored = None  # what is put into the tree counts from here on
        return self._tree

    @property
    def attrs(self) -> dict[str, Any]:
        """What is known of the run as a whole: its configuration, reason, versions and time, as text."""
        stored = self._stored
        return {str(name): x for name, x in self.tree.attrs.items()} if stored is None else stored.attrs

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of the processes that were run."""
        stored = self._stored
        return tuple(self.tree.children) if stored is None else tuple(stored.arrays)

    def size(self, process: str, dimension: str = "step") -> int:
        """Return how long a dimension of a process is: `step` counts the start, too."""
        stored = self._stored
        return (self.tree[process].sizes if stored is None else stored.sizes[process])[dimension]

    def array(self, process: str, name: str) -> np.ndarray | None:
        """Return a variable of a process as plain numbers; None where it was not recorded."""
        stored = self._stored
        if stored is not None:
            return stored.arrays[process].get(name)
        group: Any = self.tree[process]
        return group[name].values if name in group.data_vars else None

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do: optimizer, hyperparameters, problem, steps, ..."""
        return json.loads(self.attrs["config"])

    @property
    def reason(self) -> str:
        """Why the run ended early; empty if it took all its steps."""
        return self.attrs["reason"]

    @property
    def notes(self) -> list[str]:
        """What the user was warned of while it ran."""
        return json.loads(self.attrs.get("notes", "[]"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one netCDF file, to a temporary name first; raises `InputError` where it cannot be written."""
        with replacing(Path(path)) as temporary:
            if self._stored is not None:
                temporary.write_bytes(self._stored.content)
            else:
                tree: Any = self.tree
                tree.to_netcdf(temporary, engine="h5netcdf")
        return Path(path)

    def compare(self) -> Comparison:
        """Return the `Comparison` of the flows with the discrete run."""
        return cflow_num.compare(self)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.html` and its figures into `folder`; return the page's path."""
        return cflow_num.write_report([self], folder)

    def __repr__(self) -> str:
        config = self.config
        ended = f", ended early: {self.reason}" if self.reason else ""
        return f"Run({config['optimizer']} on {config['problem']}, {config['steps']} steps{ended})"


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run file; raises `InputError` with the path where it is missing, damaged or not a run."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file: pass the run.nc that a run wrote")
    try:
        stored = Stored.read(path.read_bytes())
    except Exception as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged or not a run file") from error
    if "config" not in stored.attrs or "reason" not in stored.attrs:
        raise InputError(f"{path} is a netCDF file but not one that cflow wrote: it has no config attribute")
    try:
        complete = {"optimizer", "problem", "steps", "hyperparameters"} <= set(json.loads(stored.attrs["config"]))
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path} cannot be used, its config attribute is damaged: run again")
    return Run(stored)

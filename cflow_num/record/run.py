"""`Run`: what is kept of a run, in one file. Reading it takes neither JAX nor an integrator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

import cflow_num  # for the verbs of later stages, by name

from ..support.errors import InputError
from ..support.files import replacing

if TYPE_CHECKING:
    from ..verdict.compare import Comparison


class Run:
    """The result of `run`: everything recorded, step by step.

    `tree` is an xarray DataTree with one group per process (`/discrete`, `/stable`, `/central`, ...) and dimensions
    `step` (0 is the state after the warm start) and `eig`. `reason` says why the run ended early, or is empty.
    """

    def __init__(self, tree: xr.DataTree):
        self.tree = tree

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do: optimizer, hyperparameters, problem, steps, ..."""
        return json.loads(self.tree.attrs["config"])

    @property
    def reason(self) -> str:
        """Why the run ended early; empty if it took all its steps."""
        return self.tree.attrs["reason"]

    @property
    def notes(self) -> list[str]:
        """What the user was warned of while it ran."""
        return json.loads(self.tree.attrs.get("notes", "[]"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one netCDF file, to a temporary name first; raises `InputError` where it cannot be written."""
        tree: Any = self.tree
        with replacing(Path(path)) as temporary:
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
    arrays: Any = xr  # whose annotations are incomplete
    try:
        tree: xr.DataTree = arrays.load_datatree(path, engine="h5netcdf")
    except Exception as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged or not a run file") from error
    if "config" not in tree.attrs or "reason" not in tree.attrs:
        raise InputError(f"{path} is a netCDF file but not one that cflow wrote: it has no config attribute")
    try:
        complete = {"optimizer", "problem", "steps", "hyperparameters"} <= set(json.loads(tree.attrs["config"]))
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path} cannot be used, its config attribute is damaged: run again")
    return Run(tree)

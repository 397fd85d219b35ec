"""`Run`: what is kept of a run, in one file. Reading it takes neither JAX nor an integrator."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

import cflow_num  # for the verbs of later stages, by name

from ..support.errors import InputError
from ..support.files import replacing
from .ends import GROUP, Ending
from .listing import Described, Listing, as_html, as_text, listing
from .stored import Stored

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from ..loss.problem import Problem
    from ..verdict.compare import Comparison


@runtime_checkable
class Origin(Protocol):
    """What made a run, while the Python process that made it lives."""

    def params(self, w: np.ndarray) -> Any:
        """Return the parameters with these weights."""
        ...

    def longer(self, steps: int, quiet: bool) -> Run:
        """Return the run with so many steps more."""
        ...


class Run:
    """The result of `run`: everything recorded, step by step.

    `tree` is an xarray DataTree with one group per process (`/discrete`, `/stable`, `/central`, ...) and dimensions
    `step` (0 is the state after the warm start) and `eig`. `reason` says why the run ended early, or is empty.
    """

    def __init__(self, tree: xr.DataTree | Stored, ends: dict[str, Ending] | None = None):
        self._tree = None if isinstance(tree, Stored) else tree
        self._stored = tree if isinstance(tree, Stored) else None
        self._ends = tree.ends if isinstance(tree, Stored) else ends or {}
        self._origin: Origin | None = None

    @property
    def tree(self) -> xr.DataTree:
        """Everything recorded; of a run that was read from a file it is made when it is first asked for."""
        stored = self._stored
        if self._tree is None:
            import xarray

            assert stored is not None
            arrays: Any = xarray  # whose annotations are incomplete
            self._tree = arrays.load_datatree(io.BytesIO(stored.content), engine="h5netcdf").drop_nodes(
                GROUP, errors="ignore"
            )
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

    def variables(self) -> Listing:
        """Return what was recorded, by name: its units and meaning, and of which processes; print it for a table.

        >>> import jax.numpy as jnp, cflow_num as cn
        >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
        >>> hp = dict(learning_rate=0.5)
        >>> run = cn.run(problem, "gradient_descent", hp, steps=2, processes=["discrete", "central"], quiet=True)
        >>> run.variables()["predicted_loss"]
        'time-averaged loss predicted by the flow: L + <Sigma, H>/2 [loss] (central)'
        """
        return listing(self)

    def described(self, process: str, name: str) -> Described:
        """Return dimensions, units and meaning of a variable of a process."""
        stored = self._stored
        if stored is not None:
            return Described.of(name, *stored.described[process][name])
        variable: Any = self.tree[process][name]
        return Described.of(name, variable.dims, variable.attrs)

    def names(self, process: str) -> tuple[str, ...]:
        """Return the names of the variables of a process."""
        stored = self._stored
        return tuple(str(name) for name in (self.tree[process].data_vars if stored is None else stored.arrays[process]))

    def ending(self, process: str) -> Ending:
        """Return where a process ended, as plain arrays; raises `InputError` where the run does not know."""
        if process not in self.processes:
            raise InputError(f"the run has no {process} process: it has {', '.join(self.processes)}")
        found = self._ends.get(process)
        if found is None:
            raise InputError("the file is of an earlier version, which kept no weights: run again")
        return found

    def weights(self, process: str, step: int | None = None, problem: Problem | None = None) -> Any:
        """Return the weights of a process at the end, or at a step at which `keep_weights` kept them.

        They are parameters like those that the problem was made with. Of a run that was read from a file or unpickled:
        an array of all of them, `(n,)`, unless that `problem` is passed.

        **Raises:** `InputError` for a process or a step of which there are none.

        >>> import jax.numpy as jnp, cflow_num as cn
        >>> problem = cn.Problem(lambda p: jnp.sum(p["a"] ** 2) / 2, {"a": jnp.ones(2)})
        >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=0.5), steps=2, quiet=True)
        >>> run.weights("discrete")["a"].tolist()
        [0.25, 0.25]
        """
        w = self.ending(process).weights(process, step)
        if problem is None:
            return w if self._origin is None else self._origin.params(w)
        config = self.config
        if config.get("held") and hasattr(problem, "holding"):
            problem = problem.holding(config["held"])
        if not hasattr(problem, "w0") or problem.w0.shape != w.shape:
            raise InputError(f"problem must be that of the run, {config['problem']} with {config['n_weights']} weights")
        return problem.params(w)

    @property
    def live(self) -> bool:
        """Whether the run knows what made it: not one that was read from a file, or copied to another process."""
        return self._origin is not None

    def state(self, process: str) -> dict[str, np.ndarray]:
        """Return the states of a process at the end, by name.

        Of the discrete process they are the optimizer's own after its last step, `t` the number of steps taken; of a
        flow, those of its equation, with momentum its averages of the gradient (`filtered`) among them.

        **Raises:** `InputError` where they are not known.

        >>> import jax.numpy as jnp, cflow_num as cn
        >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
        >>> rmsprop = dict(learning_rate=0.01, beta2=0.9)
        >>> run = cn.run(problem, "rmsprop", rmsprop, steps=3, processes=["discrete"], quiet=True)
        >>> sorted(run.state("discrete")), run.state("discrete")["nu"].shape
        (['nu', 't'], (2,))
        """
        return self.ending(process).states(process)

    def more(self, steps: int, quiet: bool = False) -> Run:
        """Return the same run, longer by so many steps: bit by bit what one long run gives, for every process.

        **Raises:** `InputError` for a run that was read from a file or is one of a batch (`cn.run(problem, ...,
        start=run)` goes on from its weights), whose optimizer failed, or whose loss has changed since.

        >>> import jax.numpy as jnp, cflow_num as cn
        >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
        >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=0.5), steps=2, quiet=True)
        >>> run.more(1, quiet=True).size("central")
        4
        """
        if self._origin is None:
            raise InputError(
                "more needs the problem, which a file does not hold: pass the run as start=run to cflow_num.run"
            )
        return self._origin.longer(steps, quiet)

    def with_origin(self, origin: Origin) -> Run:
        """Return the run, knowing what made it."""
        self._origin = origin
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_origin": None}  # which holds functions, and arrays of a device

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one netCDF file, to a temporary name first; raises `InputError` where it cannot be written."""
        with replacing(Path(path)) as temporary:
            if self._stored is not None:
                temporary.write_bytes(self._stored.content)
            else:
                self._with_ends().to_netcdf(temporary, engine="h5netcdf")
        return Path(path)

    def _with_ends(self) -> Any:
        """Return the tree with a group for the ends, as a file has it."""
        import xarray

        library: Any = xarray  # whose annotations are incomplete
        tree = self.tree.copy()
        groups = {
            name: library.Dataset(end.variables(), attrs={"at_step": end.step}) for name, end in self._ends.items()
        }
        tree[GROUP] = library.DataTree.from_dict(groups)
        return tree

    def compare(self) -> Comparison:
        """Return the `Comparison` of the flows with the discrete run."""
        return cflow_num.compare(self)

    def plot(self, *names: str, processes: Sequence[str] = ()) -> Figure:
        """Draw variables over the steps, a panel each; return the matplotlib figure, which a notebook shows.

        Without names: effective eigenvalues with their threshold, the loss, and distances from the optimizer or,
        without flows, the gradient norm. `processes` are all by default.

        **Raises:** `InputError` for a variable or a process that the run does not have.
        """
        return cflow_num.plot(self, *names, processes=processes)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.html` and its figures into `folder`; return the page's path."""
        return cflow_num.write_report([self], folder)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return as_html(self)


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

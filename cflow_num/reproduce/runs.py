"""The runs behind the figures: made when first asked for, kept in the output folder, shared by all figures."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from ..flows.discrete import DiscreteOptimizer
from ..linalg.eigenpairs import leading_eigenpairs, start_block
from ..loss.problem import Problem
from ..optimizer.hyperparameters import as_arrays, resolve
from ..problems import problem
from ..record.run import Run, load
from ..running.checkpoints import clear, found, writing_alone
from ..running.run import run
from ..support.devices import available_memory, full_precision
from ..support.errors import GainWarning, GrowthWarning, InputError, RunError
from ..support.files import replacing
from ..support.programs import make_room
from .settings import Setting, check_scale, setting

CHECKPOINT_EVERY = 60.0  # seconds
_SETTING = "setting"  # the attribute that a kept file holds its setting in


class Runs:
    """Runs and data sets by name, kept as `FOLDER/NAME.nc`; one made with another setting is made again.

    One that was killed or stopped goes on from its last checkpoint, in `FOLDER/NAME.unfinished`.
    `used` are those asked for since it was last cleared, `failed` why others could not be had.
    """

    def __init__(self, folder: Path, scale: str = "small", quiet: bool = False):
        self.folder, self.scale, self.quiet = Path(folder), scale, quiet
        self.used: dict[str, Run] = {}
        self.failed: dict[str, str] = {}
        check_scale(scale)

    def __getitem__(self, key: str) -> Run:
        """Return a run; raises `InputError` or `RunError` with the reason where it cannot be made."""
        if key in self.failed:
            raise RunError(self.failed[key])
        if key not in self.used:
            try:
                self.used[key] = self.find(key) or self.make(key)
            except Exception as error:
                self.failed[key] = " ".join(str(error).split()) or type(error).__name__
                raise
        return self.used[key]

    def attempt(self, key: str) -> Run | str:
        """Return a run, or the reason why there is none."""
        try:
            return self[key]
        except Exception:  # whatever an architecture fails with, the others are drawn
            self._say(f"{key}: {self.failed[key]}")
            return self.failed[key]

    def dataset(self, key: str, of: str, make: Callable[[Made], xr.Dataset]) -> xr.Dataset:
        """Return data measured along the run `of`, made by `make(problem, setting)` and kept under the name `key`."""
        path, chosen = self.folder / f"{key}.nc", setting(of, self.scale)
        if path.is_file():
            with xr.open_dataset(path, engine="h5netcdf") as kept:
                if kept.attrs.get(_SETTING) == str(chosen):
                    return kept.load()
        self._say(f"measuring {key}")
        make_room()
        found = make(prepared(chosen, key if self.scale == "paper" else "")).assign_attrs({_SETTING: str(chosen)})
        with replacing(path) as temporary:
            found.to_netcdf(temporary, engine="h5netcdf")
        return found

    def find(self, key: str) -> Run | None:
        """Return the run that the folder holds with these settings."""
        path = self.folder / f"{key}.nc"
        if not path.is_file():
            return None
        kept = load(path)
        return kept if kept.tree.attrs.get(_SETTING) == str(setting(key, self.scale)) else None

    def make(self, key: str) -> Run:
        """Run it, and keep it in the folder."""
        chosen = setting(key, self.scale)
        self._say(f"running {key}")
        make_room()
        made = prepared(chosen, key if self.scale == "paper" else "")
        unfinished = self.folder / f"{key}.unfinished"
        try:
            with writing_alone(unfinished):
                result = self._continued(made, unfinished)
                if result.reason.startswith("interrupted"):
                    raise KeyboardInterrupt
                result.tree.attrs[_SETTING] = str(chosen)
                result.save(self.folder / f"{key}.nc")
                clear(unfinished)
        finally:
            with contextlib.suppress(OSError):  # there are checkpoints in it
                unfinished.rmdir()
        return result

    def _continued(self, made: Made, folder: Path) -> Run:
        """Run from the last checkpoint in the folder, from the start where there is none for this setting."""
        chosen = made.setting

        def attempt() -> Run:
            return run(
                made.problem,
                chosen.optimizer,
                made.hyperparameters,
                steps=chosen.steps,
                warm_start=chosen.warm_start,
                processes=chosen.processes,
                eig_every=chosen.eig_every,
                capture=min(chosen.capture, made.problem.n_weights),
                budget=chosen.budget,
                quiet=self.quiet,
                checkpoints=folder,
                checkpoint_every=CHECKPOINT_EVERY,
                resume=True,
            )

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GainWarning)
            warnings.simplefilter("ignore", GrowthWarning)
            try:
                return attempt()
            except InputError:  # the checkpoints are damaged, or of another setting
                if not found(folder):
                    raise
                clear(folder)
                return attempt()

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(what, file=sys.stderr, flush=True)


class Given(Runs):
    """Runs that are there already, by the names under which figures ask for them; nothing is made or written."""

    def __init__(self, runs: Mapping[str, Run]):
        super().__init__(Path(), quiet=True)
        self.given = runs

    def find(self, key: str) -> Run:
        """Return the run that was given; raises `InputError` where it was not."""
        if key not in self.given:
            given = ", ".join(self.given) or "none"
            raise InputError(f'the figure is drawn from the run "{key}" and {given} are given: pass that one, too')
        return self.given[key]

    def dataset(self, key: str, of: str, make: Callable[[Made], xr.Dataset]) -> xr.Dataset:
        """Raise `InputError`: what is measured again along a run is not in it."""
        raise InputError(f"the figure needs {key}, measured along a run again: use cflow reproduce")


class Made(NamedTuple):
    """A problem with the hyperparameters to run on it, and the setting they come from."""

    problem: Problem
    hyperparameters: dict[str, Any]
    setting: Setting


def prepared(chosen: Setting, checked: str = "") -> Made:
    """Return what a setting asks for; raises `InputError` where there is no such problem.

    Also, before anything is computed, where it needs too much memory, if it is to be `checked` for that under a name.
    """
    made = problem(chosen.problem, **chosen.options)
    if checked:
        check_memory(made, checked)
    hp = dict(chosen.hyperparameters)
    if chosen.ratio is not None:
        hp["learning_rate"] = edge_learning_rate(made, chosen.optimizer, hp, chosen.ratio)
    return Made(made, hp, chosen)


def check_memory(made: Problem, name: str, available: int | None = None) -> None:
    """Raise `InputError` where a problem's derivatives need more memory than the machine has left.

    >>> from cflow_num import problem
    >>> check_memory(problem("quadratic"), "demo", available=10)
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: demo needs about ... GB of memory and 1e-08 GB are available: ...
    """
    available = available_memory() if available is None else available
    if available is None:
        return
    needed = made.memory()
    if needed > available:
        raise InputError(
            f"{name} needs about {needed / 1e9:.3g} GB of memory and {available / 1e9:.3g} GB are available: use "
            "--scale small, or a larger machine"
        )


@full_precision()
def edge_learning_rate(problem: Problem, optimizer: str, hyperparameters: dict[str, Any], ratio: float) -> float:
    """Return the learning rate, to two digits, at which S_eff at the first step is `ratio` times the threshold.

    >>> from cflow_num import problem
    >>> edge_learning_rate(problem("quadratic", sharpness=4.0), "gradient_descent", {}, 0.5)
    0.25
    """
    flow, values = resolve(optimizer, {**hyperparameters, "learning_rate": 1.0})
    discrete = DiscreteOptimizer(problem, as_arrays(flow, values, problem), flow)
    y = discrete.first(problem.w0)
    P = flow.preconditioner(y.slow, discrete.hp)
    V = start_block(problem.n_weights, min(8, problem.n_weights), problem.w0.dtype)
    pairs = leading_eigenpairs(
        lambda V: problem.hessian_vectors(y.w, V), P, V, capacity=1, tolerance=1e-3, max_iterations=100
    )
    sharpness = float(pairs.eigenvalues[0])
    if not sharpness > 0:
        raise RunError(f"the curvature at the start is {sharpness:.3g}, so no learning rate is at an edge there")
    return float(f"{ratio * float(flow.threshold(y.slow, discrete.hp)) / sharpness:.2g}")

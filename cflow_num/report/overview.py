"""Variables of a run over its steps, a panel each: what `Run.plot` draws, and what a report shows of observables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..record.measures import observed, smoothed, values
from ..record.run import Run
from ..record.variables import DISCRETE
from ..record.variables import PREDICTED as PREDICTED_NAME
from ..support.errors import InputError, check_one_of
from ..verdict.alone import is_alone
from . import canvas
from .canvas import AVERAGE, PREDICTED, RAW, line, look, styled
from .cuts import mark_cuts
from .plot import EIGENVALUES, GRADIENT_NORM, draw_distances, draw_eigenvalues, draw_gradient_norm, draw_loss, drawn

COLUMNS = 8  # drawn of a variable with several numbers a step
DIAGNOSTICS = ("zeta",)  # of the optimizer alone, shown where they were recorded
LETTERS = 26  # in a line of an axis' label
WIDE_RANGE = 30  # of positive values: from there on the axis is logarithmic

# variable: (how it is drawn, label of its axis)
DRAWN: dict[str, tuple[Callable[[Axes, Run], None], str]] = {
    "loss": (lambda ax, run: draw_loss(ax, run, [run]), "training loss"),
    "effective_eigenvalues": (draw_eigenvalues, EIGENVALUES.replace(", ", "\n")),
    "gradient_norm": (draw_gradient_norm, GRADIENT_NORM.replace(", ", "\n")),
    "distance_to_discrete": (draw_distances, "distance [weight]"),
}


def plot(run: Run, *names: str, processes: Sequence[str] = ()) -> Figure:
    """Draw variables of a run over its steps, a panel each.

    **Arguments:**

    - `run`: a `Run`.
    - `names`: of variables (`run.variables()` lists them); by default effective eigenvalues with their threshold, the
      loss, and how far the flows are from the optimizer, or without flows the gradient norm and what else is known.
    - `processes`: which to draw, all by default.

    **Returns:** a matplotlib `Figure`, which a notebook shows; `figure.savefig(path)` writes it.

    **Raises:** `InputError` for a variable or process that the run does not have.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=0.1), steps=10, quiet=True)
    >>> [ax.get_ylabel() for ax in plot(run, "loss", "gradient_norm", processes=["central"]).axes][0]
    'training loss'
    """
    chosen = _only(run, processes)
    known = {name for process in chosen.processes for name in chosen.names(process)}
    for name in names:
        check_one_of("variable", name, sorted(known))
    shown = list(names) or [name for name in _default(chosen) if name in known]
    if not shown:
        raise InputError(
            f"the run recorded nothing that is drawn by default: pass names, of {', '.join(sorted(known))}"
        )
    figure = styled(lambda _: _panels(chosen, "Over the steps", shown))(None)
    assert figure is not None
    return figure


@styled
def edge_of_stability(run: Run) -> Figure | None:
    """Eigenvalues against the threshold, loss and gradient norm of an optimizer that was run without flows."""
    if not is_alone(run):
        return None
    shown = [name for name in ("effective_eigenvalues", "loss", "gradient_norm") if name in run.names(DISCRETE)]
    return _panels(run, "Edge of stability", shown) if shown else None


@styled
def diagnostics(run: Run) -> Figure | None:
    """What else was recorded of the optimizer."""
    shown = [
        name for name in DIAGNOSTICS if DISCRETE in run.processes and np.isfinite(values(run, DISCRETE, name)).any()
    ]
    return _panels(run, "Diagnostics of the optimizer", shown) if shown else None


@styled
def observables(run: Run) -> Figure | None:
    """What the user asked to observe, with the averages that flows predict of it."""
    shown = observables_of(run)
    return _panels(run, "Observables", shown) if shown else None


def observables_of(run: Run) -> list[str]:
    """Return the names of the variables that the user asked to observe."""
    found = dict.fromkeys(
        name for process in run.processes for name in run.names(process) if run.described(process, name).observable
    )
    return [name for name in found if name not in {PREDICTED_NAME.format(other) for other in found}]


def _default(run: Run) -> list[str]:
    if is_alone(run):
        return ["effective_eigenvalues", "loss", "gradient_norm", *DIAGNOSTICS, *observables_of(run)]
    return ["effective_eigenvalues", "loss", "distance_to_discrete", *observables_of(run)]


def _only(run: Run, processes: Sequence[str]) -> Run:
    """Return a run with some of its processes."""
    chosen = [processes] if isinstance(processes, str) else list(processes)
    for name in chosen:
        check_one_of("process", name, run.processes)
    if not chosen:
        return run
    tree = xr.DataTree.from_dict({name: run.tree[name].to_dataset() for name in run.processes if name in chosen})
    tree.attrs = dict(run.tree.attrs)
    return Run(tree)


def _panels(run: Run, heading: str, names: Sequence[str]) -> Figure:
    """Draw variables below each other, on one axis of steps."""
    fig = canvas.canvas(run, heading, canvas.rows_high(len(names), 2.1))
    axes = list(fig.subplots(len(names), 1, sharex=True, squeeze=False).flat)
    for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
        draw, label = DRAWN.get(name, (None, ""))
        if draw is None:
            label = draw_variable(ax, run, name)
        else:
            draw(ax, run)
        ax.set_ylabel(label, parse_math=name in DRAWN)
        canvas.mark_crossing(ax, run, "" if i else "first crossing, step {}")
        mark_cuts(ax)
    axes[-1].set_xlabel("step")
    return canvas.legend(*axes)


def draw_variable(ax: Axes, run: Run, name: str) -> str:
    """Draw any variable: the optimizer's and its time average, the flows', and what they predict; return its label."""
    whose = [process for process in run.processes if name in run.names(process)]
    described = run.described(whose[0], name)
    if DISCRETE in whose:
        measured = values(run, DISCRETE, name)
        solid = dict(color=canvas.COLOURS[DISCRETE], linewidth=1.5)  # a diagnostic is smooth already
        line(ax, _columns(measured), "optimizer", **(solid if name in DIAGNOSTICS else RAW))
        if described.observable:
            average = observed(run, name)
            average = average if np.isfinite(average).any() else smoothed(measured)
            line(ax, _columns(average), "time average", **AVERAGE)
    for flow in drawn(run):
        if flow in whose:
            line(ax, _columns(values(run, flow, name)), f"{flow} flow", **look(flow))
        if PREDICTED_NAME.format(name) in run.names(flow):
            central = flow == "central"
            dashed: Any = PREDICTED if central else PREDICTED | {"color": look(flow)["color"]}
            label = "predicted average" if central else f"predicted average, {flow}"
            line(ax, _columns(values(run, flow, PREDICTED_NAME.format(name))), label, **dashed)
    every = np.concatenate([x[np.isfinite(x)] for x in (_columns(values(run, process, name)) for process in whose)])
    if name not in DIAGNOSTICS and every.size and every.min() > 0 and every.max() > WIDE_RANGE * every.min():
        ax.set_yscale("log")
    unit = [f"[{described.units}]"] if described.units not in ("", "1") else []
    return "\n".join([*textwrap.wrap(described.meaning, LETTERS, max_lines=3 - len(unit), placeholder=" …"), *unit])


def _columns(x: np.ndarray) -> np.ndarray:
    """Return what is drawn of a variable: of several numbers a step, `(step, ...)`, the first ones."""
    return x.reshape(len(x), -1)[:, :COLUMNS]

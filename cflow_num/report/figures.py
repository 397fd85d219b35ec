"""All figures of a run, by name."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from ..record.run import Run
from . import canvas, overview, plot

FIGURES = {
    "edge_of_stability": overview.edge_of_stability,
    "loss": plot.loss,
    "eigenvalues": plot.eigenvalues,
    "observables": overview.observables,
    "variance": plot.variance,
    "distances": plot.distances,
    "error_budget": plot.error_budget,
    "effective_step_size": plot.effective_step_size,
    "optimization_speed": plot.optimization_speed,
    "squared_gradients": plot.squared_gradients,
    "gradient_norm": plot.gradient_norm,
    "diagnostics": overview.diagnostics,
}


def figures(run: Run) -> dict[str, Figure]:
    """Return every figure that the run has the quantities for, by name.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=0.1), steps=10, quiet=True)
    >>> list(figures(run))
    ['loss', 'eigenvalues', 'distances', 'effective_step_size', 'gradient_norm', 'diagnostics']
    """
    drawn = {name: draw(run) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_figures(run: Run, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure as a PNG file into `folder`; return the paths. `InputError` where it cannot."""
    return [canvas.save(figure, Path(folder) / f"{name}.png") for name, figure in figures(run).items()]

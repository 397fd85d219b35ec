"""The same quantity of several runs next to each other: one figure a quantity, one panel a run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..record.run import Run
from ..record.titles import titles
from . import canvas
from .canvas import styled
from .plot import EIGENVALUES, draw_distances, draw_eigenvalues, draw_loss, has_distances, has_eigenvalues

LETTERS = 60  # in a line of a panel's title; two lines at most


class Quantity(NamedTuple):
    """What is compared: how it is headed and drawn, and whether runs of one problem share its axis."""

    heading: str
    ylabel: str
    has: Callable[[Run], bool]
    draw: Callable[[Axes, Run, Sequence[Run]], None]
    shared: bool = True


QUANTITIES = {
    "loss": Quantity("Training loss", "training loss", lambda run: "discrete" in run.tree.children, draw_loss),
    "distances": Quantity(
        "Distance from the optimizer's midpoint",
        "distance [weight]",
        has_distances,
        lambda ax, run, _: draw_distances(ax, run),
    ),
    "eigenvalues": Quantity(
        "Effective eigenvalues",
        EIGENVALUES,
        has_eigenvalues,
        lambda ax, run, _: draw_eigenvalues(ax, run),
        shared=False,  # each has its own threshold
    ),
}


def side_by_side(runs: Sequence[Run]) -> dict[str, Figure]:
    """Return a figure for every quantity that at least two of the runs have, by name.

    Runs of the same problem share their axes, so that heights compare; others have their own.

    >>> import jax.numpy as jnp, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> rates = [dict(learning_rate=rate) for rate in (0.1, 0.2)]
    >>> runs = [cn.run(problem, "gradient_descent", rate, steps=10, quiet=True) for rate in rates]
    >>> drawn = side_by_side(runs)
    >>> [ax.get_title(loc="left") for ax in drawn["loss"].axes]
    ['Gradient descent on custom, learning rate 0.1, 10 steps',
     'Gradient descent on custom, learning rate 0.2, 10 steps']
    """
    drawn = {}
    for name, quantity in QUANTITIES.items():
        having = [(whose, run) for whose, run in zip(titles(runs), runs, strict=True) if quantity.has(run)]
        figure = _figure((quantity, having)) if len(having) > 1 else None
        if figure is not None:
            drawn[name] = figure
    return drawn


@styled
def _figure(of: tuple[Quantity, list[tuple[str, Run]]]) -> Figure:
    quantity, named = of
    runs = [run for _, run in named]
    one_problem = len({run.config["problem"] for run in runs}) == 1
    rows = -(-len(runs) // 2)
    fig = canvas.headed(quantity.heading, f"{len(runs)} runs", canvas.HEIGHT if rows == 1 else 1.2 + 2.5 * rows)
    grid = fig.subplots(rows, 2, sharex=one_problem, sharey=one_problem and quantity.shared, squeeze=False)
    axes = list(grid.flat)[: len(runs)]
    for ax, (whose, run) in zip(axes, named, strict=True):
        quantity.draw(ax, run, runs if one_problem else [run])
        canvas.mark_crossing(ax, run)
        look: Any = dict(loc="left", fontsize=8, color=canvas.SOFT, parse_math=False)
        ax.set_title("\n".join(textwrap.wrap(whose, LETTERS, max_lines=2, placeholder=" …")), **look)
    if len(runs) % 2:
        grid[-1, 1].set_visible(False)
    for ax in axes[-2:]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    fig.supylabel(quantity.ylabel, fontsize=9.5, color="#2b3640")
    return canvas.legend(*axes)

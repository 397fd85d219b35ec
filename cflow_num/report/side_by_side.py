"""The same quantity of several runs next to each other: one figure a quantity, one panel a run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..record.run import Run
from ..record.titles import problem_of, titles
from . import canvas
from .canvas import styled
from .cuts import mark_cuts
from .plot import EIGENVALUES, draw_distances, draw_eigenvalues, draw_loss, has_distances, has_eigenvalues

LETTERS, LETTERS_ALONE, LINES = 60, 50, 2  # of a panel's title, with another one beside it or alone on a narrow page


class Quantity(NamedTuple):
    """What is compared: how it is headed and drawn, and whether runs of one problem share its axis."""

    heading: str
    ylabel: str
    has: Callable[[Run], bool]
    draw: Callable[[Axes, Run, Sequence[Run]], None]
    shared: bool = True


QUANTITIES = {
    "loss": Quantity("Training loss", "training loss", lambda run: "discrete" in run.processes, draw_loss),
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
    one_problem = len({problem_of(run) for run in runs}) == 1
    columns = canvas.sheet().columns
    rows = -(-len(runs) // columns)
    fig = canvas.headed(quantity.heading, f"{len(runs)} runs", canvas.rows_high(rows, 2.5))
    grid = fig.subplots(rows, columns, sharex=one_problem, sharey=one_problem and quantity.shared, squeeze=False)
    axes = list(grid.flat)[: len(runs)]
    letters = LETTERS if columns > 1 else LETTERS_ALONE
    for ax, (_, run), whose in zip(axes, named, _shortened([whose for whose, _ in named], letters), strict=True):
        quantity.draw(ax, run, runs if one_problem else [run])
        canvas.mark_crossing(ax, run)
        look: Any = dict(loc="left", fontsize=8, color=canvas.SOFT, parse_math=False)
        ax.set_title("\n".join(textwrap.wrap(whose, letters, max_lines=LINES, placeholder=" …")), **look)
    for ax in axes:
        mark_cuts(ax)
    for ax in list(grid.flat)[len(runs) :]:
        ax.set_visible(False)
    for ax in axes[-columns:]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    fig.supylabel(quantity.ylabel, fontsize=canvas.sheet().text, color=canvas.LABEL)
    return canvas.legend(*axes)


def _shortened(named: list[str], letters: int) -> list[str]:
    """Return titles; where one is too long for its place, all without what they share, but for what comes first.

    >>> _shortened(["A on digits, 400 steps, seed 0", "A on digits, 400 steps, seed 1"], letters=8)
    ['A on digits, seed 0', 'A on digits, seed 1']
    """
    if max(map(len, named)) <= letters * LINES:
        return named
    parts = [whose.split(", ") for whose in named]
    shared = set.intersection(*map(set, parts))
    return [", ".join([first, *(part for part in rest if part not in shared)]) for first, *rest in parts]

"""One self-contained HTML page about one or several runs: verdict, figures, then how it was made.

What stands where is said in `report.html`; here is what it is filled with.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..record.measures import gradient_equivalents, values
from ..record.run import Run
from ..record.titles import titles
from ..support.errors import InputError
from ..verdict.alone import is_alone
from ..verdict.compare import compare
from ..verdict.definitions import DEFINITIONS, WORDS, Comparison
from ..verdict.error_budget import MEANINGS, budget_terms, has_budget, largest_dropped
from . import canvas, hover
from .captions import CAPTIONS, COMPARISONS
from .dark import darkened
from .figures import figures
from .side_by_side import side_by_side

COST = [
    "gradients",
    "Hessian-vector products",
    "curvature gradients",
    "gradient equivalents per step",
    "wall time, with what is recorded",
    "compilation",
]
ABOUT = "The discrete optimizer against its central flow, the equation for its time-averaged path."
ALONE = "The discrete optimizer against the threshold of its stability; no flow was run."
VARIANTS = ("light", "dark", "narrow_light", "narrow_dark")
OVERVIEW = ("distance_ratio", "distance_travelled", "predicted_loss", "first_crossing", "critical_2", "cost")
OVERVIEW_ALONE = ("threshold_crossing", "discrete_end", "critical_end", "loss_end")  # of optimizers without flows


class Picture(NamedTuple):
    """A figure as part of the page: its images, the numbers of its curves, what is said of it.

    `sources` are the images on wide and narrow pages, light and dark, as in `VARIANTS`.
    """

    sources: dict[str, str]
    numbers: str
    alternative: str
    caption: str


class Term(NamedTuple):
    """A row of the error budget."""

    name: str
    relative: str
    distance: str
    meaning: str
    largest: bool


class Section(NamedTuple):
    """What the page says about one run; `name` is its anchor and its files' prefix, empty if it is alone."""

    name: str
    title: str
    comparison: Comparison
    notes: Sequence[str]
    budget: list[Term]
    pictures: list[Picture]
    cost: list[tuple[str, list[str]]]
    configuration: list[tuple[str, str]]


class Line(NamedTuple):
    """A row of the overview."""

    name: str
    title: str
    passed: bool | None
    texts: list[str]


class Overview(NamedTuple):
    """Several runs beside each other."""

    columns: list[str]
    rows: list[Line]
    pictures: list[Picture]


def write_report(runs: Sequence[Run], folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` about the runs into `folder`, with its figures beside it; return the page's path.

    The page is one file: figures are embedded, and nothing is loaded from anywhere. Raises `InputError` where
    the folder cannot be written, or where a run lacks a process that the comparison needs.

    >>> import jax.numpy as jnp, tempfile, cflow_num as cn
    >>> problem = cn.Problem(lambda w: jnp.sum(w**2) / 2, jnp.ones(2))
    >>> run = cn.run(problem, "gradient_descent", dict(learning_rate=0.1), steps=10, quiet=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report([run], folder)
    ...     page.name, len(list(page.parent.glob("*.png")))
    ('report.html', 6)
    """
    runs, folder = list(runs), Path(folder)
    if not runs:
        raise InputError("there is no run to report on: pass at least one")
    comparisons = [compare(run) for run in runs]
    several = len(runs) > 1
    names, whose = _names(runs) if several else [""], titles(runs)
    overview = _overview(runs, comparisons, names, whose, folder) if several else None
    sections = [_section(*one, folder) for one in zip(runs, comparisons, names, whose, strict=True)]
    page = _template().render(
        heading=f"{len(runs)} runs" if several else whose[0],
        about=ALONE if all(map(is_alone, runs)) else ABOUT,
        overview=overview,
        sections=sections,
        definitions=_definitions(comparisons),
        cost_columns=COST,
        words=WORDS,
        style=hover.asset("report.css"),
        script=hover.asset("hover.js"),
    )
    path = folder / "report.html"
    with canvas.replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(hover.asset)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def _section(run: Run, comparison: Comparison, name: str, title: str, folder: Path) -> Section:
    prefix = f"{name}-" if name else ""
    pictures = _pictures(lambda: figures(run), folder, prefix, CAPTIONS, title)
    return Section(
        name,
        title,
        comparison,
        run.notes,
        _budget(run),
        pictures,
        [(process, _cost(run, process)) for process in run.processes],
        _configuration(run),
    )


def _overview(
    runs: list[Run], comparisons: list[Comparison], names: list[str], whose: list[str], folder: Path
) -> Overview:
    keys = OVERVIEW_ALONE if all(map(is_alone, runs)) else OVERVIEW
    rows = [
        Line(name, title, comparison.passed, [_value(comparison, key) for key in keys])
        for comparison, name, title in zip(comparisons, names, whose, strict=True)
    ]
    pictures = _pictures(lambda: side_by_side(runs), folder, "comparison-", COMPARISONS, f"{len(runs)} runs")
    return Overview([DEFINITIONS[key][0] for key in keys], rows, pictures)


def _value(comparison: Comparison, key: str) -> str:
    return next((row.texts()[1] for row in comparison.rows if row.name == key), "—")


def _pictures(
    draw: Callable[[], dict[str, Figure]], folder: Path, prefix: str, captions: dict[str, tuple[str, str]], whose: str
) -> list[Picture]:
    """Save figures and return them as parts of the page: drawn twice, for wide and for narrow pages."""
    wide = draw()
    with canvas.narrow():
        narrow = draw()
        small = {key: [canvas.pixels(figure), _dark(figure)] for key, figure in narrow.items()}
    found: list[Picture] = []
    for key, figure in wide.items():
        light = canvas.pixels(figure)
        with canvas.replacing(folder / f"{prefix}{key}.png") as temporary:
            light.save(temporary)
        numbers, (alternative, caption) = hover.embedded(figure, hover.boxes(narrow[key])), captions[key]
        texts = [base64.b64encode(canvas.image(x)).decode("ascii") for x in (light, _dark(figure), *small[key])]
        found.append(Picture(dict(zip(VARIANTS, texts, strict=True)), numbers, f"{alternative} {whose}.", caption))
    return found


def _dark(figure: Figure) -> Image.Image:
    """Return the image of a figure that was drawn for dark pages; the figure is left so."""
    canvas.fixed(figure)
    return canvas.pixels(darkened(figure))


def _budget(run: Run) -> list[Term]:
    """Return the terms of the error budget; none where there is no budget."""
    if not has_budget(run):
        return []
    largest = largest_dropped(run).name
    return [
        Term(
            term.name.replace("_", " "),
            _number(".2g", term.relative),
            _number(".2g", term.distance),
            MEANINGS[term.name],
            term.name == largest,
        )
        for term in budget_terms(run)
    ]


def _cost(run: Run, process: str) -> list[str]:
    """Return what a process has cost, a text for each column of `COST`."""
    kinds = ("gradients", "hessian_vectors", "curvature_gradients")
    equivalents = gradient_equivalents(run, process)
    return [
        *(_number(",.0f", values(run, process, f"n_{kind}")[-1]) for kind in kinds),
        _number(".3g", np.nan if equivalents is None else equivalents),
        _number(".1f", values(run, process, "seconds")[-1], " s"),
        _number(".1f", float(run.tree[process].attrs.get("compile_seconds", np.nan)), " s"),
    ]


def _number(form: str, x: float, unit: str = "") -> str:
    return f"{x:{form}}{unit}" if x == x else "—"


def _configuration(run: Run) -> list[tuple[str, str]]:
    attrs = run.attrs
    shown: dict[str, Any] = dict(run.config)
    shown |= shown.pop("hyperparameters", {}) | json.loads(attrs.get("versions", "{}"))
    shown |= {key: attrs[key] for key in ("command", "created") if key in attrs}
    if "total_seconds" in attrs:
        shown["total_seconds"] = f"{float(attrs['total_seconds']):.1f}"
    return [(key, _text(value)) for key, value in shown.items()]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _definitions(comparisons: list[Comparison]) -> list[tuple[str, str]]:
    rows = {row.name: row for comparison in comparisons for row in comparison.rows}
    return [(row.quantity, row.definition) for row in rows.values()]


def _names(runs: list[Run]) -> list[str]:
    """Return a short name for each run, made of letters, digits and dashes, no two alike."""
    names: list[str] = []
    for run in runs:
        stem = re.sub(r"[^a-z0-9]+", "-", f"{run.config['optimizer']} {run.config['problem']}".lower()).strip("-")[:60]
        n = sum(name.rsplit("--", 1)[0] == stem for name in names)
        names.append(f"{stem}--{n + 1}" if n else stem)
    return names

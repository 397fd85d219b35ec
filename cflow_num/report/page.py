"""One self-contained HTML page about one or several runs: verdict, figures, then how it was made."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..record.measures import gradient_equivalents, titles, values
from ..record.run import Run
from ..support.errors import InputError
from ..verdict.compare import compare
from ..verdict.definitions import DEFINITIONS, WORDS, Comparison
from ..verdict.error_budget import MEANINGS, budget_terms, has_budget, largest_dropped
from . import canvas, hover
from .plot import figures
from .side_by_side import side_by_side

# figure: (alternative text, caption), of one run
CAPTIONS = {
    "loss": (
        "Training loss by step for every process, with the predicted time average.",
        "The optimizer's loss oscillates; its time average (wide, pale) should be covered by the average "
        "that the central flow predicts (dashed), which is its own loss plus what the oscillation adds. "
        "The stable flow, which ignores the oscillation, leaves both.",
    ),
    "eigenvalues": (
        "Leading effective eigenvalues of the Hessian by step, with the stability threshold.",
        "At the edge of stability the leading effective eigenvalues stay at the threshold. The optimizer "
        "hovers around it, the central flow stays on it exactly, and the stable flow crosses it without "
        "noticing.",
    ),
    "variance": (
        "Predicted and measured variance of the oscillation by step, one panel per direction.",
        "The oscillation's covariance Σ is the prediction that makes the flow a closed equation. Its "
        "eigenvalues (dashed) should run through the time average (wide, pale) of the squared "
        "displacement that the optimizer shows along the same directions.",
    ),
    "distances": (
        "Distance of every flow from the optimizer's averaged path by step, on a logarithmic axis.",
        "How far each flow is from the optimizer's midpoint, next to the distance that the optimizer has "
        "travelled. Lower is better; a flow that follows the optimizer stays flat.",
    ),
    "error_budget": (
        "Distances that each dropped term and the closure would move the weights by step, with the distance found.",
        "Where the distance comes from: how far each term that the flow drops would have moved the weights, and "
        "the closure, the oscillation's measured variance against the one that keeps the edge. Terms may cancel, and "
        "later motion may damp or amplify what they did: the line need not be the sum.",
    ),
    "effective_step_size": (
        "Effective step size by step, with the threshold over the sharpness.",
        "How far a step goes per unit of gradient. At the edge it equals the threshold over the sharpness "
        "S: an adaptive optimizer gets there by moving its step size, gradient descent by moving S.",
    ),
    "optimization_speed": (
        "Optimization speed of every flow by step, on a logarithmic axis.",
        "How fast the loss falls to first order, with the gradient along each flow and its own preconditioner. "
        "At the edge the central flow descends as fast as its curvature allows.",
    ),
    "squared_gradients": (
        "Squared gradient of single weights by step with its predicted time average, one panel per weight.",
        "What each weight's own step size is made from: the squared gradient that the optimizer meets (wide, pale: "
        "its time average) and what the central flow predicts for it (dashed), weight by weight.",
    ),
    "gradient_norm": (
        "Gradient norm by step with its predicted root mean square, on a logarithmic axis.",
        "At the edge most of the optimizer's gradient is oscillation: its root mean square lies far above "
        "the gradient norm along the central flow, and the flow predicts by how much (dashed).",
    ),
}

# the same, of several runs side by side
COMPARISONS = {
    "loss": (
        "Training loss by step with its predicted time average, one panel per run.",
        "How well the prediction (dashed) covers the time average (wide, pale), run by run. Runs of one problem share "
        "their axes.",
    ),
    "distances": (
        "Distance of every flow from the optimizer's averaged path by step, one panel per run.",
        "How far each run's flows are from its own optimizer, next to the distance that it has travelled. Where the "
        "central flow lies far below the stable one, it accounts for what the oscillation does to the path.",
    ),
    "eigenvalues": (
        "Leading effective eigenvalues by step with their threshold, one panel per run.",
        "When each run comes to the edge, and how many eigenvalues stay there.",
    ),
}


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
    ('report.html', 5)
    """
    runs, folder = list(runs), Path(folder)
    if not runs:
        raise InputError("there is no run to report on: pass at least one")
    comparisons = [compare(run) for run in runs]
    several = len(runs) > 1
    names, whose = _names(runs) if several else [""], titles(runs)
    body = _overview(comparisons, names, whose) + _side_by_side(runs, folder) if several else ""
    for run, comparison, name, title in zip(runs, comparisons, names, whose, strict=True):
        body += _section(run, comparison, folder, name, title)
    page = _page(f"{len(runs)} runs" if several else whose[0], body + _definitions(comparisons))
    path = folder / "report.html"
    with canvas.replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _page(heading: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}: optimizer and central flow</title>\n"
        f"<style>\n{hover.asset('report.css')}</style>\n</head>\n<body>\n<main>\n<h1>{escape(heading)}</h1>\n"
        '<p class="soft">The discrete optimizer against its central flow, the equation for its time-averaged '
        f"path.</p>\n{body}</main>\n<script>\n{hover.asset('hover.js')}</script>\n</body>\n</html>\n"
    )


def _section(run: Run, comparison: Comparison, folder: Path, name: str, whose: str) -> str:
    """Return what the page says about one run; `name` is its anchor and its files' prefix, empty if it is alone."""
    heading = f'<h2 id="{escape(name)}">{escape(whose)}</h2>\n' if name else ""
    level, prefix = ("h3", f"{name}-") if name else ("h2", "")
    pictures = "".join(
        _picture(figure, folder / f"{prefix}{key}.png", *CAPTIONS[key], whose) for key, figure in figures(run).items()
    )
    verdict = f'<p class="verdict">{_chip(comparison.passed)} {escape(comparison.verdict)}</p>\n'
    verdict += "".join(f"<p>{escape(note)}</p>\n" for note in run.notes)
    return (
        f"<section>\n{heading}{verdict}{_verdict_table(comparison)}{_budget_table(run, level)}{pictures}"
        f"<{level}>Cost</{level}>\n{_cost_table(run)}<{level}>Configuration</{level}>\n{_configuration(run)}"
        "</section>\n"
    )


def _chip(passed: bool | None) -> str:
    word = WORDS[passed]
    return f'<span class="chip {word if passed is not None else "none"}">{word}</span>'


def _verdict_table(comparison: Comparison) -> str:
    rows = []
    for row in comparison.rows:
        quantity, value, limit, _, note = (escape(text) for text in row.texts())
        judged = ' class="judged"' if row.passed is not None else ""
        chip = "" if row.passed is None and not row.limit else _chip(row.passed)
        limit = limit if row.limit else ""
        rows.append(
            f'<tr{judged}><th scope="row">{quantity}</th><td class="number">{value}</td>'
            f'<td class="number">{limit}</td><td>{chip}</td><td class="note">{note}</td></tr>\n'
        )
    return _table(("quantity", "value", "limit", "verdict", ""), rows, numbers=(1, 2))


def _overview(comparisons: list[Comparison], names: list[str], whose: list[str]) -> str:
    keys = ("distance_ratio", "distance_travelled", "predicted_loss", "first_crossing", "critical_2", "cost")
    rows = []
    for comparison, name, title in zip(comparisons, names, whose, strict=True):
        cells = "".join(f'<td class="number">{escape(comparison[key].texts()[1])}</td>' for key in keys)
        link = f'<a href="#{escape(name)}">{escape(title)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th><td>{_chip(comparison.passed)}</td>{cells}</tr>\n')
    header = ("run", "verdict", *(DEFINITIONS[key][0] for key in keys))
    return _table(header, rows, numbers=range(2, len(header)))


def _side_by_side(runs: list[Run], folder: Path) -> str:
    drawn, whose = side_by_side(runs).items(), f"{len(runs)} runs"
    return "".join(
        _picture(figure, folder / f"comparison-{key}.png", *COMPARISONS[key], whose) for key, figure in drawn
    )


def _table(header: Sequence[str], rows: list[str], numbers: Sequence[int] | range) -> str:
    cells = "".join(
        f'<th scope="col"{" class=number" if i in numbers else ""}>{escape(text)}</th>' if text else "<td></td>"
        for i, text in enumerate(header)
    )
    head, body = f"<thead><tr>{cells}</tr></thead>\n", f"<tbody>\n{''.join(rows)}</tbody>\n"
    return f'<div class="card"><table>\n{head}{body}</table></div>\n'


def _picture(figure: Figure, path: Path, alternative: str, caption: str, whose: str) -> str:
    """Save a figure and return it as part of the page, with the numbers of its curves."""
    source = base64.b64encode(canvas.save(figure, path).read_bytes()).decode("ascii")
    image = f'<img src="data:image/png;base64,{source}" alt="{escape(f"{alternative} {whose}.")}">'
    return (
        f'<figure><div class="plot">{image}\n{hover.embedded(figure)}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _budget_table(run: Run, level: str) -> str:
    """Return the terms of the error budget under a heading, the largest in bold; empty where there is none."""
    if not has_budget(run):
        return ""
    largest, rows = largest_dropped(run).name, []
    for term in budget_terms(run):
        judged = ' class="judged"' if term.name == largest else ""
        sizes = "".join(f'<td class="number">{_sized(x)}</td>' for x in (term.relative, term.distance))
        rows.append(
            f'<tr{judged}><th scope="row">{escape(term.name.replace("_", " "))}</th>{sizes}'
            f'<td class="note">{escape(MEANINGS[term.name])}</td></tr>\n'
        )
    header = ("dropped term", "relative to what is kept, median at the edge", "distance by the end [weight]", "")
    return f"<{level}>Error budget</{level}>\n{_table(header, rows, numbers=(1, 2))}"


def _sized(x: float) -> str:
    return f"{x:.2g}" if x == x else "—"


def _cost_table(run: Run) -> str:
    rows = []
    for process, group in run.tree.children.items():
        kinds = ("gradients", "hessian_vectors", "curvature_gradients")
        counts = [values(run, process, f"n_{kind}")[-1] for kind in kinds]
        seconds, compiling = (
            values(run, process, "seconds")[-1],
            group.attrs.get("compile_seconds", float("nan")),
        )
        equivalents = gradient_equivalents(run, process)
        texts = [_count(x) for x in counts]
        texts += [
            "—" if equivalents is None else f"{equivalents:.3g}",
            _seconds(seconds),
            _seconds(float(compiling)),
        ]
        cells = "".join(f'<td class="number">{text}</td>' for text in texts)
        rows.append(f'<tr><th scope="row">{escape(process)}</th>{cells}</tr>\n')
    header = (
        "process",
        "gradients",
        "Hessian-vector products",
        "curvature gradients",
        "gradient equivalents per step",
        "wall time, with what is recorded",
        "compilation",
    )
    return _table(header, rows, numbers=range(1, len(header)))


def _count(x: float) -> str:
    return f"{x:,.0f}" if x == x else "—"


def _seconds(x: float) -> str:
    return f"{x:.1f} s" if x == x else "—"


def _configuration(run: Run) -> str:
    attrs = run.tree.attrs
    shown: dict[str, Any] = dict(run.config)
    shown |= shown.pop("hyperparameters", {}) | json.loads(attrs.get("versions", "{}"))
    shown |= {key: attrs[key] for key in ("command", "created") if key in attrs}
    if "total_seconds" in attrs:
        shown["total_seconds"] = f"{float(attrs['total_seconds']):.1f}"
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_text(value))}</dd>\n" for key, value in shown.items())
    return f'<div class="card"><dl>\n{items}</dl></div>\n'


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _definitions(comparisons: list[Comparison]) -> str:
    rows = {row.name: row for comparison in comparisons for row in comparison.rows}
    items = "".join(f"<dt>{escape(row.quantity)}</dt><dd>{escape(row.definition)}</dd>\n" for row in rows.values())
    chaos = (
        "The edge of stability is chaotic: perturbing the start by 1e-13 moves final distances by up to 6%, "
        "so numbers are not to be read more finely than that."
    )
    listed = f'<div class="card"><dl>\n{items}</dl></div>\n'
    return f"<section>\n<h2>What the numbers mean</h2>\n<p>{chaos}</p>\n{listed}</section>\n"


def _names(runs: list[Run]) -> list[str]:
    """Return a short name for each run, made of letters, digits and dashes, no two alike."""
    names: list[str] = []
    for run in runs:
        stem = re.sub(r"[^a-z0-9]+", "-", f"{run.config['optimizer']} {run.config['problem']}".lower()).strip("-")[:60]
        n = sum(name.rsplit("--", 1)[0] == stem for name in names)
        names.append(f"{stem}--{n + 1}" if n else stem)
    return names

"""From a figure's function to its files: picture (PNG and SVG), data (CSV) and paragraph (Markdown)."""

from __future__ import annotations

import csv
import re
import string
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..record.run import Run
from ..report import canvas
from ..support.errors import InputError
from ..support.files import replacing, write_text
from .ahead import make_ahead
from .registry import Entry, Numbers, find
from .runs import Given, Runs

_HEADER = 0.62  # inches: heading, what it was made from; legends go below


def reproduce(
    names: Sequence[str],
    out: Path,
    scale: str = "small",
    quiet: bool = False,
    runs: Runs | None = None,
    workers: int | None = 1,
) -> dict[str, str]:
    """Make figures; return, for those that could not be made, the reason.

    Each leaves `NAME.png`, `NAME.svg`, `NAME.csv` (all that is drawn) and `NAME.md` in the folder `out`, and its runs
    in `out/runs`, where the next figure and the next call find them. With several `workers` (None: see `make_ahead`)
    runs are made in as many processes first.

    **Raises:** `InputError` for an unknown figure or scale, or no number of workers, before anything is made.
    """
    entries = [find(name) for name in names]
    runs = runs or Runs(Path(out) / "runs", scale, quiet)
    make_ahead(entries, runs, workers)
    failed = {}
    for i, entry in enumerate(entries):
        began = time.perf_counter()
        try:
            write(entry, runs, Path(out))
            outcome = f"{time.perf_counter() - began:.1f} s"
        except (InputError, RuntimeError) as error:  # a machine without room is a RuntimeError of JAX
            failed[entry.name] = outcome = " ".join(str(error).split())[:300]
        if not quiet:
            print(f"[{i + 1}/{len(entries)}] {entry.name}: {outcome}", file=sys.stderr, flush=True)
    return failed


def write(entry: Entry, runs: Runs, out: Path) -> Numbers:
    """Make one figure and write its four files; return its numbers."""
    runs.used.clear()
    job = _Job(entry, runs)
    drawn = canvas.styled(_drawn)(job)
    assert drawn is not None
    for suffix in ("png", "svg"):
        with mpl.rc_context({"svg.hashsalt": entry.name}):
            canvas.save(drawn, out / f"{entry.name}.{suffix}")
    with replacing(out / f"{entry.name}.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("panel", "series", "column", "x", "y"))
        table.writerows(_rows(job.axes))
    write_text(out / f"{entry.name}.md", _page(entry, job.numbers, runs))
    return job.numbers


@dataclass(frozen=True)
class Picture:
    """A figure drawn from given runs, its numbers, and the paragraph with them; a notebook shows both."""

    figure: Figure
    numbers: Numbers
    text: str

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display  # pyright: ignore[reportMissingImports]

        display(self.figure)
        display(Markdown(self.text))


def picture(name: str, runs: Mapping[str, Run]) -> Picture:
    """Draw a figure from runs of your own, under the names in the paper's settings; nothing is written.

    **Raises:** `InputError` for an unknown figure, one that needs another run, or more than runs hold.
    """
    job = _Job(find(name), Given(runs))
    drawn = canvas.styled(_drawn)(job)
    assert drawn is not None
    return Picture(drawn, job.numbers, _paragraph(job.entry, job.numbers))


class _Job:
    """A figure on its way."""

    def __init__(self, entry: Entry, runs: Runs):
        self.entry, self.runs = entry, runs
        self.axes: list[Axes] = []
        self.numbers: Numbers = {}


def _drawn(job: _Job) -> Figure:
    rows, columns = job.entry.panels
    fig = canvas.headed(job.entry.line, "", _HEADER + 0.3 + rows * job.entry.height)
    job.axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    job.numbers = job.entry.draw(job.runs, job.axes)
    used = sorted({f"{r.config['title']} on {r.config['problem']}" for r in job.runs.used.values()})
    whose = ", ".join(used[:3]) + f" and {len(used) - 3} more" * (len(used) > 3)
    fig.text(0.012, 1 - 0.4 / fig.get_figheight(), whose, color=canvas.PALE, fontsize=8.5, parse_math=False)
    for ax, below in zip(job.axes, job.axes[columns:], strict=False):
        if below.get_xlabel() == ax.get_xlabel() and below.get_visible():
            ax.set_xlabel("")
    _legend(fig, job.axes)
    return fig


def _legend(fig: Figure, axes: Sequence[Axes]) -> None:
    """Name all series once, in the header, which grows with them."""
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = _columns([_wide(text) for text in named], canvas.WIDTH - 0.2)
    lines, height = -(-len(named) // columns), fig.get_figheight()
    engine = fig.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - (_HEADER + 0.19 * lines) / height))  # pyright: ignore[reportArgumentType]
    if not named:
        return
    look: dict[str, Any] = dict(frameon=False, fontsize=8.8, handlelength=1.6, columnspacing=1.5, borderaxespad=0)
    anchor = (0.012, 1 - 0.5 / height)
    key = fig.legend(
        list(named.values()), list(named), loc="upper left", bbox_to_anchor=anchor, ncols=columns, borderpad=0.2, **look
    )
    for handle in key.get_lines():
        handle.set_linewidth(min(max(handle.get_linewidth(), 1.2), 3))


def _wide(text: str) -> float:
    """Return about how wide a legend's entry is, in inches; commands of mathematics are one letter each."""
    return 0.55 + 0.072 * len(re.sub("[${}_^]", "", re.sub(r"\\[a-zA-Z]+", "x", text)))


def _columns(wide: list[float], room: float) -> int:
    """Return in how many columns, filled one after the other as matplotlib does, the entries of a legend fit.

    >>> _columns([1.0, 2.0, 2.0, 1.0], 6.5), _columns([1.0, 2.0, 2.0, 1.0], 4.5), _columns([9.0], 5.0)
    (4, 2, 1)
    """
    for columns in range(len(wide), 1, -1):
        lines, longer = divmod(len(wide), columns)  # so many columns have one line more
        ends = np.cumsum([lines + (i < longer) for i in range(columns)])
        if sum(max(part) for part in np.split(np.array(wide), ends[:-1])) <= room:
            return columns
    return 1


def _rows(axes: Sequence[Axes]) -> Iterator[tuple[Any, ...]]:
    """Return every point drawn in data coordinates: panel, series, which line of the series, x, y."""
    for i, ax in enumerate(axes):
        series, column, panel = "", 0, ax.get_title(loc="left") or str(i + 1)
        for drawn in ax.get_lines():
            if drawn.get_transform() != ax.transData:
                continue
            label = str(drawn.get_label())
            series, column = (series, column + 1) if label.startswith("_") else (label, 0)
            for x, y in zip(*map(np.asarray, drawn.get_data()), strict=True):
                yield panel, series, column, f"{x:.9g}", f"{y:.9g}"


class _Prose(string.Formatter):
    """Formats numbers into a paragraph; what is not known is said so."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format one number."""
        if isinstance(value, float) and not np.isfinite(value):
            return "(not known)"
        return super().format_field(value, format_spec)


def _paragraph(entry: Entry, numbers: Numbers) -> str:
    return _Prose().vformat(entry.paragraph, (), numbers)


def _page(entry: Entry, numbers: Numbers, runs: Runs) -> str:
    paragraph = _paragraph(entry, numbers)
    table = f"\n\n{numbers['table']}" if "table" in numbers else ""
    made = [*map(_about, runs.used.values())]
    theirs = (
        "The paper shows larger networks on CIFAR-10 and on a sorting task, its companion site likewise; "
        if runs.scale == "small"
        else "As in the paper, networks on CIFAR-10 and on a sorting task, in our own implementation; "
    )
    setting = theirs + "this figure was made from:\n\n" + "\n".join(f"- {text}" for text in made)
    return f"# {entry.line}\n\n![{entry.line}]({entry.name}.png)\n\n{paragraph}{table}\n\n{setting}\n"


def _about(run: Run) -> str:
    config = run.config
    values = config["hyperparameters"].items()
    hp = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in values if v)
    switches = "".join(f", {name}" for name in config.get("switches", ()))
    start = f" after a warm start of {config['warm_start']}" if config.get("warm_start") else ""
    what = config.get("problem_description") or config["problem"]
    size = f", {config['n_weights']:,} weights" if "n_weights" in config and "weights" not in what else ""
    ended = f"; ended early: {run.reason}" if run.reason else ""
    title = config.get("title") or config["optimizer"]
    dtype = config.get("dtype", "")
    return f"{title} ({hp}{switches}), {config['steps']} steps{start}, {dtype}: {what}{size}{ended}"

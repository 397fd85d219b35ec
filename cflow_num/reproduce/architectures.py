"""Training loss with its prediction over architectures, a panel each, and the verdicts as a table.

The table says where a flow falls short and what explains it: the distance of the central flow, and next to it how far
the closure's error and the dropped term of the largest effect would each have moved the weights by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ..record.measures import values
from ..record.run import Run
from ..report.canvas import PALE
from ..verdict.error_budget import budget_terms, has_budget
from .panels import averaged, final, flows, logarithmic, room_above, titled, verdict
from .registry import Numbers
from .runs import Runs
from .settings import ARCHITECTURES, LEFT_OUT

_COLUMNS = (
    "architecture",
    "learning rate",
    "steps",
    "first crossing",
    "D_central/D_stable",
    "loss error",
    "D_central",
    "closure alone",
    "largest dropped term alone",
    "remark",
)
_NOTE = """The last distances are between weights, at the end: of the central flow from the averaged optimizer, and how
far two causes would each have moved the flow by themselves. The closure's is the measured variance of the oscillation
less the one that keeps the edge, times its push on the weights, summed over time; the other is what was dropped."""
_ROWS = ("first_crossing", "distance_ratio", "predicted_loss", "steps")


def loss_curves(runs: Runs, axes: Sequence[Axes], kind: str, loss: str) -> Numbers:
    """Draw a panel for each architecture; one that cannot be had is named with the reason."""
    rows, ratios, errors = [], [], []
    left_out = LEFT_OUT if runs.scale == "small" else {}
    for ax, architecture in zip(axes, ARCHITECTURES, strict=False):
        found = left_out.get((loss, architecture)) or runs.attempt(f"{kind}-{loss}-{architecture}")
        if isinstance(found, str):
            titled(ax, architecture, "").text(
                0.5, 0.5, "not available", transform=ax.transAxes, ha="center", color=PALE
            )
            ax.set(xticks=[], yticks=[])
            rows.append([architecture, *["—"] * (len(_COLUMNS) - 2), found])
            continue
        numbers, judged = verdict(found, *_ROWS), found.compare()["distance_ratio"]
        _panel(ax, found, architecture, numbers)
        rows.append(_row(found, architecture, numbers, found.reason or (judged.note if judged.passed is None else "")))
        ratios.append(numbers["distance_ratio"] if judged.passed is not None else np.nan)
        errors.append(numbers["predicted_loss"])
    for ax in axes[len(ARCHITECTURES) :]:
        ax.set_visible(False)
    known = [x for x in ratios if np.isfinite(x)]
    table = [_COLUMNS, ["---"] * len(_COLUMNS), *rows]
    return {
        "table": "\n".join("| " + " | ".join(row) + " |" for row in table) + f"\n\n{_NOTE}",
        "asked": len(ARCHITECTURES),
        "made": len(ratios),
        "judged": len(known),
        "closer": sum(x < 1 for x in known),
        "best": min(known, default=np.nan),
        "worst": max(known, default=np.nan),
        "worst_error": max((x for x in errors if np.isfinite(x)), default=np.nan),
    }


def _panel(ax: Axes, run: Run, architecture: str, numbers: dict[str, float]) -> None:
    ratio, error = numbers["distance_ratio"], numbers["predicted_loss"]
    title = architecture
    title += f", distance ratio {ratio:.2g}" if np.isfinite(ratio) else ""
    title += f", loss error {error:.1%}" if np.isfinite(error) else ""
    titled(ax, title, "training loss")
    loss, predicted = values(run, "discrete", "loss"), values(run, "central", "predicted_loss")
    flows(ax, run, "loss", ("stable",))
    averaged(ax, run, loss, predicted)
    logarithmic(ax, loss, predicted)
    room_above(ax, 1.5 * float(np.nanmax(loss)))


def _row(run: Run, architecture: str, numbers: dict[str, float], remark: str) -> list[str]:
    def text(value: float, form: str) -> str:
        return format(value, form) if np.isfinite(value) else "—"

    return [
        architecture,
        f"{run.config['hyperparameters']['learning_rate']:g}",
        text(numbers["steps"], ".0f"),
        text(numbers["first_crossing"], ".0f"),
        text(numbers["distance_ratio"], ".3f"),
        text(numbers["predicted_loss"], ".1%"),
        text(final(values(run, "central", "distance_to_discrete")), ".3g"),
        *_explained(run),
        remark,
    ]


def _explained(run: Run) -> tuple[str, str]:
    """Return how far the closure, and the dropped term of the largest effect, would move the weights."""
    if not has_budget(run):
        return "—", "—"
    *dropped, closure = budget_terms(run)
    largest = max(dropped, key=lambda term: np.nan_to_num(term.distance))
    return f"{closure.distance:.3g}", f"{largest.distance:.3g}, {largest.name.replace('_', ' ')}"

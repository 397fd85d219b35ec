"""What a verdict is: the numbers with their definitions and limits, and the table of one run.

The reference is the discrete optimizer's second-order midpoint (w[t-1] + 2 w[t] + w[t+1])/4. Predictions of
time averages are measured against the discrete run smoothed by a Gaussian. The edge is chaotic: perturbing
the start by 1e-13 moves final distances by up to 6%, so limits are not to be read more finely than that.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..record.measures import CRITICAL_GAP, POSITIVE, SMOOTHING
from ..record.variables import CLOSURES, PREDICTED
from ..support.html import paragraph, table


@dataclass(frozen=True)
class Limits:
    """What a run must keep to, for every optimizer."""

    distance_ratio: float = 0.25  # D_central / D_stable, at most
    predicted_loss: float = 0.07  # relative RMS, at most
    largest_eigenvalue: float = 1.01  # relative to the threshold, at most
    residual: float = 1e-8  # of the complementarity problem, relative, at most
    dropped_term: float = 1.0  # of the error budget, relative to the term kept, at most
    smallest_sigma: float = -1e-8  # smallest Sigma-eigenvalue relative to the largest, at least
    variance_slope: tuple[float, float] = (0.7, 1.3)  # expected; not part of the verdict


LIMITS = Limits()
SETTLING = 150  # steps after the first crossing from which averages are compared; SMOOTHING from an established edge
LONG = 2 * SETTLING  # steps at the edge after which distances no longer fall much: before, a limit may be missed for it
ROUNDING = 1000  # times the type's precision is what residuals and smallest eigenvalues may be of, if that is more
LAST = 40  # steps over which final distances are averaged
NEAR = 0.05  # below the threshold, relative: a mean eigenvalue of the discrete optimizer that close is critical


def _distance(flow: str, what: str) -> tuple[str, str]:
    return f"distance {flow} / stable", f"As distance central / stable, for {what}. For information."


def _prediction(flow: str, what: str) -> tuple[str, str]:
    return (
        f"predicted loss of {flow}, relative RMS",
        f"As predicted loss, for what {what} says of its own oscillation. For information.",
    )


_CLOSED = {name: f"the {name} closure, which carries an oscillation of its own" for name in CLOSURES}

# name: (quantity, how the number is defined)
DEFINITIONS = {
    "steps": ("steps taken", "Steps that every process took, against the steps asked for."),
    "first_crossing": (
        "first crossing [step]",
        "First step at which Σ, the oscillation's covariance along the central flow, is positive (above "
        f"{POSITIVE:g} of its largest eigenvalue in the run).",
    ),
    "distance_ratio": (
        "distance central / stable",
        "D is the distance of a flow from the discrete optimizer's second-order midpoint (w[t−1] + 2w[t] "
        f"+ w[t+1])/4. Mean of D_central over the last {LAST} steps with known distances, divided by the "
        "mean of D_stable. It falls by about ten between the first crossing and a long stay at the edge, "
        f"so it is judged only from {SETTLING} steps after the first crossing on.",
    ),
    "distance_travelled": (
        "distance central / travelled",
        f"Mean of D_central over the same {LAST} steps, divided by the mean distance of the midpoint from step 0.",
    ),
    "ablated_ratio": (
        "distance ablated / stable",
        "As distance central / stable, for the ablated flow: it stays at the edge but its gradient lacks "
        "the oscillation's curvature term. For information.",
    ),
    "stationary_ratio": (
        "distance stationary / stable",
        "As distance central / stable, for the stationary flow, whose states are at rest at every time. For "
        "information.",
    ),
    "dropped_term": (
        "largest dropped term / kept",
        "Median from the first crossing on of the term of the error budget that is largest relative to what the flow "
        "keeps: the expansion in the oscillation is none where this exceeds one.",
    ),
    "dropped_distance": (
        "distance of dropped terms / central",
        "How far all dropped terms together would move the weights by the end, divided by the last D_central: the "
        "share of the distance that they explain.",
    ),
    "closure_distance": (
        "distance of the closure / central",
        "The same for the difference between the measured variance of the oscillation and the one that keeps the edge: "
        "large where the oscillation starts late or bursts.",
    ),
    **{f"{name}_ratio": _distance(name, what) for name, what in _CLOSED.items()},
    "predicted_loss": (
        "predicted loss, relative RMS",
        "RMS over the steps of the relative deviation of L + ⟨Σ, H⟩/2 from the smoothed discrete loss, "
        f"from {SETTLING} steps after the first crossing. Smoothed: by a Gaussian with a standard "
        f"deviation of {SMOOTHING} steps, cut at four of them; at both ends of the run the kernel is "
        "renormalized over the steps that exist. A run that starts from an established edge, from time averages, is "
        f"judged from {SMOOTHING} steps after the first crossing on. With momentum the prediction is smoothed over the "
        "filter's memory: when an eigenvalue arrives, X has an impulse, which is no variance.",
    ),
    **{f"{name}_predicted_loss": _prediction(name, f"the {name} closure") for name in CLOSURES},
    "predicted_squared_gradient_norm": (
        "predicted |∇L|², relative RMS",
        "The same for the time average of the squared gradient norm.",
    ),
    "variance_slope": (
        "variance, slope",
        "Least-squares slope through the origin of the predicted Σ-eigenvalues against the squared "
        "displacement of the discrete run from its midpoint along the same directions, smoothed likewise: "
        f"all directions that are ever critical, pooled, from {SETTLING} steps after the first crossing. "
        "Not part of the verdict.",
    ),
    "variance_correlation": ("variance, correlation", "Pearson correlation of the same pairs."),
    "onset_lag": (
        "onset lag [steps]",
        "Steps from the first crossing until the central flow is, and stays, closer to the midpoint than "
        "the stable flow. The discrete run overshoots when it first crosses; the flow stays on the edge "
        "at once.",
    ),
    "critical_1": (
        "steps with ≥ 1 critical",
        "Steps with at least one critical eigenvalue along the central flow: effective eigenvalues no "
        f"more than {CRITICAL_GAP:.1%} below the threshold, or positive Σ-eigenvalues, whichever are more.",
    ),
    "critical_2": ("steps with ≥ 2 critical", "The same, two or more at once."),
    "critical_3": ("steps with ≥ 3 critical", "The same, three or more at once."),
    "largest_eigenvalue": (
        "largest eigenvalue / threshold",
        "Largest effective eigenvalue of the central flow from the first crossing on, over the threshold; where the "
        "run starts above the edge, from the first step on which the flow is back on it.",
    ),
    "residual": (
        "complementarity residual",
        f"Largest relative residual along the central flow; in single precision the limit is {ROUNDING} times the "
        "rounding error.",
    ),
    "smallest_sigma": (
        "smallest Σ-eigenvalue / largest",
        "Σ is a covariance, so none of its eigenvalues may be negative, beyond rounding (as for the residual).",
    ),
    "effective_step_size": (
        "effective step size vs c/S",
        "Mean relative difference, from the first crossing on, between the smoothed discrete effective "
        "step size and c/S(w) along the central flow: the threshold over the sharpness S, the Hessian's "
        "largest eigenvalue.",
    ),
    "discrete_sharpness": (
        "effective sharpness / threshold",
        "Mean, over the steps on which predictions are compared, of the discrete optimizer's largest effective "
        "eigenvalue over the threshold: 1 where the edge is what the derivation says.",
    ),
    "zeta": (
        "decrease not kept, ζ",
        "1 − ΣΔL/Σg·s over the steps s on which predictions are compared: the share of the decrease promised by the "
        "gradient that the discrete optimizer does not keep; 1 for an oscillation alone. Beside it the central flow's "
        "own, from 2⟨Σ, H⟩ − ḡ·v and its predicted loss.",
    ),
    "threshold_crossing": (
        "first crossing of the threshold [step]",
        "First step at which the discrete optimizer's largest effective eigenvalue is at the threshold, coming from "
        "below. Steps at which it was not recorded are filled in linearly.",
    ),
    "discrete_end": (
        "largest eigenvalue / threshold, at the end",
        f"Mean, over the last {LAST} steps with known eigenvalues, of the discrete optimizer's largest effective "
        "eigenvalue over the threshold: about 1 at the edge.",
    ),
    "critical_end": (
        "critical eigenvalues at the end",
        "How many effective eigenvalues of the discrete optimizer are on average over the same steps at the threshold: "
        f"no more than {NEAR:.0%} below it, as each of them hovers around it.",
    ),
    "loss_end": ("loss at the end", "Training loss at the last step, where it may oscillate."),
    "gain": (
        "gain at the edge",
        "How fast the oscillation grows per relative excess of the curvature: 2 without momentum. Above 10 expect "
        "bursts, which no flow follows.",
    ),
    "burst_index": (
        "burst index",
        "By how many e-folds cycles of oscillation and curvature about the flow grow per relative sharpening that the "
        "oscillation prevents, in a straight valley: 2 for gradient descent. Over a run that prevents the relative "
        "sharpening q they grow by q times this, and are bursts once that makes up for how small they began.",
    ),
    "cost": (
        "cost [gradients per step]",
        "Gradient equivalents of the central flow per unit of flow time, which is one step, by count: "
        "gradients + Hessian-vector products + 2 × curvature gradients.",
    ),
}


def defined(name: str) -> tuple[str, str]:
    """Return the quantity in words and how it is defined, of a flow or an observable of one's own too.

    >>> defined("mine_ratio")[0], defined("cost")[0]
    ('distance mine / stable', 'cost [gradients per step]')
    """
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    if name.startswith(PREDICTED.format("")):
        observable = name.removeprefix(PREDICTED.format(""))
        return (
            f"predicted {observable}, relative RMS",
            f"As predicted loss, for the observable {observable}: f + ⟨Σ, D²f⟩/2 against the discrete average "
            "(f[t−1] + 2f[t] + f[t+1])/4, smoothed. For information.",
        )
    flow = name.removesuffix("_predicted_loss").removesuffix("_ratio")
    return (_distance if name == f"{flow}_ratio" else _prediction)(flow, f"the {flow} flow")


@dataclass(frozen=True)
class Row:
    """One line of a verdict: `value` is None where `note` says why, `passed` where nothing is judged."""

    name: str
    value: float | None
    limit: str = ""
    passed: bool | None = None
    note: str = ""

    @property
    def quantity(self) -> str:
        """The quantity in words."""
        return defined(self.name)[0]

    @property
    def definition(self) -> str:
        """How the number is defined."""
        return defined(self.name)[1]

    def texts(self) -> tuple[str, str, str, str, str]:
        """Return quantity, value, limit, verdict and note as they are shown.

        >>> Row("residual", 2e-14, "≤ 1e-08", True).texts()
        ('complementarity residual', '2e-14', '≤ 1e-08', 'pass', '')
        """
        value = "—" if self.value is None else f"{self.value:.4g}"
        return self.quantity, value, self.limit or "—", WORDS[self.passed], self.note


WORDS = {True: "pass", False: "fail", None: "—"}


@dataclass(frozen=True)
class Comparison:
    """The flows of one run against its discrete optimizer: `print` it for the table.

    `passed` is None where there is nothing to judge, which `verdict` explains in a sentence.

    >>> comparison = Comparison("demo, 9 steps", "passed", True, (Row("onset_lag", 3.0),))
    >>> comparison["onset_lag"].value
    3.0
    """

    title: str
    verdict: str
    passed: bool | None
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        """Return the row with that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain types, ready for JSON."""
        rows = [asdict(row) | {"quantity": row.quantity} for row in self.rows]
        verdict = {"title": self.title, "verdict": self.verdict, "passed": self.passed}
        return verdict | {"rows": rows, "limits": asdict(LIMITS)}

    def __str__(self) -> str:
        table = [("quantity", "value", "limit", "", ""), *(row.texts() for row in self.rows)]
        wide = [max(len(texts[i]) for texts in table) for i in range(4)]
        lines = [
            f"{q:<{wide[0]}}  {v:>{wide[1]}}  {limit:>{wide[2]}}  {ok:<{wide[3]}}  {note}".rstrip()
            for q, v, limit, ok, note in table
        ]
        return "\n".join([self.title, "", *lines, "", f"verdict: {self.verdict}"])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        head = ("quantity", "value", "limit", "verdict", "")
        rows = table(head, [row.texts() for row in self.rows], numbers=(1, 2))
        return f"<div>{paragraph(self.title, bold=True)}{paragraph(self.verdict)}{rows}</div>"

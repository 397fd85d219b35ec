"""Verdict numbers on synthetic runs where each is known in closed form."""

import json
import math

import numpy as np
import pytest

from cflow_num.record.measures import first_crossing, smoothed, values
from cflow_num.record.run import Run
from cflow_num.support.errors import InputError
from cflow_num.verdict.compare import compare
from cflow_num.verdict.definitions import LIMITS, LONG, SETTLING

from .synthetic import CROSSING, OSCILLATION, STEPS, C, synthetic, without


def test_a_run_that_keeps_every_limit_passes():
    comparison = compare(synthetic(ratio=0.1, off=0.03))
    assert comparison.passed is True
    value = {row.name: row.value for row in comparison.rows}
    assert value["distance_ratio"] == pytest.approx(0.1)
    assert value["distance_travelled"] == pytest.approx(0.2 / 4)
    assert value["predicted_loss"] == pytest.approx(0.03)
    assert value["predicted_squared_gradient_norm"] == pytest.approx(0.03)
    assert value["variance_slope"] == pytest.approx(1.03)
    assert value["first_crossing"] == CROSSING
    assert value["onset_lag"] == 0
    assert [value[f"critical_{k}"] for k in (1, 2, 3)] == [STEPS + 1 - CROSSING, 0, 0]
    assert value["largest_eigenvalue"] == 1
    assert value["residual"] == pytest.approx(1e-12)
    assert value["smallest_sigma"] == 0
    assert value["effective_step_size"] == pytest.approx(abs(0.5 / 0.5 - 1), abs=1e-12)
    assert value["cost"] == pytest.approx(4 + 10 + 2 * 3)
    assert "0.1" in comparison.title
    assert str(STEPS) in comparison.title


def test_a_central_flow_as_far_as_the_stable_flow_fails():
    comparison = compare(synthetic(ratio=1.0))
    assert comparison.passed is False
    assert comparison["distance_ratio"].passed is False
    assert "distance central / stable is 1" in comparison.verdict


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("predicted_loss", {"predicted_loss": np.full(STEPS + 1, 3 * 1.08)}),
        ("residual", {"residual": np.full(STEPS + 1, 1e-7)}),
        ("residual", {"residual": np.full(STEPS + 1, np.inf)}),
        ("smallest_sigma", {"sigma_eigenvalues": np.tile([1.0, -1e-3], (STEPS + 1, 1))}),
        ("largest_eigenvalue", {"effective_eigenvalues": np.full((STEPS + 1, 2), 1.02 * C)}),
    ],
)
def test_each_limit_can_fail(name, variables):
    comparison = compare(synthetic(central=variables))
    assert comparison[name].passed is False
    assert comparison.passed is False


@pytest.mark.parametrize("c", [2.0, 38.0])
def test_limits_are_relative_to_the_threshold(c):
    assert compare(synthetic(c=c)).passed is True


def test_variance_has_slope_and_correlation_of_an_alternating_displacement():
    t = np.arange(STEPS + 1)
    variance = 1 + t / STEPS
    displacement = np.stack([(-1.0) ** t * np.sqrt(variance), np.zeros(STEPS + 1)], axis=1)
    sigma = np.stack([np.where(t >= CROSSING, 0.8 * variance, 0), np.zeros(STEPS + 1)], axis=1)
    comparison = compare(synthetic(discrete={"displacement": displacement}, central={"sigma_eigenvalues": sigma}))
    # at the last step a one-sided average lags a rising variance, by 16 steps of 400
    assert comparison["variance_slope"].value == pytest.approx(0.8, rel=5e-3)
    assert comparison["variance_correlation"].value == pytest.approx(1, abs=0.02)


def test_directions_that_are_never_critical_do_not_count():
    noise = np.tile([math.sqrt(OSCILLATION), 5.0], (STEPS + 1, 1))
    assert compare(synthetic(discrete={"displacement": noise}))["variance_slope"].value == pytest.approx(1)


def test_onset_lag_is_the_time_until_the_central_flow_stays_closer():
    t = np.arange(STEPS + 1)
    late = np.where(t < CROSSING + 30, 3.0, 0.1)
    assert compare(synthetic(central={"distance_to_discrete": late}))["onset_lag"].value == 30
    never = compare(synthetic(central={"distance_to_discrete": np.full(STEPS + 1, 3.0)}))["onset_lag"]
    assert never.value is None
    assert "still" in never.note


def test_a_run_that_stays_below_the_edge_is_not_judged():
    comparison = compare(synthetic(crossing=None))
    assert comparison.passed is None
    assert comparison.verdict.startswith(f"no edge reached in {STEPS} steps: ")
    assert "90.0%" in comparison.verdict
    assert "larger learning rate or more steps" in comparison.verdict
    assert comparison["predicted_loss"].value is None
    assert comparison["distance_ratio"].passed is None


def test_a_run_that_is_short_after_the_crossing_is_not_judged():
    comparison = compare(synthetic(steps=CROSSING + SETTLING))
    assert comparison.passed is None
    assert comparison["predicted_loss"].texts()[1:4] == ("—", "≤ 0.07", "—")
    assert "150 steps after the first crossing" in comparison["predicted_loss"].note
    enough = CROSSING + SETTLING + 1
    assert comparison.verdict.endswith(
        f"the edge is first met at step {CROSSING} of {CROSSING + SETTLING}: take at least {enough} steps"
    )
    assert compare(synthetic(steps=enough)).passed is True
    last = compare(synthetic(steps=CROSSING, off=0.1)).verdict
    assert f"first met at step {CROSSING} of {CROSSING}: take at least {enough} steps" in last


def test_a_limit_missed_soon_after_the_crossing_may_be_for_want_of_steps():
    late, said = CROSSING + SETTLING + 20, f"step {CROSSING} of {CROSSING + SETTLING + 20}, which may be too late"
    failed = compare(synthetic(steps=late, ratio=0.5))
    assert failed.passed is False
    assert failed.verdict.endswith(f"first met at {said}: try {CROSSING + LONG} steps or more")
    assert said in compare(synthetic(steps=late, off=0.5)).verdict
    for other in (
        synthetic(steps=CROSSING + LONG, ratio=0.5),
        synthetic(steps=late, central={"residual": np.ones(late + 1)}),
        synthetic(steps=late, ratio=0.5, asked=900, reason="the discrete process stopped: it diverges"),
    ):
        assert compare(other).passed is False
        assert "too late" not in compare(other).verdict, "a long stay, a limit of another kind, no way to go on"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_that_ended_at_once_has_a_verdict(steps):
    comparison = compare(synthetic(steps=steps, crossing=None, asked=50, reason="ended at step 0 of 50: the central"))
    assert comparison.passed is False


def test_an_early_end_for_a_reason_cannot_pass_but_an_interruption_can():
    reason = "ended at step 400 of 900: the central process: its loss is not finite at step 401"
    failed = compare(synthetic(asked=900, reason=reason))
    assert failed.passed is False
    assert reason in str(failed)
    assert failed["predicted_loss"].passed is True
    interrupted = compare(synthetic(asked=900, reason="interrupted at step 400 of 900"))
    assert interrupted.passed is True
    assert interrupted["steps"].passed is None
    assert "interrupted" in interrupted.verdict


def alone(**changes):
    return without(without(synthetic(**changes), "stable"), "central")


def test_without_a_flow_nothing_is_judged_and_what_is_known_is_said():
    t = np.arange(STEPS + 1)
    hovering = C * np.stack([1 + 0.1 * (-1.0) ** t, np.full(STEPS + 1, 0.96), np.full(STEPS + 1, 0.94)], axis=1)
    hovering[:60] *= 0.5
    changed = {"effective_eigenvalues": hovering, "displacement": hovering, "loss": np.linspace(3, 1, STEPS + 1)}
    run = alone(discrete=changed)
    comparison = compare(run)
    assert comparison.passed is None
    assert {row.passed for row in comparison.rows} == {None}
    value = {row.name: row.value for row in comparison.rows}
    assert value == {
        "steps": STEPS,
        "threshold_crossing": 60,
        "discrete_end": pytest.approx(1),
        "critical_end": 2,
        "loss_end": 1,
    }
    assert comparison["discrete_end"].note == f"steps {STEPS - 39}–{STEPS}"
    assert comparison.verdict.startswith("no flow to judge: the threshold is reached at step 60")
    assert "discrete, stable and central" in comparison.verdict
    assert all(row.quantity in str(comparison) and row.definition for row in comparison.rows)


def test_without_a_flow_and_below_the_threshold():
    comparison = compare(alone(crossing=None, asked=900, reason="interrupted at step 400 of 900"))
    assert comparison["threshold_crossing"].value is None
    assert comparison["critical_end"].value == 0
    assert "the threshold is not reached" in comparison.verdict
    assert "90.0%" in comparison.verdict
    assert "interrupted" in comparison.verdict
    assert "of 900" in comparison["steps"].note


def test_without_a_flow_and_without_eigenvalues():
    unknown = {"effective_eigenvalues": np.full((STEPS + 1, 2), np.nan)}
    comparison = compare(alone(discrete=unknown))
    assert [row.name for row in comparison.rows if row.value is None] == [
        *("threshold_crossing", "discrete_end", "critical_end"),
    ]
    assert comparison["critical_end"].note == "not recorded"
    every = compare(alone(discrete={"effective_eigenvalues": np.full((STEPS + 1, 2), C)}))
    assert "all that are tracked" in every["critical_end"].note


@pytest.mark.parametrize("process", ["discrete", "stable", "central"])
def test_a_missing_process_is_named(process):
    with pytest.raises(InputError, match=f"no {process} process"):
        compare(without(synthetic(), process))


def test_the_ablated_flow_is_information():
    ablated = {"distance_to_discrete": np.full(STEPS + 1, 1.0), "loss": np.ones(STEPS + 1)}
    row = compare(synthetic(ablated=ablated))["ablated_ratio"]
    assert (row.value, row.passed) == (pytest.approx(0.5), None)


def test_eigenvalues_known_at_some_steps_only():
    run = synthetic()
    eigenvalues = values(run, "central", "effective_eigenvalues").copy()
    eigenvalues[np.arange(STEPS + 1) % 7 != 0] = np.nan
    comparison = compare(synthetic(central={"effective_eigenvalues": eigenvalues}))
    assert comparison.passed is True
    assert comparison["largest_eigenvalue"].value == 1
    assert comparison["critical_1"].value == STEPS + 1 - CROSSING


def test_distances_unknown_at_the_end_are_left_out():
    run = synthetic()
    unknown = values(run, "central", "distance_to_discrete").copy()
    unknown[-30:] = np.nan
    row = compare(synthetic(central={"distance_to_discrete": unknown}))["distance_ratio"]
    assert row.value == pytest.approx(0.1)
    assert row.note == f"steps {STEPS - 69}–{STEPS - 30}"


def test_what_was_not_recorded_is_said():
    run = synthetic()
    tree = run.tree.copy()
    tree["discrete"] = tree["discrete"].to_dataset().drop_vars(["displacement", "effective_step_size"])
    comparison = compare(Run(tree))
    assert comparison["variance_slope"].note == "not recorded"
    assert "scalar" in comparison["effective_step_size"].note
    assert comparison.passed is True


def test_rounding_in_sigma_is_no_crossing():
    t = np.arange(STEPS + 1)
    sigma = np.stack([np.where(t >= CROSSING, 1.0, 1e-9), np.full(STEPS + 1, 1e-10)], axis=1)
    assert first_crossing(synthetic(central={"sigma_eigenvalues": sigma})) == CROSSING


def test_comparison_as_text_and_as_json():
    comparison = compare(synthetic())
    lines = str(comparison).splitlines()
    assert lines[0] == comparison.title
    assert lines[-1] == f"verdict: {comparison.verdict}"
    assert all(row.quantity in str(comparison) for row in comparison.rows)
    limits = [line.index("≤") + len("≤ 0.25") for line in lines if "≤ 0.25" in line or "≤ 0.07" in line]
    assert len(set(limits)) == 1, "columns are aligned"
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert plain["limits"]["distance_ratio"] == LIMITS.distance_ratio
    assert {type(row["value"]) for row in plain["rows"]} <= {float, type(None)}
    with pytest.raises(KeyError):
        comparison["nothing"]


def test_smoothing_keeps_constants_and_the_middle_of_lines_and_has_its_width():
    t = np.arange(401.0)
    assert smoothed(np.full(30, 7.0)) == pytest.approx(7.0)
    assert smoothed(t)[200] == pytest.approx(200)
    pulse = smoothed((t == 200).astype(float))
    assert pulse.sum() == pytest.approx(1)
    assert math.sqrt(pulse @ (t - 200) ** 2) == pytest.approx(20, rel=1e-2)
    two = np.stack([t, 2 * t], axis=1)
    assert smoothed(two)[:, 1] == pytest.approx(2 * smoothed(t))

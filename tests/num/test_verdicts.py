"""Full runs on handwritten digits, from the first step, against the limits that the project has set itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import cflow_num as cn

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "verdicts.py"
_spec = importlib.util.spec_from_file_location("verdicts", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
verdicts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(verdicts)

BIASED = "the same with bias correction"


@pytest.fixture(scope="module")
def full_run():
    done = {}

    def get(title):
        if title not in done:
            optimizer, hp, steps, warm_start = verdicts.RUNS[title]
            problem = cn.problem("digits-mlp")
            run = cn.run(problem, optimizer, hp, steps=steps, warm_start=warm_start, quiet=True)
            done[title] = run, run.compare()
            print(done[title][1])
        return done[title]

    return get


DEMO = verdicts.PICTURED
TITLES = [pytest.param(title, marks=[pytest.mark.optimized] * (title == DEMO)) for title in verdicts.TESTED]


@pytest.mark.parametrize("title", TITLES)
def test_the_central_flow_stays_on_the_edge_and_ahead_of_the_stable_flow(title, full_run):
    run, comparison = full_run(title)
    assert comparison.passed
    central = run.tree["central"]
    first = int(comparison["first_crossing"].value)
    assert float(central["effective_eigenvalues"][first:].max()) <= 2.02
    assert float(central["eigen_converged"].min()) == 1
    assert float(central["residual"].max()) < 1e-8
    sigma = central["sigma_eigenvalues"]
    assert float(sigma.min()) >= -1e-12 * float(sigma.max())
    if title.startswith("gradient descent"):
        assert np.diff(central["loss"].values).max() <= 0
    elif title.startswith("RMSProp"):
        assert comparison["critical_3"].value >= 150
    else:
        assert comparison["critical_2"].value >= 300


@pytest.mark.parametrize(
    "title",
    [
        *(title for title in verdicts.TESTED if title != BIASED),
        # Bias correction starts with small steps: the edge is met at step 96 instead of 21, after the oscillation has
        # decayed to rounding errors, and the optimizer overshoots to 3.4 before it bursts. No flow here describes
        # that burst, with any integrator: 0.042 and 3.05%.
        pytest.param(BIASED, marks=pytest.mark.xfail(strict=True, reason="the burst after a late first crossing")),
    ],
)
def test_distance_and_predicted_loss_keep_their_limits(title, full_run):
    _, comparison = full_run(title)
    for name, limit in verdicts.LIMITS[verdicts.RUNS[title][0]].items():
        assert comparison[name].value <= limit, name


def test_with_bias_correction_the_shortfall_does_not_grow(full_run):
    """Not the limit, which is missed: a bound on what was measured, so that a regression shows."""
    _, comparison = full_run(BIASED)
    assert comparison["distance_ratio"].value <= 0.05
    assert comparison["predicted_loss"].value <= 0.04

"""The study of momentum: established edges against the project's limits, and its reduced form as a user runs it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "notebooks" / "momentum.py"
_spec = importlib.util.spec_from_file_location("momentum_study", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
momentum = importlib.util.module_from_spec(_spec)
sys.modules["momentum_study"] = momentum  # its dataclass looks its module up
_spec.loader.exec_module(momentum)

TESTED = ("Nesterov 0.5", "Adam 0.9/0.95", "NAdam 0.9/0.99")


@pytest.fixture(scope="module")
def measured():
    done = {}

    def get(title):
        if title not in done:
            done[title] = momentum.measure((next(case for case in momentum.CASES if case.title == title), 0))
            print(done[title])
        return done[title]

    return get


@pytest.mark.parametrize("title", TESTED)
def test_an_established_edge_is_followed(title, measured):
    row = measured(title)
    assert not row["reason"]
    assert row["distance_ratio"] <= next(case.limit for case in momentum.CASES if case.title == title)
    assert row["discrete_sharpness"] == pytest.approx(1, abs=0.12)


BURSTS = "bursts of the discrete run are in its averaged loss and not in the flow: 9 % for Adam 0.9/0.95"


@pytest.mark.parametrize(
    "title",
    [pytest.param(t, marks=pytest.mark.xfail(reason=BURSTS, strict=True)) if "0.95" in t else t for t in TESTED],
)
def test_the_loss_on_an_established_edge_is_predicted(title, measured):
    assert measured(title)["predicted_loss"] <= 0.06


def test_the_reduced_study_runs():
    done = subprocess.run([sys.executable, SCRIPT, "--reduced"], capture_output=True, text=True, check=True)
    assert "| NAdam 0.9/0.99 | 120+40 | 1 |" in done.stdout

"""The study of momentum: established edges against the project's limits, and its table."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "momentum.py"
_spec = importlib.util.spec_from_file_location("momentum_study", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
momentum = importlib.util.module_from_spec(_spec)
sys.modules["momentum_study"] = momentum  # its dataclass looks its module up
_spec.loader.exec_module(momentum)

TESTED = {  # between which values the error of the predicted loss must be; the project's limit is 0.06
    "NAdam 0.9/0.99": (0.0, 0.06),
    # It is missed: bursts of the discrete run are in its averaged loss and not in the flow, 10 %.
    "Adam 0.9/0.95": (0.06, 0.12),
}


@pytest.mark.parametrize("title", TESTED)
def test_an_established_edge_is_followed(title):
    case = next(case for case in momentum.CASES if case.title == title)
    row = momentum.measure((case, 0))
    print(row)
    assert not row["reason"]
    assert row["distance_ratio"] <= case.limit
    assert row["discrete_sharpness"] == pytest.approx(1, abs=0.12)
    low, high = TESTED[title]
    assert low < row["predicted_loss"] <= high


def test_the_table_has_medians_and_names_what_failed():
    numbers = dict.fromkeys(momentum.NUMBERS, 1.0)
    rows = [
        {"title": "NAdam 0.9/0.99", "seed": seed, "reason": ""} | numbers | {"distance_ratio": ratio}
        for seed, ratio in enumerate((0.05, 0.07, 0.2))
    ]
    rows.append({"title": "NAdam 0.9/0.99", "seed": 3, "reason": "it diverges"})
    table = momentum.table(rows, momentum.CASES)
    assert "| NAdam 0.9/0.99 | 120+120 | 3 of 4 | 0.070 | 0.15 |" in table
    assert "- NAdam 0.9/0.99, seed 3: it diverges" in table


def test_only_what_is_not_measured_yet_is_measured():
    done = [{"title": case.title, "seed": seed} for case in momentum.CASES for seed in case.seeds]
    assert list(momentum.study(momentum.CASES, done)) == []

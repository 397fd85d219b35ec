"""The notebooks, in reduced form as a reader runs them: their figures, their verdicts, formulas against code."""

import runpy
from pathlib import Path

import jax
import matplotlib.figure
import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Run a notebook in an empty folder, in which it must leave nothing, and return its names."""
    monkeypatch.setenv("CFLOW_REDUCED", "1")
    monkeypatch.chdir(tmp_path)

    def execute(name):
        found = runpy.run_path(str(NOTEBOOKS / f"{name}.py"))
        assert not list(tmp_path.iterdir())
        return found

    yield execute
    jax.config.update("jax_disable_most_optimizations", False)


def assert_drawn(pictures, *names):
    """Every picture is a figure with lines in it, and what it tells is known but for what a short run cannot say."""
    assert set(pictures) == set(names)
    for picture in pictures.values():
        figure = getattr(picture, "figure", picture)
        assert isinstance(figure, matplotlib.figure.Figure)
        assert any(ax.get_lines() for ax in figure.axes)


def test_part1(executed):
    found = executed("part1")
    run = found["run"]
    assert not run.reason
    assert found["comparison"]["distance_ratio"].value < 0.5
    assert found["comparison"]["predicted_loss"].passed
    assert found["comparison"]["largest_eigenvalue"].passed
    assert found["rises"].max() < 1e-9  # the loss of the central flow falls
    assert found["code"] == pytest.approx(found["formula"], rel=1e-12)
    names = ("sharpness", "cycle", "variances", "variance", "weight-distance", "loss", "gradient-norm")
    assert_drawn(found["pictures"], *(f"gd-{name}" for name in names))
    numbers = found["pictures"]["gd-weight-distance"].numbers
    assert numbers["central"] < 0.5 * numbers["stable"]


def test_part2(executed):
    found = executed("part2")
    assert found["comparison"].passed
    assert found["ratios"]["scalar-rmsprop"] < 0.25
    assert found["code"] == pytest.approx(found["formula"], rel=1e-12)
    assert len(found["pictures"]) == 13
    assert_drawn(found["pictures"], *found["pictures"])
    step = found["pictures"]["scalar-rmsprop-step-size"].numbers
    assert step["gap"] < 1e-3  # the central flow's step size is 2/S
    rates = found["pictures"]["scalar-rmsprop-learning-rates"].numbers
    assert rates["s0"] > rates["s1"] > rates["s2"]  # larger learning rates, lower sharpness
    faster = found["pictures"]["scalar-rmsprop-acceleration"].numbers
    assert faster["sharpness"] > faster["central_sharpness"]
    assert faster["loss"] > faster["central_loss"]


def test_part3(executed):
    found = executed("part3")
    rows = found["comparison"]
    assert rows["distance_ratio"].value < 0.5
    assert rows["predicted_loss"].passed
    assert rows["critical_2"].value > 0
    names = ("eigenvalues", "variances", "squared-gradients", "nu", "weight-distance", "loss")
    assert_drawn(found["pictures"], *(f"rmsprop-{name}" for name in names))
    predicted = found["pictures"]["rmsprop-squared-gradients"].numbers
    assert predicted["without"] < predicted["middle"] == pytest.approx(1, abs=0.1)  # the oscillation is squared, too
    assert found["rest"].largest_effective_eigenvalue < 1.01
    solution, squared_gradient = found["cosines"].values()
    assert solution > max(squared_gradient, 0.8)


def test_new_optimizer(executed):
    found = executed("new_optimizer")
    assert "undeclared symbols p" in found["refused"]
    assert found["half"] == found["at_zero"] == 0
    assert found["derivation"].threshold == 2
    assert found["battery"].passed
    assert [row.name for row in found["battery"].rows] == ["derivation", *found["properties"]]
    assert found["comparison"].passed
    assert_drawn(found["pictures"], "eigenvalues", "effective_step_size", "loss", "distances", "gradient_norm")


def test_momentum(executed):
    found = executed("momentum")
    assert found["thresholds"]["heavy_ball"] == pytest.approx([3.8, 38])
    assert found["thresholds"]["adam"] == pytest.approx([38, 38])
    assert not found["run"].reason
    assert found["comparison"]["distance_ratio"].value < 0.6  # sixty steps only: 0.48
    assert found["comparison"]["largest_eigenvalue"].passed
    assert "diverges" in found["failed"]
    assert "the gain of heavy_ball_ema at the edge is 38" in str(found["said"][0].message)
    pictures = {name: picture for (name, _), picture in found["pictures"].items()}
    assert_drawn(pictures, "eigenvalues", "distances", "variance", "loss")

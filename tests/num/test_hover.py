"""What the pointer reads off a picture: real data points, placed where the image shows them."""

import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cflow_num.record.measures import values
from cflow_num.report import canvas
from cflow_num.report.figures import figures
from cflow_num.report.hover import POINTS, embedded, panels

from .synthetic import STEPS, synthetic


def place(value, limits, log):
    low, high, value = (np.log(x) if log else x for x in (*limits, value))
    return (value - low) / (high - low)


def saved(figure, tmp_path):
    """Return the image of a figure, its panels, and the pixel of a panel's point (x, y) in it."""
    image = matplotlib.image.imread(canvas.save(figure, tmp_path / "figure.png"))

    def pixel(panel, x, y):
        left, top, width, height = panel["box"]
        across = left + width * place(x, panel["xlim"], panel["xlog"])
        down = top + height * (1 - place(y, panel["ylim"], panel["ylog"]))
        return int(across * image.shape[1]), int(down * image.shape[0])

    return image, panels(figure), pixel


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("panel", [0, 1, 2])
def test_a_point_is_where_the_image_shows_it(tmp_path, scale, panel):
    figure = canvas.headed("heading", "whose")
    axes = figure.subplots(1, 3)
    x, y = [10, 20, 70], [0.02, 7.0, 0.9]
    axes[panel].plot(x, y, "o", color="#ff0000", markersize=5, markeredgewidth=0, label="points")
    axes[panel].set_xscale(scale)
    axes[panel].set_yscale(scale)
    axes[panel].set_ylabel("a label that takes\nits space")
    image, (found,), pixel = saved(figure, tmp_path)
    assert found["ylog"] == found["xlog"] == (scale == "log")
    red = np.all(np.abs(image[..., :3] - to_rgb("#ff0000")) < 0.02, axis=-1)
    around = np.zeros_like(red)
    for u, v in zip(x, y, strict=True):
        i, j = pixel(found, u, v)
        assert red[j - 2 : j + 3, i - 2 : i + 3].all()
        around[j - 8 : j + 9, i - 8 : i + 9] = True
    assert not red[~around].any()


def test_the_curves_of_a_run_are_its_numbers(tmp_path):
    loss = np.geomspace(1, 0.01, STEPS + 1)
    run = synthetic(discrete={"loss": loss, "midpoint_loss": loss})
    figure = figures(run)["loss"]
    canvas.save(figure, tmp_path / "loss.png")
    (panel,) = panels(figure)
    names = [curve["name"] for curve in panel["curves"]]
    assert names == ["optimizer", "time average", "stable flow", "central flow", "predicted average"]
    for curve, known in zip(panel["curves"][2:4], ("stable", "central"), strict=True):
        steps = panel["steps"][curve["steps"]]
        assert np.allclose(curve["values"], values(run, known, "loss")[steps], rtol=5e-4, atol=0)
    steps = panel["steps"][panel["curves"][0]["steps"]]
    assert np.allclose(panel["curves"][0]["values"], loss[steps], rtol=5e-4, atol=0)
    assert panel["curves"][0]["colour"] == canvas.COLOURS["discrete"]


def test_long_curves_are_thinned_to_data_points_of_both_sides_of_an_oscillation():
    t = np.arange(20_001)
    y = np.where(t % 2, 1 / 3, 2 / 3) * 10.0 ** -t.clip(0, 5)
    ax = Figure().subplots()
    ax.plot(t, y, label="oscillates")
    ax.plot(t[7:100], y[7:100], label="short")
    (panel,) = panels(ax.figure)
    for curve, line in zip(panel["curves"], ax.get_lines(), strict=True):
        steps = np.array(panel["steps"][curve["steps"]])
        assert len(steps) == len(curve["values"]) <= POINTS
        assert steps[[0, -1]].tolist() == line.get_xdata()[[0, -1]].tolist()
        assert curve["values"] == [float(f"{value:.4g}") for value in y[steps]]
    steps = np.array(panel["steps"][panel["curves"][0]["steps"]])
    assert 0.4 < np.mean(steps % 2) < 0.6


def test_what_is_not_known_is_left_out_and_sparse_curves_keep_all_they_have():
    ax = Figure().subplots()
    ax.plot(np.arange(1000), np.where(np.arange(1000) < 500, np.nan, 1.0), label="late")
    ax.plot([100, 207, 301], [1, np.inf, 3], label="sparse")
    ax.plot([1, 2], [1, 2], label="hidden", visible=False)
    (panel,) = panels(ax.figure)
    late, sparse = panel["curves"]
    assert panel["steps"][late["steps"]][0] == 500
    assert panel["steps"][sparse["steps"]] == [100, 301]
    assert sparse["values"] == [1, 3]


def test_columns_of_a_quantity_belong_together_and_marks_do_not(tmp_path):
    figure = figures(synthetic())["eigenvalues"]
    canvas.save(figure, tmp_path / "eigenvalues.png")
    (panel,) = panels(figure)
    names = [curve["name"] for curve in panel["curves"]]
    assert names == ["optimizer"] * 2 + ["stable flow"] * 2 + ["central flow"] * 2 + ["threshold"]
    assert [curve["values"][-1] for curve in panel["curves"]] == [2, 1.6] * 3 + [2]


def test_panels_that_show_nothing_are_left_out():
    figure = Figure()
    first, second, third = figure.subplots(1, 3)
    first.plot([0, 1], [0, 1], label="shown")
    second.plot([0, 1], [0, 1], label="not shown")
    second.set_visible(False)
    third.axvline(0.5)
    assert [panel["curves"][0]["name"] for panel in panels(figure)] == ["shown"]
    assert json.loads(embedded(Figure()).split(">", 1)[1].rsplit("<", 1)[0]) == []

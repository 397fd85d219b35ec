"""Pictures on phones and on dark pages, of chosen variables, of optimizers without flows; what axes cut is marked."""

import io

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import cflow_num as cn
from cflow_num.record import measures
from cflow_num.record.run import Run
from cflow_num.report import canvas
from cflow_num.report.cuts import mark_cuts
from cflow_num.report.dark import PAGE, darkened
from cflow_num.report.figures import figures
from cflow_num.report.hover import asset, boxes, panels
from cflow_num.report.page import write_report
from cflow_num.support.errors import InputError

from .synthetic import CROSSING, STEPS, C, synthetic, without

PHONE = 390 - 2 * 12 - 2 * 8 - 2  # pixels of a picture there: margins of the page, of the picture, its border
STEP = np.arange(STEPS + 1)


def alone(**changes):
    return without(without(synthetic(**changes), "stable"), "central")


def luminance(colour):
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def recorded(run, process, name, values, **attrs):
    """Return the run with one variable more."""
    groups = {key: group.to_dataset() for key, group in run.tree.children.items()}
    groups[process] = groups[process].assign({name: xr.Variable(("step",), values, attrs)})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = run.tree.attrs
    return Run(tree)


def observed():
    """Return a run with an observable that was evaluated around every tenth step, another of the optimizer alone."""
    accuracy, look = np.linspace(0, 1, STEPS + 1), {"observable": 1, "units": "%", "long_name": "test accuracy"}
    run = recorded(synthetic(), "discrete", "accuracy", np.where(abs(STEP % 10 - 5) < 2, accuracy, np.nan), **look)
    for process, name in (("stable", "accuracy"), ("central", "accuracy"), ("central", "predicted_accuracy")):
        run = recorded(run, process, name, accuracy + len(name), **look)
    return recorded(run, "discrete", "norm", np.exp(STEP / 50), observable="true")


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


# Phones and dark pages


@pytest.fixture(scope="module")
def drawn():
    """Figures for wide and for narrow pages, drawn."""
    wide = figures(synthetic())
    with canvas.narrow():
        narrow = figures(synthetic())
    for figure in (*wide.values(), *narrow.values()):
        canvas.pixels(figure)
    return wide, narrow


def test_text_is_large_enough_on_a_phone_and_stays_in_the_picture(drawn):
    for figure in drawn[1].values():
        scale = PHONE / (72 * figure.get_figwidth())  # pixels a point
        box = figure.bbox
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text():
                assert text.get_fontsize() * scale >= 9, text.get_text()
        for text in [*figure.texts, *figure.legends[0].get_texts()]:
            place = text.get_window_extent()
            assert box.x0 <= place.x0 < place.x1 <= box.x1, text.get_text()


def test_the_legend_lies_between_heading_and_panels(drawn):
    for figure in (*drawn[0].values(), *drawn[1].values()):
        key = figure.legends[0].get_window_extent()
        assert key.y0 > max(ax.get_window_extent().y1 for ax in figure.axes)
        assert key.y1 < min(text.get_window_extent().y0 for text in figure.texts if "Scalar" in text.get_text()) + 2
        assert key.x1 <= figure.bbox.x1


def test_a_narrow_picture_shows_the_same_panels_below_each_other(drawn):
    for wide, narrow in zip(*(one.values() for one in drawn), strict=True):
        first, second = panels(wide), panels(narrow)
        assert len(first) == len(second) == len(boxes(narrow))
        for one, other in zip(first, second, strict=True):
            assert {**one, "box": []} == {**other, "box": []}
        assert len({box[0] for box in boxes(narrow)}) <= 1


def test_a_dark_picture_is_readable_and_is_the_same_picture():
    for figure in figures(synthetic()).values():
        light = np.asarray(canvas.pixels(figure), float)
        before = [panel["box"] for panel in panels(figure)]
        canvas.fixed(figure)
        dark = np.asarray(canvas.pixels(darkened(figure)), float)
        assert tuple(dark[2, 2]) == tuple(round(255 * x) for x in to_rgb(PAGE))
        assert [panel["box"] for panel in panels(figure)] == before
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text():
                assert contrast(text.get_color(), PAGE) >= 4.5, text.get_text()
        for panel in panels(figure):
            for curve in panel["curves"]:
                assert contrast(curve["colour"], PAGE) >= 3, curve["name"]
        assert light.mean() > 200 > 80 > dark.mean()
        assert (dark.max(axis=2) > 200).mean() < 0.1, "no light patch is left"


def test_what_serves_for_dark_pages_is_known_to_the_pointer():
    figure = figures(synthetic())["loss"]
    before = {curve["name"]: curve for panel in panels(figure) for curve in panel["curves"]}
    canvas.pixels(darkened(figure))
    for panel in panels(figure):
        for curve in panel["curves"]:
            assert curve["colour"] == before[curve["name"]]["dark"] != before[curve["name"]]["colour"]


def test_page_script_and_style_agree_on_what_is_narrow(tmp_path):
    page = write_report([alone()], tmp_path).read_text("utf-8")
    assert page.count("(max-width: 45rem)") == 4  # two images of one figure, style, script
    assert f"--card: {PAGE};" in asset("report.css")


# Cuts


def test_cut_peaks_are_marked_with_their_values():
    ax = Figure().subplots()
    ax.plot([0, 1, 2, 3], [1, 70, 2, 80.25], label="peaks", color="#ff0000")
    ax.plot([0, 1, 2, 3], [1, 90, 2, 3], label="_another column", color="#ff0000")
    ax.plot([0, 1, 2, 3], [2, 3, 4, -5], label="falls", color="#00ff00")
    ax.plot([0, 3], [1, 9], label="inside")
    ax.set_ylim(0, 10)
    mark_cuts(ax)
    found = {text.get_text(): text for text in ax.texts}
    assert set(found) == {"▲ 90", "-5 ▼"}
    assert found["▲ 90"].get_color() == "#ff0000"
    assert found["▲ 90"].get_position()[0] == 1
    assert found["-5 ▼"].get_position()[1] < 0.1


def test_marks_do_not_lie_on_each_other_and_logarithms_of_nothing_are_no_cut():
    ax = Figure().subplots()
    for i in range(3):
        ax.plot([0, 1, 2], [1, 100 + i, 0], label=f"curve {i}")
    ax.set_yscale("log")
    ax.set_ylim(0.5, 10)
    mark_cuts(ax)
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert len(heights) == 3
    assert min(np.diff(heights)) > 0.05


def test_the_variance_says_how_high_its_peaks_are():
    burst = np.where(STEP == 200, 5.0, 0.2)[:, None] * [1.0, 0.0]
    figure = figures(synthetic(discrete={"displacement": burst}))["variance"]
    assert "▲ 25" in [text.get_text() for text in figure.axes[0].texts]


# Variables that are chosen


def test_a_plot_shows_the_variables_and_processes_that_are_asked_for():
    run = synthetic()
    figure = run.plot("loss", "residual", processes=("discrete", "central"))
    assert isinstance(figure, Figure)
    loss, residual = figure.axes
    assert list(lines(loss)) == ["optimizer", "time average", "central flow", "predicted average"]
    assert list(lines(residual)) == ["central flow"]
    assert residual.get_ylabel().startswith("largest relative residual")
    assert [ax.get_ylabel() for ax in run.plot(processes="discrete").axes] == [
        ax.get_ylabel() for ax in alone().plot().axes
    ]
    assert len(run.plot().axes) == 3
    assert Image.open(io.BytesIO(figure._repr_png_())).size == (1200, 810)


@pytest.mark.parametrize(
    ("names", "processes", "says"),
    [
        (("los",), (), 'variable "los" is not one of .*did you mean "loss"'),
        ((), ("centrl",), 'process "centrl" is not one of .*did you mean "central"'),
        (("residual",), ("stable",), 'variable "residual" is not one of'),
    ],
)
def test_what_a_run_does_not_have_is_refused(names, processes, says):
    with pytest.raises(InputError, match=says):
        synthetic().plot(*names, processes=processes)


def test_an_optimizer_without_flows_has_the_plot_that_is_drawn_first(tmp_path):
    eigenvalues = C * np.stack([0.5 + STEP / STEPS, np.full(STEPS + 1, 0.6), np.full(STEPS + 1, 0.5)], axis=1)
    more = {"effective_eigenvalues": eigenvalues, "displacement": eigenvalues}
    run = alone(discrete=more)
    assert list(figures(run)) == ["edge_of_stability"]
    top, loss, gradient = figures(run)["edge_of_stability"].axes
    assert [len(line.get_xdata()) for line in top.get_lines()][:2] == [STEPS + 1] * 2, "what crosses, and one more"
    assert set(lines(top)) == {"optimizer", "threshold"}
    assert any(text.get_text() == "first crossing, step 200" for text in top.texts)
    assert "training loss" in loss.get_ylabel()
    assert "gradient norm" in gradient.get_ylabel()
    page = run.report(tmp_path).read_text("utf-8")
    assert "no flow to judge" in page
    assert "central flow, the equation" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge_of_stability.png", "report.html"]


def test_optimizers_without_flows_are_compared_side_by_side(tmp_path):
    page = write_report([alone(), alone(crossing=None)], tmp_path).read_text("utf-8")
    assert page.count("critical eigenvalues at the end") >= 3
    assert "distance central / stable" not in page
    assert {"comparison-loss.png", "comparison-eigenvalues.png"} < {path.name for path in tmp_path.iterdir()}


def test_diagnostics_are_drawn_where_they_were_recorded():
    zeta = np.sin(STEP / 20)
    for run in (synthetic(), alone()):
        assert "diagnostics" not in figures(run)
        assert "diagnostics" not in figures(recorded(run, "discrete", "zeta", np.nan * zeta))
        (ax,) = figures(recorded(run, "discrete", "zeta", zeta, long_name="what it is"))["diagnostics"].axes
        assert ax.get_ylabel() == "what it is"
        assert lines(ax)["optimizer"].get_ydata().tolist() == zeta.tolist()


def test_of_an_observable_with_many_numbers_some_are_drawn():
    values = np.cumsum(np.ones((STEPS + 1, 3, 7)), axis=0)
    groups = {"discrete": synthetic().tree["discrete"].to_dataset()}
    groups["discrete"]["outputs"] = ("step", "outputs_0", "outputs_1"), values, {"observable": 1}
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = synthetic().tree.attrs
    (ax,) = figures(Run(tree))["observables"].axes
    assert len([line for line in ax.get_lines() if len(line.get_xdata()) == STEPS + 1]) == 8


def test_observables_are_drawn_with_their_averages_and_what_is_predicted(tmp_path):
    run = cn.load(observed().save(tmp_path / "run.nc"))
    accuracy, norm = figures(run)["observables"].axes
    found = lines(accuracy)
    assert list(found) == ["optimizer", "time average", "stable flow", "central flow", "predicted average"]
    assert found["optimizer"].get_xdata()[:6].tolist() == [4, 5, 6, 14, 15, 16]
    assert found["time average"].get_xdata()[:2].tolist() == [5, 15]
    np.testing.assert_allclose(found["time average"].get_ydata(), measures.observed(run, "accuracy")[5::10])
    assert found["optimizer"].get_linewidth() < 1 < found["central flow"].get_linewidth()
    assert found["predicted average"].get_linestyle() == "--"
    assert found["predicted average"].get_ydata()[0] == len("predicted_accuracy")
    assert accuracy.get_ylabel() == "test accuracy\n[%]"
    assert list(lines(norm)) == ["optimizer", "time average"]
    assert norm.get_yscale() == "log"
    assert len(run.plot().axes) == 5, "three by default and the two that were observed"
    assert "observables" not in figures(synthetic())
    assert CROSSING in [line.get_xdata()[0] for line in accuracy.get_lines() if line.get_label().startswith("_")]


def test_what_diverges_beyond_all_ticks_is_drawn_up_to_there():
    fig = Figure()
    ax = fig.subplots()
    canvas.line(ax, np.array([1.0, 1e100, 1e306, np.inf]), "diverges")
    ax.set_yscale("log")
    fig.canvas.draw()
    assert ax.get_lines()[0].get_ydata().tolist() == [1.0, 1e100]

"""Figures and the HTML page of synthetic runs."""

import base64
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from cflow_num.record.run import Run
from cflow_num.record.titles import titles
from cflow_num.report import canvas
from cflow_num.report.figures import FIGURES, figures, save_figures
from cflow_num.report.hover import asset
from cflow_num.report.page import write_report
from cflow_num.report.side_by_side import side_by_side
from cflow_num.support.errors import InputError

from .synthetic import STEPS, synthetic, without

OTHERS = ("error_budget", "optimization_speed", "squared_gradients")  # not of a scalar state, or not asked for
OTHERS += ("edge_of_stability", "observables", "diagnostics")  # without flows, or not recorded
SHOWN = [name for name in FIGURES if name not in OTHERS]
VOID = {"meta", "img", "br", "link", "source"}


def named(run, **settings):
    """Return a run of other settings."""
    tree = run.tree.copy()
    tree.attrs = {**run.tree.attrs, "config": json.dumps(run.config | settings)}
    return Run(tree)


@pytest.fixture
def sketched(monkeypatch):
    """Leave the images empty, which takes most of the time."""
    monkeypatch.setattr(canvas, "pixels", lambda figure: Image.new("RGB", (8, 8)))


class Page(HTMLParser):
    """Reads a page, holding it to balanced tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attrs, self.words, self.scripts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attrs.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def numbers(self):
        """Return the panels of every picture; the page's only other script is the reader."""
        *numbers, reader = self.scripts
        assert reader.strip() == asset("hover.js").strip()
        kinds = [{"type": "application/json"}] * len(numbers) + [{}]
        assert self.of("script") == kinds, "inline, with no source"
        return [json.loads(text) for text in numbers]

    def of(self, tag):
        return [attrs for name, attrs in self.attrs if name == tag]


def test_the_page_is_whole_and_self_contained(tmp_path):
    path = write_report([synthetic()], tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.of("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.of("meta")
    assert any(attrs.get("name") == "viewport" for attrs in page.of("meta"))
    assert "title" in page.seen
    assert page.seen.index("table") < page.seen.index("figure"), "the verdict comes first"
    assert "pass" in page.words
    images = page.of("img")
    assert len(images) == len(page.of("figcaption")) == len(SHOWN)
    sources = [attrs["srcset"] for attrs in page.of("source")]
    assert len(sources) == 3 * len(images), "for phones and for dark pages"
    assert len(set(sources)) == len(sources)
    for image, source in [(image, image["src"]) for image in images] + [(images[0], source) for source in sources]:
        assert image["alt"]
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert all(page.numbers())
    assert len(page.numbers()) == len(SHOWN)
    assert not {"link", "iframe", "object"} & set(page.seen)
    words = re.sub(r'base64,[^"]*"', '"', text)
    for loads in ("http", "://", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert loads not in words
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([*(f"{n}.png" for n in SHOWN), "report.html"])


def test_names_are_escaped(tmp_path, sketched):
    evil = '<script>alert("$x_{")</script> & more'
    run = synthetic(problem=evil)
    text = write_report([run], tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    page = Page(text)
    assert any(evil in word for word in page.words)
    assert evil in page.of("img")[0]["alt"]
    assert Page(write_report([run, run], tmp_path).read_text(encoding="utf-8"))


def test_several_runs_have_an_overview_and_sections(tmp_path, sketched):
    runs = [synthetic(), synthetic(ratio=1.0), synthetic(crossing=None)]
    path = write_report(runs, tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    targets = [attrs["id"] for attrs in page.of("h2") if "id" in attrs]
    assert [attrs["href"] for attrs in page.of("a")] == [f"#{target}" for target in targets]
    assert len(set(targets)) == 3
    assert page.words.index("fail") < page.words.index("quantity"), "the overview comes first"
    compared = ["comparison-distances.png", "comparison-eigenvalues.png", "comparison-loss.png"]
    assert sorted(p.name for p in tmp_path.glob("comparison-*.png")) == compared
    assert len(list(tmp_path.glob("*.png"))) == len(page.of("img")) == 3 * len(SHOWN) - 1 + len(compared)
    assert ["one panel per run" in image["alt"] for image in page.of("img")[:4]] == [True] * 3 + [False]
    assert page.seen.index("table") < page.seen.index("img") < page.seen.index("h2")
    assert [len(panels) for panels in page.numbers()[:3]] == [3] * 3


def test_runs_of_one_problem_share_their_axes_and_others_do_not():
    low = {name: {"loss": np.full(STEPS + 1, 0.01)} for name in ("discrete", "stable", "central")}
    runs = [synthetic(), synthetic(**low)]
    for problems, shared in ((("toy", "toy"), True), (("toy", "other"), False)):
        drawn = side_by_side([named(run, problem=problem) for run, problem in zip(runs, problems, strict=True)])
        assert list(drawn) == ["loss", "distances", "eigenvalues"]
        first, second = (ax.get_ylim() for ax in drawn["loss"].axes)
        assert (first == second) is shared
        assert second[0] < 0.01 < second[1]
        assert first[0] < 3 < first[1]


def test_a_comparison_needs_two_runs_that_know_the_quantity_and_one_legend_serves_all():
    unknown = {name: {"threshold": np.full(STEPS + 1, np.nan)} for name in ("discrete", "stable")}
    second = without(synthetic(**unknown), "central")
    runs = [synthetic(), second, synthetic(stationary={"loss": np.ones(STEPS + 1)})]
    drawn = side_by_side(runs)
    assert [len([ax for ax in figure.axes if ax.get_visible()]) for figure in drawn.values()] == [3, 3, 2]
    labels = [text.get_text() for text in drawn["loss"].legends[0].get_texts()]
    assert len(set(labels)) == len(labels)
    assert {"optimizer", "predicted average", "stationary flow"} <= set(labels)
    assert list(side_by_side([runs[1], runs[1]])) == ["loss", "distances"]


def test_runs_of_the_same_title_are_told_apart_by_what_differs():
    settings = [{"learning_rate": 0.1, "beta2": beta2, "epsilon": 0.0} for beta2 in (0.9, 0.99)]
    runs = [named(synthetic(), hyperparameters=x) for x in settings] + [named(synthetic(), problem="other")]
    common = "learning rate 0.1, 400 steps"
    assert titles(runs) == [
        f"Scalar RMSProp on toy, {common}, beta2 0.9",
        f"Scalar RMSProp on toy, {common}, beta2 0.99",
        f"Scalar RMSProp on other, {common}",
    ]


def test_runs_that_differ_in_problem_or_settings_alone_are_told_apart():
    descriptions = ["tanh MLP 64-8-10 on 100 digits, squared error, seed 0", "tanh MLP 64-32-10 on 100 digits, seed 1"]
    runs = [named(synthetic(), problem_description=x) for x in descriptions]
    first, second = titles(runs)
    assert first.endswith("400 steps, tanh MLP 64-8-10 on 100 digits, squared error, seed 0")
    assert second.endswith("400 steps, tanh MLP 64-32-10 on 100 digits, seed 1")
    settings = [dict(switches=[], integrator="anchored"), dict(switches=["bias_correction"], integrator="heun")]
    first, second = titles([named(synthetic(), **x) for x in settings])
    assert first.endswith(", integrator anchored")
    assert second.endswith(", bias correction, integrator heun")
    assert [x[-7:] for x in titles([synthetic(), synthetic()])] == [", run 1", ", run 2"]


def test_a_report_replaces_an_older_one_and_leaves_nothing_else(tmp_path, sketched):
    (tmp_path / "report.html").write_text("old")
    write_report([synthetic()], tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE")
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path, sketched):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*choose another folder"):
        write_report([synthetic()], tmp_path / "file" / "out")
    with pytest.raises(InputError, match=r"cannot write .*choose another folder"):
        save_figures(synthetic(), tmp_path / "file" / "out")


def test_nothing_is_written_where_a_process_is_missing(tmp_path):
    with pytest.raises(InputError, match="no stable process"):
        write_report([without(synthetic(), "stable")], tmp_path)
    with pytest.raises(InputError, match="no run"):
        write_report([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_ended_at_once_still_has_a_page(tmp_path, sketched):
    run = synthetic(steps=0, crossing=None, asked=9, reason="ended at step 0 of 9: the <stable> process")
    assert any("<stable>" in word for word in Page(write_report([run], tmp_path).read_text("utf-8")).words)


def test_an_elementwise_optimizer_has_figures_of_its_own():
    n = STEPS + 1
    unknown, measured = np.full(n, np.nan), {"effective_step_size": np.full(n, np.nan)}
    speed = {"effective_step_size": unknown, "optimization_speed": np.geomspace(1, 0.1, n)}
    run = synthetic(discrete=measured, central=speed, stable=speed)
    single = np.geomspace(1, 0.1, n)[:, None] * np.ones(2)
    groups = {name: group.to_dataset() for name, group in run.tree.children.items()}
    for name, variables in (
        ("discrete", ["squared_gradient"]),
        ("central", ["squared_gradient", "predicted_squared_gradient"]),
    ):
        added = {variable: (("step", "coordinate"), single) for variable in variables}
        groups[name] = groups[name].assign(added).assign_coords(coordinate=[3, 7])
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = run.tree.attrs
    drawn = figures(Run(tree))
    assert set(FIGURES) - set(drawn) == {"effective_step_size", "error_budget", *OTHERS[3:]}
    texts = [text.get_text() for ax in drawn["squared_gradients"].axes for text in ax.texts]
    assert {"weight 3", "weight 7"} <= set(texts)


def test_figures_that_lack_their_quantities_are_left_out():
    run = synthetic()
    assert list(figures(run)) == SHOWN
    assert list(figures(without(run, "central"))) == ["loss", "eigenvalues", "distances"]
    assert list(figures(without(run, "discrete"))) == ["eigenvalues", "distances"]
    unknown = {name: {"effective_eigenvalues": np.full((STEPS + 1, 2), np.nan)} for name in run.processes}
    assert "eigenvalues" not in figures(synthetic(**unknown))
    assert "variance" not in figures(synthetic(crossing=None))
    unknown = {name: {"effective_step_size": np.full(STEPS + 1, np.nan)} for name in ("discrete", "central")}
    assert "effective_step_size" not in figures(synthetic(**unknown))


def test_eigenvalues_stay_readable_when_the_stable_flow_explodes():
    eigenvalues = np.geomspace(1, 1e6, STEPS + 1)[:, None]
    ax = figures(synthetic(stable={"effective_eigenvalues": eigenvalues}))["eigenvalues"].axes[0]
    low, high = ax.get_ylim()
    assert 0 < low < 2 < high < 4
    assert any("1e+06" in text.get_text() for text in ax.texts)


def test_figures_leave_the_users_style_alone():
    before = dict(mpl.rcParams)
    with mpl.rc_context({"lines.linewidth": 17.0}):
        figures(synthetic())
        assert mpl.rcParams["lines.linewidth"] == 17.0
    assert dict(mpl.rcParams) == before


def test_run_compares_and_reports_itself(tmp_path, sketched):
    run = synthetic()
    assert isinstance(run, Run)
    assert run.compare().passed is True
    assert run.report(tmp_path) == tmp_path / "report.html"

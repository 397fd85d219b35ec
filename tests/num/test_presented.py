"""How runs and comparisons present themselves: in a terminal, in a notebook, as a list of what was recorded."""

import pickle
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import cflow_num as cn
from cflow_num.record.run import Run

from .synthetic import STEPS, synthetic


class Html(HTMLParser):
    """Reads HTML, holding it to balanced tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def observed(run, name, **attrs):
    """Return the run with an observable in its discrete process."""
    groups = {process: group.to_dataset() for process, group in run.tree.children.items()}
    values = xr.Variable(("step",), np.linspace(0, 1, STEPS + 1), {"observable": 1, **attrs})
    groups["discrete"] = groups["discrete"].assign({name: values})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = run.tree.attrs
    return Run(tree)


@pytest.fixture(scope="module")
def made():
    problem = cn.Problem(lambda w: jnp.sum(jnp.arange(1.0, 4.0) * w**2) / 2, jnp.ones(3), description="a <bowl>")
    settings = dict(steps=3, processes=("discrete", "stable"), quiet=True)
    return cn.run(problem, "gradient_descent", dict(learning_rate=0.1), **settings)


def test_a_run_says_in_a_few_lines_what_it_is():
    run = synthetic(reason="ended at step 400 of 900: the central process", asked=900)
    lines = repr(run).splitlines()
    assert lines[0] == "Run: Scalar RMSProp on toy, learning rate 0.1, 900 steps"
    assert len(lines) == 4
    assert "discrete, stable, central" in lines[1]
    assert "0 to 400" in lines[2]
    assert run.reason in lines[3]


def test_what_was_recorded_is_a_table_with_units_and_dimensions(made):
    listed = made.variables()
    head, *lines = str(listed).splitlines()
    assert head.split() == ["variable", "dimensions", "units", "processes", "meaning"]
    assert [line.split()[0] for line in lines] == list(listed)
    assert listed["loss"] == "training loss at the weights of the step [loss] (discrete, stable)"
    (line,) = [line for line in lines if line.startswith("effective_eigenvalues ")]
    assert line.split()[1:5] == ["step,", "eig", "1", "all"]
    assert len({line.rindex(row[-1]) for line, row in zip(lines, listed.rows, strict=True)}) == 1, "columns are aligned"
    assert pickle.loads(pickle.dumps(listed)) == listed


def test_a_file_says_of_its_variables_what_the_tree_says(made, tmp_path):
    run = observed(synthetic(), "accuracy", units="%", long_name="share of examples that are right")
    for one in (run, made):
        stored = cn.load(one.save(tmp_path / "run.nc"))
        assert stored.variables().rows == one.variables().rows
        assert repr(stored) == repr(one)
    assert run.described("discrete", "accuracy") == (("step",), "%", "share of examples that are right", True)
    assert not run.described("discrete", "loss").observable


def test_eigenvalues_are_counted_from_one_the_largest_first(made, tmp_path):
    for run in (made, cn.load(made.save(tmp_path / "run.nc"))):
        found = run.tree["discrete"]["effective_eigenvalues"]
        assert found.coords["eig"].values.tolist() == [1, 2, 3]
        assert float(found.sel(eig=1)[0]) == pytest.approx(0.3)


def test_a_notebook_shows_runs_and_comparisons_with_every_text_escaped(made):
    page = Html(made._repr_html_())
    assert page.seen.count("table") == 2
    assert "a <bowl>" in page.words
    assert set(made.variables()) <= set(page.words)
    comparison = synthetic(ratio=1.0).compare()
    page = Html(comparison._repr_html_())
    for row in comparison.rows:
        assert set(row.texts()) - {""} <= set(page.words)
    assert comparison.verdict in page.words
    assert "fail" in page.words
    for html in (comparison._repr_html_(), made._repr_html_(), made.variables()._repr_html_()):
        assert "background:#" not in html, "the page has its own background, light or dark"
        assert "src=" not in html

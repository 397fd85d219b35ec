"""The figures of the paper, on tiny stand-in runs: every one is drawn, written and told in finite numbers."""

import csv
import dataclasses
import math
import re

import numpy as np
import pytest
from PIL import Image

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.report.animation import animate
from cflow_num.reproduce import FIGURES, Runs, ahead, part1, part3, picture, reproduce, runs, settings, writing
from cflow_num.reproduce.following import followed
from cflow_num.running.checkpoints import Checkpoints, found
from cflow_num.support.errors import InputError, RunError

from .synthetic import synthetic, without

DIGITS = {"n": 50, "width": 6}
SCALAR = settings.Setting(
    "scalar_rmsprop", {"learning_rate": 0.2, "beta2": 0.9}, options=DIGITS, steps=48, warm_start=5
)
ELEMENTWISE = settings.Setting(
    "rmsprop",
    {"learning_rate": 0.01, "beta2": 0.9, "epsilon": 1e-8, "bias_correction": True},
    options=DIGITS,
    steps=48,
    warm_start=5,
    capture=10,
)


UNJUDGED = {"ratio", "travelled", "error", "slope", "correlation", "best", "worst", "worst_error", "lag"}
UNJUDGED |= {"average", "spread"}  # of the second critical eigenvalue, where there is just one


def tiny(key, scale="small"):
    return ELEMENTWISE if key.startswith("rmsprop") else SCALAR


def scalar_run():
    """Return a run made up: the optimizer's effective sharpness cycles about the edge."""
    t = np.arange(401)
    cycles = 2 + 0.3 * np.sin(t / 15)
    eigenvalues = np.stack([cycles, 0.8 * cycles], axis=1)
    steps = 0.5 * (1 + 0.1 * np.cos(t / 15))
    flow = {"effective_step_size": 0.5 + 0 * t, "effective_eigenvalues": 2 + 0 * eigenvalues}
    group = synthetic().tree["central"]
    central = {name: group[name].values for name in ("loss", "distance_to_discrete", "gradient_norm")}
    discrete = {"effective_eigenvalues": eigenvalues, "effective_step_size": steps, "loss": 3 + 0.1 * np.sin(t)}
    return synthetic(problem="digits", discrete=discrete, stable=flow, ablated=central | flow)


class StandIns(Runs):
    """One run made up and a tiny one of RMSProp, whose central flow also poses as the other flows, stand in for all."""

    made: dict = {}  # noqa: RUF012

    def find(self, key):
        kind = "rmsprop" if key.startswith("rmsprop") else "scalar"
        if kind not in self.made:
            self.made[kind] = super().make(key) if kind == "rmsprop" else scalar_run()
            for name in ("ablated", "stationary"):
                self.made[kind].tree[name] = self.made[kind].tree["central"].copy()
        return self.made[kind]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "setting", tiny)
        for part in (part1, part3):  # the optimizer poses as the flows, which takes less time to compile
            patch.setattr(part, "followed", lambda made, name, *rest: followed(made, "discrete", *rest))
        patch.setattr(part3, "MOMENTS", 2)
        patch.setattr(part3, "COLUMNS", {"stationary": 6, "first_term": 8})
        yield StandIns(tmp_path_factory.mktemp("figures") / "runs", quiet=True)


def test_the_list_has_a_line_for_each_figure(capsys):
    assert main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FIGURES) >= 28
    for entry, line in zip(FIGURES.values(), lines, strict=True):
        assert line.split(maxsplit=1) == [entry.name, entry.line]
        assert 10 < len(entry.line) <= 72  # fits above the figure
        assert entry.paragraph.endswith(".")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_leaves_picture_data_and_a_paragraph(name, stand_ins, tmp_path):
    numbers = writing.write(FIGURES[name], stand_ins, tmp_path)
    values = {k: v for k, v in numbers.items() if not isinstance(v, str)}
    unjudged = {k for k, v in values.items() if not math.isfinite(v)}
    assert unjudged <= UNJUDGED
    assert len(values) - len(unjudged) >= 1
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert min(picture.size) > 300
    assert "<svg" in (tmp_path / f"{name}.svg").read_text("utf-8")
    with open(tmp_path / f"{name}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 4
    assert all(math.isfinite(float(row["x"])) and row["series"] for row in rows)
    page = (tmp_path / f"{name}.md").read_text("utf-8")
    assert page.startswith(f"# {FIGURES[name].line}\n")
    assert "CIFAR-10" in page
    assert "digits" in page
    assert not re.search(r"[{}]|\bnan\b", page)
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_figure_is_refused_with_the_nearest(tmp_path, capsys):
    assert main(["reproduce", "gd-sharpnes", "--out", str(tmp_path / "out")]) == 1
    assert 'did you mean "gd-sharpness"' in capsys.readouterr().err
    assert main(["reproduce", "--out", str(tmp_path / "out")]) == 1
    assert "--list" in capsys.readouterr().err
    assert main(["reproduce", "gd-sharpness", "--scale", "papr", "--out", str(tmp_path / "out")]) == 1
    assert 'did you mean "paper"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_made_once_and_again_with_another_setting(tmp_path, monkeypatch):
    made, chosen = [], [dataclasses.replace(SCALAR, steps=48)]

    def run(*args, steps, **rest):
        made.append(steps)
        return synthetic(steps=steps)

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "setting", lambda key, scale: chosen[0])
    first = Runs(tmp_path, quiet=True)
    assert first["gd"] is first["gd"]
    again = Runs(tmp_path, quiet=True)["gd"]
    np.testing.assert_array_equal(again.tree["central"]["loss"], first["gd"].tree["central"]["loss"])
    assert made == [48]
    chosen[0] = dataclasses.replace(chosen[0], steps=60)
    assert Runs(tmp_path, quiet=True)["gd"].config["steps"] == 60
    assert made == [48, 60]


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    def save(self, path):
        raise InputError("the disk is full")

    def read(self):
        resumed.append(checkpoint := plain(self))
        return checkpoint

    resumed, plain, chosen = [], Checkpoints.read, [SCALAR]
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 0)
    monkeypatch.setattr(runs, "setting", lambda key, scale: chosen[0])
    monkeypatch.setattr(Checkpoints, "read", read)
    with monkeypatch.context() as full:
        full.setattr(cn.Run, "save", save)
        with pytest.raises(InputError, match="disk is full"):
            Runs(tmp_path / "runs", quiet=True)["gd"]
    assert found(tmp_path / "runs" / "gd.unfinished")
    went_on = Runs(tmp_path / "runs", quiet=True)["gd"]
    assert [x is not None for x in resumed] == [False, True]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["gd.nc"]
    undisturbed = Runs(tmp_path / "other", quiet=True)["gd"]
    for flow in ("discrete", "central"):
        np.testing.assert_array_equal(went_on.tree[flow]["loss"], undisturbed.tree[flow]["loss"])

    (tmp_path / "runs" / "gd.unfinished").mkdir()  # checkpoints of another setting are of no use
    (tmp_path / "runs" / "gd.unfinished" / "checkpoint-000000016.npz").write_bytes(b"damaged")
    chosen[0] = dataclasses.replace(SCALAR, steps=32)
    assert Runs(tmp_path / "runs", quiet=True)["gd"].config["steps"] == 32
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["gd.nc"]


def test_a_figure_that_cannot_be_made_does_not_stop_the_others(tmp_path, monkeypatch):
    def run(*args, **rest):
        raise RunError("no memory for it")

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "setting", tiny)
    failed = reproduce(["gd-sharpness", "gd-architectures-mse", "gd-loss"], tmp_path, quiet=True)
    assert failed == dict.fromkeys(("gd-sharpness", "gd-loss"), "no memory for it")
    assert (tmp_path / "gd-architectures-mse.md").read_text("utf-8").count("no memory for it") == 7


def test_several_workers_make_the_runs_first(tmp_path, monkeypatch, capsys):
    def run(problem, optimizer, *args, steps, **rest):
        if made.append(optimizer) or optimizer == "rmsprop":
            raise RunError("no memory for it")
        return synthetic(steps=steps)

    def completed(work, jobs, open_executor, workers):
        for key, job in jobs.items():
            try:
                yield key, work(job)
            except RunError as error:
                yield key, error

    made = []
    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "setting", tiny)
    monkeypatch.setattr(ahead, "completed", completed)
    names = ["gd-sharpness", "gd-weight-distance", "gd-architectures-mse", "rmsprop-loss"]
    failed = reproduce(names, tmp_path, workers=2)
    assert failed == {"rmsprop-loss": "no memory for it"}
    assert (len(made), made.count("rmsprop")) == (9, 1)  # once each: one shared, seven architectures, one that fails
    said = capsys.readouterr().err
    assert said.index("run 9, rmsprop: no memory for it") < said.index("[1/4] gd-sharpness")
    with pytest.raises(InputError, match="workers is 0"):
        reproduce(names, tmp_path, workers=0)


def test_the_papers_size_is_refused_where_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "setting", tiny)
    monkeypatch.setattr(runs, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"gd needs about .* GB of memory and 1e-06 GB are available"):
        Runs(tmp_path, "paper", quiet=True)["gd"]


@pytest.mark.parametrize("scale", settings.SCALES)
def test_every_run_that_figures_name_has_a_setting(scale):
    for kind in settings.OPTIMIZERS:
        for loss in settings.LOSSES:
            for architecture in settings.ARCHITECTURES:
                chosen = settings.setting(f"{kind}-{loss}-{architecture}", scale)
                assert chosen.problem == architecture
                assert chosen.options["size"] == scale
    assert settings.setting("gd", scale).options.get("data") == ("cifar10" if scale == "paper" else None)
    with pytest.raises(InputError, match='did you mean "rmsprop"'):
        settings.setting("rmspro", scale)


def test_following_a_process_gives_its_weights():
    made = runs.prepared(SCALAR)
    seen = [(first, np.asarray(records.w)) for first, records in followed(made, "discrete")]
    assert [first for first, _ in seen] == [1, 17, 33]
    flow, hp = resolve("scalar_rmsprop", made.hyperparameters)
    discrete = DiscreteOptimizer(made.problem, as_arrays(flow, hp, made.problem), flow)
    path = discrete.steps(discrete.first(made.problem.w0), 53).w
    np.testing.assert_allclose(np.concatenate([w for _, w in seen]), path[5:], rtol=1e-6, atol=1e-9)


def test_a_learning_rate_is_chosen_by_the_edge():
    quadratic = cn.problem("quadratic", sharpness=8.0)
    assert runs.edge_learning_rate(quadratic, "gradient_descent", {}, 0.5) == pytest.approx(0.125, rel=0.05)


def frames(path):
    with Image.open(path) as film:
        return film.n_frames


def test_a_film_has_the_frames_asked_for(tmp_path):
    path = animate(synthetic(), tmp_path / "new" / "cycle.gif", first=90, last=120, frames=6)
    assert frames(path) == 6
    run = synthetic(steps=40, crossing=10)
    run.save(tmp_path / "run.nc")
    assert main(["animate", str(tmp_path / "run.nc"), "--out", str(tmp_path / "a.gif"), "--frames", "4"]) == 0
    assert frames(tmp_path / "a.gif") == 4
    assert frames(animate(run, tmp_path / "b.gif", first=3, last=5, frames=50)) == 3


REFUSED = {
    "another kind of film": (dict(path="cycle.avi"), "end in .gif or .mp4"),
    "one frame": (dict(frames=1), "between 2 and 120"),
    "too many frames": (dict(frames=121), "between 2 and 120"),
    "steps backwards": (dict(first=9, last=3), "steps 9 to 3 are not in the run"),
    "steps beyond the end": (dict(last=999), "between 0 and 40"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_film_is_refused_in_one_sentence(name, tmp_path):
    options, says = REFUSED[name]
    path = tmp_path / options.pop("path", "cycle.gif")
    with pytest.raises(InputError, match=says):
        animate(synthetic(steps=40, crossing=10), path, **options)
    assert not list(tmp_path.iterdir())


def test_a_film_needs_both_processes_and_for_mp4_ffmpeg(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no central process"):
        animate(without(synthetic(), "central"), tmp_path / "cycle.gif")
    monkeypatch.setattr("cflow_num.report.animation.FFMpegWriter.isAvailable", lambda: False)
    with pytest.raises(InputError, match="needs ffmpeg"):
        animate(synthetic(), tmp_path / "cycle.mp4")
    assert main(["animate", str(tmp_path / "none.nc")]) == 1


def test_a_figure_from_a_run_of_ones_own():
    drawn = picture("scalar-rmsprop-weight-distance", {"scalar-rmsprop": scalar_run()})
    assert any(ax.get_lines() for ax in drawn.figure.axes)
    assert f"{drawn.numbers['travelled']:.3g}" in drawn.text
    with pytest.raises(InputError, match='drawn from the run "gd" and other are given: pass that one, too'):
        picture("gd-sharpness", {"other": scalar_run()})
    with pytest.raises(InputError, match="gd-predictions, measured along a run again: use cflow reproduce"):
        picture("gd-predictions", {"gd": scalar_run()})

"""Nothing is lost when a run is interrupted or killed: it goes on to the numbers of an undisturbed run."""

import errno
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import cflow_num as cn
from cflow_num.cli import main as cli
from cflow_num.running import checkpoints, prepare
from cflow_num.running.checkpoints import Checkpoint, Checkpoints, found, writing_alone
from cflow_num.running.process import Process
from cflow_num.support.errors import InputError
from cflow_num.support.files import replacing

KILLS = int(os.environ.get("CFLOW_KILLS", "3"))  # make stress: 20
SETTINGS = dict(steps=80, quiet=True, eig_every=2)
PROBLEM = dict(x0=1e-4, z0=-0.3)


def same(a, b, rtol=0.0):
    """Assert that two runs hold the same numbers, times apart."""
    assert a.reason == b.reason
    for name in a.tree.children:
        assert set(a.tree[name].data_vars) == set(b.tree[name].data_vars)
        for variable in set(a.tree[name].data_vars) - {"seconds"}:
            np.testing.assert_allclose(
                b.tree[name][variable], a.tree[name][variable], rtol=rtol, atol=0, err_msg=f"{name} {variable}"
            )
        ours, theirs = a.ending(name), b.ending(name)
        assert (ours.step, ours.arrays.keys()) == (theirs.step, theirs.arrays.keys())
        for variable, x in ours.arrays.items():
            np.testing.assert_allclose(theirs.arrays[variable], x, rtol=rtol, atol=0, err_msg=f"{name} {variable}")


def interrupt_after(monkeypatch, calls):
    """Raise KeyboardInterrupt in the call after so many of `Process.advance`."""
    advance, left = Process.advance, [calls]

    def interrupted(self, carry):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return advance(self, carry)

    monkeypatch.setattr(Process, "advance", interrupted)


@pytest.mark.parametrize(
    ("optimizer", "hp"),
    [
        ("gradient_descent", dict(learning_rate=1.0)),
        ("heavy_ball_ema", dict(learning_rate=1.0, beta1=0.5)),
        ("rmsprop", dict(learning_rate=0.01, beta2=0.9, epsilon=1e-8)),
    ],
)
@pytest.mark.parametrize("calls", [7])
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, optimizer, hp, calls):
    valley = cn.problem("valley", **PROBLEM)
    whole = cn.run(valley, optimizer, hp, **SETTINGS)
    with monkeypatch.context() as patch:
        interrupt_after(patch, calls)
        part = cn.run(valley, optimizer, hp, **SETTINGS, checkpoints=tmp_path, checkpoint_every=1e9)
    assert part.reason.startswith("interrupted at step ")
    assert len(found(tmp_path)) == 1  # written when it was interrupted
    rest = cn.run(valley, optimizer, hp, **SETTINGS, checkpoints=tmp_path, checkpoint_every=0, resume=True)
    same(whole, rest)
    assert found(tmp_path)  # left until the caller has saved the run
    checkpoints.clear(tmp_path)
    assert not found(tmp_path)


def test_checkpoints_change_no_number_and_a_process_that_failed_stays_failed(tmp_path, monkeypatch):
    hp, settings = dict(learning_rate=0.5), dict(steps=64, quiet=True)
    steep = cn.problem("quadratic", n=6, sharpness=4.02)  # the central flow cannot start, the optimizer diverges slowly
    whole = cn.run(steep, "gradient_descent", hp, **settings)
    assert "central process stopped at step 0" in whole.reason
    same(whole, cn.run(steep, "gradient_descent", hp, **settings, checkpoints=tmp_path, checkpoint_every=0))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        cn.run(steep, "gradient_descent", hp, **settings, checkpoints=tmp_path)
    same(whole, cn.run(steep, "gradient_descent", hp, **settings, checkpoints=tmp_path, resume=True))


def test_a_capacity_that_grew_is_kept(tmp_path, monkeypatch):
    problem = cn.problem("digits-mlp", n=60, width=6)
    settings = dict(steps=48, warm_start=30, quiet=True, eig_every=48, processes=("central",))
    monkeypatch.setattr(prepare, "Process", functools.partial(Process, capacity=1))
    whole = cn.run(problem, "gradient_descent", dict(learning_rate=1.0), **settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        cn.run(problem, "gradient_descent", dict(learning_rate=1.0), **settings, checkpoints=tmp_path)
    with np.load(found(tmp_path)[0]) as file:
        assert file["central/recorded/sigma_eigenvalues"].shape[1] > 1
    same(
        whole,
        cn.run(problem, "gradient_descent", dict(learning_rate=1.0), **settings, checkpoints=tmp_path, resume=True),
    )


ABOUT = {"optimizer": "a", "steps": 3, "versions": {"jax": "1"}}


def written(folder, *steps, about=ABOUT):
    """Write checkpoints of a run that is at so many steps."""
    keeper = Checkpoints(folder, about, 0)
    for step in steps:
        keeper.write(step, Checkpoint({"x": np.full(1000, float(step))}, {"reached": step}))
    return keeper


def test_the_last_two_are_kept_and_the_newest_whole_one_is_taken(tmp_path, capsys):
    keeper = written(tmp_path, 16, 32, 48)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-000000032.npz", "checkpoint-000000048.npz"]
    last = keeper.read()
    assert last is not None
    assert last.meta == {"reached": 48}
    newest = found(tmp_path)[-1]
    damage = bytearray(newest.read_bytes())
    damage[len(damage) // 2] ^= 0xFF  # one bit pattern in the middle of the numbers
    newest.write_bytes(bytes(damage))
    assert Checkpoints(tmp_path, ABOUT).read().meta == {"reached": 32}
    assert "is damaged" in capsys.readouterr().err
    newest.write_bytes(newest.read_bytes()[:-50])
    found(tmp_path)[0].write_bytes(b"")
    with pytest.raises(InputError, match="there is no other checkpoint: start anew"):
        Checkpoints(tmp_path, ABOUT).read()


def test_checkpoints_of_other_runs_and_versions_are_refused(tmp_path, capsys, monkeypatch):
    written(tmp_path, 16)
    with pytest.raises(InputError, match=r"belongs to another run \(steps 3 instead of 4\)"):
        Checkpoints(tmp_path, ABOUT | {"steps": 4}).read()
    assert Checkpoints(tmp_path, ABOUT | {"versions": {"jax": "2"}}).read().meta == {"reached": 16}
    assert "began with jax 1 and goes on with 2" in capsys.readouterr().err
    now = checkpoints.FORMAT
    monkeypatch.setattr(checkpoints, "FORMAT", now + 1)
    with pytest.raises(InputError, match=f"format {now}, this version of cflow continues format {now + 1}"):
        Checkpoints(tmp_path, ABOUT).read()


def test_a_full_disk_costs_a_checkpoint_but_neither_the_older_one_nor_the_run(tmp_path, capsys, monkeypatch):
    keeper = written(tmp_path, 16)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.np, "savez", full)
        keeper.write(32, Checkpoint({}, {}))
    said = capsys.readouterr().err
    assert "no checkpoint at step 32" in said
    assert "No space left on device" in said
    assert "the one before is kept" in said
    assert keeper.read().meta == {"reached": 16}


def test_a_new_run_replaces_the_checkpoints_of_an_old_one(tmp_path):
    written(tmp_path, 160, 176)
    written(tmp_path, 16)
    assert [path.name for path in found(tmp_path)] == ["checkpoint-000000016.npz"]


def test_one_folder_has_one_writer(tmp_path):
    with (
        writing_alone(tmp_path),
        pytest.raises(InputError, match="another run is writing into"),
        writing_alone(tmp_path),
    ):
        pass
    with writing_alone(tmp_path), replacing(tmp_path / "a") as path:
        path.write_text("free again")


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path):
    half = [tmp_path / ".checkpoint-000000192.8e084583.npz", tmp_path / ".run.0123abcd.nc"]
    others = [tmp_path / name for name in (".report.0123abcd.html", "checkpoint-000000192.npz", ".run.notes.nc")]
    for path in half + others:
        path.touch()
    with writing_alone(tmp_path):
        assert not [path for path in half if path.exists()]
        assert all(path.exists() for path in others)


COMMAND = ["run", "--optimizer", "gradient_descent", "--learning-rate", "0.8", "--problem", "digits-mlp:n=40,width=5"]
COMMAND += [
    "--steps",
    str(100 * KILLS + 20),
    "--quiet",
    "--checkpoint-every",
    "0",
    "--processes",
    "discrete",
    "central",
]


def test_the_command_resumes_empty_unfinished_and_finished_folders(tmp_path, monkeypatch, capsys):
    command = [*COMMAND, "--out", str(tmp_path / "a")]
    command[command.index("--steps") + 1] = "64"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        assert cli.main([*command, "--resume"]) == cli.ENDED_EARLY  # an empty folder: from the start
    assert "add --resume to go on" in capsys.readouterr().err
    assert cn.load(tmp_path / "a" / "run.nc").reason.startswith("interrupted")
    assert cli.main([*command, "--resume", "--eig-every", "3"]) == cli.BAD_INPUT
    assert "belongs to another run (eig_every 1 instead of 3)" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == cli.DONE
    whole = cn.load(tmp_path / "a" / "run.nc")
    assert whole.reason == ""
    first = capsys.readouterr().out
    assert cli.main([*command, "--resume"]) == cli.DONE
    again = capsys.readouterr()
    assert "finished already" in again.err
    assert again.out == first
    assert cli.main([*command, "--resume", "--eig-every", "3"]) == cli.BAD_INPUT
    assert "finished run with other settings" in capsys.readouterr().err


def process(folder):
    """Start the command by itself."""
    code = "import sys; from cflow_num.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *COMMAND, "--out", str(folder), "--resume"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CFLOW_CACHE": str(folder.parent / "cache")},
    )


def until_there_is_a_checkpoint(running, folder, more_than=-1):
    """Wait until the run has a checkpoint past that step, or is done."""
    while running.poll() is None:
        steps = [int(path.stem.split("-")[1]) for path in found(folder)]
        if steps and steps[-1] > more_than:
            return steps[-1]
        time.sleep(0.005)
    return more_than


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_numbers(tmp_path):
    """SIGTERM first, which saves and stops; then SIGKILL, again and again."""
    chance, folder = random.Random(0), tmp_path / "killed"
    running = process(folder)
    at = until_there_is_a_checkpoint(running, folder)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=300)
    assert running.returncode == cli.ENDED_EARLY, said
    assert "interrupted at step" in said
    assert cn.load(folder / "run.nc").reason.startswith("interrupted")
    killed = 0
    while killed < KILLS:
        copy = tmp_path / "before"
        shutil.copytree(folder, copy, dirs_exist_ok=False)
        running = process(folder)
        until_there_is_a_checkpoint(running, folder, at)
        time.sleep(chance.uniform(0, 0.1))  # while it runs, records, or writes
        running.kill()
        running.communicate(timeout=300)
        if running.returncode == 0:  # it was too quick: back to where it was
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)
        else:
            killed += 1
            at = int(found(folder)[-1].stem.split("-")[1])
        shutil.rmtree(copy)
    running = process(folder)
    _, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    print(f"{killed} of {KILLS} kills, the last one after step {at}")
    undisturbed = process(tmp_path / "whole")
    _, said = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, said
    whole = cn.load(tmp_path / "whole" / "run.nc")
    assert whole.tree["central"]["sigma_eigenvalues"].max() > 1e-3  # without the nan of smaller capacities
    same(whole, cn.load(folder / "run.nc"))
    assert not [path for path in folder.iterdir() if path.name.startswith(".run") or "checkpoint" in path.name]

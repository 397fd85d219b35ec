"""What the progress bar shows: a rate of steps alone, and that something is being compiled while it is."""

import io

import pytest

from cflow_num.running import progress_bar
from cflow_num.running.progress_bar import StepBar


class Clock:
    """Time that passes when it is told to, the part of compilation in it noted."""

    def __init__(self):
        self.now = self.compiled = 0.0

    def perf_counter(self):
        return self.now

    def pass_by(self, seconds, compiling=0.0):
        self.now += seconds + compiling
        self.compiled += compiling


def test_compilation_counts_neither_to_the_rate_nor_to_the_time_that_is_left(monkeypatch):
    clock, file = Clock(), io.StringIO()
    monkeypatch.setattr(progress_bar, "time", clock)
    bar = StepBar(100, 20, quiet=False, compiled=lambda: clock.compiled, file=file)
    bar.compiling("central")
    assert "compiling central" in file.getvalue()
    clock.pass_by(0, compiling=1000)
    assert "?step/s" in str(bar)
    for _ in range(2):
        bar.begin()
        clock.pass_by(5, compiling=300)
        bar.taken(20)
    assert bar.format_dict["rate"] == pytest.approx(40 / 10)
    assert "<00:10, " in str(bar), "40 steps are left, four a second"
    bar.close()
    assert file.getvalue().rstrip().endswith("4.00step/s]")


def test_a_quiet_bar_shows_nothing(monkeypatch):
    file = io.StringIO()
    bar = StepBar(100, 0, quiet=True, compiled=lambda: 0.0, file=file)
    bar.compiling("central")
    bar.begin()
    bar.taken(50)
    bar.close()
    assert not file.getvalue()

"""No mutant survives: here those marked quick, all of them with `make mutations` (or CFLOW_MUTATIONS=all)."""

from __future__ import annotations

import os
import re

import pytest

from tests.mutations.harness import BEFORE, ROOT, TABLE, answers
from tests.mutations.mutants import MUTANTS
from tests.mutations.runner import occurrences

TRIED = [m for m in MUTANTS if m.quick or os.environ.get("CFLOW_MUTATIONS") == "all"]


@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: m.name)
def test_every_mutant_still_finds_its_text(m):
    found = occurrences(str(ROOT), m.module, m.old)
    assert found == 1, f"{m.old!r} stands {found} times in {m.module}, it must stand there once: renew the mutant"
    assert m.old != m.new


def test_mutants_are_different_from_each_other():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert len({(m.module, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)
    own = [m for m in MUTANTS if not m.listed]
    assert len(own) >= 40


def test_no_mutant_survives():
    found = list(answers(TRIED))
    wrong = [f"{a['name']}: {a['said'] or 'survives'}" for a in found if a["caught"] is not True]
    assert not wrong, "\n".join(wrong)
    assert len(found) == len(TRIED)


def test_the_committed_table_has_every_mutant_caught():
    text = TABLE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    names = {re.sub(r" \(listed\)$", "", row.split(" | ")[0].removeprefix("| ")) for row in rows}
    assert names == {m.name for m in MUTANTS}, "run make mutations"
    assert "**" not in text, "a mutant survives, or was not run: run make mutations"
    before = sum(row.endswith("| yes |") for row in rows if "(listed)" not in row)
    assert BEFORE.exists()
    assert before >= 20

"""Runs mutants through the runner, and writes the committed table.

python -m tests.mutations.harness                  # all mutants, the table in benchmarks/results/mutations.md
python -m tests.mutations.harness --before TREE    # what check() and the quick battery of an older tree say of them
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.mutations.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks" / "results" / "mutations.md"
BEFORE = Path(__file__).with_name("before.json")  # what the suite said before: kept, as it cannot be run from here
LIMIT = 300  # seconds for one mutant


def answers(mutants: Iterable[Mutant], root: Path = ROOT, suite: bool = False, limit: int = LIMIT) -> Iterator[dict]:
    """Yield what the witness says of each mutant; with `suite` the whole suite of that tree instead of its witness."""
    jobs = []
    for m in mutants:
        _, name, *rest = m.witness.split()
        switches = rest if m.witness.startswith("check") else []
        witness = " ".join(["suite", name, *switches]) if suite else m.witness
        job: dict[str, Any] = {"name": m.name, "module": m.module, "old": m.old, "new": m.new, "witness": witness}
        jobs.append(json.dumps(job | {"root": str(root), "limit": limit}))
    flags = {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
    runner = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("runner.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **flags},
        cwd=root,
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    with runner:
        runner.stdin.write("\n".join(jobs) + "\n")
        runner.stdin.close()
        for line in runner.stdout:
            yield json.loads(line)


def table(found: Iterable[dict], before: dict[str, dict]) -> str:
    """Return the table in Markdown."""
    rows = [
        "| mutation | where | witness that catches it | seconds | survived before? |",
        "|---|---|---|---|---|",
    ]
    mutants = {m.name: m for m in MUTANTS}
    caught = survived = 0
    for answer in found:
        m = mutants[answer["name"]]
        earlier = before.get(m.name, {}).get("caught")
        said = {True: "no", False: "yes", None: "not tried"}[earlier]
        survived += earlier is False and not m.listed
        caught += answer["caught"] is True
        mark = {True: "", False: " **survives**", None: " **not run**"}[answer["caught"]]
        listed = " (listed)" if m.listed else ""
        rows.append(f"| {m.name}{listed} | `{m.module}` | `{m.witness}`{mark} | {answer['seconds']:.1f} | {said} |")
    own = sum(not m.listed for m in MUTANTS)
    head = (
        "# Mutations\n\n<!-- written by `make mutations`; do not edit -->\n\n"
        "Each row is a fault put into one module, and the check or the row of the quick battery that must catch it. "
        f"{caught} of {len(MUTANTS)} are caught; {own} are our own, the others (listed) an independent check had found "
        "to survive. *Survived before* is what `check()` and the quick battery of the same optimizer said at commit "
        f"865c475, before the checks were made stricter: {survived} of our own survived that. Seconds are those of the "
        "machine that wrote the table.\n\n"
    )
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Run all mutants, or those whose names contain a text, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, metavar="TREE", help="sources of an older version, whose suite is run")
    parser.add_argument("--only", default="", help="part of a mutant's name or module")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.name or options.only in m.module]
    kept = json.loads(BEFORE.read_text(encoding="utf-8")) if BEFORE.exists() else {}
    found = []
    for answer in answers(chosen, options.before or ROOT, suite=options.before is not None, limit=LIMIT):
        found.append(answer)
        state = {True: "caught", False: "SURVIVES", None: "NO ANSWER"}[answer["caught"]]
        print(f"{state:9} {answer['seconds']:6.1f} s  {answer['name']}: {answer['said'][:110]}", flush=True)
        if options.before:
            kept = json.loads(BEFORE.read_text(encoding="utf-8")) if BEFORE.exists() else {}
            kept[answer["name"]] = {"caught": answer["caught"], "said": answer["said"][:200]}
            BEFORE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if not options.before and not options.only:
        TABLE.write_text(table(found, kept), encoding="utf-8")
    if not options.before and not all(a["caught"] for a in found):
        sys.exit("a mutant survives")


if __name__ == "__main__":
    main()

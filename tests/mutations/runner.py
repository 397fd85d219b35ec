"""Runs mutants, each in a process of its own that was forked from one which has imported what is slow to import.

Reads jobs from standard input, one JSON object a line: the tree of sources, what is replaced in which module, and the
name of the witness. Writes one JSON object a line: whether the witness caught it, what it said, how long it took.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("cflow_sym", "cflow_num")
STALE = "stale"  # the text to replace is not there exactly once


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from its source with one text replaced."""

    def __init__(self, name: str, path: str, old: str, new: str) -> None:
        super().__init__(name, path)
        self.old, self.new = old, new

    def get_code(self, fullname: str) -> Any:
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(source.replace(self.old, self.new), self.path, "exec")  # never from a cache


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, root: str, module: str, old: str, new: str) -> None:
        self.module, self.path, self.texts = module, source_of(root, module), (old, new)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.module:
            return None
        loader = _Mutated(fullname, str(self.path), *self.texts)
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


def source_of(root: str, module: str) -> Path:
    """Return the file of a module."""
    return Path(root, *module.split(".")).with_suffix(".py")


def occurrences(root: str, module: str, old: str) -> int:
    """Return how often a text stands in a module, 0 where there is no such module."""
    path = source_of(root, module)
    return path.read_text(encoding="utf-8").count(old) if path.exists() else 0


def _warm() -> None:
    """Import what the packages import, but no device: a process that computes cannot be forked."""
    for name in (
        "numpy", "scipy.linalg", "sympy", "jax", "jax.numpy", "jaxtyping", "equinox", "diffrax", "optax", "hypothesis",
        "hypothesis.strategies", "sklearn.datasets", "xarray",
    ):  # fmt: skip
        importlib.import_module(name)


def _child(job: dict[str, Any], out: int) -> None:
    sys.path[0:0] = [job["root"]]
    os.environ["CFLOW_MUTANT"] = job["module"].partition(".")[0]
    sys.meta_path.insert(0, _Finder(job["root"], job["module"], job["old"], job["new"]))
    began = time.perf_counter()
    try:
        witnesses = _witnesses()
        import cflow_sym

        assert Path(cflow_sym.__file__ or "").parent.parent == Path(job["root"]).resolve()
        caught = witnesses.caught_by(job["witness"])
    except BaseException as error:
        caught = f"{type(error).__name__}: {error}"
    answer = {"caught": caught is not None, "said": caught or "", "seconds": time.perf_counter() - began}
    os.write(out, json.dumps(answer).encode()[:60_000])


def _witnesses() -> Any:
    """Return the module of the witnesses beside this one, whatever tree is under test."""
    path = Path(__file__).with_name("witnesses.py")
    spec = importlib.util.spec_from_file_location("mutation_witnesses", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Return what the witness says of one mutant."""
    found = occurrences(job["root"], job["module"], job["old"])
    if found != 1:
        said = f"{job['old']!r} stands {found} times in {job['module']}, it must stand there once: renew the mutant"
        return {"caught": None, "said": said, "seconds": 0.0, "state": STALE}
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        _child(job, writes)
        os._exit(0)
    os.close(writes)
    parts, ready = [], True
    deadline = time.monotonic() + job["limit"]
    while ready:
        ready = bool(select.select([reads], [], [], max(deadline - time.monotonic(), 0))[0])
        text = os.read(reads, 65_536) if ready else b""
        parts.append(text)
        if not text:
            break
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    if not ready or not any(parts):
        return {"caught": None, "said": f"no answer within {job['limit']} s", "seconds": float(job["limit"])}
    return json.loads(b"".join(parts))


def main() -> None:
    """Answer jobs until there are no more."""
    _warm()
    for line in sys.stdin:
        job = json.loads(line)
        sys.stdout.write(json.dumps({"name": job["name"], **run(job)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

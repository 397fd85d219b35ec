"""Checkpoints of a run under way: one file each, written through a temporary name, the last two kept.

A checkpoint is an .npz of named arrays with a header: what the run was asked to do, versions, a fingerprint of weights
and data. Every member carries a checksum, so that a damaged file is noticed and the older one is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..support.errors import InputError
from ..support.files import remove_leftovers, replacing

FORMAT = 3  # of the arrays: raised whenever an older checkpoint could not be continued
KEPT = 2
INTERVAL = 60.0  # seconds
_PATTERN = "checkpoint-*.npz"


class Checkpoint(NamedTuple):
    """A checkpoint in memory: arrays by name, and what goes with them as JSON."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in a folder, at most one every `every` seconds.

    `about` says what the run is; a checkpoint of another run is refused.
    """

    def __init__(self, folder: Path, about: dict[str, Any], every: int | float = INTERVAL):
        if isinstance(every, bool) or not isinstance(every, (int, float)) or not every >= 0:
            raise InputError(f"checkpoint_every is {every!r}, it must be a number of seconds")
        self.folder, self.every = folder, every
        self.about = json.loads(json.dumps(about))
        self._older = set(found(folder))
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether so much time has passed that the next one should be written."""
        return time.monotonic() - self._last >= self.every

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; where that fails the older ones stay, and one sentence says so."""
        header = json.dumps({"format": FORMAT, "about": self.about, "meta": checkpoint.meta})
        path = self.folder / f"checkpoint-{step:09d}.npz"
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, header=np.array(header), **checkpoint.arrays)  # pyright: ignore[reportArgumentType]
        except InputError as error:
            older = ", the one before is kept" if found(self.folder) else ""
            print(f"warning: no checkpoint at step {step}: {error}{older}", file=sys.stderr)
        else:
            kept = [other for other in found(self.folder) if other not in self._older or other == path][-KEPT:]
            _remove(set(found(self.folder)) - set(kept))
            self._older = set()
        self._last = time.monotonic()

    def read(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be read, None where there is none.

        **Raises:** `InputError` where all are damaged, or the newest belongs to another run or version.
        """
        damaged = []
        for path in reversed(found(self.folder)):
            try:
                header, arrays = _read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                damaged.append(path)
                print(f"warning: {path} is damaged ({type(error).__name__}), trying an older one", file=sys.stderr)
                continue
            self._check(path, header)
            self._older = set()
            return Checkpoint(arrays, header["meta"])
        if damaged:
            raise InputError(f"{damaged[0]} is damaged and there is no other checkpoint: start anew without --resume")
        return None

    def _check(self, path: Path, header: dict[str, Any]) -> None:
        if header["format"] != FORMAT:
            raise InputError(
                f"{path} has format {header['format']}, this version of cflow continues format {FORMAT}: use the "
                "version that wrote it, or start anew without --resume"
            )
        theirs, ours = header["about"], self.about
        refuse_changed_file(path, theirs, ours)
        apart = {"versions"} if theirs.get("versions") == ours.get("versions") else {"versions", "programs"}
        for name in sorted((theirs.keys() | ours.keys()) - apart):
            if theirs.get(name) != ours.get(name):
                raise InputError(
                    f"{path} belongs to another run ({name} {_short(theirs.get(name))} instead of "
                    f"{_short(ours.get(name))}): repeat its settings, or start anew without --resume"
                )
        for name, version in ours.get("versions", {}).items():
            if (before := theirs.get("versions", {}).get(name)) != version:
                change = f"{name} {before} and goes on with {version}"
                print(f"warning: the run began with {change}: numbers agree to rounding", file=sys.stderr)


def refuse_changed_file(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise `InputError` where the same problem comes from a file that is not as it was when the run began.

    >>> refuse_changed_file(Path("a.nc"), {"problem": "mine", "problem_file": "1"}, {"problem": "mine"})
    >>> was, now = ({"problem": "mine", "problem_file": digest} for digest in "12")
    >>> refuse_changed_file(Path("a.nc"), was, now)
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: the file of the problem mine (or one beside it that it imports) has changed \
    since the run of a.nc began: restore it, or start anew without --resume
    """
    was, now = theirs.get("problem_file"), ours.get("problem_file")
    if theirs.get("problem") == ours.get("problem") and was and now and was != now:
        raise InputError(
            f"the file of the problem {ours['problem']} (or one beside it that it imports) has changed since the run "
            f"of {path} began: restore it, or start anew without --resume"
        )


def found(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first.

    >>> found(Path("no such folder"))
    []
    """
    return sorted(folder.glob(_PATTERN))


def clear(folder: Path) -> None:
    """Delete the checkpoints of a folder."""
    _remove(set(found(folder)))


def fingerprint(tree: Any) -> str:
    """Return a checksum of all arrays of a pytree, random keys among them.

    >>> fingerprint({"a": np.zeros(2)}) == fingerprint({"a": np.zeros(2)}) != fingerprint({"a": np.ones(2)})
    True
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(leaf) if key else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer and remove what a killed one, who holds nothing, left half written.

    **Raises:** `InputError` where another writer holds it.
    """
    import filelock

    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(f"another run is writing into {folder}: wait for it, or choose another folder") from error
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}; choose another folder") from error
    try:
        for name in _PATTERN, "run.nc":  # written only by the one who holds the folder
            remove_leftovers(folder, name)
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)  # still held: nobody else can have it
        lock.release()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(str(arrays.pop("header")))
    if not {"format", "about", "meta"} <= header.keys():
        raise ValueError(f"{path} has no complete header")
    return header, arrays


def _remove(paths: set[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

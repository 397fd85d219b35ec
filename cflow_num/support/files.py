"""Writing files so that a reader never meets half of one: a temporary name first, then a rename."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError

_HEX = "[0-9a-f]" * 8


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, renamed to `path` at the end; `InputError` where that fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "new" / "a.txt") as temporary:
    ...         _ = temporary.write_text("done")
    ...     (Path(folder) / "new" / "a.txt").read_text()
    'done'
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path, name: str) -> None:
    """Delete what a killed writer of `name` (which may have wildcards) left under temporary names.

    Only for one who knows that nobody else is writing files of that name into the folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / ".a-7.0123abcd.txt").touch()
    ...     (Path(folder) / ".a-7.txt").touch()
    ...     remove_leftovers(Path(folder), "a-*.txt")
    ...     [path.name for path in Path(folder).iterdir()]
    ['.a-7.txt']
    """
    stem, dot, suffix = name.rpartition(".")
    for path in folder.glob(f".{stem}.{_HEX}{dot}{suffix}"):
        with contextlib.suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> Path:
    """Write a text file through a temporary name; raises `InputError` where it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path

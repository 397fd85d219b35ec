"""Compiled programs that outlive the process: JAX's persistent cache, in the user's cache folder."""

from __future__ import annotations

import functools
import os
from pathlib import Path

VARIABLE = "CFLOW_CACHE"
WORTH = 0.0  # seconds of compilation from which on a program is kept: small ones are many


def cache_folder() -> Path | None:
    """Return the folder of compiled programs: `$CFLOW_CACHE`, or the user's cache folder; None if that is empty.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, CFLOW_CACHE="programs"):
    ...     cache_folder().as_posix()
    'programs'
    >>> with mock.patch.dict(os.environ, CFLOW_CACHE=""):
    ...     cache_folder() is None
    True
    """
    import platformdirs

    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    return Path(platformdirs.user_cache_dir("cflow")) / "programs"


def keep_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs from process to process, so that a second run need not compile; return the folder.

    The command line does this, and in Python the first problem that is made. It sets JAX's configuration for the whole
    process, unless JAX has a cache already; a folder that cannot be written is left alone, and nothing is kept.

    **Arguments:**

    - `folder`: by default `$CFLOW_CACHE`, or cflow's folder in the user's cache; an empty variable keeps nothing.

    >>> import tempfile, jax
    >>> before = jax.config.values["jax_compilation_cache_dir"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keep_programs(folder) == Path(folder)
    True
    >>> jax.config.update("jax_compilation_cache_dir", before)
    """
    import jax

    path = cache_folder() if folder is None else Path(folder)
    if path is None or (folder is None and jax.config.values["jax_compilation_cache_dir"]):
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)
    return path


@functools.cache
def keep_by_default() -> None:
    """Call `keep_programs` once in this process: what the user sets of JAX afterwards stays."""
    keep_programs()

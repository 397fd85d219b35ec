"""A Python file of the user's, which defines an optimizer or a problem: run as any program that its user starts.

Both packages read such files in this one way. What goes wrong in a file is one sentence with its name, the line and the
exception's own words. While a file runs it finds the modules that lie beside it, as a script does.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_OWN = ("cflow_num", "cflow_sym")  # which version runs is recorded anyway
_LONGEST = 300  # characters of an exception's words


class PythonFileError(ValueError):
    """A Python file that cannot be read or fails; its message is one sentence meant for the user."""


def run_file(path: Path, defines: str) -> ModuleType:
    """Run a Python file as it is now and return its names as a module; `defines` says what it is read for.

    **Raises:** `PythonFileError` where there is no such file, or it fails.

    >>> run_file(Path("no.py"), "SPEC")
    Traceback (most recent call last):
    cflow_sym.python_file.PythonFileError: no.py is not a file: pass a Python file that defines SPEC
    """
    if not path.is_file():
        raise PythonFileError(f"{path} is not a file: pass a Python file that defines {defines}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PythonFileError(f"{path} cannot be read ({error.strerror or error}): make it readable") from None
    module = ModuleType(f"cflow_user_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with failures_of(path):
        exec(compile(source, str(path), "exec"), module.__dict__)  # not what was compiled a moment ago
    return module


@contextlib.contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Run what a file defines: beside its folder's modules, with `PythonFileError` in place of whatever it raises."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except (Exception, SystemExit) as error:
        raise PythonFileError(f"{path}{_line_in(path, error)} {_words(error)}; correct the file") from error
    finally:
        with contextlib.suppress(ValueError):  # the file itself may have changed the path
            sys.path.remove(folder)


def digest(path: Path) -> str:
    """Return a checksum of a file's text and of the modules beside it that it imports, they and theirs.

    **Raises:** `OSError` where the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, other = Path(folder) / "mine.py", Path(folder) / "other.py"
    ...     path.write_text("import other"), other.write_text("x = 1")
    ...     before = digest(path)
    ...     other.write_text("x = 2")
    ...     digest(path) == before
    (12, 5)
    5
    False
    """
    texts, todo = {}, [path]
    while todo:
        file = todo.pop()
        if file not in texts:
            texts[file] = file.read_bytes()
            todo += _beside(path.parent, texts[file])
    first = texts.pop(path)
    return hashlib.sha256(b"".join([first, *(texts[file] for file in sorted(texts))])).hexdigest()


def _beside(folder: Path, source: bytes) -> list[Path]:
    """Return the files of the modules in a folder that a text imports; all of a package."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # running the file says so
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    tops = {name.partition(".")[0] for name in names} - set(_OWN)
    modules = [path for top in tops if (path := folder / f"{top}.py").is_file()]
    return modules + [path for top in tops for path in (folder / top).rglob("*.py")]


def _words(error: BaseException) -> str:
    """Return what an exception says: what is ours as it is, any other with its type, without its later paragraphs."""
    text = error.msg if isinstance(error, SyntaxError) else str(error.args[0] if len(error.args) == 1 else error)
    text = " ".join(text.strip().partition("\n\n")[0].split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if type(error).__module__.startswith(_OWN):
        return f"is refused: {text}"
    return f"fails with {type(error).__name__}{': ' * bool(text)}{text.rstrip('.')}"


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        return f", line {error.lineno},"
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f", line {trace.tb_lineno},"
        trace = trace.tb_next
    return found

"""Which files of the repository are pages: the site has the paths of the repository, so that links work in both.

`docs/` is at the root of the site. Notes, tables and notebooks are pages where they stand, and a source that a page
links to is a page, too, with its text in a code block.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (  # of docs/: pages, pictures, raw numbers
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "derivations/*.md",
    "benchmarks/results/*",
    "notebooks/rendered/*.md",
    "notebooks/rendered/*/*.png",
)
SOURCES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".yml": "yaml"}  # languages by suffix
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def outside() -> list[str]:
    """Return the paths of all files outside of docs/ that belong to the site."""
    return [path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))]


def destination(path: str) -> str:
    """Return where a file of the repository is in the site.

    >>> destination("docs/choosing.md"), destination("derivations/README.md"), destination("docs/picture.png")
    ('choosing.html', 'derivations/index.html', 'picture.png')
    """
    folder, name = posixpath.split(path.removeprefix("docs/"))
    if name.endswith(".md"):
        name = f"{'index' if name == 'README.md' else name[:-3]}.html"
    return posixpath.join(folder, name)


def linked(page: str, target: str) -> str:
    """Return the path in the repository that a link on a page means.

    >>> linked("docs/models.md", "../examples/own_jax.py")
    'examples/own_jax.py'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def is_source(path: str) -> bool:
    """Say whether a path is that of a text which is shown in a code block."""
    return (ROOT / path).is_file() and posixpath.splitext(path)[1] in SOURCES


def sources_of(page: str, markdown: str) -> list[str]:
    """Return the sources that a page links to."""
    return [path for target, _ in LINK.findall(markdown) if is_source(path := linked(page, target))]


def source_page(path: str) -> str:
    """Return the Markdown of the page of a source."""
    language = SOURCES[posixpath.splitext(path)[1]]
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n"
    return f"{head}\n````{language}\n{(ROOT / path).read_text('utf-8').rstrip()}\n````\n"


def with_sources(page: str, markdown: str) -> str:
    """Let links to sources lead to their pages."""

    def replaced(match: re.Match[str]) -> str:
        target, anchor = match.groups()
        return f"{target}.md" if is_source(linked(page, target)) else f"{target}{anchor or ''}"

    return LINK.sub(replaced, markdown)

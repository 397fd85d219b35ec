"""What `mkdocs build` does besides: pages of the repository, generated tables, formulas, and checks of the result."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import blocks
import checks
import pages
from mathml import with_mathml
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

log = get_plugin_logger("cflow")
# a font that tells a browser the distances in formulas
FONT = distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")
LIST = re.compile(r"(?m)^((?![-*|>#] |\d+\. |\s|```|\|).+)\n(?=(?:[-*]|\d+\.) )")  # a list right below a paragraph


def on_files(files: Files, config: Any) -> Files:
    """Give every file its path in the repository, and add the pages outside of docs/."""
    found = Files([])
    for file in files:
        if file.inclusion.is_excluded():
            continue
        if file.src_dir == config.docs_dir:
            path = f"docs/{file.src_uri}"
            found.append(_file(path, config))
        else:
            found.append(file)
    found.append(File.generated(config, "fonts/STIXTwoMath.ttf", abs_src_path=str(FONT)))
    for path in pages.outside():
        found.append(_file(path, config))
    sources = {s for f in found.documentation_pages() for s in pages.sources_of(f.src_uri, f.content_string)}
    for path in sorted(sources):
        file = File.generated(config, f"{path}.md", content=pages.source_page(path))
        file.dest_uri = f"{path}.html"
        found.append(file)
    return found


def _file(path: str, config: Any) -> File:
    return File(path, str(pages.ROOT), config.site_dir, False, dest_uri=pages.destination(path))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is generated, and let links to sources lead to their pages."""
    path = page.file.src_uri
    if path.startswith("docs/"):
        markdown = blocks.filled(markdown)
    return LIST.sub(r"\1\n\n", pages.with_sources(path, markdown))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Set the formulas."""
    html, unknown = with_mathml(html)
    for command in sorted(set(unknown)):
        log.warning("%s: %s in a formula is not known", page.file.src_uri, command)
    return html


def on_post_build(config: Any) -> None:
    """Check what was built: it must open without a network, and every public name must be in the reference."""
    site = Path(config.site_dir)
    for complaint in (*checks.fetched(site), *checks.undocumented(site)):
        log.warning(complaint)

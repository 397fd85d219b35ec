"""Checks of the built site: nothing is fetched from elsewhere, and every public name has its place in the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FETCHING = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|href|data)=[\"']?"
    r"((?:https?:)?//[^\"'\s>]+)"
)
LOADED = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)")
ANCHOR = re.compile(r"<a\b[^>]*?\bhref=[\"'](https?://[^\"']+)")
ELSEWHERE = re.compile(r"https://(arxiv\.org|doi\.org|keepachangelog\.com)/")  # what a page may link to
PACKAGES = ("cflow_num", "cflow_sym", "cflow_num.testing")


def fetched(site: Path) -> Iterator[str]:
    """Yield a complaint for each address from which a page would fetch, or to which it should not link."""
    for path in sorted(site.rglob("*.html")):
        text = path.read_text("utf-8")
        for address in FETCHING.findall(text):
            yield f"{path.relative_to(site)} fetches {address}"
        for address in ANCHOR.findall(text):
            if not ELSEWHERE.match(address):
                yield f"{path.relative_to(site)} links to {address}, which is none of those allowed"
    for path in sorted(site.rglob("*.css")):
        for address in LOADED.findall(path.read_text("utf-8")):
            yield f"{path.relative_to(site)} fetches {address}"


def public_names() -> list[str]:
    """Return every public name with its package."""
    import importlib

    return [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]


def undocumented(site: Path) -> Iterator[str]:
    """Yield a complaint for each public name that has no place in the reference."""
    anchors = {
        a for path in (site / "api").glob("*.html") for a in re.findall(r'id="([^"]+)"', path.read_text("utf-8"))
    }
    for name in public_names():
        if name not in anchors:
            yield f"{name} is public and not in the reference: add it to docs/api"

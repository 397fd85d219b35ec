"""Measured numbers go into pages: into README.md and the pages of docs/, between the markers that they have there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def renew(blocks: dict[str, str]) -> None:
    """Write texts between their markers, `<!-- NAME -->` and `<!-- /NAME -->`, on every page that has them."""
    found = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        here = [name for name in blocks if f"<!-- {name} -->" in text]
        for name in here:
            new = f"<!-- {name} -->\n{blocks[name].strip()}\n<!-- /{name} -->"
            text = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, new=new: new, text, flags=re.S)
        if here:
            page.write_text(text, "utf-8")
            print(f"renewed {', '.join(here)} in {page.relative_to(ROOT)}")
        found |= set(here)
    if missing := set(blocks) - found:
        raise SystemExit(f"no page has the markers of {', '.join(sorted(missing))}")


def shown(name: str) -> dict[str, str]:
    """Return what stands between the markers of that name, by page."""
    texts = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
    found = {page: re.search(f"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.S) for page, text in texts.items()}
    return {page: match.group(1).strip() for page, match in found.items() if match}

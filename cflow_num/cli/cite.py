"""The command that says how to cite: BibTeX, kept beside it in citation.bib."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cite:
    """Print BibTeX entries of the paper that introduced central flows and of cflow."""

    def __call__(self) -> int:
        """Print them."""
        from importlib.resources import files

        print(files("cflow_num.cli").joinpath("citation.bib").read_text(encoding="utf-8"), end="")
        return 0

"""The structure of trees."""

from typing import Any

class PyTreeDef:
    """The structure of one tree."""

    num_leaves: int

def __getattr__(name: str) -> Any: ...

"""The paper's figures, remade: `cflow reproduce FIGURE`. One module a part; every figure is one small function.

A figure takes runs and axes, draws, and returns numbers; its docstring is its line in the listing and the paragraph
that those numbers are put into. Runs are shared and kept, so that a second call is quick.
"""

from . import part1, part2, part2_acceleration, part3
from .registry import FIGURES, Entry, find
from .runs import Runs
from .writing import Picture, picture, reproduce

__all__ = [
    "FIGURES",
    "Entry",
    "Picture",
    "Runs",
    "find",
    "part1",
    "part2",
    "part2_acceleration",
    "part3",
    "picture",
    "reproduce",
]

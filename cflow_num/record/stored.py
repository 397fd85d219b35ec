"""A run file in memory: its numbers without the library of labelled arrays, which takes a second to import."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import h5py  # type: ignore[reportMissingTypeStubs]
import numpy as np

from .ends import GROUP, Ending


class Stored(NamedTuple):
    """The bytes of a netCDF file, and what they say: attributes, arrays and sizes of dimensions by group."""

    content: bytes
    attrs: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, dict[str, int]]
    ends: dict[str, Ending]
    described: dict[str, dict[str, tuple[tuple[str, ...], dict[str, Any]]]]  # dimensions and attributes

    @classmethod
    def read(cls, content: bytes) -> Stored:
        """Read every array; raises whatever HDF5 raises where the file is damaged."""
        library: Any = h5py  # which has no annotations
        arrays: dict[str, dict[str, np.ndarray]] = {}
        sizes: dict[str, dict[str, int]] = {}
        ends: dict[str, Ending] = {}
        described: dict[str, dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {}
        with library.File(io.BytesIO(content), "r") as file:
            attrs = {name: _plain(x) for name, x in file.attrs.items() if name != "_NCProperties"}
            for process, group in file.items():
                if not isinstance(group, library.Group):
                    continue
                if process == GROUP:
                    ends = {name: _ending(end) for name, end in group.items()}
                    continue
                members = {name: x for name, x in group.items() if isinstance(x, library.Dataset)}
                sizes[process] = {name: len(x) for name, x in members.items() if x.is_scale}
                arrays[process] = {name: x[()] for name, x in members.items() if not x.is_scale}
                described[process] = {name: (_dims(x), _attrs(x)) for name, x in members.items() if not x.is_scale}
        return cls(content, attrs, arrays, sizes, ends, described)


def _ending(group: Any) -> Ending:
    """Return an end, without what are mere dimensions."""
    named = {name: np.asarray(x[()]) for name, x in group.items() if name == "kept_step" or not x.is_scale}
    return Ending(int(_plain(group.attrs["at_step"])), named)


def _dims(variable: Any) -> tuple[str, ...]:
    """Return the names of a variable's dimensions."""
    return tuple(str(dim[0].name).rsplit("/", 1)[-1] if len(dim) else "" for dim in variable.dims)


def _attrs(variable: Any) -> dict[str, Any]:
    """Return what a variable says of itself."""
    return {
        name: _plain(variable.attrs[name]) for name in ("units", "long_name", "observable") if name in variable.attrs
    }


def _plain(value: Any) -> Any:
    """Return an attribute as netCDF has it: a single number is stored as an array of one."""
    return value.item() if getattr(value, "size", 0) == 1 else value

"""Results and models that xarray has written in other formats: what to do with them, and what these formats change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embgeom_dask.errors import NO_STORE
from embgeom_dask.storage import paths

_MAGIC = (b"CDF", b"\x89HDF")
"""What files of netCDF begin with."""

_LISTS = ("model", "revision", "matrix", "sha256", "labels_sha256", "devices")
"""The attributes of every result that are lists of strings."""


NOT_COPIED = "{} is {}, not a model's store: copy the store itself, or give the array that you have in xarray"


def format_of(path: paths.PathLike) -> str:
    """The format of what is at `path`, where xarray writes it and no result or store has it; else empty."""
    place = paths.locate(path)
    if paths.exists(paths.join(place, ".zgroup")):
        return "zarr v2"
    with suppress(OSError), Path(place).open("rb") as file:
        if file.read(4).startswith(_MAGIC):
            return "netCDF or HDF5"
    return ""


def why_no_result(path: paths.PathLike) -> str:
    """What is said of something at `path` that is no result."""
    do = {
        "zarr v2": "write it again in zarr v3, as `to_zarr` does by default",
        "netCDF or HDF5": "make a result of it, `xarray.open_datatree(PATH).to_zarr(RESULT)`",
        "": "move it away",
    }
    found = format_of(path)
    return f"{path} is {found or 'not a result of embgeom'}: name another path, or {do[found]}"


def why_no_store(path: paths.PathLike) -> str:
    """What is said where there is no store at `path`."""
    found = format_of(path)
    return NOT_COPIED.format(path, found) if found else NO_STORE.format(path)


def with_lists(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a result with their lists: of netCDF a list of one string comes back as the string."""
    return {name: [each] if name in _LISTS and isinstance(each, str) else each for name, each in attrs.items()}

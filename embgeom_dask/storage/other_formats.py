"""Results that xarray has written in other formats: what to do with them, and what these formats change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embgeom_dask.storage import paths

_MAGIC = (b"CDF", b"\x89HDF")
"""What files of netCDF begin with."""

_LISTS = ("model", "revision", "matrix", "sha256", "labels_sha256", "devices")
"""The attributes of every result that are lists of strings."""


def why_no_result(path: paths.PathLike) -> str:
    """What is said of something at `path` that is no result."""
    place = paths.locate(path)
    if paths.exists(paths.join(place, ".zgroup")):
        return f"{path} is zarr v2: name another path, or write it again in zarr v3, as `to_zarr` does by default"
    with suppress(OSError), Path(place).open("rb") as file:
        if file.read(4).startswith(_MAGIC):
            return (
                f"{path} is netCDF or HDF5: name another path, or make a result of it, "
                "`xarray.open_datatree(PATH).to_zarr(RESULT)`"
            )
    return f"{path} is not a result of embgeom: name another path, or move it away"


def with_lists(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a result with their lists: of netCDF a list of one string comes back as the string."""
    return {name: [each] if name in _LISTS and isinstance(each, str) else each for name, each in attrs.items()}

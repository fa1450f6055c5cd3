"""Results of several models as a tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import xarray as xr

from embgeom_dask.storage import paths

Result = TypeVar("Result", xr.Dataset, xr.Dataset | xr.DataTree)


def folders_in(folder: paths.PathLike) -> list[str]:
    """The folders in `folder` that are neither hidden nor named as stores, results and journals are, by name."""
    with paths.explained(f"list {folder}"):
        fs, path = paths.filesystem(paths.locate(folder))
        found = fs.ls(path, detail=True) if fs.isdir(path) else []
        names = sorted(each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory")
        return [paths.join(os.fspath(folder), name) for name in names if name[:1] != "." and ".zarr" not in name]


def tree_of(table: xr.Dataset | None, found: Mapping[str, xr.Dataset | xr.DataTree]) -> xr.DataTree:
    """A tree of results by their names, with the table of all in its root.

    The root has no indexes: nodes would take coordinates from them, `model` among them, in place of their own.
    """
    root = {} if table is None else {"/": table.drop_indexes(list(table.xindexes))}
    return xr.DataTree.from_dict({**root, **{f"/{name}": each for name, each in found.items()}})


def in_order(table: xr.Dataset, found: Mapping[str, Result]) -> dict[str, Result]:
    """The results in the order of their table; one that is not in it is last."""
    places = {whose: place for place, whose in enumerate(_whose(table))}
    return dict(sorted(found.items(), key=lambda named: places.get((*_whose(named[1]), ("", ""))[0], len(places))))


def _whose(result: xr.Dataset | xr.DataTree) -> list[tuple[str, str]]:
    """The model and revision of each line of a table, or of one result; none of a table without lines."""
    if "model" not in result.variables:
        return []
    models, revisions = (np.atleast_1d(result[name].to_numpy()).tolist() for name in ("model", "revision"))
    return list(zip(models, revisions, strict=True))

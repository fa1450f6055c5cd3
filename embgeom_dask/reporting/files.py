"""Results as files of other tools, whole or not there."""

from __future__ import annotations

import csv as csv_module
import os
from typing import Any

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.reporting import tables
from embgeom_dask.reporting.optional_libraries import load
from embgeom_dask.storage import replacement

PathLike = str | os.PathLike[str]

_NOT_OF_TOKENS = (
    "this result has no line for each token of one model: take one of tokens, spectrum, cluster, components, "
    "undertrained, compare or neighbors, a scan with `neighbors`, `within`, `top`, `bottom` or `moments_per_row`, or a "
    "lattice with `origin` or `within`"
)
_LISTS = {
    "neighbors": ("neighbor", "distance"),
    "top": ("top", "product"),
    "bottom": ("bottom", "product"),
    "near": ("near", "csls"),
}
"""The columns that hold lists of tokens: what the names of their variables begin with, and what is told of each."""


def csv(result: xr.Dataset, path: PathLike, name: str, *, overwrite: bool = False) -> None:
    """Write the table `name`, with the texts of tokens: strings quoted, numbers with the digits that give them back."""
    table = tables.frame_with_texts(result, name)
    with replacement.new_file(path, overwrite=overwrite) as file:
        table.to_csv(file, mode="wb", encoding="utf-8", index=False, quoting=csv_module.QUOTE_NONNUMERIC)


def netcdf(result: xr.Dataset | xr.DataTree, path: PathLike, *, overwrite: bool = False) -> None:
    """Write the whole result, or a tree of them, as netCDF 4."""
    load("netCDF4")
    with replacement.new_file(path, overwrite=overwrite) as file:
        result.to_netcdf(file.name, engine="netcdf4")


def parquet(result: xr.Dataset, path: PathLike, *, overwrite: bool = False) -> None:
    """Write a line for each token: see the accessor."""
    pyarrow, writer = load("pyarrow"), load("pyarrow.parquet")
    dims = [set(variable.dims) for variable in result.data_vars.values()]
    if any(each >= {"step", "token_id"} for each in dims):
        raise InputError("this result is of several steps: choose one in Python, result.isel(step=0), or take to-csv")
    of_tokens = any("token_id" in each for each in dims)
    if not of_tokens or "model" in result.dims:
        raise InputError(_NOT_OF_TOKENS)
    columns = {name: result[name].to_numpy() for name in ("token_id", "token", "text") if name in result.variables}
    for name, variable in result.data_vars.items():
        if variable.dims == ("token_id",):
            columns[str(name)] = variable.to_numpy()
    for name in ("within_degree", "token_to_component", "degree"):
        if name in result and "radius" in result[name].dims:
            values = result[name].transpose("radius", "token_id").to_numpy()
            names = [f"{name}_{radius!r}" for radius in result["radius"].to_numpy().tolist()]
            columns |= dict(zip(names, values, strict=True))
    if {*result.get("score", xr.DataArray()).dims} == {"component", "token_id"}:
        scores = result["score"].transpose("component", "token_id").to_numpy()
        columns |= {f"score_{rank}": each for rank, each in zip(result["component"].to_numpy(), scores, strict=True)}
    for name, (stem, what) in _LISTS.items():
        if {*result.get(f"{stem}_{what}", xr.DataArray()).dims} == {"token_id", stem}:
            columns[name] = _lists(result, stem, what, pyarrow)
    table = pyarrow.table({name: _column(each, pyarrow) for name, each in columns.items()})
    with replacement.new_file(path, overwrite=overwrite) as file:
        writer.write_table(table, file)


def _column(values: Any, pyarrow: Any) -> Any:
    """Values as pyarrow takes them; strings may be missing, where `xarray.concat` put tokens of others in between."""
    strings = isinstance(values, np.ndarray) and values.dtype.kind == "O"
    return pyarrow.array(values, from_pandas=True) if strings else values


def _lists(result: xr.Dataset, stem: str, what: str, pyarrow: Any) -> Any:
    """The tokens listed for each token, with their distances, products or CSLS."""
    ids, values = (result[f"{stem}_{each}"].transpose("token_id", stem).to_numpy() for each in ("token_id", what))
    filled = ids >= 0
    ends = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
    lists = [pyarrow.LargeListArray.from_arrays(ends, each[filled]) for each in (ids, values)]
    return pyarrow.StructArray.from_arrays(lists, ["ids", what if what.endswith("s") else f"{what}s"])

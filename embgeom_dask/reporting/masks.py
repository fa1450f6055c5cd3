"""Masks of tokens as safetensors files, under the names and in the types that notebooks exchange them in."""

from __future__ import annotations

import os
from typing import Any

import ml_dtypes
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.storage import replacement

PathLike = str | os.PathLike[str]
Array = NDArray[Any]


def write(result: xr.Dataset, path: PathLike, *, overwrite: bool = False) -> None:
    """Write the masks of a result over the whole vocabulary: see the accessor."""
    from safetensors.numpy import save

    found = _of_cluster(result) if "in_cluster" in result else _of_tokens(result)
    if not found:
        raise InputError("this result has no mask: take one of cluster, tokens, or duplicates of one model")
    ids = result["token_id"].to_numpy()
    if not np.array_equal(ids, np.arange(ids.size)):
        raise InputError("this result is of some tokens: a mask is of the whole vocabulary")
    with replacement.new_file(path, overwrite=overwrite) as file:
        file.write(save({name: np.ascontiguousarray(values) for name, values in found.items()}))


def _of_cluster(result: xr.Dataset) -> dict[str, Array]:
    """The tensors of `1.6a_cluster_mask.safetensors`; no box is drawn, so that its centre and width are NaN."""
    inside, candidate = (result[name].to_numpy() for name in ("in_cluster", "is_candidate"))
    counts = {
        "n_cluster": inside.sum(),
        "n_spatial": candidate.sum(),
        "n_filtered": np.count_nonzero(candidate & ~inside),
        "n_iterations": np.count_nonzero(result["iteration_kind"] == "refine"),
    }
    return {
        "cluster_mask": inside.astype(np.uint8),
        "cluster_token_ids": np.flatnonzero(inside).astype(np.int32),
        "spatial_mask": candidate.astype(np.uint8),
        "centroid": result["centroid"].to_numpy().astype(ml_dtypes.bfloat16),
        **{name: np.array([count], np.int32) for name, count in counts.items()},
        **{name: np.array([np.nan], np.float32) for name in ("center_lat", "center_lon", "angular_diameter")},
    }


def _of_tokens(result: xr.Dataset) -> dict[str, Array]:
    """The masks among the variables of tokens, as bool, and the groups of identical rows."""
    of_tokens = {str(name): each.to_numpy() for name, each in result.data_vars.items() if each.dims == ("token_id",)}
    found = {name: values for name, values in of_tokens.items() if values.dtype == np.bool_}
    if "token_to_group" in of_tokens:
        found["token_to_black_hole"] = of_tokens["token_to_group"]
    return found

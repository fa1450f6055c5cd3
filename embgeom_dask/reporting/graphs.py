"""Results as graphs of tokens: sparse matrices of distances, and the lists of neighbors that UMAP takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.reporting.optional_libraries import load

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[Any]


def csr(result: xr.Dataset, name: Literal["neighbors", "pairs"]) -> csr_array:
    """Distances of tokens, (n, n): line and column are positions in the result's `token_id`. See the accessor."""
    sparse = load("scipy.sparse")
    if name not in ("neighbors", "pairs"):
        raise InputError(f"a graph is of neighbors or of pairs, not of {name!r}")
    _check(result, name)
    size = result.sizes["token_id"]
    if name == "neighbors":
        column, distance = _neighbors(result)
        line, filled = np.indices(column.shape)[0], column >= 0
        line, column, distance = line[filled], column[filled], distance[filled]
    else:
        pair, distance = (result[f"pair_{each}"].transpose("pair", ...).to_numpy() for each in ("token_id", "distance"))
        there = np.isfinite(distance)  # `xarray.concat` fills lists that are short
        first, second = (_positions(result, pair[there, side]) for side in (0, 1))
        line, column = np.concatenate([first, second]), np.concatenate([second, first])
        distance = np.tile(distance[there], 2)
    order = np.lexsort((column, distance, line))
    ends = np.concatenate([[0], np.cumsum(np.bincount(line, minlength=size))])
    return sparse.csr_array((distance[order], column[order], ends), shape=(size, size))


def umap(result: xr.Dataset) -> tuple[Array, Array]:
    """Positions and distances (V, k + 1) of every token and its k neighbors, nearest first. See the accessor."""
    _check(result, "neighbors")
    column, distance = _neighbors(result)
    itself = np.arange(len(column))[:, None]
    distance = np.where(column < 0, np.inf, distance)
    return np.hstack([itself, column]), np.hstack([np.zeros(itself.shape), distance])


def _check(result: xr.Dataset, graph: Literal["neighbors", "pairs"]) -> None:
    name, asked = {"neighbors": ("neighbor_distance", "neighbors=K"), "pairs": ("pair_distance", "pairs_within=R")}[
        graph
    ]
    if name not in result:
        raise InputError(f"this result has no {name}: scan with {asked}")
    if "against" in result.coords or "model" in result[name].dims:
        raise InputError("a graph joins the tokens of one matrix: this result compares two, or is of several models")
    dims = {"token_id", "neighbor"} if graph == "neighbors" else {"token_id", "pair", "side"}
    whole = [each for each in sorted(dims) if each in result.dims and (each != "side" or result.sizes[each] == 2)]
    if "token_id" not in result.coords or len(whole) < len(dims):
        lost = next((each for each in sorted(dims) if each not in whole), "token_id")
        of = ", the rows compared" if lost == "token_id" else ""
        raise InputError(f"this result has lost its `{lost}`{of}: take the whole result, not a part")


def _neighbors(result: xr.Dataset) -> tuple[Array, Array]:
    ids = result["neighbor_token_id"].transpose("token_id", "neighbor").to_numpy()
    distance = result["neighbor_distance"].transpose("token_id", "neighbor").to_numpy()
    column = np.full(ids.shape, -1)
    filled = ids >= 0
    column[filled] = _positions(result, ids[filled])
    return column, distance


def _positions(result: xr.Dataset, ids: Array) -> Array:
    """The positions of token ids along `token_id`."""
    known = result["token_id"].to_numpy()
    size = known.size
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise InputError("token ids of this result are not unique: a graph of it has no lines of its own for each row")
    at = np.minimum(np.searchsorted(ordered, ids), max(size - 1, 0))
    if ids.size and (size == 0 or (ordered[at] != ids).any()):
        raise InputError(f"pairs lead out of the {size} tokens of this result: take the whole result, not a part")
    return order[at] if size else ids

"""Which rows can be among the farthest pairs in chebyshev distance: no pair has to be compared to tell.

max_ij max_k |x_ik - x_jk| = max_k (max_i x_ik - min_i x_ik): each column's extremes are a pair at least that far apart,
and no pair of row i is farther apart than i is from the extremes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.execution.map_rows import map_rows
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]


@dataclass(frozen=True)
class Extent:
    """The smallest and largest value of each column (d,) float64, and token ids (d,) int64 of rows that have them.

    `unfit` (rows,) uint8 is what keeps a row from being compared.
    """

    low: Array
    high: Array
    low_id: Array
    high_id: Array
    unfit: Array


def narrow(client: Client, matrix: Matrix, parts: list[Array], k: int, ids: Array) -> Array:
    """The token ids, of those in `parts`, of all rows that can be among the `k` farthest pairs: (n,) int64, ascending.

    `ids` (rows,) int64 are the token ids by which those that cannot be compared are named.

    Raises
    ------
    InputError
        where a row cannot be compared: see `check_fit`.
    """
    extents = map_rows(client, "extent", matrix, parts, extent)
    check_fit(matrix, ids, np.concatenate([e.unfit for e in extents]))
    columns = np.arange(matrix.hidden_size)
    lowest, highest = np.array([e.low for e in extents]), np.array([e.high for e in extents])
    first, last = np.argmin(lowest, axis=0), np.argmax(highest, axis=0)
    low, high = lowest[first, columns], highest[last, columns]
    low_id = np.array([e.low_id for e in extents])[first, columns]
    high_id = np.array([e.high_id for e in extents])[last, columns]
    pairs = np.stack([np.minimum(low_id, high_id), np.maximum(low_id, high_id)], axis=1)
    pairs, ranges = pairs[low_id != high_id], (high - low)[low_id != high_id]
    order = np.argsort(-ranges, kind="stable")
    _, best = np.unique(pairs[order], axis=0, return_index=True)
    reached = np.sort(ranges[order[best]])[::-1]
    least = reached[k - 1] * (1 - 1e-12) if reached.size >= k else -np.inf
    reach = np.maximum(highest - low, high - lowest).max(axis=1)
    near = [parts[p] for p in np.flatnonzero(reach >= least).tolist()]
    return np.concatenate(map_rows(client, "reach", matrix, near, reaching, low, high, least))


def extent(matrix: Matrix, token_id: Array) -> Extent:
    """The extent of some rows; runs on a worker."""
    with devices.session(torch.device("cpu")):
        stored = matrix.take(token_id)
        rows = as_numba(stored)
        found = share_out(lambda start, stop: _extent(rows, start, stop), len(rows))
        low, low_row, high, high_row = (np.array(column) for column in zip(*found, strict=True))
        columns, first, last = np.arange(rows.shape[1]), np.argmin(low, axis=0), np.argmax(high, axis=0)
        ids = token_id[low_row[first, columns]], token_id[high_row[last, columns]]
        return Extent(low[first, columns], high[last, columns], *ids, unfit(stored))


def reaching(matrix: Matrix, token_id: Array, low: Array, high: Array, least: float) -> Array:
    """The token ids of rows at least `least` from one of the extremes of a column; runs on a worker."""
    with devices.session(torch.device("cpu")):
        rows = as_numba(matrix.take(token_id))
        reach = np.concatenate(share_out(lambda start, stop: _reach(rows[start:stop], low, high), len(rows)))
        return token_id[reach >= least]


@numba.njit(nogil=True, cache=True)
def _extent(rows: Array, start: int, stop: int) -> tuple[Any, ...]:  # pragma: no cover (compiled)
    width = rows.shape[1]
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    low_row, high_row = np.full(width, start), np.full(width, start)
    for i in range(start, stop):
        for k in range(width):
            x = np.float64(value(rows[i, k]))
            if x < low[k]:
                low[k] = x
                low_row[k] = i
            if x > high[k]:
                high[k] = x
                high_row[k] = i
    return low, low_row, high, high_row


@numba.njit(nogil=True, cache=True)
def _reach(rows: Array, low: Array, high: Array) -> Array:  # pragma: no cover (compiled)
    out = np.empty(rows.shape[0])
    for i in range(rows.shape[0]):
        reach = 0.0
        for k in range(rows.shape[1]):
            x = np.float64(value(rows[i, k]))
            reach = max(reach, x - low[k], high[k] - x)
        out[i] = reach
    return out

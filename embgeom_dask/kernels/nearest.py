"""The pass over a product tile that finds candidates for the nearest of each row, and keeps a table of their bounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import torch_passes
from embgeom_dask.kernels.bounds import STRIP, BoundedPairs, Limits, LinearBound, round_up, upper_bounds
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.numba_passes import PART, mark_hits, room_for

Array = NDArray[Any]


class Positions(NamedTuple):
    """The positions of a tile's rows and columns among all distinct rows.

    Attributes
    ----------
    rows, columns : numpy.ndarray of int64, (m,) and (n,)
    duplicate_of : numpy.ndarray of int64, (m,)
        The position of a column that each row is not paired with, -1 for none.
    """

    rows: Array
    columns: Array
    duplicate_of: Array


def nearest(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    best: Array,
    limit: Array,
    rows: Array,
    columns: Array,
    *,
    symmetric: bool,
    diagonal: bool,
    duplicate_of: Array | None = None,
) -> BoundedPairs:
    """Find the pairs that may be among the k nearest of their row, or of their column, and lower the limits.

    Parameters
    ----------
    product : torch.Tensor, (m, n)
        int32, bfloat16, float32 or float64.
    terms : tuple of LinearBound
        The lower and the upper bound of the values.
    best : numpy.ndarray of float64, (all, k)
        The k smallest upper bounds of every row, ascending; updated in place.
    limit : numpy.ndarray of float64, (all,)
        The lower bound that a pair must not exceed to be among the k nearest of a row; updated in place.
    rows, columns : numpy.ndarray of int64, (m,) and (n,)
        Positions. Those of the rows index `best` and `limit`.
    symmetric : bool
        Whether positions of columns index `best` and `limit` too: a pair counts for its row and for its column.
    diagonal : bool
        Whether the tile is on the diagonal of the pair matrix: only pairs whose row is before their column.
    duplicate_of : numpy.ndarray of int64, (m,), optional
        The position of a column that each row is not paired with, -1 for none.

    Returns
    -------
    BoundedPairs
        The pairs and their lower bounds, float64.
    """
    positions = Positions(rows, columns, np.full(rows.size, -1) if duplicate_of is None else duplicate_of)
    work = _on_cpu if product.device.type == "cpu" else _on_device
    return work(product, terms, best, limit, positions, symmetric, diagonal)


def limits_of(limit: Array, rows: Array, columns: Array, dtype: Any, *, symmetric: bool) -> Limits:
    """Return the limits of a tile's rows (m,) and columns (n,), rounded up to `dtype`.

    Those of columns are -inf unless `symmetric`. `limit`, `rows` and `columns` are as in `nearest`.
    """
    none = np.full(columns.size, -np.inf, dtype)
    return Limits(round_up(limit[rows], dtype), round_up(limit[columns], dtype) if symmetric else none)


def _on_cpu(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    best: Array,
    limit: Array,
    positions: Positions,
    symmetric: bool,
    diagonal: bool,
) -> BoundedPairs:
    p, (low, high) = as_numba(product), (bound.in_one_dtype() for bound in terms)
    limits = limits_of(limit, positions.rows, positions.columns, low.row.dtype.type, symmetric=symmetric)
    out = room_for(p.size, low.row.dtype)
    count = _nearest(p, low, high, limits, positions, best, limit, symmetric, diagonal, out)
    i, j, least = (column[:count] for column in out)
    return BoundedPairs(i.astype(np.int64), j.astype(np.int64), least.astype(np.float64))


def _on_device(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    best: Array,
    limit: Array,
    positions: Positions,
    symmetric: bool,
    diagonal: bool,
) -> BoundedPairs:
    low, high = terms
    rows, columns, duplicate_of = positions
    limits = limits_of(limit, rows, columns, low.row.dtype.type, symmetric=symmetric)
    i, j, bound = torch_passes.select(product, low, *limits, diagonal=False)
    keep = (duplicate_of[i] != columns[j]) & ((rows[i] < columns[j]) | (not diagonal))
    i, j, least = i[keep], j[keep], bound[keep].astype(np.float64)
    tighten(best, limit, rows[i], columns[j] if symmetric else None, upper_bounds(product, low, high, i, j, least))
    return BoundedPairs(i, j, least)


def tighten(best: Array, limit: Array, first: Array, second: Array | None, most: Array) -> None:
    """Insert upper bounds `most` (p,) of pairs into `best` of the rows `first` (p,) and, if given, `second` (p,)."""
    _tighten(best, limit, first, most)
    if second is not None:
        _tighten(best, limit, second, most)


@numba.njit(nogil=True, cache=True)
def _insert(best: Array, limit: Array, row: int, most: float) -> None:  # pragma: no cover (compiled)
    k = best.shape[1] - 1
    if most < best[row, k]:
        while k > 0 and best[row, k - 1] > most:
            best[row, k] = best[row, k - 1]
            k -= 1
        best[row, k] = most
        limit[row] = min(limit[row], best[row, -1])


@numba.njit(nogil=True, cache=True)
def _tighten(best: Array, limit: Array, rows: Array, most: Array) -> None:  # pragma: no cover (compiled)
    for p in range(rows.size):
        _insert(best, limit, rows[p], most[p])


@numba.njit(nogil=True, cache=True)
def _lower(limits: Array, k: int, most: float) -> None:  # pragma: no cover (compiled)
    """Lower limit k to `most`, rounded up to the dtype of `limits`."""
    limits[k] = most
    if limits[k] < most:
        limits[k] = np.nextafter(limits[k], limits.dtype.type(np.inf))


@numba.njit(nogil=True, cache=True)
def _nearest(
    product: Array,
    low: LinearBound,
    high: LinearBound,
    limits: Limits,
    positions: Positions,
    best: Array,
    limit: Array,
    symmetric: bool,
    diagonal: bool,
    out: BoundedPairs,
) -> int:  # pragma: no cover (compiled)
    rows, columns, duplicate_of = positions
    count, width = 0, product.shape[1]
    any_hit = np.empty(STRIP // PART, np.uint64)
    hits, whole = any_hit.view(np.uint8), width - STRIP
    for i in range(product.shape[0]):
        for strip in range(0, width, STRIP):
            if strip <= whole:
                mark_hits(product, low, limits, i, strip, hits)
            else:
                hits[:] = 1
            for part in range(STRIP // PART):
                if not any_hit[part]:
                    continue
                for j in range(strip + part * PART, min(strip + (part + 1) * PART, width)):  # limits fall meanwhile
                    if columns[j] == duplicate_of[i] or (diagonal and columns[j] <= rows[i]):
                        continue
                    p = value(product[i, j])
                    least = low.row[i] + low.column[j] + low.factor * p + low.abs_factor * abs(p)
                    if not (least > limits.row[i] and least > limits.column[j]):
                        most = high.row[i] + high.column[j] + high.factor * p + high.abs_factor * abs(p)
                        _insert(best, limit, rows[i], most)
                        _lower(limits.row, i, limit[rows[i]])
                        if symmetric:
                            _insert(best, limit, columns[j], most)
                            _lower(limits.column, j, limit[columns[j]])
                        out.i[count], out.j[count], out.bound[count] = i, j, least
                        count += 1
    return count

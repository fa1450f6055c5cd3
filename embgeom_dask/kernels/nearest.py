"""The pass over a product tile that finds candidates for the nearest of each row, and keeps a table of their bounds."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import torch_passes
from embgeom_dask.kernels.bounds import LinearBound, round_up, upper_bounds
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.numba_passes import STRIP, may_hit

Array = NDArray[Any]


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
) -> tuple[Array, Array, Array]:
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
    i, j : numpy.ndarray of int64, (p,)
        The pairs, by their indices in the tile.
    bound : numpy.ndarray of float64, (p,)
        Their lower bounds.
    """
    skip = np.full(rows.size, -1) if duplicate_of is None else duplicate_of
    work = _on_cpu if product.device.type == "cpu" else _on_device
    return work(product, terms, best, limit, (rows, columns, skip), symmetric, diagonal)


def limits_of(limit: Array, rows: Array, columns: Array, dtype: Any, *, symmetric: bool) -> tuple[Array, Array]:
    """Return the limits of a tile's rows (m,) and columns (n,), rounded up to `dtype`.

    Those of columns are -inf unless `symmetric`. `limit`, `rows` and `columns` are as in `nearest`.
    """
    none = np.full(columns.size, -np.inf, dtype)
    return round_up(limit[rows], dtype), round_up(limit[columns], dtype) if symmetric else none


def _on_cpu(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    best: Array,
    limit: Array,
    places: tuple[Array, Array, Array],
    symmetric: bool,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    low, high = terms
    p, kind = as_numba(product), low.row.dtype.type
    out = np.empty(p.size, np.int32), np.empty(p.size, np.int32), np.empty(p.size, kind)
    factors = tuple(kind(each) for each in (low.factor, low.abs_factor, high.factor, high.abs_factor))
    bounds, limits = (
        (low.row, low.column, high.row, high.column),
        limits_of(limit, *places[:2], kind, symmetric=symmetric),
    )
    count = _nearest(p, bounds, factors, limits, places, best, limit, symmetric, diagonal, out)
    i, j, least = (column[:count] for column in out)
    return i.astype(np.int64), j.astype(np.int64), least.astype(np.float64)


def _on_device(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    best: Array,
    limit: Array,
    places: tuple[Array, Array, Array],
    symmetric: bool,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    low, high = terms
    rows, columns, skip = places
    limits = limits_of(limit, rows, columns, low.row.dtype.type, symmetric=symmetric)
    i, j, bound = torch_passes.select(product, low, *limits, diagonal=False)
    keep = (skip[i] != columns[j]) & ((rows[i] < columns[j]) | (not diagonal))
    i, j, least = i[keep], j[keep], bound[keep].astype(np.float64)
    tighten(best, limit, rows[i], columns[j] if symmetric else None, upper_bounds(product, low, high, i, j, least))
    return i, j, least


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
def _lower(limits: Array, place: int, most: float) -> Any:  # pragma: no cover (compiled)
    """Lower a limit to `most`, rounded up to the dtype of `limits`, and return it."""
    limits[place] = most
    if limits[place] < most:
        limits[place] = np.nextafter(limits[place], limits.dtype.type(np.inf))
    return limits[place]


@numba.njit(nogil=True, cache=True)
def _nearest(
    product: Array,
    bounds: Any,
    factors: Any,
    limits: Any,
    places: Any,
    best: Array,
    limit: Array,
    symmetric: bool,
    diagonal: bool,
    out: Any,
) -> int:  # pragma: no cover (compiled)
    low_row, low_column, high_row, high_column = bounds
    factor, abs_factor, high_factor, high_bend = factors
    row_limit, column_limit = limits
    rows, columns, skip = places
    out_i, out_j, out_least = out
    count, width = 0, product.shape[1]
    for i in range(product.shape[0]):
        r, row_most = low_row[i], row_limit[i]
        for strip in range(0, width, STRIP):
            stop = min(strip + STRIP, width)
            near = product[i, strip:stop], low_column[strip:stop], column_limit[strip:stop]
            if may_hit(*near, r, row_most, factor, abs_factor):
                for j in range(strip, stop):
                    if columns[j] == skip[i] or (diagonal and columns[j] <= rows[i]):
                        continue
                    p = value(product[i, j])
                    least = r + low_column[j] + factor * p + abs_factor * abs(p)
                    if not (least > row_most and least > column_limit[j]):
                        upper = high_row[i] + high_column[j] + high_factor * p + high_bend * abs(p)
                        _insert(best, limit, rows[i], upper)
                        row_most = _lower(row_limit, i, limit[rows[i]])
                        if symmetric:
                            _insert(best, limit, columns[j], upper)
                            _lower(column_limit, j, limit[columns[j]])
                        out_i[count], out_j[count], out_least[count] = i, j, least
                        count += 1
    return count

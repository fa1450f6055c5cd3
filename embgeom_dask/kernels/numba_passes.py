"""The passes over a product tile in numba, for the CPU; the rows are shared out among the cores of the task."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bins import Bins
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

STRIP = 64
"""Columns of a tile that a pass reads together."""


def select(
    product: torch.Tensor,
    terms: LinearBound,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.select`.

    It runs in one thread: after a matrix product, torch's threads keep spinning for longer than this pass takes.
    """
    p = as_numba(product)
    kind = terms.row.dtype.type
    factor, abs_factor = kind(terms.factor), kind(terms.abs_factor)

    capacity = p.size
    out = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, kind)
    count = _select(p, terms.row, terms.column, factor, abs_factor, row_limit, column_limit, diagonal, *out)
    return out[0][:count].astype(np.int64), out[1][:count].astype(np.int64), out[2][:count].copy()


@numba.njit(nogil=True, cache=True)
def may_hit(
    strip: Array, column: Array, column_limit: Array, row: Any, row_limit: Any, factor: Any, abs_factor: Any
) -> bool:  # pragma: no cover (compiled)
    """Whether some bound in a strip of a row is at most a limit, or NaN; True for a strip shorter than `STRIP`."""
    if strip.size < STRIP:
        return True
    misses = 0
    for k in range(STRIP):  # vectorised: fixed length, no branches, no index below 0
        p = value(strip[k])
        bound = row + column[k] + factor * p + abs_factor * abs(p)
        misses += (bound > row_limit) & (bound > column_limit[k])
    return misses < STRIP


@numba.njit(nogil=True, cache=True)
def _select(
    product: Array,
    row: Array,
    column: Array,
    factor: Any,
    abs_factor: Any,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
    out_i: Array,
    out_j: Array,
    out_bound: Array,
) -> int:  # pragma: no cover (compiled)
    count = 0
    columns = product.shape[1]
    for i in range(product.shape[0]):
        r, limit = row[i], row_limit[i]
        for strip in range(i + 1 if diagonal else 0, columns, STRIP):
            stop = min(strip + STRIP, columns)
            if may_hit(
                product[i, strip:stop], column[strip:stop], column_limit[strip:stop], r, limit, factor, abs_factor
            ):
                for j in range(strip, stop):
                    p = value(product[i, j])
                    bound = r + column[j] + factor * p + abs_factor * abs(p)
                    if not (bound > limit and bound > column_limit[j]):
                        out_i[count] = i
                        out_j[count] = j
                        out_bound[count] = bound
                        count += 1
    return count


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.bin_pairs`."""
    p = product.numpy()
    low, high = terms
    bounds = low.row, low.column, low.factor, low.abs_factor, high.row, high.column, high.factor, high.abs_factor
    edges = bins.lower, bins.upper, bins.table
    scalars = bins.root, bins.first, bins.per_unit, bins.digits, bins.least, bins.quantum, bins.half

    def work(start: int, stop: int) -> tuple[Array, Array, Array, Array]:
        counts = np.zeros(bins.lower.size, np.int64)
        sums = np.zeros((stop - start, 4), np.int64)
        capacity = (stop - start) * p.shape[1]
        i, j = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        out = counts, sums, i, j
        left = _bin_pairs(p, bounds, weights, edges, scalars, diagonal, start, stop, out)
        return counts, sums, i[:left].astype(np.int64), j[:left].astype(np.int64)

    counts, sums, i, j = zip(*share_out(work, p.shape[0]), strict=True)
    return np.sum(counts, axis=0), np.concatenate(sums), np.concatenate(i), np.concatenate(j)


@numba.njit(nogil=True, cache=True)
def _bin_pairs(
    product: Array,
    bounds: Any,
    weights: Any,
    edges: Any,
    scalars: Any,
    diagonal: bool,
    start: int,
    stop: int,
    out: Any,
) -> int:  # pragma: no cover (compiled)
    low_row, low_column, low_factor, low_bend, high_row, high_column, high_factor, high_bend = bounds
    row_weight, column_weight = weights
    lower, upper, table = edges
    root, first, per_unit, digits, least, quantum, half = scalars
    counts, sums, out_i, out_j = out
    left, last = 0, lower.size - 1
    low, high, distance = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP)
    sure = np.empty(STRIP, np.int64)
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, product.shape[1], STRIP):
            part = product[i, strip : strip + STRIP]
            low_side, high_side = low_column[strip : strip + STRIP], high_column[strip : strip + STRIP]
            weight = column_weight[strip : strip + STRIP]
            for k in range(part.size):  # a vector loop
                p = part[k]
                low[k] = low_row[i] + low_side[k] + low_factor * p + low_bend * abs(p)
                high[k] = high_row[i] + high_side[k] + high_factor * p + high_bend * abs(p)
                middle = 0.5 * (low[k] + high[k])
                middle = middle if middle > 0.0 else 0.0  # of NaN too
                distance[k] = np.sqrt(middle) if root else middle
                enough = middle > digits * (high[k] - low[k]) and distance[k] >= least
                sure[k] = weight[k] if enough else 0
            for k in range(part.size):
                cell = (distance[k] - first) * per_unit
                if len(table) == 0:
                    b = int(min(max(cell + 1.0, 0.0), last))
                else:
                    middle = max(0.5 * (low[k] + high[k]), 0.0)
                    b = _search(lower, middle, table[int(min(max(cell, 0.0), len(table) - 1.0))])
                if sure[k] == 0 or low[k] < lower[b] or high[k] >= upper[b]:
                    sure[k] = 0
                    out_i[left] = i
                    out_j[left] = strip + k
                    left += 1
                counts[b] += row_weight[i] * sure[k]
            _add_up(distance[: part.size], sure, quantum, half, sums[i - start])
    return left


@numba.njit(nogil=True, cache=True)
def _add_up(distance: Array, weight: Array, quantum: float, half: int, sums: Array) -> None:  # pragma: no cover
    """Add weighted distances, and the parts of their squares (see `Bins`), to the sums (4,) of a row."""
    mask = (1 << half) - 1
    linear, square_high, cross, square_low = 0, 0, 0, 0
    for k in range(distance.size):  # a vector loop
        w, t = weight[k], int(np.rint(distance[k] * quantum))
        t_high, t_low = t >> half, t & mask
        linear += w * t
        square_high += w * (t_high * t_high)
        cross += w * (t_high * t_low)
        square_low += w * (t_low * t_low)
    sums[0] += linear
    sums[1] += square_high
    sums[2] += cross
    sums[3] += square_low


@numba.njit(nogil=True, cache=True)
def _search(lower: Array, sought: float, within: Array) -> int:  # pragma: no cover (compiled)
    """Return the last bin from within[0] to within[1] whose lower end is at most `sought`."""
    b, most = int(within[0]), int(within[1])
    while b < most:
        middle = (b + most + 1) // 2
        if lower[middle] <= sought:
            b = middle
        else:
            most = middle - 1
    return b


def count_within(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.count_within`."""
    p, kind = as_numba(product), inside.dtype.type
    bounds = [(bound.row, bound.column, kind(bound.factor), kind(bound.abs_factor)) for bound in terms]

    def work(start: int, stop: int) -> tuple[Array, Array, Array, Array]:
        rows = np.zeros((stop - start, inside.size), np.int64)
        columns = np.zeros((inside.size, p.shape[1]), np.int64)
        capacity = (stop - start) * p.shape[1]
        i, j = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        out = rows, columns, i, j
        left = _count_within(p, bounds[0], bounds[1], weights, inside, outside, diagonal, start, stop, out)
        return rows, columns, i[:left].astype(np.int64), j[:left].astype(np.int64)

    rows, columns, i, j = zip(*share_out(work, p.shape[0]), strict=True)
    return np.concatenate(rows), np.sum(columns, axis=0).T, np.concatenate(i), np.concatenate(j)


@numba.njit(nogil=True, cache=True)
def _count_within(
    product: Array,
    lower: Any,
    upper: Any,
    weights: Any,
    inside: Array,
    outside: Array,
    diagonal: bool,
    start: int,
    stop: int,
    out: Any,
) -> int:  # pragma: no cover (compiled)
    low_row, low_column, low_factor, low_bend = lower
    high_row, high_column, high_factor, high_bend = upper
    row_weight, column_weight = weights
    row_count, column_count, out_i, out_j = out
    left, radii, far = 0, inside.size, outside[-1]
    low, high = np.empty(STRIP, inside.dtype), np.empty(STRIP, inside.dtype)
    sure = np.empty(STRIP, np.bool_)
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, product.shape[1], STRIP):
            size = min(STRIP, product.shape[1] - strip)
            beyond = True
            for k in range(size):  # vectorised, as the loops below: no branches
                p = value(product[i, strip + k])
                low[k] = low_row[i] + low_column[strip + k] + low_factor * p + low_bend * abs(p)
                beyond &= low[k] > far
            if beyond:
                continue
            for k in range(size):
                p = value(product[i, strip + k])
                high[k] = high_row[i] + high_column[strip + k] + high_factor * p + high_bend * abs(p)
                sure[k] = True
            for r in range(radii):
                for k in range(size):
                    sure[k] &= (low[k] > outside[r]) | (high[k] <= inside[r])
            for r in range(radii):
                total = 0
                for k in range(size):
                    counted = sure[k] & (high[k] <= inside[r])
                    total += column_weight[strip + k] if counted else 0
                    column_count[r, strip + k] += row_weight[i] if counted else 0
                row_count[i - start, r] += total
            for k in range(size):
                if not sure[k]:
                    out_i[left] = i
                    out_j[left] = strip + k
                    left += 1
    return left

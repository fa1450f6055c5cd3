"""The passes over a product tile in numba, for the CPU; the rows are shared out among the cores of the task.

Compiled functions take the same named tuples as others, and write what they find to those of `out`, where i and j are
int32 and have room for every pair; they return how many pairs these hold.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import BoundedPairs, Limits, LinearBound
from embgeom_dask.kernels.counts import BinCounts, Bins, WithinCounts
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
) -> BoundedPairs:
    """See `embgeom_dask.kernels.passes.select`.

    It runs in one thread: after a matrix product, torch's threads keep spinning for longer than this pass takes.
    """
    p = as_numba(product)
    out = room_for(p.size, terms.row.dtype)
    count = _select(p, terms.in_one_dtype(), Limits(row_limit, column_limit), diagonal, out)
    return BoundedPairs(out.i[:count].astype(np.int64), out.j[:count].astype(np.int64), out.bound[:count].copy())


def room_for(pairs: int, dtype: Any) -> BoundedPairs:
    """Return uninitialised memory for so many pairs with bounds of `dtype`."""
    return BoundedPairs(np.empty(pairs, np.int32), np.empty(pairs, np.int32), np.empty(pairs, dtype))


@numba.njit(nogil=True, cache=True)
def may_hit(
    product: Array, bound: LinearBound, limits: Limits, i: int, start: int
) -> bool:  # pragma: no cover (compiled)
    """Whether some bound of row i in the strip of columns from `start` on is at most a limit, or NaN.

    True for a strip shorter than `STRIP`.
    """
    stop = start + STRIP
    if stop > product.shape[1]:
        return True
    strip, column, column_limit = product[i, start:stop], bound.column[start:stop], limits.column[start:stop]
    row, factor, abs_factor, row_limit = bound.row[i], bound.factor, bound.abs_factor, limits.row[i]
    misses = 0
    for k in range(STRIP):  # vectorised: fixed length, no branches, no index below 0
        p = value(strip[k])
        least = row + column[k] + factor * p + abs_factor * abs(p)
        misses += (least > row_limit) & (least > column_limit[k])
    return misses < STRIP


@numba.njit(nogil=True, cache=True)
def _select(
    product: Array, bound: LinearBound, limits: Limits, diagonal: bool, out: BoundedPairs
) -> int:  # pragma: no cover (compiled)
    count = 0
    columns = product.shape[1]
    for i in range(product.shape[0]):
        for strip in range(i + 1 if diagonal else 0, columns, STRIP):
            if may_hit(product, bound, limits, i, strip):
                for j in range(strip, min(strip + STRIP, columns)):
                    p = value(product[i, j])
                    least = bound.row[i] + bound.column[j] + bound.factor * p + bound.abs_factor * abs(p)
                    if not (least > limits.row[i] and least > limits.column[j]):
                        out.i[count] = i
                        out.j[count] = j
                        out.bound[count] = least
                        count += 1
    return count


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
) -> BinCounts:
    """See `embgeom_dask.kernels.passes.bin_pairs`."""
    p, (low, high) = product.numpy(), terms

    def work(start: int, stop: int) -> BinCounts:
        capacity = (stop - start) * p.shape[1]
        out = BinCounts(
            counts=np.zeros(bins.lower.size, np.int64),
            sums=np.zeros((stop - start, 6), np.int64),
            i=np.empty(capacity, np.int32),
            j=np.empty(capacity, np.int32),
            summed=np.empty(capacity, np.bool_),
        )
        left = _bin_pairs(p, low, high, weights, bins, diagonal, start, stop, out)
        i, j = out.i[:left].astype(np.int64), out.j[:left].astype(np.int64)
        return out._replace(i=i, j=j, summed=out.summed[:left].copy())

    counts, *others = zip(*share_out(work, p.shape[0]), strict=True)
    return BinCounts(np.sum(counts, axis=0), *map(np.concatenate, others))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _bin_pairs(
    product: Array,
    low: LinearBound,
    high: LinearBound,
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
    start: int,
    stop: int,
    out: BinCounts,
) -> int:  # pragma: no cover (compiled)
    row_weight, column_weight = weights
    lower, upper, table = bins.lower, bins.upper, bins.table
    left, last = 0, lower.size - 1
    least, most, distance, off = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP), np.empty(STRIP)
    sure, enough = np.empty(STRIP, np.int64), np.empty(STRIP, np.int64)
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, product.shape[1], STRIP):
            part = product[i, strip : strip + STRIP]
            low_column, high_column = low.column[strip : strip + STRIP], high.column[strip : strip + STRIP]
            weight = column_weight[strip : strip + STRIP]
            for k in range(part.size):  # a vector loop
                p = part[k]
                least[k] = low.row[i] + low_column[k] + low.factor * p + low.abs_factor * abs(p)
                most[k] = high.row[i] + high_column[k] + high.factor * p + high.abs_factor * abs(p)
                middle = 0.5 * (least[k] + most[k])
                middle = middle if middle > 0.0 else 0.0  # of NaN too
                distance[k] = np.sqrt(middle) if bins.root else middle
                apart = most[k] - least[k]
                known = middle > bins.digits * apart and distance[k] >= bins.least
                off[k] = (0.25 * apart / distance[k] if bins.root else 0.5 * apart) if known else 0.0
                enough[k] = weight[k] if known else 0
            if bins.settled:
                for k in range(part.size):
                    same = np.rint(least[k] * bins.quantum) == np.rint(most[k] * bins.quantum)
                    enough[k] = enough[k] if same else 0
                    off[k] = 0.0
            for k in range(part.size):
                cell = (distance[k] - bins.first) * bins.per_unit
                if len(table) == 0:
                    b = int(min(max(cell + 1.0, 0.0), last))
                else:
                    middle = max(0.5 * (least[k] + most[k]), 0.0)
                    b = _search(lower, middle, table[int(min(max(cell, 0.0), len(table) - 1.0))])
                sure[k] = enough[k]
                if enough[k] == 0 or least[k] < lower[b] or most[k] >= upper[b]:
                    sure[k] = 0
                    out.i[left] = i
                    out.j[left] = strip + k
                    out.summed[left] = enough[k] != 0
                    left += 1
                out.counts[b] += row_weight[i] * sure[k]
            _add_up(distance[: part.size], off, enough, bins, out.sums[i - start])
    return left


@numba.njit(nogil=True, cache=True)
def _add_up(distance: Array, off: Array, weight: Array, bins: Bins, sums: Array) -> None:  # pragma: no cover
    """Add weighted distances, the parts of their squares and their errors (see `Bins`) to the sums (6,) of a row."""
    mask, half = (1 << bins.half) - 1, bins.half
    linear, square_high, cross, square_low, error, error_square = 0, 0, 0, 0, 0, 0
    for k in range(distance.size):  # a vector loop
        w, t, e = weight[k], int(np.rint(distance[k] * bins.quantum)), int(off[k] * bins.error_quantum) + 1
        t_high, t_low = t >> half, t & mask
        linear += w * t
        square_high += w * (t_high * t_high)
        cross += w * (t_high * t_low)
        square_low += w * (t_low * t_low)
        error += w * e
        error_square += w * (e * e)
    sums[0] += linear
    sums[1] += square_high
    sums[2] += cross
    sums[3] += square_low
    sums[4] += error
    sums[5] += error_square


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
) -> WithinCounts:
    """See `embgeom_dask.kernels.passes.count_within`."""
    p, (low, high) = as_numba(product), (bound.in_one_dtype() for bound in terms)

    def work(start: int, stop: int) -> WithinCounts:
        capacity = (stop - start) * p.shape[1]
        out = WithinCounts(
            row_count=np.zeros((stop - start, inside.size), np.int64),
            column_count=np.zeros((inside.size, p.shape[1]), np.int64),
            i=np.empty(capacity, np.int32),
            j=np.empty(capacity, np.int32),
        )
        left = _count_within(p, low, high, weights, inside, outside, diagonal, start, stop, out)
        return out._replace(i=out.i[:left].astype(np.int64), j=out.j[:left].astype(np.int64))

    rows, columns, i, j = zip(*share_out(work, p.shape[0]), strict=True)
    return WithinCounts(np.concatenate(rows), np.sum(columns, axis=0).T, np.concatenate(i), np.concatenate(j))


@numba.njit(nogil=True, cache=True)
def _count_within(
    product: Array,
    low: LinearBound,
    high: LinearBound,
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
    start: int,
    stop: int,
    out: WithinCounts,
) -> int:  # pragma: no cover (compiled)
    row_weight, column_weight = weights
    left, radii, far = 0, inside.size, outside[-1]
    least, most = np.empty(STRIP, inside.dtype), np.empty(STRIP, inside.dtype)
    sure = np.empty(STRIP, np.bool_)
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, product.shape[1], STRIP):
            size = min(STRIP, product.shape[1] - strip)
            beyond = True
            for k in range(size):  # vectorised, as the loops below: no branches
                p = value(product[i, strip + k])
                least[k] = low.row[i] + low.column[strip + k] + low.factor * p + low.abs_factor * abs(p)
                beyond &= least[k] > far
            if beyond:
                continue
            for k in range(size):
                p = value(product[i, strip + k])
                most[k] = high.row[i] + high.column[strip + k] + high.factor * p + high.abs_factor * abs(p)
                sure[k] = True
            for r in range(radii):
                for k in range(size):
                    sure[k] &= (least[k] > outside[r]) | (most[k] <= inside[r])
            for r in range(radii):
                total = 0
                for k in range(size):
                    counted = sure[k] & (most[k] <= inside[r])
                    total += column_weight[strip + k] if counted else 0
                    out.column_count[r, strip + k] += row_weight[i] if counted else 0
                out.row_count[i - start, r] += total
            for k in range(size):
                if not sure[k]:
                    out.i[left] = i
                    out.j[left] = strip + k
                    left += 1
    return left

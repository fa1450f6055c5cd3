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

from embgeom_dask.kernels.bounds import STRIP, BoundedPairs, Limits, LinearBound, StripEnds
from embgeom_dask.kernels.counts import WithinCounts
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.numba_bins import bin_pairs
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

__all__ = ["PART", "bin_pairs", "count_within", "mark_hits", "room_for", "select"]

PART = 8
"""Columns of a strip whose marks, a byte each, are looked at together, as one number of 64 bits."""


def select(
    product: torch.Tensor,
    terms: LinearBound,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> BoundedPairs:
    """See `embgeom_dask.kernels.passes.select`.

    It runs in one thread: after a matrix product, torch's threads keep spinning for longer than this pass takes.
    """
    p = as_numba(product)
    out = room_for(p.size, terms.row.dtype)
    limits = Limits(row_limit, column_limit)
    count = _select(p, terms.in_one_dtype(), limits, largest_limits(limits), diagonal, least_of_strips(ends), out)
    return BoundedPairs(out.i[:count].astype(np.int64), out.j[:count].astype(np.int64), out.bound[:count].copy())


def least_of_strips(ends: StripEnds | None) -> Array:
    """The smallest lower bounds of strips (m, n // STRIP), or where they are not known none (0, 0)."""
    return np.empty((0, 0)) if ends is None else ends.least


def largest_limits(limits: Limits) -> Array:
    """The largest limit of the columns of each strip: (n // STRIP,)."""
    whole = limits.column.size // STRIP
    found: Array = limits.column[: whole * STRIP].reshape(whole, STRIP).max(axis=1)
    return found


def room_for(pairs: int, dtype: Any) -> BoundedPairs:
    """Return uninitialised memory for so many pairs with bounds of `dtype`."""
    return BoundedPairs(np.empty(pairs, np.int32), np.empty(pairs, np.int32), np.empty(pairs, dtype))


@numba.njit(nogil=True, cache=True)
def mark_hits(
    product: Array, bound: LinearBound, limits: Limits, i: int, start: int, hits: Array
) -> None:  # pragma: no cover (compiled)
    """Mark in `hits` (STRIP,) uint8 which bounds of row i in a strip of columns are at most a limit, or NaN."""
    stop = start + STRIP
    strip, column, column_limit = product[i, start:stop], bound.column[start:stop], limits.column[start:stop]
    row, factor, abs_factor, row_limit = bound.row[i], bound.factor, bound.abs_factor, limits.row[i]
    for k in range(STRIP):  # vectorised: fixed length, no branches, no index below 0
        p = value(strip[k])
        least = row + column[k] + factor * p + abs_factor * abs(p)
        hits[k] = np.uint8(0) if (least > row_limit) & (least > column_limit[k]) else np.uint8(1)


@numba.njit(nogil=True, cache=True)
def is_known(least: Array, start: int) -> bool:  # pragma: no cover (compiled)
    """Whether `least_of_strips` has the strip of columns from `start` on."""
    return bool(start // STRIP < least.shape[1])


@numba.njit(nogil=True, cache=True)
def rules_out(least: Array, limits: Limits, largest: Array, i: int, start: int) -> bool:  # pragma: no cover (compiled)
    """Whether all bounds of row i in the strip of columns from `start` on are known to be above the limits."""
    return bool(
        is_known(least, start)
        and least[i, start // STRIP] > limits.row[i]
        and least[i, start // STRIP] > largest[start // STRIP]
    )


@numba.njit(nogil=True, cache=True)
def _select(
    product: Array,
    bound: LinearBound,
    limits: Limits,
    largest: Array,
    diagonal: bool,
    known: Array,
    out: BoundedPairs,
) -> int:  # pragma: no cover (compiled)
    count, columns = 0, product.shape[1]
    any_hit = np.empty(STRIP // PART, np.uint64)
    hits, whole = any_hit.view(np.uint8), columns - STRIP
    for i in range(product.shape[0]):
        for strip in range(i + 1 if diagonal else 0, columns, STRIP):
            if known.size and rules_out(known, limits, largest, i, strip):
                continue
            if strip <= whole:
                mark_hits(product, bound, limits, i, strip, hits)
                for part in range(STRIP // PART):
                    if any_hit[part]:
                        for k in range(part * PART, (part + 1) * PART):
                            if hits[k]:
                                count = _keep(product, bound, i, strip + k, out, count)
            else:
                for j in range(strip, columns):
                    least = _least(product, bound, i, j)
                    if not (least > limits.row[i] and least > limits.column[j]):
                        count = _keep(product, bound, i, j, out, count)
    return count


@numba.njit(nogil=True, cache=True)
def _least(product: Array, bound: LinearBound, i: int, j: int) -> float:  # pragma: no cover (compiled)
    """Return the bound of one pair, as `mark_hits` computes it."""
    p = value(product[i, j])
    return bound.row[i] + bound.column[j] + bound.factor * p + bound.abs_factor * abs(p)  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)
def _keep(
    product: Array, bound: LinearBound, i: int, j: int, out: BoundedPairs, count: int
) -> int:  # pragma: no cover (compiled)
    """Write a pair to `out`, where `count` are before it, and return how many there are now."""
    out.i[count], out.j[count], out.bound[count] = i, j, _least(product, bound, i, j)
    return count + 1


def count_within(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> WithinCounts:
    """See `embgeom_dask.kernels.passes.count_within`."""
    p, (low, high) = as_numba(product), (bound.in_one_dtype() for bound in terms)

    def work(start: int, stop: int) -> WithinCounts:
        capacity = (stop - start) * p.shape[1]
        out = WithinCounts(
            row_count=np.zeros((stop - start, inside.size), np.int64),
            column_count=np.zeros((inside.size, p.shape[1] + STRIP), np.int64),
            i=np.empty(capacity, np.int32),
            j=np.empty(capacity, np.int32),
        )
        left = _count_within(p, low, high, weights, inside, outside, diagonal, start, stop, least_of_strips(ends), out)
        return out._replace(i=out.i[:left].astype(np.int64), j=out.j[:left].astype(np.int64))

    rows, columns, i, j = zip(*share_out(work, p.shape[0]), strict=True)
    counted = np.sum(columns, axis=0)[:, : p.shape[1]].T
    return WithinCounts(np.concatenate(rows), counted, np.concatenate(i), np.concatenate(j))


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
    known: Array,
    out: WithinCounts,
) -> int:  # pragma: no cover (compiled)
    row_weight, column_weight = weights[0], np.append(weights[1], np.zeros(STRIP, np.int64))
    left, radii, columns = 0, inside.size, product.shape[1]
    least, most, sure = np.empty(STRIP, inside.dtype), np.empty(STRIP, inside.dtype), np.empty(STRIP, inside.dtype)
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, columns, STRIP):
            if is_known(known, strip) and known[i, strip // STRIP] > outside[-1]:
                continue
            end = min(strip + STRIP, columns)
            part, size = product[i, strip:end], end - strip
            least[size:] = most[size:] = np.nan
            _bounds(part, low.row[i], low.column[strip:end], low.factor, low.abs_factor, least)
            if _beyond(least, outside[-1]) == size:
                continue
            _bounds(part, high.row[i], high.column[strip:end], high.factor, high.abs_factor, most)
            sure[:] = 1.0
            for r in range(radii):
                _keep_sure(least, most, inside[r], outside[r], sure)
            for r in range(radii):
                weight, counted = column_weight[strip : strip + STRIP], out.column_count[r, strip : strip + STRIP]
                out.row_count[i - start, r] += _add_counts(most, sure, inside[r], weight, row_weight[i], counted)
            for k in range(size):
                if sure[k] == 0.0:
                    out.i[left], out.j[left] = i, strip + k
                    left += 1
    return left


# The loops of one strip: of that length, without branches, so that they become vector instructions. What fills up a
# shorter strip is NaN, which is within nothing and beyond nothing.


@numba.njit(nogil=True, cache=True)
def _bounds(
    part: Array, row: float, column: Array, factor: float, abs_factor: float, out: Array
) -> None:  # pragma: no cover (compiled)
    for k in range(part.size):
        p = value(part[k])
        out[k] = row + column[k] + factor * p + abs_factor * abs(p)


@numba.njit(nogil=True, cache=True)
def _beyond(least: Array, far: float) -> int:  # pragma: no cover (compiled)
    count = 0
    for k in range(STRIP):
        count += 1 if least[k] > far else 0
    return count


@numba.njit(nogil=True, cache=True)
def _keep_sure(least: Array, most: Array, near: float, far: float, sure: Array) -> None:  # pragma: no cover (compiled)
    for k in range(STRIP):
        sure[k] = sure[k] if (least[k] > far) | (most[k] <= near) else sure[k] * 0


@numba.njit(nogil=True, cache=True)
def _add_counts(
    most: Array, sure: Array, near: float, weight: Array, row_weight: int, counted: Array
) -> int:  # pragma: no cover (compiled)
    """Add a row to what columns have within a radius, and return what it has of these columns."""
    total = 0
    for k in range(STRIP):
        inside = (most[k] <= near) & (sure[k] != 0.0)
        counted[k] += row_weight if inside else 0
        total += weight[k] if inside else 0
    return total

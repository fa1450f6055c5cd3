"""Numba passes over a product tile, the rows shared out among the cores of this task."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bins import CLOSE, Bins

Array = NDArray[Any]

_STRIP = 64


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="embgeom")


def share_out(work: Callable[[int, int], Any], size: int, least: int = 64) -> list[Any]:
    """Call `work(start, stop)` over range(size) in one part a thread of torch's; results in order.

    A part is not smaller than `least`. `work` must release the GIL to run side by side.
    """
    parts = max(1, min(torch.get_num_threads(), size // least))
    if parts == 1:
        return [work(0, size)]
    bounds = [size * part // parts for part in range(parts + 1)]
    return list(_pool().map(work, bounds[:-1], bounds[1:]))


def select(
    product: torch.Tensor,
    row: Array,
    column: Array,
    factor: float,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    """See `embgeom_dask.kernels.select`."""
    p = product.numpy()

    def work(start: int, stop: int) -> tuple[Array, Array, Array]:
        capacity = (stop - start) * p.shape[1]
        out = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, p.dtype)
        count = _select(p, row, column, p.dtype.type(factor), row_limit, column_limit, diagonal, start, stop, *out)
        return out[0][:count].astype(np.int64), out[1][:count].astype(np.int64), out[2][:count].copy()

    parts = share_out(work, p.shape[0])
    i, j, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, value


@numba.njit(nogil=True, cache=True)
def _select(
    product: Array,
    row: Array,
    column: Array,
    factor: Any,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
    start: int,
    stop: int,
    out_i: Array,
    out_j: Array,
    out_value: Array,
) -> int:  # pragma: no cover (compiled)
    count = 0
    columns = product.shape[1]
    for i in range(start, stop):
        r, limit = row[i], row_limit[i]
        for strip in range(i + 1 if diagonal else 0, columns, _STRIP):
            end = min(strip + _STRIP, columns)
            hit = False
            for j in range(strip, end):  # no branch: this loop is a vector one
                hit |= r + column[j] + factor * product[i, j] <= max(limit, column_limit[j])
            if hit:
                for j in range(strip, end):
                    value = r + column[j] + factor * product[i, j]
                    if value <= max(limit, column_limit[j]):
                        out_i[count] = i
                        out_j[count] = j
                        out_value[count] = value
                        count += 1
    return count


def bin_pairs(
    product: torch.Tensor, row: Array, column: Array, weights: tuple[Array, Array], bins: Bins, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.bin_pairs`."""
    p = product.numpy()

    def work(start: int, stop: int) -> tuple[Array, Array, Array, Array]:
        counts = np.zeros(bins.lower.size, np.int64)
        sums = np.zeros((stop - start, 4), np.int64)
        capacity = (stop - start) * p.shape[1]
        i, j = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        left = _bin_pairs(
            p,
            row,
            column,
            *weights,
            bins.lower,
            bins.upper,
            bins.first,
            bins.per_unit,
            bins.error,
            bins.quantum,
            bins.half,
            diagonal,
            start,
            stop,
            counts,
            sums,
            i,
            j,
        )
        return counts, sums, i[:left].astype(np.int64), j[:left].astype(np.int64)

    counts, sums, i, j = zip(*share_out(work, p.shape[0]), strict=True)
    return np.sum(counts, axis=0), np.concatenate(sums), np.concatenate(i), np.concatenate(j)


@numba.njit(nogil=True, cache=True)
def _bin_pairs(
    product: Array,
    row: Array,
    column: Array,
    row_weight: Array,
    column_weight: Array,
    lower: Array,
    upper: Array,
    first: float,
    per_unit: float,
    error: float,
    quantum: float,
    half: int,
    diagonal: bool,
    start: int,
    stop: int,
    counts: Array,
    sums: Array,
    out_i: Array,
    out_j: Array,
) -> int:  # pragma: no cover (compiled)
    left = 0
    last = lower.size - 1
    mask = (1 << half) - 1
    for i in range(start, stop):
        linear, high, cross, low = 0, 0, 0, 0
        for j in range(i + 1 if diagonal else 0, product.shape[1]):
            base = row[i] + column[j]
            squared = base - 2.0 * product[i, j]
            slack = error * base
            distance = np.sqrt(max(squared, 0.0))
            b = min(max(int((distance - first) * per_unit), 0), last)
            if squared <= CLOSE * base or squared - slack < lower[b] or squared + slack >= upper[b]:
                out_i[left] = i
                out_j[left] = j
                left += 1
            else:
                w = column_weight[j]
                counts[b] += row_weight[i] * w
                t = int(np.rint(distance * quantum))
                t_high, t_low = t >> half, t & mask
                linear += w * t
                high += w * (t_high * t_high)
                cross += w * (t_high * t_low)
                low += w * (t_low * t_low)
        sums[i - start, 0] = linear
        sums[i - start, 1] = high
        sums[i - start, 2] = cross
        sums[i - start, 3] = low
    return left

"""The pass over a product tile that counts pairs in bins and sums their distances, in numba, for the CPU.

It goes through strips of a row in loops of that length that become vector instructions: no branches, few arrays each; a
shorter strip is filled up with NaN. Pairs that are clearly inside a bin are counted by where they are between its ends;
the others are compared with these one by one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import STRIP, LinearBound, StripEnds
from embgeom_dask.kernels.counts import BinCounts, Bins
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

MOST_BITS = 46
"""Of a distance in fixed point: sums of `STRIP` of them have fewer than 53, as have those of so many squares of 23
bits."""


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> BinCounts:
    """See `embgeom_dask.kernels.passes.bin_pairs`."""
    p, (low, high) = product.numpy(), terms
    ends = StripEnds.unknown(0, 0) if ends is None else ends

    def work(start: int, stop: int) -> BinCounts:
        capacity = (stop - start) * p.shape[1]
        out = BinCounts(
            counts=np.zeros(bins.lower.size, np.int64),
            sums=np.zeros((stop - start, 6), np.int64),
            i=np.empty(capacity, np.int32),
            j=np.empty(capacity, np.int32),
            summed=np.empty(capacity, np.bool_),
        )
        left = _bin_pairs(p, low, high, weights, bins, diagonal, start, stop, out, ends)
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
    ends: StripEnds,
) -> int:  # pragma: no cover (compiled)
    row_weight, column_weight = weights
    shared = np.append(0, np.cumsum(column_weight != 1))  # columns before each one that several tokens share
    nowhere, tells = bins.lower.size, len(ends.least) > 0
    counts = np.zeros(nowhere + 1, np.int64)
    least, most, distance, off = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP), np.empty(STRIP)
    known, place, weight = np.empty(STRIP), np.empty(STRIP, np.int32), np.zeros(STRIP, np.int64)
    left, error_quantum = 0, 0.0 if bins.settled else bins.error_quantum
    for i in range(start, stop):
        for strip in range(i + 1 if diagonal else 0, product.shape[1], STRIP):
            end = min(strip + STRIP, product.shape[1])
            size, part, w = end - strip, product[i, strip:end], row_weight[i]
            low_column, high_column = low.column[strip:end], high.column[strip:end]
            least[size:] = most[size:] = np.nan
            _bounds(part, low.row[i], low_column, low.factor, high.row[i], high_column, high.factor, least, most)
            _add_sizes(part, low.abs_factor, least)
            _add_sizes(part, high.abs_factor, most)
            _distances(least, most, bins.root, bins.digits, bins.least, distance, off, known)
            if bins.settled:
                _keep_settled(least, most, bins.quantum, known)
            unsure = _places(distance, off, known, bins.first, bins.per_unit, bins.margin, nowhere, place)
            if tells and size == STRIP and unsure == 0:  # by the bins, in fewer instructions
                outermost = _outermost(place)
                ends.least[i, strip // STRIP] = bins.lower[outermost[0]]
                ends.most[i, strip // STRIP] = bins.upper[outermost[1]]
            elif tells and size == STRIP:
                ends.least[i, strip // STRIP], ends.most[i, strip // STRIP] = _ends(least, most)
            if shared[strip] == shared[end]:
                for k in range(STRIP):
                    counts[place[k]] += w
                _add_up(distance, off, known, bins.quantum, error_quantum, 1 << bins.half, out.sums[i - start])
            else:
                weight[:size] = column_weight[strip:end]
                for k in range(size):
                    counts[place[k]] += w * weight[k]
                _add_weighed(distance, off, known, weight, bins.quantum, error_quantum, bins.half, out.sums[i - start])
            if unsure:
                for k in range(size):
                    if place[k] == nowhere:
                        b = _bin(distance[k], least[k], most[k], bins)
                        if known[k] != 0.0 and least[k] >= bins.lower[b] and most[k] < bins.upper[b]:
                            counts[b] += w * column_weight[strip + k]
                        else:
                            out.i[left], out.j[left], out.summed[left] = i, strip + k, known[k] != 0.0
                            left += 1
    out.counts[:] = counts[:nowhere]
    return left


@numba.njit(nogil=True, cache=True)
def _bounds(
    part: Array,
    row: float,
    column: Array,
    factor: float,
    other_row: float,
    other_column: Array,
    other_factor: float,
    least: Array,
    most: Array,
) -> None:  # pragma: no cover (compiled)
    for k in range(part.size):
        least[k] = row + column[k] + factor * part[k]
        most[k] = other_row + other_column[k] + other_factor * part[k]


@numba.njit(nogil=True, cache=True)
def _add_sizes(part: Array, factor: float, bound: Array) -> None:  # pragma: no cover (compiled)
    for k in range(part.size if factor != 0.0 else 0):
        bound[k] += factor * abs(part[k])


@numba.njit(nogil=True, cache=True)
def _outermost(place: Array) -> tuple[Any, Any]:  # pragma: no cover (compiled)
    """The first and the last of some bins."""
    first, last = place[0], place[0]
    for k in range(STRIP):  # a vector loop: with min and max it is none
        first = place[k] if place[k] < first else first
        last = place[k] if place[k] > last else last
    return first, last


@numba.njit(nogil=True, cache=True)
def _ends(least: Array, most: Array) -> tuple[float, float]:  # pragma: no cover (compiled)
    """The smallest of the lower and the largest of the upper bounds; -inf and inf where one is NaN."""
    smallest, largest = np.inf, -np.inf
    for k in range(STRIP):
        if np.isnan(least[k]) or np.isnan(most[k]):
            return -np.inf, np.inf
        smallest, largest = min(smallest, least[k]), max(largest, most[k])
    return smallest, largest


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _distances(
    least: Array,
    most: Array,
    root: bool,
    digits: float,
    shortest: float,
    distance: Array,
    off: Array,
    known: Array,
) -> None:  # pragma: no cover (compiled)
    """Fill in distances, what they may be off, and 1.0 for those that are summed; for others 0.0."""
    for k in range(STRIP):
        middle = 0.5 * (least[k] + most[k])
        middle = middle if middle > 0.0 else 0.0  # of NaN too
        apart = most[k] - least[k]
        long = np.sqrt(middle) if root else middle
        enough = (middle > digits * apart) & (long >= shortest)
        distance[k] = long if enough else 0.0
        off[k] = (0.25 * apart / long if root else 0.5 * apart) if enough else 0.0
        known[k] = 1.0 if enough else 0.0


@numba.njit(nogil=True, cache=True)
def _keep_settled(least: Array, most: Array, quantum: float, known: Array) -> None:  # pragma: no cover (compiled)
    for k in range(STRIP):
        known[k] = known[k] if np.rint(least[k] * quantum) == np.rint(most[k] * quantum) else 0.0


@numba.njit(nogil=True, cache=True)
def _places(
    distance: Array,
    off: Array,
    known: Array,
    first: float,
    per_unit: float,
    margin: float,
    nowhere: int,
    place: Array,
) -> int:  # pragma: no cover (compiled)
    """Fill in the bins of pairs that are clearly inside one, for others the number of bins; how many these are.

    With m the middle of the bounds and e half of what they are apart, less than m, sqrt(m + e) - sqrt(m) <= e / 2
    sqrt(m), which is `off`, and sqrt(m) - sqrt(m - e) <= e / sqrt(m), twice that. `margin` is what the ends of bins are
    off the places where cells meet, and what is rounded here.
    """
    last, unsure = nowhere - 2.0, 0
    for k in range(STRIP):
        cell = (distance[k] - first) * per_unit
        whole = np.floor(cell)
        beyond, slack = cell - whole, 2.0 * off[k] * per_unit + margin
        inside = (beyond > slack) & (beyond < 1.0 - slack) & (cell > 0.0) & (whole < last)
        sure = inside & (known[k] > 0.0)
        place[k] = np.int32(whole + 1.0) if sure else np.int32(nowhere)
        unsure += 0 if sure else 1
    return unsure


@numba.njit(nogil=True, cache=True)
def _bin(distance: float, least: float, most: float, bins: Bins) -> int:  # pragma: no cover (compiled)
    """The bin that a pair is in, if it is in one for certain."""
    cell, table = (distance - bins.first) * bins.per_unit, bins.table
    if len(table) == 0:
        return int(min(max(cell + 1.0, 0.0), bins.lower.size - 1.0))
    middle = max(0.5 * (least + most), 0.0)
    return _search(bins.lower, middle, table[int(min(max(cell, 0.0), len(table) - 1.0))])


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


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _add_up(
    distance: Array, off: Array, known: Array, quantum: float, error_quantum: float, part: int, sums: Array
) -> None:  # pragma: no cover (compiled)
    """Add distances, the parts of their squares and their errors (see `Bins`) to the sums (6,) of a row.

    All numbers are integers below 2^53, and so are their sums: nothing is rounded, in any order.
    """
    up, down = np.float64(part), 1.0 / part
    linear, square_high, cross, square_low, error, error_square = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(STRIP):
        t, e = np.rint(distance[k] * quantum) * known[k], (np.floor(off[k] * error_quantum) + 1.0) * known[k]
        t_high = np.floor(t * down)
        t_low = t - t_high * up
        linear += t
        square_high += t_high * t_high
        cross += t_high * t_low
        square_low += t_low * t_low
        error += e
        error_square += e * e
    found = (linear, square_high, cross, square_low, error, error_square)
    for k in range(6):
        sums[k] += np.int64(found[k])


@numba.njit(nogil=True, cache=True)
def _add_weighed(
    distance: Array,
    off: Array,
    known: Array,
    weight: Array,
    quantum: float,
    error_quantum: float,
    half: int,
    sums: Array,
) -> None:  # pragma: no cover (compiled)
    """The same, each of them so many times as `weight` says."""
    mask = (1 << half) - 1
    for k in range(STRIP):
        w, t = weight[k] * int(known[k]), int(np.rint(distance[k] * quantum))
        e = int(off[k] * error_quantum) + 1
        t_high, t_low = t >> half, t & mask
        sums[0] += w * t
        sums[1] += w * (t_high * t_high)
        sums[2] += w * (t_high * t_low)
        sums[3] += w * (t_low * t_low)
        sums[4] += w * e
        sums[5] += w * (e * e)

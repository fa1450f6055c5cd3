"""Exact sums of columns: integers that hold every bit of values from 2^-400 to 2^400, in any order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, as_size, significand_bits, size_bits, size_range, value
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.kernels.rationals import Rationals

Array = NDArray[Any]

_FIRST, _LIMBS = 19, 28
"""A float64 is m 2^(e - 1075), m of 53 bits, e of 11 bits. In units of 2^-1074 its bits begin at bit e - 1 and reach
into three limbs of 32 bits. Values from 2^-400 to 2^400 reach into the limbs 19 to 46."""

_STRIP = 512
"""Columns that are summed together, so that their limbs stay in the cache of a core."""

_ROWS = 1024
"""Rows whose sums are added to the limbs together, where float64 holds them without rounding."""


class ColumnSums(NamedTuple):
    """The exact sums of columns: of column k it is sum_l limbs[k, l] 2^(32 (first + l) - 1074).

    `limbs` (d, l) is int64. A value adds less than 2^32 to a limb, so that 2^31 rows can be added without overflow.
    """

    limbs: Array
    first: int = _FIRST

    @classmethod
    def none(cls, width: int) -> ColumnSums:
        """Return the sums of no rows, of `width` columns."""
        return cls(np.zeros((width, _LIMBS), np.int64))

    def add(self, other: ColumnSums) -> None:
        """Add the sums of other rows in place; `self` must have all limbs of `other`."""
        start = other.first - self.first
        self.limbs[:, start : start + other.limbs.shape[1]] += other.limbs

    def mean(self, count: int) -> Rationals:
        """Return the mean row, exactly; these are the sums of `count` rows."""
        whole = np.zeros(len(self.limbs), np.object_)  # Python's integers, of the limbs that are not all 0
        for place in np.flatnonzero(self.limbs.any(axis=0)).tolist():
            whole += self.limbs[:, place].astype(np.object_) << (32 * place)
        return Rationals(whole.tolist(), count, 32 * self.first - 1074)


def column_sums(stored: Array, keep: Array) -> ColumnSums:
    """Add the rows (n, d), of any float dtype, where `keep` (n,) bool is true.

    Their values must be 0 or from 2^-400 to 2^400 in size. Limbs that are 0 in all columns are left out.
    """
    rows = as_numba(stored)
    most = 2.0 ** (52 - significand_bits(rows))  # float64 holds sums of multiples of the last bit of the least value

    def add_up(start: int, stop: int) -> Array:
        least, largest = map(as_size, _ends(rows, keep, start, stop, *size_range(rows)))
        return _add_up(rows, keep, start, stop, _ROWS * largest > most * least)

    limbs = np.concatenate(share_out(add_up, rows.shape[1]))
    used = np.flatnonzero(limbs.any(axis=0))
    if not used.size:
        return ColumnSums(limbs[:, :0])
    return ColumnSums(limbs[:, used[0] : used[-1] + 1].copy(), _FIRST + int(used[0]))


@numba.njit(nogil=True, cache=True)
def _ends(
    rows: Array, keep: Array, start: int, stop: int, zero: Any, top: Any
) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the `size_bits` of the least value but 0 of columns `start` to `stop` of every `_ROWS` rows (parts, d).

    And those of the largest. `zero` and `top` are the least and the largest number of their type.
    """
    shape = (-(-rows.shape[0] // _ROWS), stop - start)
    least, largest = np.full(shape, top), np.full(shape, zero)
    for i in range(rows.shape[0]):
        if keep[i]:
            row, low, high = rows[i, start:stop], least[i // _ROWS], largest[i // _ROWS]
            for k in range(row.size):  # a vector loop
                bits = size_bits(row[k])
                high[k] = max(high[k], bits)
                low[k] = min(low[k], bits if bits > zero else top)
    return least, largest


@numba.njit(nogil=True, cache=True)
def _add_up(rows: Array, keep: Array, start: int, stop: int, rounded: Array) -> Array:  # pragma: no cover (compiled)
    """Return the limbs of columns `start` to `stop`; `rounded` (parts, d) is where float64 may round a sum of rows."""
    limbs, sums = np.zeros((stop - start, _LIMBS), np.int64), np.empty(_STRIP)
    for first in range(start, stop, _STRIP):
        end, here = min(first + _STRIP, stop), limbs[first - start :]
        numbers = sums[: end - first]
        for part in range(rounded.shape[0]):
            one_by_one = rounded[part, first - start : end - start].any()
            numbers[:] = 0.0
            for i in range(part * _ROWS, min((part + 1) * _ROWS, rows.shape[0])):
                if keep[i]:
                    row = rows[i, first:end]
                    for k in range(row.size):  # a vector loop
                        numbers[k] += value(row[k])
                    if one_by_one:
                        _spread(numbers, here)
                        numbers[:] = 0.0
            _spread(numbers, here)
    return limbs


@numba.njit(nogil=True, cache=True)
def _spread(numbers: Array, here: Array) -> None:  # pragma: no cover (compiled)
    """Add a number to the limbs of each column."""
    bits = numbers.view(np.int64)
    for k in range(numbers.size):
        exponent, whole = (bits[k] >> 52) & 0x7FF, bits[k] & 0xFFFFFFFFFFFFF
        whole |= np.int64(exponent != 0) << 52  # a zero has no bit
        bit = np.uint64(max(exponent - 1 - 32 * _FIRST, 0))
        place, shift = bit >> np.uint64(5), np.int64(bit & np.uint64(31))
        above = whole >> (32 - shift)
        low, middle, high = (whole << shift) & 0xFFFFFFFF, above & 0xFFFFFFFF, above >> 32
        if bits[k] < 0:
            low, middle, high = -low, -middle, -high
        here[k, place] += low
        here[k, place + np.uint64(1)] += middle
        here[k, place + np.uint64(2)] += high

"""Find rows that cannot be computed with: those with NaN, infinity, or values far from 1."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, as_size, size_bits, size_range
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

NOT_FINITE, FAR = 1, 2
"""NOT_FINITE: a row has NaN or infinity. FAR: it has a value other than 0 outside SMALLEST to LARGEST in size."""

SMALLEST, LARGEST = 2.0**-400, 2.0**400
"""Squares of values in this range, and the rounding errors of the squares, neither overflow nor underflow."""


def unfit(stored: Array) -> Array:
    """Return why each row (n, d), of any float dtype, cannot be computed with: (n,) uint8, NOT_FINITE, FAR or 0."""
    least, largest = ends(stored)
    far = (least < SMALLEST) | (largest > LARGEST)
    return np.where(largest < np.inf, np.where(far, FAR, 0), NOT_FINITE).astype(np.uint8)


def ends(stored: Array) -> tuple[Array, Array]:
    """Return the least size but 0 of the values of each row (n, d), of any float dtype, and the largest, (n,) float64.

    A row of zeros has infinity and 0; of one with NaN the largest is NaN.
    """
    rows = as_numba(stored)
    found = share_out(lambda start, stop: _ends(rows[start:stop], *size_range(rows)), len(rows))
    least, largest = (np.concatenate(each) for each in zip(*found, strict=True))
    return np.where(largest == 0, np.inf, as_size(least)), as_size(largest)


@numba.njit(nogil=True, cache=True)
def _ends(rows: Array, zero: Any, top: Any) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """The same as bits; `zero` and `top` are the least and the largest number of their type."""
    least, largest = np.full(rows.shape[0], top), np.full(rows.shape[0], zero)
    for i in range(rows.shape[0]):
        low, high, row = top, zero, rows[i]
        for k in range(row.size):
            bits = size_bits(row[k])
            high = max(high, bits)
            low = min(low, bits if bits > zero else top)
        least[i], largest[i] = low, high
    return least, largest

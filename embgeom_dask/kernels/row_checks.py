"""Find rows that cannot be computed with: those with NaN, infinity, or values far from 1."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

NOT_FINITE, FAR = 1, 2
"""NOT_FINITE: a row has NaN or infinity. FAR: it has a value other than 0 outside SMALLEST to LARGEST in size."""

SMALLEST, LARGEST = 2.0**-400, 2.0**400
"""Squares of values in this range, and the rounding errors of the squares, neither overflow nor underflow."""


def unfit(stored: Array) -> Array:
    """Return why each row (n, d), of any float dtype, cannot be computed with: (n,) uint8, NOT_FINITE, FAR or 0."""
    rows = as_numba(stored)
    return np.concatenate(share_out(lambda start, stop: _unfit(rows[start:stop]), len(rows)))


@numba.njit(nogil=True, cache=True)
def _unfit(rows: Array) -> Array:  # pragma: no cover (compiled)
    out = np.zeros(rows.shape[0], np.uint8)
    for i in range(rows.shape[0]):
        endless, far = 0, 0
        for k in range(rows.shape[1]):
            size = abs(np.float64(value(rows[i, k])))
            endless += not size < np.inf
            far += not (SMALLEST <= size <= LARGEST or size == 0.0)
        if far:
            out[i] = NOT_FINITE if endless else FAR
    return out

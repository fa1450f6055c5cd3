"""Projections of rows on a few directions, summed to about 100 bits, a row at a time: in no other order."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import two_product, two_sum
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]


def projections(stored: Array, high: Array, low: Array, directions: Array) -> Array:
    """Return the scalar products of rows (n, d), less a point, with directions (k, d) float64: (n, k).

    The point is `high` + `low` (d,) float64. Each product is within one unit in the last place, and 2^-100 of the sizes
    of its terms, of the true one.
    """
    rows = as_numba(stored)
    return np.concatenate(
        share_out(lambda start, stop: _projections(rows[start:stop], high, low, directions), len(rows))
    )


@numba.njit(nogil=True, cache=True)
def _projections(rows: Array, high: Array, low: Array, directions: Array) -> Array:  # pragma: no cover (compiled)
    out = np.empty((rows.shape[0], directions.shape[0]))
    for i in range(rows.shape[0]):
        for c in range(directions.shape[0]):
            total, rest = 0.0, 0.0
            for k in range(rows.shape[1]):
                t, e = two_sum(np.float64(value(rows[i, k])), -high[k])
                product, error = two_product(t, directions[c, k])
                total, lost = two_sum(total, product)
                rest += lost + error + (e - low[k]) * directions[c, k]
            out[i, c] = total + rest
    return out

"""Projections of rows on a few directions, summed to about 100 bits, always in the same order."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import two_product, two_sum
from embgeom_dask.kernels.double_double_sums import LANES, add_lanes, add_to_lane
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
    width = rows.shape[1]
    lanes, moved, lost = np.empty((2, LANES)), np.empty(width), np.empty(width)
    for i in range(rows.shape[0]):
        row = rows[i]
        for k in range(width):
            t, e = two_sum(np.float64(value(row[k])), -high[k])
            moved[k], lost[k] = t, e - low[k]
        for c in range(directions.shape[0]):
            lanes[:] = 0.0
            direction = directions[c]
            for start in range(0, width, LANES):
                end = min(start + LANES, width)
                sums, errors = lanes[0, : end - start], lanes[1, : end - start]
                _add_products(moved[start:end], lost[start:end], direction[start:end], sums, errors)
            total, rest = add_lanes(lanes)
            out[i, c] = total + rest
    return out


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_products(
    moved: Array, lost: Array, direction: Array, sums: Array, errors: Array
) -> None:  # pragma: no cover (compiled)
    for k in range(moved.size):  # a vector loop
        product, error = two_product(moved[k], direction[k])
        add_to_lane(sums, errors, k, product, error + lost[k] * direction[k])

"""Sums of many terms in double-double, compiled for the CPU.

A sum has `LANES` partial sums, each of two float64 numbers, to which vector instructions add at the same time; then the
lanes are added in pairs. Term k of a sum is added to lane k modulo `LANES`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import UNIT, two_product, two_sum

Array = NDArray[Any]

LANES = 64


def sum_slack(width: int) -> float:
    """Return (n + 16)^2 u^2 for n terms a lane of a sum of `width` terms, u = 2^-53.

    It bounds the error of a sum of products, relative to the sum of their absolute values.
    """
    return float((width // LANES + 17) ** 2 * UNIT**2)


@numba.njit(nogil=True, cache=True)
def add_to_lane(sums: Array, errors: Array, k: int, term: float, error: float) -> None:  # pragma: no cover (compiled)
    """Add `term` and its `error` to lane k, of `sums` and `errors`."""
    sums[k], below = two_sum(sums[k], term)
    errors[k] += below + error


@numba.njit(nogil=True, cache=True)
def add_lanes(lanes: Array) -> tuple[float, float]:  # pragma: no cover (compiled)
    """Add all lanes into lane 0, and return high and low of the sum.

    Parameters
    ----------
    lanes : numpy.ndarray of float64, (2 or 3, `LANES`)
        Sums, their errors and, if there are 3 rows, how much was lost; changed in place.
    """
    half = LANES
    while half > 1:
        half //= 2
        one, other = lanes[:, :half], lanes[:, half : 2 * half]
        if lanes.shape[0] == 2:
            for k in range(half):
                one[0, k], below = two_sum(one[0, k], other[0, k])
                one[1, k] += other[1, k] + below
        else:
            for k in range(half):
                one[0, k], below = two_sum(one[0, k], other[0, k])
                rest, lost = two_sum(one[1, k], other[1, k])
                one[1, k], lost_too = two_sum(rest, below)
                one[2, k] += other[2, k] + abs(lost) + abs(lost_too)
    return two_sum(lanes[0, 0], lanes[1, 0])


@numba.njit(nogil=True, cache=True)
def root_of(high: float, low: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    """Return the float64 square root of `high` > 0, and the step from it to the root of high + low."""
    root = np.sqrt(high)
    square, error = two_product(root, root)
    return root, (((high - square) - error) + low) / (2.0 * root)

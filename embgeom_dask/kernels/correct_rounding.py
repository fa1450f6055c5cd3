"""Correctly rounded distances: the float64 number nearest to the true distance, ties to even.

The error of a compiled sum (`double_double_sums`) is at most a small known multiple of 2^-77, relative, or 0. So all
but a few pairs in a million are *settled*: every number within the error is rounded to the same float64. The others are
compared with the rational boundaries between float64 numbers. The functions take rows x (m, d) and y (n, d) as
`as_numba` gives them, and pairs i and j (p,); consecutive pairs with the same i are faster.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import UNIT, DoubleDouble, two_product, two_sum
from embgeom_dask.kernels.double_double_sums import LANES, add_lanes, add_to_lane, root_of
from embgeom_dask.kernels.numba_bfloat16 import value
from embgeom_dask.kernels.prefetch import fetch_next

Array = NDArray[Any]

_LEAST = 2.0**-900
"""A smaller sum of squares may have lost parts of its terms by underflow."""


def last_below(cut: Array, closed: Array) -> Array:
    """Return the largest float64 (c,) below each cut (c,), or the cut itself if it is `closed` (c,) bool."""
    return np.where(closed, cut, np.nextafter(cut, -np.inf))


def is_even(distance: Array) -> Array:
    """Whether the number halfway between each float64 number (c,) and the next is rounded to it: its last bit is 0."""
    even: Array = distance.view(np.int64) & 1 == 0
    return even


def half_step(distance: Array) -> Array:
    """Return half of the gap to the next larger float64 number; exact except for subnormal numbers."""
    return (np.nextafter(distance, np.inf) - distance) / 2


def upper_boundary(distance: float) -> tuple[Fraction, bool]:
    """Return the boundary above which a number is rounded to more than `distance`; whether it is rounded to that."""
    above = np.nextafter(distance, np.inf)
    exact_above = Fraction(2) ** 1024 if np.isinf(above) else Fraction(float(above))
    return (Fraction(distance) + exact_above) / 2, bool(is_even(np.array(distance)))


@numba.njit(nogil=True, cache=True)
def is_settled(nearest: float, rest: float, error: float) -> bool:  # pragma: no cover (compiled)
    """Whether every number within `error` of nearest + rest is rounded to `nearest`; False for NaN.

    An `error` other than 0 must be at least 2^-104 of `nearest`, which is more than the rounding errors of this test.
    """
    return nearest + (rest + error) == nearest and nearest + (rest - error) == nearest


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_squares(a: Array, b: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(b.size):  # a vector loop
        t, e = two_sum(a[k], -np.float64(value(b[k])))
        square, error = two_product(t, t)
        add_to_lane(sums, errors, k, square, error + 2.0 * t * e)


@numba.njit(nogil=True, cache=True)
def euclidean(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the L2 distances (p,) float64, and whether each is settled, (p,) bool.

    The sum of squares S errs by at most 4 (n + 16)^2 u^2 S, for n terms a lane and u = 2^-53: differences and their
    squares have their errors beside them.
    """
    out, settled = np.empty(i.size), np.empty(i.size, np.bool_)
    width = x.shape[1]
    a, last, lanes = np.empty(width), -1, np.empty((2, LANES))
    n = width // LANES + 17.0
    slack = 2.0 * n * n * UNIT * UNIT + 32.0 * UNIT * UNIT
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row = x[last]
            for k in range(width):
                a[k] = np.float64(value(row[k]))
        b = y[j[p]]
        lanes[:] = 0.0
        for start in range(0, width, LANES):
            part = b[start : start + LANES]
            _add_squares(a[start : start + LANES], part, lanes[0, : part.size], lanes[1, : part.size])
        high, low = add_lanes(lanes)
        if high == 0.0:
            out[p], settled[p] = 0.0, _are_equal(a, b)
            continue
        root, step = root_of(high, low)
        out[p], rest = two_sum(root, step)
        settled[p] = high > _LEAST and is_settled(out[p], rest, slack * root)
    return out, settled


@numba.njit(nogil=True, cache=True)
def _are_equal(a: Array, b: Array) -> bool:  # pragma: no cover (compiled)
    different = 0
    for k in range(a.size):
        different += a[k] != np.float64(value(b[k]))
    return different == 0


@numba.njit(nogil=True, cache=True)
def _add_differences(a: Array, b: Array, sums: Array, errors: Array, losses: Array) -> None:  # pragma: no cover
    for k in range(b.size):  # a vector loop
        t, e = two_sum(np.float64(value(a[k])), -np.float64(value(b[k])))
        sums[k], below = two_sum(sums[k], abs(t))
        rest, lost = two_sum(np.copysign(1.0, t) * e, below)
        errors[k], lost_too = two_sum(errors[k], rest)
        losses[k] += abs(lost) + abs(lost_too)


@numba.njit(nogil=True, cache=True)
def cityblock(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the L1 distances (p,) float64, and whether each is settled, (p,) bool."""
    out, settled = np.empty(i.size), np.empty(i.size, np.bool_)
    lanes = np.empty((3, LANES))
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        lanes[:] = 0.0
        for start in range(0, a.size, LANES):
            part = b[start : start + LANES]
            one, two, three = lanes[0, : part.size], lanes[1, : part.size], lanes[2, : part.size]
            _add_differences(a[start : start + LANES], part, one, two, three)
        out[p], rest = add_lanes(lanes)
        lost = lanes[2, 0]
        error = 2.0 * lost + 4.0 * UNIT * UNIT * out[p] if lost > 0.0 else 0.0
        settled[p] = is_settled(out[p], rest, error)
    return out, settled


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_products(a: Array, b: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(b.size):  # a vector loop
        q, r = two_product(a[k], np.float64(value(b[k])))
        add_to_lane(sums, errors, k, q, r)


@numba.njit(nogil=True, cache=True)
def dots(x: Array, y: Array, i: Array, j: Array) -> DoubleDouble:  # pragma: no cover (compiled)
    """Return sum_k x[i, k] y[j, k], (p,); the error is at most `sum_slack` |x[i]| |y[j]|."""
    high, low = np.empty(i.size), np.empty(i.size)
    width = x.shape[1]
    a, last, lanes = np.empty(width), -1, np.empty((2, LANES))
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row = x[last]
            for k in range(width):
                a[k] = np.float64(value(row[k]))
        b = y[j[p]]
        lanes[:] = 0.0
        for start in range(0, width, LANES):
            part = b[start : start + LANES]
            _add_products(a[start : start + LANES], part, lanes[0, : part.size], lanes[1, : part.size])
        high[p], low[p] = add_lanes(lanes)
    return DoubleDouble(high, low)


@numba.njit(nogil=True, cache=True)
def are_settled(high: Array, low: Array, error: Array) -> Array:  # pragma: no cover (compiled)
    """Return `is_settled` of pairs of `high` and `low` (p,), each with its `error` (p,): (p,) bool."""
    settled = np.empty(high.size, np.bool_)
    for p in range(high.size):
        settled[p] = is_settled(high[p], low[p], error[p])
    return settled

"""Correctly rounded distances: the float64 number nearest to the true distance, ties to even.

A compiled sum has `_LANES` partial sums of two float64 numbers each, which are then added in pairs. Its error is at
most a small known multiple of 2^-77, relative, or 0. So all but a few pairs in a million are *settled*: every number
within the error is rounded to the same float64. The others are compared with the rational boundaries between float64
numbers. The functions take rows x (m, d) and y (n, d) as `as_numba` gives them, and pairs i and j (p,); consecutive
pairs with the same i are faster.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import UNIT, two_product, two_sum
from embgeom_dask.kernels.numba_bfloat16 import value
from embgeom_dask.kernels.prefetch import fetch_next

Array = NDArray[Any]

_LANES = 64
_SPLIT = 134217729.0
"""2^27 + 1: Dekker's constant, which splits a float64 number into two halves."""
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


@numba.njit(nogil=True, cache=True)
def _halve(lanes: Array) -> None:  # pragma: no cover (compiled)
    """Add the lanes (2 or 3, `_LANES`) into lane 0: sums, their errors and, if there are 3 rows, what was lost."""
    half = _LANES
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


@numba.njit(nogil=True, cache=True)
def _add_squares(a: Array, b: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(b.size):  # a vector loop
        t, e = two_sum(a[k], -np.float64(value(b[k])))
        c = _SPLIT * t
        t_high = c - (c - t)
        t_low = t - t_high
        sums[k], below = two_sum(sums[k], t_high * t_high)
        errors[k] += below + (t_low * (2.0 * t_high + t_low) + 2.0 * t * e)


@numba.njit(nogil=True, cache=True)
def euclidean(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the L2 distances (p,) float64, and whether each is settled, (p,) bool.

    The sum of squares S errs by at most (n + 16) (2^-24 + (n + 16) u) u S, for n terms a lane and u = 2^-53: the square
    of the upper half of a difference is exact; everything else is less than 2^-24 of it, or an error of the sum.
    """
    out, settled = np.empty(i.size), np.empty(i.size, np.bool_)
    width = x.shape[1]
    a, last, lanes = np.empty(width), -1, np.empty((2, _LANES))
    n = width // _LANES + 17.0
    slack = 0.5 * n * (2.0**-24 + n * UNIT) * UNIT + 32.0 * UNIT * UNIT
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row = x[last]
            for k in range(width):
                a[k] = np.float64(value(row[k]))
        b = y[j[p]]
        lanes[:] = 0.0
        for start in range(0, width, _LANES):
            part = b[start : start + _LANES]
            _add_squares(a[start : start + _LANES], part, lanes[0, : part.size], lanes[1, : part.size])
        _halve(lanes)
        high, low = two_sum(lanes[0, 0], lanes[1, 0])
        if high == 0.0:
            out[p], settled[p] = 0.0, _are_equal(a, b)
            continue
        root = np.sqrt(high)
        square, below = two_product(root, root)
        out[p], rest = two_sum(root, (((high - square) - below) + low) / (2.0 * root))
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
    lanes = np.empty((3, _LANES))
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        lanes[:] = 0.0
        for start in range(0, a.size, _LANES):
            part = b[start : start + _LANES]
            one, two, three = lanes[0, : part.size], lanes[1, : part.size], lanes[2, : part.size]
            _add_differences(a[start : start + _LANES], part, one, two, three)
        _halve(lanes)
        out[p], rest = two_sum(lanes[0, 0], lanes[1, 0])
        lost = lanes[2, 0]
        error = 2.0 * lost + 4.0 * UNIT * UNIT * out[p] if lost > 0.0 else 0.0
        settled[p] = is_settled(out[p], rest, error)
    return out, settled


@numba.njit(nogil=True, cache=True)
def _add_products(a: Array, b: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(b.size):  # a vector loop
        q, r = two_product(a[k], np.float64(value(b[k])))
        sums[k], below = two_sum(sums[k], q)
        errors[k] += below + r


@numba.njit(nogil=True, cache=True)
def dots(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return sum_k x[i, k] y[j, k] as high + low, (p,) float64 each; the error is at most `dot_slack` |x[i]| |y[j]|."""
    high, low = np.empty(i.size), np.empty(i.size)
    width = x.shape[1]
    a, last, lanes = np.empty(width), -1, np.empty((2, _LANES))
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row = x[last]
            for k in range(width):
                a[k] = np.float64(value(row[k]))
        b = y[j[p]]
        lanes[:] = 0.0
        for start in range(0, width, _LANES):
            part = b[start : start + _LANES]
            _add_products(a[start : start + _LANES], part, lanes[0, : part.size], lanes[1, : part.size])
        _halve(lanes)
        high[p], low[p] = two_sum(lanes[0, 0], lanes[1, 0])
    return high, low


def dot_slack(width: int) -> float:
    """Return the bound of the relative error of `dots`: (n + 16)^2 u^2 for n terms a lane, u = 2^-53."""
    return float((width // _LANES + 17) ** 2 * UNIT**2)


@numba.njit(nogil=True, cache=True)
def are_settled(high: Array, low: Array, error: float) -> Array:  # pragma: no cover (compiled)
    """Return `is_settled` of pairs of `high` and `low` (p,), with one `error`: (p,) bool."""
    settled = np.empty(high.size, np.bool_)
    for p in range(high.size):
        settled[p] = is_settled(high[p], low[p], error)
    return settled

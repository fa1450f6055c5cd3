"""Sums of differences and of products of float64 rows, plain and in double-double, compiled for the CPU.

Error-free transformations of Knuth (sum) and Dekker (product); every device gets the same bits because all of this runs
on the CPU. The functions take rows x (m, d) and y (n, d), float64, and pairs by index, i and j (p,). Double-double ones
return `high` and `low` (p,) float64, `high` the float64 nearest to their sum, and `exact` (p,) bool: nothing was
rounded, so equal values have equal parts.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.widen import value

Array = NDArray[Any]
Keys = tuple[Array, Array, Array]

UNIT = 2.0**-53
_SPLIT = 134217729.0
_LANES = 8


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def squared_differences(
    x: Array, y: Array, i: Array, j: Array, scale_x: Array, scale_y: Array
) -> Array:  # pragma: no cover (compiled)
    """Sum (scale_x[i] x[i] - scale_y[j] y[j])^2 in some order: (p,) float64. Scales are (m,) and (n,) float64."""
    out = np.empty(i.size)
    for p in range(i.size):
        a, b, scale_a, scale_b = x[i[p]], y[j[p]], scale_x[i[p]], scale_y[j[p]]
        total = 0.0
        for k in range(a.size):
            t = np.float64(value(a[k])) * scale_a - np.float64(value(b[k])) * scale_b
            total += t * t
        out[p] = total
    return out


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def absolute_differences(x: Array, y: Array, i: Array, j: Array) -> Array:  # pragma: no cover (compiled)
    """Sum |x[i] - y[j]| in some order: (p,) float64."""
    out = np.empty(i.size)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        total = 0.0
        for k in range(a.size):
            total += abs(np.float64(value(a[k])) - np.float64(value(b[k])))
        out[p] = total
    return out


@numba.njit(nogil=True, cache=True)
def largest_differences(x: Array, y: Array, i: Array, j: Array) -> Array:  # pragma: no cover (compiled)
    """The largest |x[i] - y[j]|: (p,) float64."""
    out = np.empty(i.size)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        largest = 0.0
        for k in range(a.size):
            largest = max(largest, abs(np.float64(value(a[k])) - np.float64(value(b[k]))))
        out[p] = largest
    return out


@numba.njit(nogil=True, cache=True)
def two_sum(a: float, b: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    """The rounded sum of two numbers and its error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@numba.njit(nogil=True, cache=True)
def two_product(a: float, b: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    """The rounded product of two numbers and its error."""
    q = a * b
    c = _SPLIT * a
    a_high = c - (c - a)
    a_low = a - a_high
    c = _SPLIT * b
    b_high = c - (c - b)
    b_low = b - b_high
    return q, ((a_high * b_high - q) + a_high * b_low + a_low * b_high) + a_low * b_low


@numba.njit(nogil=True, cache=True, inline="always")
def _add(lanes: Array, lane: int, term: float, error: float) -> None:  # pragma: no cover (compiled)
    """Add `term` + `error` to a lane: its total, the rest below it, and a bound of what was lost even there."""
    total, below = two_sum(lanes[0, lane], term)
    below, lost = two_sum(below, error)
    rest, lost_too = two_sum(lanes[1, lane], below)
    lanes[0, lane] = total
    lanes[1, lane] = rest
    lanes[2, lane] += abs(lost) + abs(lost_too)


@numba.njit(nogil=True, cache=True, inline="always")
def _add_square(lanes: Array, lane: int, a: float, b: float) -> None:  # pragma: no cover (compiled)
    t, e = two_sum(a, -b)
    q, r = two_product(t, t)
    _add(lanes, lane, q, r + 2.0 * t * e)
    lanes[2, lane] += abs(e)


@numba.njit(nogil=True, cache=True, inline="always")
def _add_absolute(lanes: Array, lane: int, a: float, b: float) -> None:  # pragma: no cover (compiled)
    t, e = two_sum(a, -b)
    sign = np.copysign(1.0, t)
    _add(lanes, lane, sign * t, sign * e)


@numba.njit(nogil=True, cache=True, inline="always")
def _add_product(lanes: Array, lane: int, a: float, b: float) -> None:  # pragma: no cover (compiled)
    q, r = two_product(a, b)
    _add(lanes, lane, q, r)


@numba.njit(nogil=True, cache=True)
def _gather(lanes: Array) -> tuple[float, float, bool]:  # pragma: no cover (compiled)
    for lane in range(1, _LANES):
        _add(lanes, 0, lanes[0, lane], lanes[1, lane])
        lanes[2, 0] += lanes[2, lane]
    high, low = two_sum(lanes[0, 0], lanes[1, 0])
    return high, low, lanes[2, 0] == 0.0


@numba.njit(nogil=True, cache=True)
def squared_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Sum (x[i] - y[j])^2 in double-double."""
    high, low = np.empty(i.size), np.empty(i.size)
    exact = np.empty(i.size, np.bool_)
    lanes = np.empty((3, _LANES))
    width = x.shape[1]
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        lanes[:] = 0.0
        for strip in range(0, width - width % _LANES, _LANES):
            for lane in range(_LANES):  # of fixed length and without branches: a vector loop
                _add_square(lanes, lane, np.float64(value(a[strip + lane])), np.float64(value(b[strip + lane])))
        for k in range(width - width % _LANES, width):
            _add_square(lanes, 0, np.float64(value(a[k])), np.float64(value(b[k])))
        high[p], low[p], exact[p] = _gather(lanes)
    return high, low, exact


@numba.njit(nogil=True, cache=True)
def absolute_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Sum |x[i] - y[j]| in double-double."""
    high, low = np.empty(i.size), np.empty(i.size)
    exact = np.empty(i.size, np.bool_)
    lanes = np.empty((3, _LANES))
    width = x.shape[1]
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        lanes[:] = 0.0
        for strip in range(0, width - width % _LANES, _LANES):
            for lane in range(_LANES):  # of fixed length and without branches: a vector loop
                _add_absolute(lanes, lane, np.float64(value(a[strip + lane])), np.float64(value(b[strip + lane])))
        for k in range(width - width % _LANES, width):
            _add_absolute(lanes, 0, np.float64(value(a[k])), np.float64(value(b[k])))
        high[p], low[p], exact[p] = _gather(lanes)
    return high, low, exact


@numba.njit(nogil=True, cache=True)
def largest_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """The largest |x[i] - y[j]| in double-double; always exact."""
    high, low = np.zeros(i.size), np.zeros(i.size)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        for k in range(a.size):
            t, e = two_sum(np.float64(value(a[k])), -np.float64(value(b[k])))
            if t < 0.0:
                t, e = -t, -e
            if t > high[p] or (t == high[p] and e > low[p]):
                high[p], low[p] = t, e
    return high, low, np.ones(i.size, np.bool_)


@numba.njit(nogil=True, cache=True)
def dot_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Sum x[i] y[j] in double-double."""
    high, low = np.empty(i.size), np.empty(i.size)
    exact = np.empty(i.size, np.bool_)
    lanes = np.empty((3, _LANES))
    width = x.shape[1]
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        lanes[:] = 0.0
        for strip in range(0, width - width % _LANES, _LANES):
            for lane in range(_LANES):  # of fixed length and without branches: a vector loop
                _add_product(lanes, lane, np.float64(value(a[strip + lane])), np.float64(value(b[strip + lane])))
        for k in range(width - width % _LANES, width):
            _add_product(lanes, 0, np.float64(value(a[k])), np.float64(value(b[k])))
        high[p], low[p], exact[p] = _gather(lanes)
    return high, low, exact


def fixed(values: Array) -> list[int]:
    """Float64 values (d,) as integers, in units of 2^-1074."""
    ratios = (value.as_integer_ratio() for value in values.tolist())
    return [numerator << (1075 - denominator.bit_length()) for numerator, denominator in ratios]


@numba.njit(nogil=True, cache=True)
def _times(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    q, r = two_product(a, b)
    return two_sum(q, r + (a * b_low + a_low * b))


@numba.njit(nogil=True, cache=True)
def one_minus_ratio(
    dot: Array, dot_low: Array, xx: Array, xx_low: Array, yy: Array, yy_low: Array
) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """1 - dot / sqrt(xx yy) in double-double, by one Newton step from the float64 quotient."""
    high, low = np.empty(dot.size), np.empty(dot.size)
    for p in range(dot.size):
        scale_x, scale_y = np.sqrt(xx[p]), np.sqrt(yy[p])
        x_res, x_res_low = _times(scale_x, 0.0, scale_x, 0.0)
        y_res, y_res_low = _times(scale_y, 0.0, scale_y, 0.0)
        x_root, x_low = two_sum(scale_x, ((xx[p] - x_res) + (xx_low[p] - x_res_low)) / (2.0 * scale_x))
        y_root, y_low = two_sum(scale_y, ((yy[p] - y_res) + (yy_low[p] - y_res_low)) / (2.0 * scale_y))
        norm, norm_low = _times(x_root, x_low, y_root, y_low)
        ratio = dot[p] / norm
        back, back_low = _times(ratio, 0.0, norm, norm_low)
        ratio_low = ((dot[p] - back) + (dot_low[p] - back_low)) / norm
        ratio, ratio_low = two_sum(ratio, ratio_low)
        difference, error = two_sum(1.0, -ratio)
        high[p], low[p] = two_sum(difference, error - ratio_low)
    return high, low

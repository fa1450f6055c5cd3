"""Sums of differences and products of pairs of rows, in float64 and in double-double, compiled for the CPU.

Double-double numbers are made by error-free sums (Knuth, The Art of Computer Programming 2, 4.2.2) and products, whose
rounding error a fused multiply-add gives. These functions run on the CPU whatever the device of a scan, so that every
device gives the same bits. They take rows x (m, d) and y (n, d) as `as_numba` gives them, and pairs i and j (p,).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import bits_of, value
from embgeom_dask.kernels.prefetch import fetch_next

Array = NDArray[Any]

UNIT = 2.0**-53
"""The unit roundoff u of float64."""

UNIT_OF_FLOAT32 = 2.0**-24
"""That of float32."""


class DoubleDouble(NamedTuple):
    """Numbers high + low.

    Attributes
    ----------
    high, low : numpy.ndarray of float64, (p,)
        `high` is the float64 nearest to the sum of both.
    """

    high: Array
    low: Array


class Keys(NamedTuple):
    """The values of pairs in double-double.

    Attributes
    ----------
    high, low : numpy.ndarray of float64, (p,)
        `high` is the float64 nearest to the sum of both.
    exact : numpy.ndarray of bool, (p,)
        Whether no operation was rounded, so that equal values have equal parts.
    """

    high: Array
    low: Array
    exact: Array


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def squared_differences(
    x: Array, y: Array, i: Array, j: Array, scale_x: Array, scale_y: Array, kind: Any
) -> Array:  # pragma: no cover (compiled)
    """Return sum_k (scale_x[i] x[i, k] - scale_y[j] y[j, k])^2, (p,) float64; scales are (m,) and (n,) float64.

    Sums are of `kind`, np.float64 or np.float32, in the compiler's order. Consecutive pairs with the same i are faster.
    """
    out = np.empty(i.size)
    a, last = np.empty(x.shape[1], kind), -1
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row, scale = x[last], scale_x[last]
            for k in range(row.size):
                a[k] = kind(np.float64(value(row[k])) * scale)
        b, times, total = y[j[p]], kind(scale_y[j[p]]), kind(0)
        for k in range(b.size):
            t = a[k] - kind(value(b[k])) * times
            total += t * t
        out[p] = total
    return out


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def products(x: Array, y: Array, i: Array, j: Array, kind: Any) -> Array:  # pragma: no cover (compiled)
    """Return sum_k x[i, k] y[j, k], (p,) float64; sums are as those of `squared_differences`."""
    out = np.empty(i.size)
    a, last = np.empty(x.shape[1], kind), -1
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if i[p] != last:
            last = i[p]
            row = x[last]
            for k in range(row.size):
                a[k] = kind(value(row[k]))
        b, total = y[j[p]], kind(0)
        for k in range(b.size):
            total += a[k] * kind(value(b[k]))
        out[p] = total
    return out


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def absolute_differences(x: Array, y: Array, i: Array, j: Array) -> Array:  # pragma: no cover (compiled)
    """Return sum_k |x[i, k] - y[j, k]|, (p,) float64, in the compiler's order of summation."""
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
    """Return max_k |x[i, k] - y[j, k]|, (p,) float64.

    Numbers from 0 up are in the order of their bits, whose maximum compilers find several at a time.
    """
    out = np.empty(i.size, np.int64)
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        a, b = x[i[p]], y[j[p]]
        largest = np.int64(0)
        for k in range(a.size):
            largest = max(largest, bits_of(abs(np.float64(value(a[k])) - np.float64(value(b[k])))))
        out[p] = largest
    return out.view(np.float64)


@numba.njit(nogil=True, cache=True, forceinline=True)
def two_sum(a: float, b: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    """Return the rounded sum of two numbers and its rounding error, which is exact (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@intrinsic
def _multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return a b + c, rounded once; only within numba."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.fma(*arguments)  # an instruction of every CPU since 2013; else a call of the C library's

    return numba.float64(numba.float64, numba.float64, numba.float64), build


@numba.njit(nogil=True, cache=True, forceinline=True)
def two_product(a: float, b: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    """Return the rounded product of two numbers and its rounding error, which is exact (by a fused multiply-add)."""
    q = a * b
    return q, _multiply_add(a, b, -q)  # type: ignore[call-arg]


@numba.njit(nogil=True, cache=True)
def squares(numbers: Array) -> DoubleDouble:  # pragma: no cover (compiled)
    """Return the squares (n,) of numbers."""
    high, low = np.empty(numbers.size), np.empty(numbers.size)
    for k in range(numbers.size):
        high[k], low[k] = two_product(numbers[k], numbers[k])
    return DoubleDouble(high, low)


@numba.njit(nogil=True, cache=True)
def _sum(terms: Array, work: Array) -> tuple[float, float, bool]:  # pragma: no cover (compiled)
    """Add the columns of `terms` (3, d), numbers, their errors and what was lost; in pairs: loops vectorise."""
    count = terms.shape[1]
    source, target = terms, work
    while count > 1:
        half = count // 2
        for k in range(half):
            total, below = two_sum(source[0, k], source[0, k + half])
            rest, lost = two_sum(source[1, k], source[1, k + half])
            rest, lost_too = two_sum(rest, below)
            target[0, k] = total
            target[1, k] = rest
            target[2, k] = source[2, k] + source[2, k + half] + abs(lost) + abs(lost_too)
        if count % 2:
            target[:, half] = source[:, count - 1]
        count -= half
        source, target = target, source
    high, low = two_sum(source[0, 0], source[1, 0])
    return high, low, source[2, 0] == 0.0


@numba.njit(nogil=True, cache=True)
def squared_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Return sum_k (x[i, k] - y[j, k])^2 in double-double."""
    high, low, exact = np.empty(i.size), np.empty(i.size), np.empty(i.size, np.bool_)
    terms, work = np.empty((3, x.shape[1])), np.empty((3, x.shape[1]))
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        for k in range(a.size):
            t, e = two_sum(np.float64(value(a[k])), -np.float64(value(b[k])))
            q, r = two_product(t, t)
            terms[0, k] = q
            terms[1, k] = r + 2.0 * t * e
            terms[2, k] = abs(e)
        high[p], low[p], exact[p] = _sum(terms, work)
    return Keys(high, low, exact)


@numba.njit(nogil=True, cache=True)
def absolute_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Return sum_k |x[i, k] - y[j, k]| in double-double."""
    high, low, exact = np.empty(i.size), np.empty(i.size), np.empty(i.size, np.bool_)
    terms, work = np.zeros((3, x.shape[1])), np.empty((3, x.shape[1]))
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        for k in range(a.size):
            t, e = two_sum(np.float64(value(a[k])), -np.float64(value(b[k])))
            sign = np.copysign(1.0, t)
            terms[0, k] = sign * t
            terms[1, k] = sign * e
            terms[2, k] = 0.0
        high[p], low[p], exact[p] = _sum(terms, work)
    return Keys(high, low, exact)


@numba.njit(nogil=True, cache=True)
def dot_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Return sum_k x[i, k] y[j, k] in double-double."""
    high, low, exact = np.empty(i.size), np.empty(i.size), np.empty(i.size, np.bool_)
    terms, work = np.empty((3, x.shape[1])), np.empty((3, x.shape[1]))
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        for k in range(a.size):
            terms[0, k], terms[1, k] = two_product(np.float64(value(a[k])), np.float64(value(b[k])))
            terms[2, k] = 0.0
        high[p], low[p], exact[p] = _sum(terms, work)
    return Keys(high, low, exact)


@numba.njit(nogil=True, cache=True)
def largest_difference_keys(x: Array, y: Array, i: Array, j: Array) -> Keys:  # pragma: no cover (compiled)
    """Return max_k |x[i, k] - y[j, k]| in double-double, which is always exact."""
    high, low = np.zeros(i.size), np.zeros(i.size)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        for k in range(a.size):
            t, e = two_sum(np.float64(value(a[k])), -np.float64(value(b[k])))
            if t < 0.0:
                t, e = -t, -e
            if t > high[p] or (t == high[p] and e > low[p]):
                high[p], low[p] = t, e
    return Keys(high, low, np.ones(i.size, np.bool_))


def integers(x: Array, y: Array) -> tuple[list[int], list[int], int]:
    """Return two rows (d,) float64 as integers times 2^unit, without error; `unit` is at least -1074."""
    both = np.stack([x, y])
    mantissa, exponent = np.frexp(both)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    unit = int(np.min(exponent - 53 + trailing, where=whole != 0, initial=971))
    shift = np.where(whole != 0, exponent - 53 - unit, 0)
    small, shift = (whole >> np.maximum(-shift, 0)).tolist(), np.maximum(shift, 0).tolist()
    first, second = ([v << s for v, s in zip(*rows, strict=True)] for rows in zip(small, shift, strict=True))
    return first, second, unit


@numba.njit(nogil=True, cache=True)
def _times(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    q, r = two_product(a, b)
    return two_sum(q, r + (a * b_low + a_low * b))


@numba.njit(nogil=True, cache=True)
def one_minus_ratio(
    dot: DoubleDouble, xx: DoubleDouble, yy: DoubleDouble
) -> DoubleDouble:  # pragma: no cover (compiled)
    """Return 1 - dot / sqrt(xx yy) in double-double: one Newton step from the float64 roots and quotient."""
    high, low = np.empty(dot.high.size), np.empty(dot.high.size)
    for p in range(high.size):
        scale_x, scale_y = np.sqrt(xx.high[p]), np.sqrt(yy.high[p])
        x_res, x_res_low = _times(scale_x, 0.0, scale_x, 0.0)
        y_res, y_res_low = _times(scale_y, 0.0, scale_y, 0.0)
        x_root, x_low = two_sum(scale_x, ((xx.high[p] - x_res) + (xx.low[p] - x_res_low)) / (2.0 * scale_x))
        y_root, y_low = two_sum(scale_y, ((yy.high[p] - y_res) + (yy.low[p] - y_res_low)) / (2.0 * scale_y))
        norm, norm_low = _times(x_root, x_low, y_root, y_low)
        ratio = dot.high[p] / norm
        back, back_low = _times(ratio, 0.0, norm, norm_low)
        ratio_low = ((dot.high[p] - back) + (dot.low[p] - back_low)) / norm
        ratio, ratio_low = two_sum(ratio, ratio_low)
        difference, error = two_sum(1.0, -ratio)
        high[p], low[p] = two_sum(difference, error - ratio_low)
    return DoubleDouble(high, low)

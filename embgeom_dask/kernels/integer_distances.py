"""L2 distances of bfloat16 rows by integers: where their values have one unit and few bits, nothing is rounded."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.correct_rounding import is_settled
from embgeom_dask.kernels.double_double import UNIT, two_sum
from embgeom_dask.kernels.double_double_sums import root_of
from embgeom_dask.kernels.numba_bfloat16 import value
from embgeom_dask.kernels.prefetch import fetch_next

Array = NDArray[Any]

_BITS = 30
"""Of an integer at most, less its sign: so that differences fit 32 bits."""

_SUM_BITS = 62
"""Of a sum of squares at most."""

_LEAST, _MOST = -120, 100
"""Units are 2^-120 to 2^100: float32 numbers, and so are their inverses."""


@numba.njit(nogil=True, cache=True)
def distances(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    """Return the L2 distances (p,) of pairs of bfloat16 rows, and whether each is settled, and was computed, bool.

    A distance that was not computed is 0. The unit of a pair is the last place of the smallest of its values but 0.

    Parameters
    ----------
    x, y : numpy.ndarray of uint16, (m, d) and (n, d)
        As `as_numba` gives bfloat16 rows.
    i, j : numpy.ndarray of int64, (p,)
        Pairs with the same i one after the other are faster.
    """
    out, settled, computed = np.zeros(i.size), np.zeros(i.size, np.bool_), np.zeros(i.size, np.bool_)
    exponents, known = np.empty((y.shape[0], 2), np.int64), np.zeros(y.shape[0], np.bool_)
    width, last, unit, least, most = x.shape[1], -1, 0, 0, 0
    a, terms = np.empty(width, np.int32), math.frexp(np.float64(width))[1]
    for p in range(i.size):
        fetch_next(x, y, i, j, p)
        if not known[j[p]]:
            exponents[j[p]], known[j[p]] = _exponents(y[j[p]]), True
        new = i[p] != last
        if new:
            last = i[p]
            least, most = _exponents(x[last])
        lowest, highest = min(least, exponents[j[p], 0]), max(most, exponents[j[p], 1])
        if highest - lowest > _BITS or lowest < _LEAST or lowest > _MOST:
            last = -1 if new else last
            continue
        scale = np.float32(math.ldexp(1.0, -lowest))
        if new or lowest != unit:
            unit = lowest
            _whole(x[last], scale, a)
        total, seen = _sum_of_squares(a, y[j[p]], scale)
        if 2 * math.frexp(np.float64(seen))[1] + terms > _SUM_BITS:
            continue
        computed[p] = True
        if total == 0:
            settled[p] = True
            continue
        high = np.float64(total)
        root, step = root_of(high, np.float64(total - np.int64(high)))
        nearest, rest = two_sum(root, step)
        settled[p] = is_settled(nearest, rest, 32.0 * UNIT * UNIT * root)
        out[p] = math.ldexp(nearest, unit)
    return out, settled, computed


@numba.njit(nogil=True, cache=True)
def _exponents(row: Array) -> tuple[Any, Any]:  # pragma: no cover (compiled)
    """The exponents of two powers of two: all values of a row are multiples of the first, and below the second.

    Of a row of zeros both are 0.
    """
    least, most = np.int32(255), np.int32(0)
    for k in range(row.size):  # a vector loop
        exponent = np.int32(max((row[k] >> 7) & 0xFF, 1))
        is_zero = (row[k] & 0x7FFF) == 0
        least = min(least, np.int32(255) if is_zero else exponent)
        most = max(most, np.int32(0) if is_zero else exponent)
    return (least - 134, most - 126) if most > 0 else (0, 0)


@numba.njit(nogil=True, cache=True)
def _whole(row: Array, scale: Any, out: Array) -> None:  # pragma: no cover (compiled)
    for k in range(row.size):
        out[k] = np.int32(value(row[k]) * scale)


@numba.njit(nogil=True, cache=True)
def _sum_of_squares(a: Array, row: Array, scale: Any) -> tuple[Any, Any]:  # pragma: no cover (compiled)
    """The sum of the squares of the differences, modulo 2^64, and their sizes, or-ed."""
    total, seen = np.int64(0), np.int32(0)
    for k in range(a.size):  # a vector loop
        t = np.int32(a[k] - np.int32(value(row[k]) * scale))
        total += np.int64(t) * np.int64(t)
        seen |= np.int32(t ^ (t >> 31))
    return total, seen

"""Points of 8-bit digits, three or two: their products are exact in 32 bits, so all made of them has the same bits.

A row x is turned, like those of `quantize`, and written as x = s (h + m / 2^8 + l / 2^16) + r with a step s for each
row, integers h, m and l from -128 to 127, and a rest r. Of the product of two rows six of the nine products of digits
are made: h.h, h.m + m.h and h.l + m.m + l.h. What is left out of them, and the rests, `slack` bounds. Where there are
two digits, h and m, three products are made, h.h and h.m + m.h.

Nothing here depends on the order of sums: integers are added, or numbers one after the other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

_LEAST = 16
"""Columns at least, and what their number is a multiple of: torch 2.13 adds up a single product wrongly."""

LONGEST = (2**31 - 1) // (128**2 + 2 * 127 * 128) // _LEAST * _LEAST
"""Columns whose products of digits add up in 32 bits: m.m and twice h.m or h.l, as |h| is at most 127."""

_NARROW = 8
"""The transform adds and subtracts runs of at least so many values, which fill a vector register."""

_LARGEST = 127 * 2**16 + 127 * 2**8 + 127
"""The largest number that three digits make; its negative can be made too."""

_LARGEST_OF_TWO = 127 * 2**16 + 127 * 2**8
"""That of two, in the same units."""

_STEPS = 16
"""A step is k 2^e with k from so many to twice as many: k is exact in 5 bits."""

REST_DIGITS = 254
"""A rest of at most half a unit has a digit of at most 127."""

_TOGETHER = 512
"""Rows whose digits are taken out of their points together."""

_USUAL_REST = {3: 2.0**-23, 2: 2.0**-15}
"""About the length of the rest of a row of so many digits over that of the row, which parts the bound of a pair among
its rows best."""


class Digits(NamedTuple):
    """Points in digits, and what bounds their products.

    Attributes
    ----------
    points : numpy.ndarray of int8, (b, 5 w) or (b, 3 w)
        For each slice of the columns (see `slices`) the digits h, m, l, m, h, or of two digits h, m, h.
    step : numpy.ndarray of float64, (b,)
        s.
    slack : numpy.ndarray of float64, (b,)
        For two rows i and j, 2 |x.y - P| is at most slack[i] + slack[j], for the product P of `combine`.
    """

    points: Array
    step: Array
    slack: Array


class AllDigits(NamedTuple):
    """Rows in three digits and one of the rest: x = s (h + m / 2^8 + l / 2^16 + r / (2^16 `REST_DIGITS`)), turned.

    Attributes
    ----------
    step : numpy.ndarray of float64, (b,)
        s.
    slack : numpy.ndarray of float64, (b,)
        See `Digits`.
    missed : numpy.ndarray of float64, (b,)
        Bounds of the lengths of what is left of the rows, by centre, division and turns too.
    digits : list of list of numpy.ndarray of int8, (b, w)
        For each slice of the columns h, m, l and r; |r| is at most 127.
    """

    step: Array
    slack: Array
    missed: Array
    digits: list[list[Array]]


def slices(width: int) -> list[int]:
    """Return how many columns each slice of so many has: as few slices as fit 32 bits, each a multiple of 16."""
    count = -(-width // LONGEST)
    each = -(-max(-(-width // count), _LEAST) // _LEAST) * _LEAST
    return [each] * count


def digits_of(stored: Array, centre: Array, divisor: Array, length: Array, count: int = 3) -> Digits:
    """Write rows in digits, less a centre and each divided by a number.

    Parameters
    ----------
    stored : numpy.ndarray, (b, d)
        Rows, of any float dtype.
    centre : numpy.ndarray of float64, (d,)
    divisor : numpy.ndarray of float64, (b,)
    length : numpy.ndarray of float64, (b,)
        The L2 norms of the rows less the centre, divided; they may err by a few units in their last place.
    count : {3, 2}
        Digits of a value.
    """
    points, step, squares = _written(stored, centre, divisor, np.zeros((0, 0), np.int8), count)
    return Digits(points, step, _slack(_lengths(step, squares, length, count), length, count))


def all_digits_of(stored: Array, centre: Array, divisor: Array, length: Array) -> AllDigits:
    """Return the digits of the same rows, three and one of the rest."""
    parts, size = slices(stored.shape[1]), len(stored)
    step, slack = np.empty(size), np.empty(size)
    digits = [[np.empty((size, part), np.int8) for _ in range(4)] for part in parts]
    for start in range(0, size, _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        rest = np.zeros((len(stored[rows]), sum(parts)), np.int8)
        points, step[rows], squares = _written(stored[rows], centre, divisor[rows], rest, 3)
        slack[rows] = _slack(_lengths(step[rows], squares, length[rows], 3), length[rows], 3)
        written = points.reshape(len(rest), len(parts), 5, -1)
        for p, each in enumerate(digits):
            for k in range(3):
                each[k][rows] = written[:, p, k]
            each[3][rows] = rest[:, parts[0] * p : parts[0] * (p + 1)]
    missed = step * ((0.5 / REST_DIGITS + 2.0**-20) / 2.0**16 * math.sqrt(stored.shape[1])) + 64 * UNIT * length
    return AllDigits(step, slack, missed, digits)


def _lengths(step: Array, squares: list[Array], length: Array, count: int) -> tuple[Array, Array, Array]:
    """Bounds of the lengths (b,) of M, L and r, of so many digits; r has what centre, division and turns round."""
    middle, low = (step * np.sqrt(squares[k]) / 256.0 ** (k + 1) * (1 + 2.0**-30) for k in range(2))
    return middle, low, step * np.sqrt(squares[2]) / 256.0 ** (count - 1) * (1 + 2.0**-16) + 64 * UNIT * length


def _slack(lengths: tuple[Array, Array, Array], length: Array, count: int) -> Array:
    """The slack (b,) of rows; their products leave out |m||l'| + |l||m'| + |l||l'| of three digits, of two |m||m'|."""
    (middle, low, r), usual = lengths, _USUAL_REST[count]
    dropped = middle**2 / 2.0**8 + low**2 * 2.0**8 + low**2 if count == 3 else middle**2
    slack = usual * length**2 + r**2 / usual + r**2 + dropped
    found: Array = slack * (1 + 2.0**-20) + 16 * UNIT * length**2
    return found


def _written(
    stored: Array, centre: Array, divisor: Array, rest_digit: Array, count: int
) -> tuple[Array, Array, list[Array]]:
    """The points and steps of rows, and the squared lengths of m, l and rest in steps; fills `rest_digit`, if any."""
    rows, (size, width), parts = as_numba(stored), stored.shape, slices(stored.shape[1])
    turns, signs, shape = _turns(width), _signs(width), (parts[0], len(parts), count)
    points, step, squares = np.zeros((size, (2 * count - 1) * sum(parts)), np.int8), np.empty(size), np.zeros((3, size))

    def work(start: int, stop: int) -> None:
        given = rows[start:stop], centre, divisor[start:stop], signs, turns, shape
        _digits(*given, points[start:stop], step[start:stop], squares[:, start:stop], rest_digit[start:stop])

    share_out(work, size)
    return points, step, list(squares)


def parts_of(step: Array) -> tuple[Array, Array]:
    """Return the integers k (b,) int64 and the powers of two p (b,) float64 of steps (b,): P = k k' T p p'."""
    mantissa, exponent = np.frexp(step)
    return (mantissa * (2 * _STEPS)).astype(np.int64), np.ldexp(1.0, exponent - 5 - 8)


def _turns(width: int) -> int:
    """Return how many times the transform halves a row: an even number, so that its scale is a power of two."""
    count = 0
    while width % 2 == 0 and width // 2 >= _NARROW:
        width //= 2
        count += 1
    return count - count % 2


def _signs(width: int) -> Array:
    """Return signs (d,) float64, the same for the same width, from the bits of a product of integers."""
    bits = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(63)
    return 1.0 - 2.0 * bits.astype(np.float64)


@numba.njit(nogil=True, cache=True)
def _turn(row: Array, centre: Array, divisor: float, signs: Array, turns: int, out: Array) -> None:  # pragma: no cover
    share = 2.0 ** -(turns // 2)
    for k in range(out.size):
        out[k] = (np.float64(value(row[k])) - centre[k]) / divisor * (signs[k] * share)
    half = out.size
    for _ in range(turns):
        half //= 2
        for start in range(0, out.size, 2 * half):
            low, high = out[start : start + half], out[start + half : start + 2 * half]
            for k in range(half):
                low[k], high[k] = low[k] + high[k], low[k] - high[k]


@numba.njit(nogil=True, cache=True)
def _step(largest: float, held: int) -> float:  # pragma: no cover (compiled)
    """Return the smallest step k 2^e in which digits that make numbers up to `held` hold a number of that size."""
    mantissa, exponent = math.frexp(largest * (65536.0 / (held - 1)))
    return math.ldexp(np.ceil(mantissa * (2 * _STEPS)), exponent - 5) if largest > 0.0 else 1.0


@numba.njit(nogil=True, cache=True)
def _digits(
    rows: Array,
    centre: Array,
    divisor: Array,
    signs: Array,
    turns: int,
    shape: tuple[int, int, int],
    points: Array,
    step: Array,
    squares: Array,
    rest_digit: Array,
) -> None:  # pragma: no cover (compiled)
    (count, width), (part, parts, digits) = rows.shape, shape
    places, held = 2 * digits - 1, _LARGEST if digits == 3 else _LARGEST_OF_TWO
    turned = np.empty(width)
    for i in range(count):
        _turn(rows[i], centre, divisor[i], signs, turns, turned)
        step[i] = _step(_largest(turned), held)
        turned *= (65536.0 if digits == 3 else 256.0) / step[i]
        squares[2, i] = _rest(turned) / 1048576.0
        if len(rest_digit):
            _write_rest(turned, rest_digit[i])
        for p in range(parts):
            whole, out = turned[part * p : part * (p + 1)], points[i, places * part * p : places * part * (p + 1)]
            for k in range(digits - 1, 0, -1):
                squares[k - 1, i] += _take_digit(whole, out[k * part : (k + 1) * part])
                if k == 1:
                    out[(places - 2) * part : (places - 1) * part] = out[part : 2 * part]
            for k in range(whole.size):
                out[k] = np.int8(whole[k])
            out[(places - 1) * part :] = out[:part]


# The loops of one row, each with few arrays and without branches, so that they become vector instructions. The numbers
# are whole and below 2^53, and so are their sums: nothing is rounded, in any order.


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "nnan"})
def _largest(values: Array) -> float:  # pragma: no cover (compiled)
    largest = 0.0
    for k in range(values.size):
        largest = max(largest, abs(values[k]))
    return largest


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _rest(values: Array) -> float:  # pragma: no cover (compiled)
    """Return the sum of squares of what values lose when they are rounded, each in units of 2^-10, rounded up."""
    total = 0.0
    for k in range(values.size):
        off = np.floor(abs(values[k] - np.rint(values[k])) * 1024.0) + 1.0
        total += off * off
    return total


@numba.njit(nogil=True, cache=True)
def _write_rest(values: Array, digit: Array) -> None:  # pragma: no cover (compiled)
    for k in range(values.size):
        digit[k] = np.int8(np.rint((values[k] - np.rint(values[k])) * REST_DIGITS))


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _take_digit(values: Array, digit: Array) -> float:  # pragma: no cover (compiled)
    """Write the last digit of values, rounded to whole numbers, leave the others, and return the sum of its squares."""
    total = 0.0
    for k in range(values.size):
        nearest = np.rint(values[k])
        left = np.floor((nearest + 128.0) * 0.00390625)
        last = nearest - 256.0 * left
        values[k] = left
        digit[k] = np.int8(last)
        total += last * last
    return total


def combine(parts: tuple[Array, ...], rows: Array, columns: Array, out: Array, *, add: bool) -> None:
    """Make the product (m, n) float64 of int32 products of digits, in place.

    Parameters
    ----------
    parts : tuple of numpy.ndarray of int32, (m, n)
        h.h, h.m + m.h and, of three digits, h.l + m.m + l.h.
    rows, columns : numpy.ndarray of float64, (m,) and (n,)
        The steps.
    out : numpy.ndarray of float64, (m, n)
    add : bool
        Whether to add to what is there.
    """
    (k, p), (other_k, other_p) = parts_of(rows), parts_of(columns)

    def work(start: int, stop: int) -> None:
        a, b, *lowest = (part[start:stop] for part in parts)
        c = lowest[0] if lowest else a[:0]
        _combine(a, b, c, k[start:stop], p[start:stop], other_k, other_p, out[start:stop], add)

    share_out(work, len(out))


@numba.njit(nogil=True, cache=True)
def _combine(
    a: Array, b: Array, c: Array, k: Array, p: Array, other_k: Array, other_p: Array, out: Array, add: bool
) -> None:  # pragma: no cover (compiled)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total = (np.int64(a[i, j]) << 16) + (np.int64(b[i, j]) << 8)
            if len(c):
                total += np.int64(c[i, j])
            product = np.float64(total * (k[i] * other_k[j])) * (p[i] * other_p[j])
            out[i, j] = out[i, j] + product if add else product

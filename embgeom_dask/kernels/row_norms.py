"""Norms of rows and distances from a point; L2 norms are correctly rounded, in any order of summation."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from embgeom_dask.kernels.correct_rounding import is_settled
from embgeom_dask.kernels.double_double import UNIT, two_product, two_sum
from embgeom_dask.kernels.double_double_sums import LANES, add_lanes, add_to_lane, root_of, sum_slack
from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba, bits_of, value
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.kernels.rationals import Rationals

Array = NDArray[Any]

_TINY = 2.0**-500
"""More than what a distance may lose by underflow of its squares."""


def norms(stored: Array, centre: Array | None = None, divisor: Array | None = None) -> Array:
    """Return the L1, squared L2 and L-infinity norm, (b, 3) float64, of rows (b, d) minus `centre` (d,) float64.

    Rows have any float dtype, and are first divided by `divisor` (b,) float64 where it is given. Sums are float64, in
    any order: they err by at most (d + 3) u of themselves, u = 2^-53.
    """
    rows = as_numba(stored)
    origin = np.zeros(rows.shape[1]) if centre is None else centre
    times = np.ones(len(rows)) if divisor is None else 1 / divisor
    return np.concatenate(share_out(lambda a, b: _three_norms(rows[a:b], origin, times[a:b]), len(rows)))


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _three_norms(rows: Array, centre: Array, times: Array) -> Array:  # pragma: no cover (compiled)
    out, largest_bits = np.empty((rows.shape[0], 3)), np.empty(rows.shape[0], np.int64)
    for i in range(rows.shape[0]):
        one, two, largest = 0.0, 0.0, np.int64(0)
        for k in range(rows.shape[1]):
            t = np.float64(value(rows[i, k])) * times[i] - centre[k]
            one += abs(t)
            two += t * t
            largest = max(largest, bits_of(abs(t)))  # numbers from 0 up are in the order of their bits: a vector loop
        out[i, 0], out[i, 1], largest_bits[i] = one, two, largest
    out[:, 2] = largest_bits.view(np.float64)
    return out


def lengths_of_used(rows: Array, used: Array) -> Array:
    """Return the L2 norms (n,) float64 of those rows (n, d), as `as_numba` gives them, that are `used` (p,); else 0.

    They err by at most (d + 3) u of themselves, u = 2^-53. Other rows are not read.
    """
    some = np.zeros(len(rows), np.bool_)
    some[used] = True
    lengths = np.zeros(len(rows))
    lengths[some] = np.sqrt(norms(rows if some.all() else rows[some])[:, 1])
    return lengths


def squared_lengths(stored: Array, centre: Array) -> Array:
    """Return the squared L2 norm (n,) float64 of rows (n, d) less `centre` (d,) float64, within 2 u of itself.

    It has the same bits whatever other rows there are, on any machine.
    """
    rows, none = as_numba(stored), np.zeros(centre.size)
    high, _ = zip(*share_out(lambda start, stop: _norms(rows[start:stop], centre, none), len(rows)), strict=True)
    return np.concatenate(high)


def rough_distances(stored: Array, point: Array) -> tuple[Array, Array]:
    """Return the L2 distance of each row (n, d) from a point, roughly, and how far off the nearest float64 it may be.

    `point` (d,) are the float64 numbers nearest to those of the true point. Sums are float64, in any order: they err by
    at most (d + 3) u of themselves; the point by u of each component.
    """
    rows = as_numba(stored)
    value = np.sqrt(np.concatenate(share_out(lambda start, stop: _squares(rows[start:stop], point), len(rows))))
    return value, (rows.shape[1] + 8) * UNIT * value + 2 * UNIT * float(np.linalg.norm(point)) + _TINY


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _squares(rows: Array, point: Array) -> Array:  # pragma: no cover (compiled)
    out = np.empty(rows.shape[0])
    for i in range(rows.shape[0]):
        total = 0.0
        for k in range(rows.shape[1]):
            t = np.float64(value(rows[i, k])) - point[k]
            total += t * t
        out[i] = total
    return out


def nearest_norms(stored: Array) -> Array:
    """Return the float64 nearest to the L2 norm of each row (n, d), (n,); values are 0 or from 2^-400 to 2^400."""
    rows = as_numba(stored)
    found = share_out(lambda start, stop: _norms(rows[start:stop], None, None), len(rows))
    roots, decided = _roots(found, rows.shape[1], 0.0, 0.0)
    for i in np.flatnonzero(~decided).tolist():
        roots[i] = Rationals.of(as_float(rows[i])).l2
    return roots


def nearest_distances(stored: Array, point: Rationals) -> Array:
    """Return the float64 nearest to the L2 distance of each row (n, d) from a point of d components, (n,).

    Rows have any float dtype; values are 0 or from 2^-400 to 2^400 in size.
    """
    rows, (high, low) = as_numba(stored), point.in_two_words()
    found = share_out(lambda start, stop: _norms(rows[start:stop], high, low), len(rows))
    # `low` errs by u |low|; subtracting it errs by at most as much, and by u^2 of the distance
    off = 4 * UNIT**2 * float(np.linalg.norm(high)) if low.any() else 0.0
    roots, decided = _roots(found, rows.shape[1], off, 2.0**-1060)
    for i in np.flatnonzero(~decided).tolist():
        roots[i] = Rationals.of(as_float(rows[i])).minus(point).l2
    return roots


def _roots(found: list[tuple[Array, Array]], width: int, off: float, least: float) -> tuple[Array, Array]:
    """Return the square roots (n,) of sums of `width` squares, and whether each is certainly the nearest float64.

    `found` has the sums in double-double, in parts. A sum errs by at most 4 `sum_slack` of itself: n additions of
    squares by less than 4 (n u)^2. A square loses at most `least` by underflow, and the true root may differ from the
    root of the sum by `off`.
    """
    high, low = (np.concatenate(part) for part in zip(*found, strict=True))
    return _nearest_roots(high, low, 4 * sum_slack(width), off, width * least)


def _square(number: float) -> tuple[float, float]:
    """Return the square of a number and its rounding error; only within numba."""
    raise TypeError(f"{number!r} is squared outside numba")


@overload(_square)
def _square_of(number: Any) -> Any:
    def exact(number: Any) -> Any:
        return np.float64(number) * np.float64(number), 0.0

    def rounded(number: Any) -> Any:
        return two_product(number, number)

    return exact if number == numba.float32 else rounded


@numba.njit(nogil=True, cache=True)
def _norms(rows: Array, high: Any, low: Any) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the sum of squares of each row, minus high + low (d,) if these are given, in double-double: (n,) twice."""
    sums, rests = np.empty(rows.shape[0]), np.empty(rows.shape[0])
    lanes = np.empty((2, LANES))
    for i in range(rows.shape[0]):
        lanes[:] = 0.0
        row = rows[i]
        for start in range(0, row.size, LANES):
            part = row[start : start + LANES]
            total, rest = lanes[0, : part.size], lanes[1, : part.size]
            if high is None:
                _add_squares(part, total, rest)
            else:
                _add_distances(part, high[start : start + LANES], low[start : start + LANES], total, rest)
        sums[i], rests[i] = add_lanes(lanes)
    return sums, rests


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_squares(row: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(row.size):  # a vector loop
        square, error = _square(value(row[k]))
        add_to_lane(sums, errors, k, square, error)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_distances(row: Array, high: Array, low: Array, sums: Array, errors: Array) -> None:  # pragma: no cover
    for k in range(row.size):  # a vector loop
        t, e = two_sum(np.float64(value(row[k])), -high[k])
        t, e = two_sum(t, e - low[k])
        square, error = two_product(t, t)
        add_to_lane(sums, errors, k, square, error + 2.0 * t * e)


@numba.njit(nogil=True, cache=True)
def _nearest_roots(
    high: Array, low: Array, relative: float, off: float, least: float
) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    roots, decided = np.empty(high.size), np.empty(high.size, np.bool_)
    for i in range(high.size):
        if high[i] == 0.0:
            roots[i], decided[i] = 0.0, low[i] == 0.0 and least == 0.0
            continue
        root, step = root_of(high[i], low[i])
        slack = (relative * high[i] + least) / root + off + 16.0 * UNIT * abs(step) + step * step / root
        roots[i], rest = two_sum(root, step)
        decided[i] = is_settled(roots[i], rest, slack)
    return roots, decided

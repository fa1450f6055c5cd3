"""L1 and L-infinity norms of rows, correctly rounded in any order of summation; sums over all rows."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.correct_rounding import is_settled
from embgeom_dask.kernels.double_double_sums import LANES, add_lanes, add_to_lane, sum_slack
from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba, significand_bits, value
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.kernels.rationals import Rationals

Array = NDArray[Any]


def nearest_l1_and_linf(stored: Array) -> tuple[Array, Array]:
    """Return the float64 nearest to the L1 norm of each row (n, d), and its L-infinity norm, (n,) twice.

    Rows have any float dtype; values are 0 or from 2^-400 to 2^400 in size. Those of rows with NaN mean nothing.
    """
    rows, slack = as_numba(stored), sum_slack(stored.shape[1])
    most = 2.0 ** (52 - significand_bits(rows)) / stored.shape[1]
    found = share_out(lambda start, stop: _sums(rows[start:stop], slack, most), len(rows))
    l1, linf, settled = (np.concatenate(part) for part in zip(*found, strict=True))
    for i in np.flatnonzero(~settled).tolist():
        row = as_float(rows[i])
        if np.isfinite(row).all():
            l1[i] = Rationals.of(row).l1
    return l1, linf


@numba.njit(nogil=True, cache=True)
def _sums(rows: Array, slack: float, most: float) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    count, width = rows.shape
    l1, linf, settled = np.zeros(count), np.zeros(count), np.ones(count, np.bool_)
    lanes, plain = np.empty((2, LANES)), np.empty((3, LANES))
    for i in range(count):
        total, least, linf[i] = _plain(rows[i], plain)
        if linf[i] <= most * least:  # float64 holds all sums of multiples of the last bit of the least value
            l1[i] = total
            continue
        lanes[:] = 0.0
        for start in range(0, width, LANES):
            for lane in range(min(LANES, width - start)):
                size = abs(np.float64(value(rows[i, start + lane])))
                add_to_lane(lanes[0], lanes[1], lane, size, 0.0)
        l1[i], rest = add_lanes(lanes)
        settled[i] = l1[i] == 0.0 or is_settled(l1[i], rest, slack * l1[i])
    return l1, linf, settled


@numba.njit(nogil=True, cache=True)
def _plain(row: Array, lanes: Array) -> tuple[float, float, float]:  # pragma: no cover (compiled)
    """The sum of the sizes of values in float64; the least of them but 0, and the largest."""
    total, least, largest = lanes[0], lanes[1], lanes[2]
    total[:], least[:], largest[:] = 0.0, np.inf, 0.0
    for start in range(0, row.size, LANES):
        for lane in range(min(LANES, row.size - start)):
            size = abs(np.float64(value(row[start + lane])))
            total[lane] += size
            largest[lane] = size if size > largest[lane] else largest[lane]
            size = size if size > 0.0 else least[lane]
            least[lane] = size if size < least[lane] else least[lane]
    return total.sum(), least.min(), largest.max()


def weighed_sums(stored: Array, centre: Array, divisor: Array, weights: Array) -> tuple[Array, float]:
    """Return the sum (d,) of rows (n, d) less `centre` (d,), each divided by a number, and that of their squares.

    Rows have any float dtype and count as often as `weights` (n,) int64 say; `centre` and `divisor` (n,) are float64.
    Sums are float64, in any order.
    """
    rows = as_numba(stored)

    def work(start: int, stop: int) -> tuple[Array, float]:
        return _weighed_sums(rows[start:stop], centre, divisor[start:stop], weights[start:stop])

    total, square = zip(*share_out(work, len(rows)), strict=True)
    return np.sum(total, axis=0), sum(square)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _weighed_sums(
    rows: Array, centre: Array, divisor: Array, weights: Array
) -> tuple[Array, float]:  # pragma: no cover (compiled)
    total, square = np.zeros(rows.shape[1]), 0.0
    for i in range(rows.shape[0]):
        weight, length, squares = np.float64(weights[i]), divisor[i], 0.0
        for k in range(rows.shape[1]):
            t = (np.float64(value(rows[i, k])) - centre[k]) / length
            total[k] += weight * t
            squares += t * t
        square += weight * squares
    return total, square

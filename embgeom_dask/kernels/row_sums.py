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
from embgeom_dask.kernels.row_checks import ends

Array = NDArray[Any]


def nearest_l1_and_linf(stored: Array) -> tuple[Array, Array]:
    """Return the float64 nearest to the L1 norm of each row (n, d), and its L-infinity norm, (n,) twice.

    Rows have any float dtype; values are 0 or from 2^-400 to 2^400 in size. Those of rows with NaN mean nothing.
    """
    rows, slack = as_numba(stored), sum_slack(stored.shape[1])
    most = 2.0 ** (52 - significand_bits(rows)) / stored.shape[1]
    least, linf = ends(stored)
    plain = ~(linf > most * least)  # float64 holds all sums of multiples of the last bit of the least value
    found = share_out(lambda start, stop: _sums(rows[start:stop], plain[start:stop], slack), len(rows))
    l1, settled = (np.concatenate(part) for part in zip(*found, strict=True))
    for i in np.flatnonzero(~settled & np.isfinite(linf)).tolist():
        l1[i] = Rationals.of(as_float(rows[i])).l1
    return l1, linf


@numba.njit(nogil=True, cache=True)
def _sums(rows: Array, plain: Array, slack: float) -> tuple[Array, Array]:  # pragma: no cover (compiled)
    """Return the sum of the sizes of each row, and whether it is certainly the nearest float64: `plain` ones are."""
    l1, settled = np.empty(rows.shape[0]), np.ones(rows.shape[0], np.bool_)
    lanes = np.empty((2, LANES))
    for i in range(rows.shape[0]):
        row = rows[i]
        if plain[i]:
            l1[i] = _plain(row)
            continue
        lanes[:] = 0.0
        for start in range(0, row.size, LANES):
            part = row[start : start + LANES]
            _add_sizes(part, lanes[0, : part.size], lanes[1, : part.size])
        l1[i], rest = add_lanes(lanes)
        settled[i] = l1[i] == 0.0 or is_settled(l1[i], rest, slack * l1[i])
    return l1, settled


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _plain(row: Array) -> float:  # pragma: no cover (compiled)
    total = 0.0
    for k in range(row.size):  # a vector loop
        total += abs(np.float64(value(row[k])))
    return total


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add_sizes(row: Array, sums: Array, errors: Array) -> None:  # pragma: no cover (compiled)
    for k in range(row.size):  # a vector loop
        add_to_lane(sums, errors, k, abs(np.float64(value(row[k]))), 0.0)


def weighed_sum(stored: Array, centre: Array, divisor: Array, weights: Array) -> Array:
    """Return the sum (d,) float64 of rows (n, d) less `centre` (d,), each divided by a number, in their order.

    Rows have any float dtype and count as often as `weights` (n,) int64 say; `centre` and `divisor` (n,) are float64.
    """
    rows, total = as_numba(stored), np.zeros(stored.shape[1])
    share_out(lambda start, stop: _weighed_sum(rows, centre, divisor, weights, start, total[start:stop]), total.size)
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _weighed_sum(
    rows: Array, centre: Array, divisor: Array, weights: Array, first: int, out: Array
) -> None:  # pragma: no cover (compiled)
    for i in range(rows.shape[0]):
        weight, length, row = np.float64(weights[i]), divisor[i], rows[i, first : first + out.size]
        for k in range(out.size):
            out[k] += weight * ((np.float64(value(row[k])) - centre[first + k]) / length)

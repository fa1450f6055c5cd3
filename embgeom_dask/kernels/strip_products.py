"""Sums over all pairs of a strip of rows: of the squares of their products, and of products of these, digit by digit.

Products of digits are integers, which are made without error; the sums of a row are added up in its order, so they have
the same bits on any machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import private_apis
from embgeom_dask.kernels.matrix_products import multiply
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

_ROWS = 256
"""Rows of a strip that are multiplied together."""

_WHOLE = 1024
"""Columns of 8-bit digits whose products add up without error in float32: 1024 (2^7)^2 = 2^24."""

_SHORT = 2**17
"""Fewer columns than this have products that fit 32 bits."""


class PairSums(NamedTuple):
    """Sums over rows i, and over i and j, with a share c for each row, of rows a of each of the digits h, m, l and r.

    Attributes
    ----------
    length : numpy.ndarray of float64, (4,)
        c_i |a_i|^2.
    square : numpy.ndarray of float64, (4,)
        c_i c_j (a_i.a_j)^2.
    crossed : numpy.ndarray of float64, (2,)
        c_i c_j (h_i.h_j) (r_i.r_j), and of m and l.
    """

    length: Array
    square: Array
    crossed: Array


def pair_sums(digits: list[list[Array]], share: Array, *, whole: bool) -> PairSums:
    """Sum up the products of rows with each other.

    Parameters
    ----------
    digits : list of list of numpy.ndarray of int8, (b, w)
        For each slice of the columns the four digits.
    share : numpy.ndarray of float64, (b,)
    whole : bool
        Whether digits are multiplied as 8-bit integers; else as float32 numbers. The sums are the same.
    """
    sums = np.empty((share.size, 10))
    for start in range(0, share.size, _ROWS):
        stop = min(start + _ROWS, share.size)
        h, m, low, r = (_products(digits, k, start, stop, whole) for k in range(4))

        def work(first: int, last: int) -> None:
            part = slice(first, last)
            _add_pairs(h[part], m[part], low[part], r[part], share, start + first, sums)  # noqa: B023

        share_out(work, stop - start, 16)
    total = sums.sum(axis=0)
    return PairSums(total[:4], total[4:8], total[8:])


def _products(digits: list[list[Array]], k: int, start: int, stop: int, whole: bool) -> Array:
    """Products (stop - start, stop) of rows with those up to `stop`, of one digit."""
    total: Array | None = None
    for digit in (part[k][:stop] for part in digits):
        columns = digit.shape[1] if whole else _WHOLE
        for rows in np.split(digit, range(columns, digit.shape[1], columns), 1):
            made = _integers(rows, start) if whole else multiply((values := rows.astype(np.float32))[start:], values.T)
            exact = made.astype(np.int32 if len(digits) * digit.shape[1] < _SHORT else np.float64, copy=False)
            total = exact if total is None else total + exact
    assert total is not None
    return total


def _integers(rows: Array, start: int) -> Array:
    values = torch.from_numpy(rows)
    found: Array = private_apis.int8_product(values[start:], values.T).numpy()
    return found


@numba.njit(nogil=True, cache=True)
def _add_pairs(
    high: Array, middle: Array, low: Array, rest: Array, share: Array, first: int, out: Array
) -> None:  # pragma: no cover (compiled)
    """Write the ten sums of each row: with itself, and with those before it, each of which counts twice."""
    for i in range(high.shape[0]):
        own = first + i
        hh = mm = ll = rr = hr = ml = 0.0
        for j in range(own):
            c = share[j]
            h, m, s, r = np.float64(high[i, j]), np.float64(middle[i, j]), np.float64(low[i, j]), np.float64(rest[i, j])
            ch, cm = c * h, c * m
            hh += ch * h
            mm += cm * m
            ll += c * s * s
            rr += c * r * r
            hr += ch * r
            ml += cm * s
        c = share[own]
        h, m, s, r = (
            np.float64(high[i, own]),
            np.float64(middle[i, own]),
            np.float64(low[i, own]),
            np.float64(rest[i, own]),
        )
        out[own, 0], out[own, 1], out[own, 2], out[own, 3] = c * h, c * m, c * s, c * r
        out[own, 4] = c * (2.0 * hh + c * h * h)
        out[own, 5] = c * (2.0 * mm + c * m * m)
        out[own, 6] = c * (2.0 * ll + c * s * s)
        out[own, 7] = c * (2.0 * rr + c * r * r)
        out[own, 8] = c * (2.0 * hr + c * h * r)
        out[own, 9] = c * (2.0 * ml + c * m * s)

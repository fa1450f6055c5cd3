"""Points of 8-bit integers: rows are multiplied by one orthogonal matrix, then rounded."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import joined, share_out

Array = NDArray[Any]

_NARROW = 8
"""The transform adds and subtracts runs of at least so many values, which fill a vector register."""


def quantize(stored: Array, centre: Array, scale: float, divisor: Array | None = None) -> tuple[Array, Array]:
    """Transform rows by one orthogonal map and round them to integers from -127 to 127.

    The map is a Hadamard transform after a change of signs, the same for all rows of a width. It spreads a few large
    values of a row over many values of similar size, so that rounding loses less; scalar products do not change.

    Parameters
    ----------
    stored : numpy.ndarray, (b, d)
        Rows, of any float dtype.
    centre : numpy.ndarray of float64, (d,)
        What is subtracted from each row.
    scale : float
        What the difference is multiplied by.
    divisor : numpy.ndarray of float64, (b,), optional
        What each row is divided by before.

    Returns
    -------
    points : numpy.ndarray of int8, (b, d)
    error : numpy.ndarray of float64, (b,)
        An upper bound of the L2 distance of each point from its transformed row. It allows for the float32 arithmetic,
        u = 2^-24: each addition of the transform errs by u of its result, the sum of d squared errors by d u of itself.
    """
    rows, signs, share = as_numba(stored), _signs(stored.shape[1]), scale / np.sqrt(_turned(stored.shape[1]))
    times = np.ones(len(rows)) if divisor is None else 1 / divisor
    found = share_out(lambda a, b: _quantize(rows[a:b], centre, times[a:b], signs, share), len(rows))
    points, left, length = (joined(part) for part in zip(*found, strict=True))
    width, unit = stored.shape[1], 2.0**-24
    return points, np.sqrt(left) * (1 + 2 * width * unit) + 32 * unit * np.sqrt(length)


def peaks(stored: Array, centre: Array, scale: float) -> Array:
    """Return the largest absolute value of each row before `quantize` rounds it, (b,) float64."""
    rows, signs, share = as_numba(stored), _signs(stored.shape[1]), scale / np.sqrt(_turned(stored.shape[1]))
    return np.concatenate(share_out(lambda a, b: _peaks(rows[a:b], centre, signs, share), len(rows)))


def _signs(width: int) -> Array:
    """Return signs (d,) float64, the same for the same width."""
    return np.random.default_rng(0).choice([-1.0, 1.0], width)


def _turned(width: int) -> int:
    """Return how many values of a row the transform combines into each."""
    count = 1
    while width % (2 * count) == 0 and width // (2 * count) >= _NARROW:
        count *= 2
    return count


@numba.njit(nogil=True, cache=True)
def _turn(
    row: Array, centre: Array, times: float, signs: Array, share: float, out: Array
) -> None:  # pragma: no cover (compiled)
    width = out.size
    for k in range(width):
        out[k] = (np.float64(value(row[k])) * times - centre[k]) * signs[k] * share
    half = width
    while half % 2 == 0 and half // 2 >= _NARROW:
        half //= 2
        for start in range(0, width, 2 * half):
            low, high = out[start : start + half], out[start + half : start + 2 * half]
            for k in range(half):
                low[k], high[k] = low[k] + high[k], low[k] - high[k]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _quantize(
    rows: Array, centre: Array, times: Array, signs: Array, share: float
) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    points, turned = np.empty(rows.shape, np.int8), np.empty(rows.shape[1], np.float32)
    left, length = np.empty(rows.shape[0]), np.empty(rows.shape[0])
    most = np.float32(127)
    for i in range(rows.shape[0]):
        _turn(rows[i], centre, times[i], signs, share, turned)
        error, total = np.float32(0), np.float32(0)
        for k in range(turned.size):
            nearest = np.rint(min(max(turned[k], -most), most))
            points[i, k] = np.int8(nearest)
            error += (turned[k] - nearest) * (turned[k] - nearest)
            total += turned[k] * turned[k]
        left[i], length[i] = error, total
    return points, left, length


@numba.njit(nogil=True, cache=True)
def _peaks(rows: Array, centre: Array, signs: Array, share: float) -> Array:  # pragma: no cover (compiled)
    out, turned = np.empty(rows.shape[0]), np.empty(rows.shape[1], np.float32)
    for i in range(rows.shape[0]):
        _turn(rows[i], centre, 1.0, signs, share, turned)
        out[i] = np.abs(turned).max()
    return out

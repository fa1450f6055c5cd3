"""8-bit integer points: rows multiplied by one orthogonal matrix and rounded to integers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

_NARROW = 8
"""The transform of a row adds and subtracts runs of at least so many values: vectors."""


def quantize(stored: Array, centre: Array, scale: float) -> tuple[Array, Array]:
    """Round rows (b, d), minus `centre` and times `scale`, to integers from -127 to 127, turned to fill these.

    The turn is one orthogonal map for all rows of a width, a Hadamard transform after a change of signs: a few large
    values of a row become many of like size, which leaves scalar products what they were.

    Returns
    -------
    points (b, d) int8, and how far each may be from its row, turned, in the L2 norm: (b,) float64. Each addition of the
    transform is within u of its result, u = 2^-24, and the sum of the squared errors within d u of itself.
    """
    rows, signs, share = as_numba(stored), _signs(stored.shape[1]), scale / np.sqrt(_turned(stored.shape[1]))
    found = share_out(lambda start, stop: _quantize(rows[start:stop], centre, signs, share), len(rows))
    points, left, length = (np.concatenate(part) for part in zip(*found, strict=True))
    width, unit = stored.shape[1], 2.0**-24
    return points, np.sqrt(left) * (1 + 2 * width * unit) + 32 * unit * np.sqrt(length)


def peaks(stored: Array, centre: Array, scale: float) -> Array:
    """The largest absolute value (b,) float64 of each row as `quantize` has it before it rounds."""
    rows, signs, share = as_numba(stored), _signs(stored.shape[1]), scale / np.sqrt(_turned(stored.shape[1]))
    return np.concatenate(share_out(lambda start, stop: _peaks(rows[start:stop], centre, signs, share), len(rows)))


def _signs(width: int) -> Array:
    """Signs (d,) float64, always the same."""
    return np.random.default_rng(0).choice([-1.0, 1.0], width)


def _turned(width: int) -> int:
    """How many values the transform of a row mixes with each other."""
    count = 1
    while width % (2 * count) == 0 and width // (2 * count) >= _NARROW:
        count *= 2
    return count


@numba.njit(nogil=True, cache=True)
def _turn(row: Array, centre: Array, signs: Array, share: float, out: Array) -> None:  # pragma: no cover (compiled)
    width = out.size
    for k in range(width):
        out[k] = (np.float64(value(row[k])) - centre[k]) * signs[k] * share
    half = width
    while half % 2 == 0 and half // 2 >= _NARROW:
        half //= 2
        for start in range(0, width, 2 * half):
            low, high = out[start : start + half], out[start + half : start + 2 * half]
            for k in range(half):
                low[k], high[k] = low[k] + high[k], low[k] - high[k]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _quantize(
    rows: Array, centre: Array, signs: Array, share: float
) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    points, turned = np.empty(rows.shape, np.int8), np.empty(rows.shape[1], np.float32)
    left, length = np.empty(rows.shape[0]), np.empty(rows.shape[0])
    most = np.float32(127)
    for i in range(rows.shape[0]):
        _turn(rows[i], centre, signs, share, turned)
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
        _turn(rows[i], centre, signs, share, turned)
        out[i] = np.abs(turned).max()
    return out

"""Numba passes over stored rows, without a float64 copy: what they may hold, norms about a centre, 8-bit integers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

NOT_FINITE, FAR = 1, 2
"""A row holds NaN or infinity; it holds a value other than 0 that is not from SMALLEST to LARGEST."""

SMALLEST, LARGEST = 2.0**-400, 2.0**400
"""Squares of values in this range, and the errors of their squares, are float64 numbers."""

_NARROW = 8
"""The transform of a row adds and subtracts runs of at least so many values: vectors."""


def norms(stored: Array, centre: Array | None = None) -> Array:
    """The L1, squared L2 and L-infinity norm (b, 3) float64 of rows (b, d) of any float dtype, minus `centre` (d,).

    Sums are float64, in some order: within (d + 3) u of themselves, u = 2^-53.
    """
    rows = as_numba(stored)
    origin = np.zeros(rows.shape[1]) if centre is None else centre
    return np.concatenate(share_out(lambda start, stop: _norms(rows[start:stop], origin), len(rows)))


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _norms(rows: Array, centre: Array) -> Array:  # pragma: no cover (compiled)
    out = np.empty((rows.shape[0], 3))
    for i in range(rows.shape[0]):
        one, two, largest = 0.0, 0.0, 0.0
        for k in range(rows.shape[1]):
            t = np.float64(value(rows[i, k])) - centre[k]
            one += abs(t)
            two += t * t
            largest = max(largest, abs(t))
        out[i, 0], out[i, 1], out[i, 2] = one, two, largest
    return out


def recentre(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, Array, Array]:
    """Subtract `centre` (d,) bfloat16 from points (b, d) bfloat16 and round again: (b, d) bfloat16, on their device.

    Also returns the squared L2 norms of the differences, and how far each is from its rounded point: (b,) float64 each.
    """
    return (recentre_on_cpu if points.device.type == "cpu" else recentre_on_device)(points, centre)


def recentre_on_device(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, Array, Array]:
    """See `recentre`; on a device with float64."""
    differences = points.double() - centre.double()
    rounded = differences.float().to(points.dtype)
    sums = differences.square().sum(1), (differences - rounded.double()).square().sum(1)
    norm, left = (each.cpu().numpy() for each in sums)
    return rounded, norm, np.sqrt(left) * (1 + 1e-9)


def recentre_on_cpu(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, Array, Array]:
    """See `recentre`."""
    rows, origin = as_numba(points), as_float(as_numba(centre))
    found = share_out(lambda start, stop: _recentre(rows[start:stop], origin), len(rows))
    bits, norm, left = (np.concatenate(part) for part in zip(*found, strict=True))
    return torch.from_numpy(bits.view(np.int16)).view(points.dtype), norm, np.sqrt(left) * (1 + 1e-9)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _recentre(rows: Array, centre: Array) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    points, single = np.empty(rows.shape, np.uint16), np.empty(rows.shape[1], np.float32)
    norm, left = np.empty(rows.shape[0]), np.empty(rows.shape[0])
    bits = single.view(np.uint32)
    for i in range(rows.shape[0]):
        total, error = 0.0, 0.0
        for k in range(single.size):
            t = np.float64(value(rows[i, k])) - centre[k]
            single[k] = t
            total += t * t
        for k in range(single.size):
            points[i, k] = (bits[k] + np.uint32(0x7FFF) + ((bits[k] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        for k in range(single.size):
            t = np.float64(value(rows[i, k])) - centre[k] - np.float64(value(points[i, k]))
            error += t * t
        norm[i], left[i] = total, error
    return points, norm, left


def quantise(stored: Array, centre: Array, scale: float) -> tuple[Array, Array]:
    """Round rows (b, d), minus `centre` and times `scale`, to integers from -127 to 127, turned to fill these.

    The turn is one orthogonal map for all rows of a width, a Hadamard transform after a change of signs: a few large
    values of a row become many of like size, which leaves scalar products what they were.

    Returns
    -------
    points (b, d) int8, and how far each may be from its row, turned, in the L2 norm: (b,) float64. Each addition of the
    transform is within u of its result, u = 2^-24, and the sum of the squared errors within d u of itself.
    """
    rows, signs, share = as_numba(stored), _signs(stored.shape[1]), scale / np.sqrt(_turned(stored.shape[1]))
    found = share_out(lambda start, stop: _quantise(rows[start:stop], centre, signs, share), len(rows))
    points, left, length = (np.concatenate(part) for part in zip(*found, strict=True))
    width, unit = stored.shape[1], 2.0**-24
    return points, np.sqrt(left) * (1 + 2 * width * unit) + 32 * unit * np.sqrt(length)


def peaks(stored: Array, centre: Array, scale: float) -> Array:
    """The largest absolute value (b,) float64 of each row as `quantise` has it before it rounds."""
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
def _quantise(
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


def unfit(stored: Array) -> Array:
    """What keeps a row (n, d), of any float dtype, from being computed with: (n,) uint8, NOT_FINITE, FAR or 0."""
    rows = as_numba(stored)
    return np.concatenate(share_out(lambda start, stop: _unfit(rows[start:stop]), len(rows)))


@numba.njit(nogil=True, cache=True)
def _unfit(rows: Array) -> Array:  # pragma: no cover (compiled)
    out = np.zeros(rows.shape[0], np.uint8)
    for i in range(rows.shape[0]):
        endless, far = 0, 0
        for k in range(rows.shape[1]):
            size = abs(np.float64(value(rows[i, k])))
            endless += not size < np.inf
            far += not (SMALLEST <= size <= LARGEST or size == 0.0)
        if far:
            out[i] = NOT_FINITE if endless else FAR
    return out

"""Subtract another centre from bfloat16 points, and round them to bfloat16 again."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]


def recentre(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, Array, Array]:
    """Subtract a centre from points and round again, on their device.

    Parameters
    ----------
    points : torch.Tensor of bfloat16, (b, d)
    centre : torch.Tensor of bfloat16, (d,)

    Returns
    -------
    rounded : torch.Tensor of bfloat16, (b, d)
        The differences, rounded.
    norm : numpy.ndarray of float64, (b,)
        The squared L2 norms of the differences before rounding.
    error : numpy.ndarray of float64, (b,)
        An upper bound of the L2 distance of each difference from its rounded point.
    """
    return (recentre_on_cpu if points.device.type == "cpu" else recentre_on_device)(points, centre)


def recentre_on_device(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, Array, Array]:
    """See `recentre`; for a device that has float64."""
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

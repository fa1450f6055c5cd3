"""Numba passes over stored rows: norms about a centre, without a float64 copy, and hashes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.threads import share_out
from embgeom_dask.kernels.widen import as_numba, value

Array = NDArray[Any]


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


@numba.njit(nogil=True, cache=True)
def multilinear(words: Array, keys: Array, zero: int) -> Array:  # pragma: no cover (compiled)
    """The upper halves of sum keys[h, k] words[i, k] modulo 2^64: (n, h) uint32, of words (n, d) uint16 or uint32.

    A word equal to `zero` counts as 0.
    """
    negative = np.uint64(zero)
    out = np.empty((words.shape[0], keys.shape[0]), np.uint32)
    for i in range(words.shape[0]):
        for h in range(keys.shape[0]):
            total = np.uint64(0)
            for k in range(words.shape[1]):
                word = np.uint64(words[i, k])
                total += keys[h, k] * (word if word != negative else np.uint64(0))
            out[i, h] = total >> np.uint64(32)
    return out

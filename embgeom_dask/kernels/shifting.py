"""Subtract a centre from rows and scale them, in the type that products take."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]


def shifted(stored: Array, centre: Array, scale: float, dtype: Any) -> Array:
    """Return rows (b, d) of any float dtype less `centre` (d,) float64, times `scale`, computed in float64, as `dtype`.

    `dtype` is float32 or float64.
    """
    rows, out = as_numba(stored), np.empty(stored.shape, dtype)
    share_out(lambda start, stop: _shift(rows[start:stop], centre, scale, out[start:stop]), len(rows))
    return out


@numba.njit(nogil=True, cache=True)
def _shift(rows: Array, centre: Array, scale: float, out: Array) -> None:  # pragma: no cover (compiled)
    for i in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            out[i, k] = (np.float64(value(rows[i, k])) - centre[k]) * scale

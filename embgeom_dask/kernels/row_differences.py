"""How many values of each row differ from those of another row."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]


def changed_values(x: Array, y: Array) -> Array:
    """Return in how many columns the rows x (n, d) and y (n, d), of any float dtypes, have other values, (n,) int64.

    -0 is 0.
    """
    first, second = as_numba(x), as_numba(y)
    found = share_out(lambda start, stop: _changed(first[start:stop], second[start:stop]), len(first))
    return np.concatenate(found)


@numba.njit(nogil=True, cache=True)
def _changed(x: Array, y: Array) -> Array:  # pragma: no cover (compiled)
    out = np.zeros(x.shape[0], np.int64)
    for i in range(x.shape[0]):
        count = 0
        for k in range(x.shape[1]):
            count += np.float64(value(x[i, k])) != np.float64(value(y[i, k]))
        out[i] = count
    return out

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from embgeom_dask.pairwise.rows import digest


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_digests_of_rows_are_those_of_hashlib(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (8, 16), (13, 63), (200, 64), (9, 65), (3, 130)):
        values = rng.normal(size=(rows, columns)).astype(dtype)
        values[rng.random(values.shape) < 0.3] = -0.0
        expected = np.where(values == 0, np.zeros((), dtype), values)
        assert [each.tobytes() for each in digest(values)] == [
            blake2b(each.tobytes(), digest_size=16).digest() for each in expected
        ]

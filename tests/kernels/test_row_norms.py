"""Norms of rows against exact arithmetic, whatever the type of the rows and the size of their values."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embgeom_dask.kernels.numba_bfloat16 import as_numba
from embgeom_dask.kernels.row_norms import lengths_of_used, norms

UNIT = Fraction(1, 2**53)


def check(rows: np.ndarray, centre: np.ndarray | None = None) -> None:
    """Each norm errs by no more than the docstring says: sums of d terms, each of a difference rounded once."""
    found, width = norms(rows, centre), rows.shape[1]
    less = [Fraction(0)] * width if centre is None else [*map(Fraction, centre.tolist())]
    for row, (l1, l2_squared, linf) in zip(rows.astype(np.float64).tolist(), found.tolist(), strict=True):
        exact = [abs(Fraction(a) - b) for a, b in zip(row, less, strict=True)]
        assert abs(Fraction(l1) - sum(exact)) <= (width + 3) * UNIT * sum(exact)
        squares = sum(a * a for a in exact)
        assert abs(Fraction(l2_squared) - squares) <= (width + 3) * UNIT * squares
        assert abs(Fraction(linf) - max(exact)) <= UNIT * max(exact)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1e120, 1e120)))
def test_norms_of_any_numbers(rows: np.ndarray) -> None:
    rows[np.abs(rows) < 2.0**-400] = 0
    check(rows)
    check(rows, rows[::-1].mean(axis=0) / 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_norms_of_every_type_and_of_those_rows_alone_that_are_used(dtype: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 67)).astype(dtype)
    rows[3], rows[4, ::2] = 0, -0.0
    check(rows)
    unread = as_numba(rows.copy())
    unread[5:] = np.array(np.nan, dtype).astype(dtype).view(unread.dtype) if unread.dtype == np.uint16 else np.nan
    used = np.array([4, 1, 1, 3])
    found = lengths_of_used(unread, used)
    np.testing.assert_allclose(found[used], np.sqrt((rows.astype(float) ** 2).sum(axis=1))[used], rtol=1e-14)
    assert (found[[0, 2, *range(5, 40)]] == 0).all()

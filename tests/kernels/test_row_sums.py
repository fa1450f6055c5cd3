from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embgeom_dask.kernels.double_double import two_product
from embgeom_dask.kernels.exact_sums import ColumnSums, column_sums
from embgeom_dask.kernels.row_checks import FAR, LARGEST, NOT_FINITE, SMALLEST, ends, unfit
from embgeom_dask.kernels.row_sums import nearest_l1_and_linf, weighed_sum


def check(rows: np.ndarray) -> None:
    l1, linf = nearest_l1_and_linf(rows)
    values = np.abs(rows.astype(np.float64))
    assert l1.tolist() == [float(sum(map(Fraction, row), Fraction())) for row in values.tolist()]
    assert linf.tolist() == values.max(axis=1).tolist()


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 90)), elements=st.floats(-1e120, 1e120)))
def test_the_nearest_to_sums_of_fractions(rows: np.ndarray) -> None:
    rows[np.abs(rows) < 2.0**-400] = 0
    check(rows)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_type_and_sums_halfway_between_two_numbers(dtype: Any) -> None:
    check(np.random.default_rng(0).normal(size=(300, 65)).astype(dtype))
    check((np.random.default_rng(1).normal(size=(40, 65)) * 2.0 ** np.arange(-54, 11)).astype(dtype))
    check(np.zeros((3, 2), dtype))
    halfway = np.array([[1, 2.0**-53, 0, 0], [1, 2.0**-53, 2.0**-106, 0], [1, 2.0**-52, 2.0**-53, 0]], np.float64)
    check(halfway)
    assert nearest_l1_and_linf(halfway)[0].tolist() == [1, 1 + 2.0**-52, 1 + 2.0**-51]


def test_rows_that_are_refused_later_do_no_harm() -> None:
    l1, _ = nearest_l1_and_linf(np.array([[1.0, np.nan], [np.inf, 1.0], [3.0, -4.0]]))
    assert l1[2] == 7


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("spread", [0, 40])
def test_sums_of_columns_are_exact_whatever_the_sizes_of_values(dtype: Any, spread: int) -> None:
    """Those that float64 holds are added there, with or without values far apart."""
    rng = np.random.default_rng(2)
    rows = (rng.normal(size=(1100, 5)) * 2.0 ** rng.integers(-spread // 2, spread // 4 + 1, (1100, 5))).astype(dtype)
    keep = rng.random(1100) < 0.9
    found = column_sums(rows, keep)
    total = ColumnSums.none(5)
    total.add(found)
    expected = [sum(map(Fraction, column), Fraction()) for column in rows[keep].astype(np.float64).T.tolist()]
    mean = total.mean(7)
    assert [Fraction(n, mean.denominator) * Fraction(2) ** mean.exponent * 7 for n in mean.numerators] == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_the_weighed_sum_of_rows(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows, centre = rng.normal(size=(130, 133)).astype(ml_dtypes.bfloat16), rng.normal(size=133)
    divisor, weights = rng.uniform(1, 2, 130), rng.integers(1, 4, 130)
    values = (rows.astype(np.float64) - centre) / divisor[:, None]
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    found = weighed_sum(rows, centre, divisor, weights)
    total = np.zeros(133)
    for weight, value in zip(weights, values, strict=True):
        total += weight * value
    np.testing.assert_array_equal(found, total)


@given(
    hnp.arrays(np.float64, (4, 5), elements=st.floats(width=64)), st.sampled_from([np.float64, np.float32, np.float16])
)
def test_the_ends_of_rows_and_what_keeps_them_from_being_computed_with(values: np.ndarray, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        rows = values.astype(dtype)
    least, largest = ends(rows)
    size = np.abs(rows.astype(np.float64))
    assert least[size.max(axis=1) >= 0].tolist() == [
        min(row[row > 0], default=np.inf) for row in size if row.max() >= 0
    ]
    np.testing.assert_array_equal(largest, size.max(axis=1))
    far = ((size < SMALLEST) & (size > 0)).any(axis=1) | (size > LARGEST).any(axis=1)
    assert unfit(rows).tolist() == np.where(np.isfinite(size).all(axis=1), far * FAR, NOT_FINITE).tolist()


@given(st.floats(-1e140, 1e140), st.floats(-1e140, 1e140))
def test_a_product_and_its_error_are_the_product(a: float, b: float) -> None:
    high, low = two_product(a, b)
    assert high == a * b
    assert Fraction(high) + Fraction(low) == Fraction(a) * Fraction(b) or abs(high) < 1e-280  # the error underflows

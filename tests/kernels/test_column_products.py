"""X'X against sums of fractions, and against itself in any cut; eigenvalues with their bounds."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embgeom_dask import tuning
from embgeom_dask.kernels.column_products import BLOCK_ROWS, ColumnProducts, error_of, sample_covariance, stripes
from embgeom_dask.kernels.eigenvalues import eigen
from embgeom_dask.kernels.exact_sums import column_sums
from embgeom_dask.kernels.projections import projections
from embgeom_dask.kernels.rationals import Rationals

Array = np.ndarray


def products_of(rows: Array) -> ColumnProducts:
    found = ColumnProducts.none(rows.shape[1], stripes(rows.shape[1]))
    found.add_rows(rows)
    return found


def exact(rows: Array) -> list[list[Fraction]]:
    columns = [[Fraction(value) for value in column] for column in rows.astype(np.float64).T.tolist()]
    return [[sum((a * b for a, b in zip(x, y, strict=True)), Fraction()) for y in columns] for x in columns]


def spread(rows: int, width: int, seed: int = 0) -> Array:
    """Values of all sizes within a column, and columns of very different sizes."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, width)) * 2.0 ** random.integers(-60, 60, size=(rows, width))
    return values * 2.0 ** np.linspace(-300, 300, width)


CASES: dict[str, Callable[[], Array]] = {
    "about a far centre": lambda: 0.37 + 1e-9 * np.random.default_rng(1).normal(size=(300, 5)),
    "all sizes": lambda: spread(200, 4),
    "bfloat16": lambda: np.random.default_rng(2).normal(size=(1500, 3)).astype(ml_dtypes.bfloat16),
    "float16, small": lambda: (1e-6 * np.random.default_rng(3).normal(size=(50, 3))).astype(np.float16),
    "float32": lambda: np.random.default_rng(4).normal(size=(70, 6)).astype(np.float32),
    "zeros": lambda: np.zeros((9, 2), np.float32),
    "the ends of the range": lambda: np.array([[2.0**400, 2.0**-400], [-(2.0**400), 2.0**-400], [2.0**-400, 0]]),
}


@pytest.mark.parametrize("case", CASES)
def test_products_and_covariance_are_those_of_fractions(case: str) -> None:
    rows = CASES[case]()
    count, width = rows.shape
    found, true = products_of(rows), exact(rows)
    for i in range(width):
        for j in range(i, width):
            value = Fraction(found.total[0][i, j]) + Fraction(found.rest[0][i, j])
            assert abs(value - true[i][j]) ** 2 <= Fraction(error_of(count)) ** 2 * true[i][i] * true[j][j]
    mean = column_sums(rows, np.ones(count, np.bool_)).mean(count)
    high = mean.nearest()
    got = sample_covariance([found], high, mean.minus(Rationals.of(high)).nearest(), count)
    sums = [sum(map(Fraction, column), Fraction()) for column in rows.astype(np.float64).T.tolist()]
    for i in range(width):
        for j in range(width):
            wanted = (true[i][j] - sums[i] * sums[j] / count) / (count - 1)
            beyond = max(0, abs(Fraction(got[i, j]) - wanted) - Fraction(1, 2**52) * abs(wanted)) * (count - 1)
            assert beyond**2 <= (Fraction(error_of(count)) * Fraction(11, 10)) ** 2 * true[i][i] * true[j][j]
            assert got[i, j] == got[j, i]


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=st.floats(-1e120, 1e120)))
def test_no_order_of_columns_and_of_rows_within_a_block_changes_a_bit(rows: Array) -> None:
    rows[np.abs(rows) < 2.0**-400] = 0
    found = products_of(rows)
    upside_down = products_of(rows[::-1])
    np.testing.assert_array_equal(upside_down.total[0], found.total[0])
    np.testing.assert_array_equal(upside_down.rest[0], found.rest[0])
    order = np.random.default_rng(0).permutation(rows.shape[1])
    turned = products_of(rows[:, order])
    np.testing.assert_array_equal(turned.total[0], found.total[0][np.ix_(order, order)])
    np.testing.assert_array_equal(turned.rest[0], found.rest[0][np.ix_(order, order)])


def test_stripes_threads_and_groups_are_one_matrix() -> None:
    rows = np.random.default_rng(5).normal(size=(3 * BLOCK_ROWS // 2, 150))
    whole = products_of(rows)
    threads = torch.get_num_threads()
    for count, groups in ((1, [[0], [64, 128]]), (2, [[0, 64, 128]])):
        torch.set_num_threads(count)
        try:
            with tuning.override(STRIPE_COLUMNS=64):
                assert stripes(150) == [0, 64, 128]
                parts = [ColumnProducts.none(150, group) for group in groups]
            for part in parts:
                part.add_rows(rows)
        finally:
            torch.set_num_threads(threads)
        for part in parts:
            for first, total, rest in zip(part.first, part.total, part.rest, strict=True):
                columns = slice(first, first + len(total))
                np.testing.assert_array_equal(total, whole.total[0][columns, first:])
                np.testing.assert_array_equal(rest, whole.rest[0][columns, first:])


def known(values: Array, seed: int = 0) -> Array:
    """A symmetric matrix with these eigenvalues but for rounding: of an orthogonal matrix."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(values.size, values.size)))[0]
    matrix = turn @ np.diag(values) @ turn.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("scale", [1.0, 2.0**700, 2.0**-700])
def test_eigenvalues_are_within_their_bound_of_those_in_more_digits(scale: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    matrix = known(np.array([5.0, 3.0, 3.0, 1e-3, 1e-9]), 3)
    with mpmath.workdps(60):
        values, vectors = mpmath.eigsy(mpmath.matrix(matrix.tolist()))
        true = sorted((float(value) for value in values), reverse=True)
        first = np.array([float(vectors[k, 4]) for k in range(5)])
    found = eigen(matrix * scale, 2, 0.0)
    assert np.abs(found.value / scale - true).max() <= found.error / scale <= 1e-12
    assert found.sine[0] < 1e-12
    assert found.sine[1] > 1e-3  # 3 is there twice: no vector is the one
    sine = np.linalg.norm(found.vector[0] - first * np.sign(first @ found.vector[0]))
    assert sine <= found.sine[0] + 1e-15
    assert (found.vector[np.arange(2), np.abs(found.vector).argmax(axis=1)] > 0).all()


def test_eigenvalues_of_nothing_and_of_one_number() -> None:
    nothing = eigen(np.zeros((3, 3)), 1, 0.0)
    assert nothing.value.tolist() == [0, 0, 0]
    assert nothing.sine.tolist() == [1.0]
    one = eigen(np.array([[4.0]]), 1, 0.0)
    assert (one.value.tolist(), one.vector.tolist()) == ([4.0], [[1.0]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_projections_are_the_nearest_or_next_to_it(dtype: Any) -> None:
    random = np.random.default_rng(6)
    rows = (0.37 + 1e-3 * random.normal(size=(40, 33))).astype(dtype)
    directions = random.normal(size=(2, 33))
    mean = column_sums(rows, np.ones(40, np.bool_)).mean(40)
    high = mean.nearest()
    found = projections(rows, high, mean.minus(Rationals.of(high)).nearest(), directions)
    centre = [Fraction(number, mean.denominator) * Fraction(2) ** mean.exponent for number in mean.numerators]
    for i, row in enumerate(rows.astype(np.float64).tolist()):
        for c, direction in enumerate(directions.tolist()):
            true = sum((Fraction(x) - m) * Fraction(v) for x, m, v in zip(row, centre, direction, strict=True))
            assert abs(Fraction(found[i, c]) - true) <= Fraction(np.spacing(abs(float(true)))) + Fraction(1, 2**95)

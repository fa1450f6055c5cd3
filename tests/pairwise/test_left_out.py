"""What the values of all pairs are off together, against rational numbers; and that nothing less would do."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask.kernels import digits, strip_products
from embgeom_dask.metrics import METRICS, Precision, Workspace, multiply_digits
from embgeom_dask.pairwise import left_out as module
from embgeom_dask.pairwise.left_out import left_out, off_values
from embgeom_dask.pairwise.points import PointFormat
from tests.kernels.test_digits import exact_value, format_of, rows_of_digits


def off(rows: np.ndarray, point_format: PointFormat) -> list[list[Fraction]]:
    """What the value of each pair of rows, made of their digits, is off."""
    points, norms = point_format.points(rows)
    assert norms.step is not None
    made = multiply_digits(points, points, (norms.step, norms.step), Workspace(), whole=True).numpy()
    low, high = METRICS[point_format.metric].terms(norms, norms, rows.shape[1], Precision("float64", cpu=True))
    row, column = ((low.row + high.row) / 2, (low.column + high.column) / 2)
    return [
        [
            Fraction(row[i] + column[j] + low.factor * made[i, j])
            - exact_value(point_format.metric, rows[i], rows[j], point_format.scale)
            for j in range(len(rows))
        ]
        for i in range(len(rows))
    ]


@settings(deadline=None, max_examples=25)
@given(
    rows=rows_of_digits(),
    metric=st.sampled_from(["euclidean", "cosine"]),
    cut=st.none() | st.integers(1, 5),
    strip=st.sampled_from([2, 64]),
    whole=st.booleans(),
    longest=st.sampled_from([16, 43904]),
    weights=st.lists(st.integers(1, 3), min_size=6, max_size=6),
)
def test_values_are_off_together_by_no_more_than_the_rows_say(
    rows: np.ndarray, metric: str, cut: int | None, strip: int, whole: bool, longest: int, weights: list[int]
) -> None:
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    point_format, count = format_of(rows, metric), len(rows)
    cut = None if cut is None else min(cut, count - 1)
    apart = off(rows, point_format)
    weight = np.array(weights[:count])
    pairs = list(combinations(range(count), 2) if cut is None else product(range(cut), range(cut, count)))
    square = sum((weights[i] * weights[j] * apart[i][j] ** 2 for i, j in pairs), Fraction())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "LONGEST", longest)
        patch.setattr(digits, "_TOGETHER", 4)
        patch.setattr(strip_products, "_ROWS", 2)
        parts = [slice(None)] if cut is None else [slice(cut), slice(cut, None)]
        sides = [left_out(rows[part], weight[part], point_format, strip, whole=whole) for part in parts]
    found = off_values(sides[0], sides[1] if cut else None, point_format)
    assert square <= Fraction(found.root) ** 2
    assert max(abs(apart[i][j]) for i, j in pairs) <= found.most


def bounds_of_all(rows: np.ndarray, strip: int) -> tuple[float, float]:
    """What cosines are off, the root of the sum of squares over all pairs: bounded together, and pair by pair."""
    point_format = PointFormat("cosine", "int8x3", np.zeros(rows.shape[1]), 1.0)
    _, norms = point_format.points(rows)
    assert norms.slack is not None
    by_pairs = sum((norms.slack[i] + norms.slack[j]) ** 2 / 4 for i, j in combinations(range(len(rows)), 2))
    found = left_out(rows, np.ones(len(rows), np.int64), point_format, strip, whole=True)
    return off_values(found, None, point_format).root, sqrt(by_pairs)


def root_of_all(rows: np.ndarray) -> float:
    """What cosines are off, the root of the sum of squares over all pairs."""
    apart = off(rows, PointFormat("cosine", "int8x3", np.zeros(rows.shape[1]), 1.0))
    return sqrt(sum(apart[i][j] ** 2 for i, j in combinations(range(len(rows)), 2)))


def test_rows_that_leave_out_the_same_need_all_of_it_and_others_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    alike = digits._signs(15) * rng.uniform(1, 2, (12, 1))  # the same digits, in every column
    apart = root_of_all(alike)
    bound, _ = bounds_of_all(alike, 4)
    assert 0.5 * bound < apart <= bound
    rows = rng.normal(size=(40, 32))
    bound, by_pairs = bounds_of_all(rows, 40)
    assert root_of_all(rows) < bound < 3 * root_of_all(rows)
    assert bound < by_pairs / 4
    short, _ = bounds_of_all(rows, 8)
    assert bound < short
    sums = strip_products.pair_sums

    def careless(*given: Any, **how: Any) -> strip_products.PairSums:
        found = sums(*given, **how)
        return found._replace(square=found.square / 100, crossed=found.crossed / 100, length=found.length / 10)

    monkeypatch.setattr(module, "pair_sums", careless)
    bound, _ = bounds_of_all(alike, 4)
    assert apart > bound, "a bound that is too small was not seen"

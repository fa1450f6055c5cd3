from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from math import inf
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise import exact as pairwise_exact
from embgeom_dask.pairwise.exact import Exact, Pairs, Rows
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import matrices


def exactly(rows: np.ndarray, metric: str = "euclidean") -> Exact:
    lengths = np.sqrt(norms(rows)[:, 1]) * (1 + 1e-9)
    blocks = Rows(5, lambda index: rows[5 * index : 5 * index + 5], lengths)
    return Exact(METRICS[metric], blocks, blocks, rows.shape[1], 1.0)


def without_zeros(rows: np.ndarray) -> np.ndarray:
    return rows[rows.astype(float).any(axis=1)]


@settings(deadline=None, max_examples=60)
@given(matrices(max_rows=16), st.sampled_from(["euclidean", "chebyshev", "cityblock", "dot"]))
def test_every_level_keeps_its_bound(rows: np.ndarray, metric: str) -> None:
    exact, expected = exactly(rows, metric), truth(rows, metric=metric)
    unit = Fraction(1, 1 << (2148 if metric in ("euclidean", "dot") else 1074))
    sign = -1 if metric == "dot" else 1
    keys = exact.keys(expected.i, expected.j)
    values, slack = exact.values(expected.i, expected.j)
    key_slack = exact.key_slack(keys)
    least, most = exact.at_least(expected.i, expected.j), -exact.turn().at_least(expected.i, expected.j)
    for p, order in enumerate(expected.order.tolist()):
        true = sign * order * unit
        assert least[p] == -inf or Fraction(least[p]) <= true * (1 + Fraction(1, 2**40) * (-1 if true < 0 else 1))
        assert most[p] == inf or Fraction(most[p]) >= true * (1 - Fraction(1, 2**40) * (-1 if true < 0 else 1))
        key = Fraction(keys.high[p]) + Fraction(keys.low[p])
        assert abs(Fraction(values[p]) - true) <= Fraction(slack[p]) * Fraction(1 + 2**-40)
        assert abs(key - true) <= (0 if keys.exact[p] else Fraction(key_slack[p]))
    assert exact.order(keys.first, keys.second) == (sign * expected.order).tolist()


@settings(deadline=None, max_examples=60)
@given(matrices(max_rows=16))
def test_cosine_keeps_its_bounds(rows: np.ndarray) -> None:
    rows = without_zeros(rows)
    exact, expected = exactly(rows, "cosine"), truth(rows, metric="cosine")
    keys = exact.keys(expected.i, expected.j)
    values, slack = exact.values(expected.i, expected.j)
    key_slack = exact.metric.key_slack(keys.high, rows.shape[1])
    least, most = exact.at_least(expected.i, expected.j), -exact.turn().at_least(expected.i, expected.j)
    with localcontext() as context:
        context.prec = 60
        for p, order in enumerate(expected.order.tolist()):
            cosine = (Decimal(abs(order.numerator)) / Decimal(order.denominator)).sqrt().copy_sign(-order.numerator)
            true = 1 - cosine
            key = Decimal(keys.high[p].item()) + Decimal(keys.low[p].item())
            assert Decimal(least[p].item()) <= true <= Decimal(most[p].item())
            assert abs(Decimal(values[p].item()) - true) <= Decimal(slack[p].item()) * Decimal("1.000001")
            assert abs(key - true) <= (Decimal("1e-55") if keys.exact[p] else Decimal(key_slack[p].item()))


WIDE = st.tuples(
    st.sampled_from(["euclidean", "cosine", "dot"]),
    st.sampled_from([np.float32, ml_dtypes.bfloat16]),
    st.sampled_from([65, 700, 2560]),
    st.sampled_from([0.0, 1.0, 100.0]),
    st.sampled_from([-39, -30, 0, 30, 39]),
    st.integers(0, 2**32 - 1),
)


def wide_case(case: tuple[str, Any, int, float, int, int]) -> tuple[Exact, np.ndarray, np.ndarray]:
    """Long rows about a point, so that products cancel or differences do, with lengths at the ends of what is taken."""
    metric, dtype, width, centre, power, seed = case
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, width)) + centre * rng.normal(size=width)
    rows[6:] -= rows[0] * (rows[6:] @ rows[0])[:, None] / (rows[0] @ rows[0]) * (centre == 0)  # nearly orthogonal to it
    rows *= 2.0**power / np.linalg.norm(rows, axis=1, keepdims=True)
    return exactly(rows.astype(dtype), metric), *np.triu_indices(12, 1)


@settings(deadline=None, max_examples=60)
@given(WIDE)
def test_bounds_from_float32_hold_and_are_close(case: tuple[str, Any, int, float, int, int]) -> None:
    exact, i, j = wide_case(case)
    values, slack = exact.values(i, j)
    least, most = exact.at_least(i, j), -exact.turn().at_least(i, j)
    told = np.isfinite(least)
    assert (least <= values + slack).all()
    assert (most >= values - slack).all()
    np.testing.assert_array_equal(told, np.isfinite(most))
    if case[4] != -39:
        assert told.all()
        assert (most - least < 2e-3 * exact.metric.bound(2.0) * 4.0 ** (case[4] * (case[0] != "cosine"))).all()
    assert exact.counts["float32"] == 2 * i.size


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_bounds_from_float32_said_to_be_sharper_do_not_hold(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, i, j = wide_case((metric, np.float32, 700, 1.0, 0, 5))
    values, slack = exact.values(i, j)
    for unit, holds in ((2.0**-24, True), (2.0**-36, False)):
        monkeypatch.setattr(pairwise_exact, "UNIT_OF_FLOAT32", unit)
        assert (exact.at_least(i, j) <= values + slack).all() == holds


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("lengths", [(2.0**-70, 1.0), (2.0**70, 2.0**-70), (2.0**126, 2.0**-126), (2.0**120, 2.0**120)])
def test_what_may_overflow_or_underflow_in_float32_is_not_told_from_it(
    metric: str, lengths: tuple[float, float]
) -> None:
    rows = np.random.default_rng(0).normal(size=(2, 64)) * np.array(lengths)[:, None]
    exact = exactly(rows.astype(np.float32), metric)
    pair = np.array([0]), np.array([1])
    assert exact.at_least(*pair) == exact.turn().at_least(*pair) == -inf


def test_differences_of_float64_rows_are_not_told_from_float32() -> None:
    rows = 1.0 + 1e-9 * np.random.default_rng(0).normal(size=(2, 64))
    assert exactly(rows).at_least(np.array([0]), np.array([1])) == -inf


@settings(deadline=None, max_examples=80)
@given(matrices(max_rows=16), st.booleans(), st.integers(0, 100), st.sampled_from(sorted(METRICS)))
def test_sorting_equals_sorting_rationals(rows: np.ndarray, descending: bool, seed: int, metric: str) -> None:
    rows = without_zeros(rows)
    exact, expected = exactly(rows, metric), truth(rows, metric=metric)
    shuffled = np.random.default_rng(seed).permutation(expected.i.size)
    ordered, rank = exact.sort(exact.keys(expected.i[shuffled], expected.j[shuffled]), descending=descending)
    descending ^= metric == "dot"  # values are products with the sign turned
    ids, _ = expected.best(expected.i.size, farthest=descending)
    np.testing.assert_array_equal(np.stack([ordered.first, ordered.second], 1), ids.reshape(-1, 2))
    order = {(i, j): v for i, j, v in zip(expected.i.tolist(), expected.j.tolist(), expected.order, strict=True)}
    values = [order[pair] for pair in zip(ordered.first.tolist(), ordered.second.tolist(), strict=True)]
    assert rank.tolist() == [sorted(set(values), reverse=descending).index(value) for value in values]


def test_ties_that_only_integers_resolve_are_resolved() -> None:
    large, small, tiny = 1.0, 2.0**-100, 2.0**-200
    rows = np.array([[0, 0, 0], [large, small, tiny], [large, small, 0], [tiny, small, large]])
    exact = exactly(rows)
    pairs = exact.keys(np.array([0, 0, 0]), np.array([1, 2, 3]))
    assert pairs.high.tolist() == [1.0, 1.0, 1.0]
    assert not pairs.exact.all()
    ordered, rank = exact.sort(pairs, descending=True)
    assert ordered.second.tolist() == [1, 3, 2]
    assert rank.tolist() == [0, 0, 1]
    ordered, rank = exact.sort(pairs)
    assert ordered.second.tolist() == [2, 1, 3]


def test_sorting_parts_and_joining_them_is_sorting_the_whole() -> None:
    rows = np.random.default_rng(0).integers(-2, 3, size=(30, 3)).astype(np.float64)
    exact, expected = exactly(rows), truth(rows)
    keys = exact.keys(expected.i, expected.j)
    whole, _ = exact.sort(keys)
    half = expected.i.size // 2
    parts = [exact.sort(exact.keys(expected.i[part], expected.j[part]))[0] for part in (np.s_[half:], np.s_[:half])]
    joined, _ = exact.sort(Pairs.concat(parts))
    for name, column in whole.arrays().items():
        np.testing.assert_array_equal(joined.arrays()[name], column)


@settings(deadline=None, max_examples=60)
@given(matrices(max_rows=16), st.integers(0, 100), st.sampled_from(sorted(METRICS)))
def test_ranking_by_plain_values_equals_sorting_by_keys(rows: np.ndarray, seed: int, metric: str) -> None:
    rows = without_zeros(rows)
    exact = exactly(rows, metric)
    i, j = np.triu_indices(len(rows), 1)
    shuffled = np.random.default_rng(seed).permutation(i.size)
    i, j = i[shuffled], j[shuffled]
    ordered, expected = exact.sort(exact.keys(i, j))
    order, rank = exact.rank(i, j, exact.values(i, j)[0])
    np.testing.assert_array_equal(i[order], ordered.first)
    np.testing.assert_array_equal(j[order], ordered.second)
    np.testing.assert_array_equal(rank, expected)


def test_nearly_parallel_rows_are_not_at_distance_0() -> None:
    rows = np.array([[0.3, 0.1], [np.nextafter(0.3, 1), np.nextafter(0.1, 1)], [0.6, 0.2]])
    keys = exactly(rows, "cosine").keys(np.array([0, 0]), np.array([1, 2]))
    expected = truth(rows, metric="cosine").distance[:2]
    assert 0 < expected[0] < 1e-30
    np.testing.assert_allclose(keys.high, expected, rtol=1e-12)
    assert keys.exact.tolist() == [False, True]


def test_a_product_of_short_rows_between_two_of_long_ones_hides_no_doubt() -> None:
    t = 2.0**-133
    rows = np.array([[0, 1, -1, 2], [0, -2, -2, t], [t, 2 * t, t, 0], *np.zeros((20, 4))]).astype(np.float32)
    lengths = np.linalg.norm(rows.astype(float), axis=1) * (1 + 1e-9)
    sides = Rows(64, lambda _: rows, lengths)
    exact = Exact(METRICS["dot"], sides, sides, 4, 1.0)
    first, second = np.zeros(22, np.int64), np.arange(1, 23)
    for values in (exact.values(first, second)[0], np.array([0.0, -t, *np.zeros(20)])):  # in either order of summation
        order, _ = exact.rank(first, second, values)
        assert order[:2].tolist() == [0, 1]


@pytest.mark.parametrize("metric", ["chebyshev", "cityblock"])
def test_a_metric_that_float32_tells_nothing_of_does_not_count_it(metric: str) -> None:
    exact = exactly(np.eye(2, dtype=np.float32), metric)
    assert exact.at_least(np.array([0]), np.array([1])) == -inf
    assert not exact.counts["float32"]

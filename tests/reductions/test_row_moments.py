"""The moments of every row: those of its rounded distances without error, near those of its distances."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from embgeom_dask.analyses.scan import scan
from embgeom_dask.metrics import METRICS
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import Truth, truth
from embgeom_dask.testing.strategies import hostile, matrices, slow_examples

SHAPE = ("row_mean", "row_std", "row_skew", "row_kurtosis", "row_min", "row_max", "row_step")


def of_row(expected: Truth, row: int) -> list[float]:
    """The distances of a row."""
    sides = ((expected.i, expected.j), (expected.j, expected.i))[: 1 + expected.symmetric]
    return [d for mine, _ in sides for d in expected.distance[mine == row].tolist()]


def central(numbers: list[int], power: int) -> Fraction:
    """The central moment of some integers."""
    mean = Fraction(sum(numbers), len(numbers))
    return sum(((number - mean) ** power for number in numbers), Fraction(0)) / len(numbers)


@slow_examples
@given(
    rows=matrices(max_rows=14, max_width=8) | hostile(),
    metric=st.sampled_from(sorted(METRICS)),
    tile=st.sampled_from([2, 5, 2048]),
    cut=st.none() | st.integers(0, 10),
)
def test_moments_are_those_of_rounded_distances_and_near_the_true_ones(
    rows: np.ndarray,
    metric: str,
    tile: int,
    cut: int | None,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    folder = tmp_path_factory.mktemp("moments")
    other = None if cut is None else rows[cut if cut < len(rows) else 0 :]
    store = make_store(folder / "m.zarr", output=rows)
    against = None if other is None else make_store(folder / "n.zarr", output=other)
    found = scan(store, against=against, metric=metric, moments_per_row=True, tile=tile, client=client)
    expected = truth(rows, metric=metric, against=None if other is None else (other, np.arange(len(other))))
    assert int(found["row_count"]) == (len(rows) - 1 if other is None else len(other))
    for row in range(len(rows)):
        one = {name: float(found[name][row]) for name in SHAPE}
        distances = of_row(expected, row)
        if not distances:
            assert all(np.isnan(value) for name, value in one.items() if name != "row_step")
            continue
        step = Fraction(one["row_step"])
        assert [one["row_min"], one["row_max"]] == [min(distances), max(distances)]
        numbers = [round(Fraction(d) / step) for d in distances]
        assert max(map(abs, numbers)) <= 2**28
        rounded = float(Fraction(sum(numbers), len(numbers)) * step)
        assert one["row_mean"] == min(max(rounded, one["row_min"]), one["row_max"])
        mean = sum(map(Fraction, distances)) / len(distances)
        assert abs(Fraction(one["row_mean"]) - mean) <= step * Fraction(1 + 2**-20) / 2
        spread = central(numbers, 2)
        np.testing.assert_allclose(one["row_std"], float(spread) ** 0.5 * float(step), rtol=1e-14)
        if spread:
            np.testing.assert_allclose(one["row_skew"], float(central(numbers, 3)) / float(spread) ** 1.5, rtol=1e-12)
            np.testing.assert_allclose(one["row_kurtosis"], float(central(numbers, 4)) / float(spread) ** 2, rtol=1e-12)
        else:
            assert np.isnan([one["row_skew"], one["row_kurtosis"]]).all()


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("against", [False, True])
def test_moments_are_those_of_scipy_and_the_same_for_all_tiles(
    metric: str, against: bool, client: Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows, other = ((rng.normal(size=(n, 16)) + 0.3).astype(np.float32) for n in (150, 230))
    rows[7], other[5:30] = rows[9], other[4]
    asked: dict[str, Any] = {"metric": metric, "moments_per_row": True, "client": client}
    asked |= {"against": make_store(tmp_path / "n.zarr", output=other)} if against else {}
    store = make_store(tmp_path / "m.zarr", output=rows)
    found, again = (scan(store, tile=tile, **asked) for tile in (32, 100))
    for name in SHAPE:
        np.testing.assert_array_equal(found[name], again[name])
    x, y = rows.astype(float), (other if against else rows).astype(float)
    table = x @ y.T if metric == "dot" else cdist(x, y, metric)
    own = [table[i] if against else np.delete(table[i], i) for i in range(150)]
    for name, of in (
        ("row_mean", np.mean),
        ("row_std", np.std),
        ("row_skew", stats.skew),
        ("row_kurtosis", lambda row: stats.kurtosis(row, fisher=False)),
    ):
        np.testing.assert_allclose(found[name], [of(row) for row in own], rtol=1e-6, atol=1e-7, err_msg=name)
    for name, end in (("row_min", np.min), ("row_max", np.max)):
        np.testing.assert_allclose(found[name], [end(row) for row in own], rtol=1e-12, atol=1e-15)


def test_ends_of_rows_are_those_of_the_products_kept_where_these_are_asked_for(client: Client) -> None:
    rng = np.random.default_rng(0)
    rows, other = rng.integers(-3, 4, (30, 4)).astype(np.float32), rng.integers(-3, 4, (40, 4)).astype(np.float32)
    asked: dict[str, Any] = {"metric": "dot", "moments_per_row": True, "client": client}
    for against in (other, None):
        alone = scan(rows, against=against, **asked)
        for kept in ({"top": 2, "bottom": 3}, {"top": 1}, {"bottom": 1}):
            found = scan(rows, against=against, **asked, **kept)
            for name in ("row_min", "row_max"):
                np.testing.assert_array_equal(found[name], alone[name])
    single = scan(rows[:1], top=1, **asked)  # which has no product
    assert np.isnan(single["row_max"].values).all()

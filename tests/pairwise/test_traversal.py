from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from scipy.spatial.distance import cdist, pdist

from embgeom_dask import tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.metrics import DISTANCES, METRICS, Workspace
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.traversal import parts_sorted_by_norm, parts_within
from embgeom_dask.testing import make_store


def rows_of_all_lengths(count: int) -> np.ndarray:
    """Rows (count, 16) float32 of lengths from 0.01 to 100: the longest are not those at the largest angles."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(count, 16))
    return (rows * 10.0 ** rng.uniform(-2, 2, (count, 1))).astype(np.float32)


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize("against", [False, True])
def test_the_farthest_alone_are_those_of_scipy(metric: str, against: bool, client: Client, tmp_path: Path) -> None:
    rows = rows_of_all_lengths(300)
    store = make_store(tmp_path / "m.zarr", output=rows)
    other = make_store(tmp_path / "n.zarr", output=rows[:90])
    result = scan(store, farthest=40, metric=metric, tile=64, client=client, **({"against": other} if against else {}))
    values = rows.astype(np.float64)
    distance = cdist(values, values[:90], metric).ravel() if against else pdist(values, metric)
    np.testing.assert_allclose(result["farthest_distance"], np.sort(distance)[::-1][:40], rtol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_parts_hold_all_pairs_that_reach_and_leave_most_others_out(diagonal: bool) -> None:
    rows = rows_of_all_lengths(600)
    form = PointFormat("euclidean", "float64", np.zeros(16), 1.0)
    away = form.distance_from_centre(rows)
    order = np.argsort(-away)
    block = Block(order, rows, *form.points(rows[order]), away[order], point_format=form)
    square = cdist(rows.astype(float), rows.astype(float), "sqeuclidean")
    reach = float(np.quantile(square, 0.99))
    held = np.zeros(square.shape, np.bool_)
    for tile in parts_sorted_by_norm(
        METRICS["euclidean"], block, block, Workspace(), diagonal=diagonal, reach=lambda: reach
    ):
        held[np.ix_(tile.rows.positions, tile.columns.positions)] = True
    held |= held.T
    assert held[square >= reach].all()
    assert held.mean() < 0.8


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("part", [1, 64])
def test_parts_hold_all_pairs_within_and_leave_most_others_out(diagonal: bool, part: int) -> None:
    rows = rows_of_all_lengths(300)
    form = PointFormat("euclidean", "float64", np.zeros(16), 1.0)
    away = form.distance_from_centre(rows)
    order = np.argsort(-away)
    block = Block(order, rows, *form.points(rows[order]), away[order], point_format=form)
    square = cdist(rows.astype(float), rows.astype(float), "sqeuclidean")
    span = float(np.quantile(square, 0.02))
    held = np.zeros(square.shape, np.bool_)
    with tuning.override(SORTED_PART_ROWS=part):
        parts = parts_within(METRICS["euclidean"], block, block, span, diagonal=diagonal)
        assert parts_within(METRICS["euclidean"], block, block, float(square.max()), diagonal=diagonal) is None
    assert parts is not None
    for first, second in parts:
        held[np.ix_(order[first], order[second])] = True
    held |= held.T
    assert held[square <= span].all()
    assert held.mean() < 0.8


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize("against", [False, True])
def test_what_is_within_a_small_radius_is_that_of_scipy(
    metric: str, against: bool, client: Client, tmp_path: Path
) -> None:
    rows = rows_of_all_lengths(200)
    store = make_store(tmp_path / "m.zarr", output=rows)
    given = {"against": make_store(tmp_path / "n.zarr", output=rows[:90] * 1.01)} if against else {}
    values = rows.astype(np.float64)
    square = cdist(values, (rows[:90] * 1.01).astype(np.float64) if against else values, metric)
    i, j = np.nonzero(square >= 0) if against else np.triu_indices(len(rows), 1)
    radius = float(np.quantile(square[i, j], 0.01)) * (1 + 1e-9)
    with tuning.override(SORTED_PART_ROWS=8):
        result = scan(store, pairs_within=radius, within=radius, metric=metric, tile=64, client=client, **given)
    near = square[i, j] <= radius
    np.testing.assert_array_equal(result["pair_token_id"], np.stack([i, j], axis=1)[near])
    assert int(result["within_count"][0]) == near.sum() > 0

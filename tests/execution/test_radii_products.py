"""Radii are compared through the product that costs least: of integers, bfloat16, float32 or float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.kernels import digits
from embgeom_dask.metrics import METRICS
from embgeom_dask.metrics.euclidean import Euclidean
from embgeom_dask.pairwise.refine import places_in
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import matrices, slow_examples
from tests.execution.test_point_format import INT8_FIRST, choose, crowded

COSTS = {"int8": 0.0, "bfloat16": 1.0, "int8x2": 1.5, "float32": 2.0, "float64": 3.0}


def test_the_product_is_chosen_by_the_pairs_that_it_leaves_at_the_radii() -> None:
    rows = np.random.default_rng(1).normal(size=(3000, 512)) / np.sqrt(512)
    rows = rows.astype(ml_dtypes.bfloat16)
    assert choose(rows, pairs_within=0.1) == ["int8", "bfloat16"]
    assert choose(rows, within=(0.01, 0.1), neighbors=3)[-1] == "bfloat16"
    assert choose(rows, within=(1.4,)) == ["bfloat16"]  # most pairs are about as far apart
    assert choose(rows.astype(np.float32), within=(1.4,)) == ["int8x2", "float64"]
    assert choose(rows.astype(np.float32), fastest=["float32", "int8"], within=(1.4,)) == ["float32", "float64"]
    assert choose(rows.astype(np.float64), pairs_within=0.1) == ["int8", "int8x2"]
    assert choose(rows, within=(1.4,), histogram=9) == ["int8x3", "float64"]
    assert choose(rows, fastest=["float32", "bfloat16"], within=(1.4,)) == ["float32", "float64"]
    everywhere = tuple(np.linspace(1.2, 1.6, 2000).tolist())
    assert choose(rows, fastest=["bfloat16", "float32"], within=everywhere) == ["float64"]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "chebyshev", "cityblock"])
@slow_examples
@given(
    rows=matrices(max_rows=30),
    repeat=st.sampled_from([1, 16]),
    tile=st.sampled_from([5, 2048]),
    costs=st.permutations(sorted(COSTS)),
    seed=st.integers(0, 1000),
)
def test_pairs_within_by_any_product_equal_rational_brute_force(
    metric: str,
    rows: np.ndarray,
    repeat: int,
    tile: int,
    costs: list[str],
    seed: int,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = np.tile(rows, (1, repeat))
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    expected, rng = truth(rows, metric=metric), np.random.default_rng(seed)
    radii = np.unique(rng.choice([*expected.distance, 1.0], 2))
    store = make_store(tmp_path_factory.mktemp("within") / "m.zarr", output=rows)
    chosen = dict(zip(costs, range(5), strict=True))
    by_l2 = tuning.override(UNDECIDED_BY_EUCLIDEAN={"cpu": 1.0})
    with pytest.MonkeyPatch.context() as patch, by_l2, tuning.override(PRODUCT_COSTS=chosen, RECHECK_COST=0.0):
        patch.setattr(devices, "fastest", lambda _: INT8_FIRST)
        result = scan(store, within=radii, pairs_within=radii[0], metric=metric, tile=tile, client=client)
    products_of = json.loads(result.attrs["certificate"]).get("products_of")
    assert products_of == ("euclidean" if metric in ("chebyshev", "cityblock") else None)
    for k, radius in enumerate(radii):
        assert int(result["within_count"][k]) == (expected.distance <= radius).sum()
    near = expected.distance <= radii[0]
    order = np.lexsort((expected.j[near], expected.i[near]))
    np.testing.assert_array_equal(result["pair_distance"], expected.distance[near][order])
    np.testing.assert_array_equal(result["pair_token_id"], np.stack([expected.i[near], expected.j[near]], 1)[order])


@pytest.mark.parametrize("element", ["int8", "bfloat16", "int8x2", "float32"])
def test_a_crowd_at_the_radius_is_told_apart_by_finer_products(
    element: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = crowded(900)
    square = cdist(rows.astype(np.float64), rows.astype(np.float64))[np.triu_indices(900, 1)]
    crowd = np.sort(square[square < 1e-2])
    assert crowd.size > 10_000
    radius = float(crowd[crowd.size // 2])
    made: list[int] = []

    def counted(*given: Any) -> Any:
        made.append(given[0].rows.size)
        return places_in(*given)

    monkeypatch.setattr("embgeom_dask.reductions.undecided.places_in", counted)
    monkeypatch.setattr(devices, "fastest", lambda _: INT8_FIRST)
    store = make_store(tmp_path / "m.zarr", output=rows.astype(np.float32) if element == "float32" else rows)
    costs = {name: float(name != element) for name in COSTS}
    with tuning.override(PRODUCT_COSTS=costs, RECHECK_COST=0.0):
        result = scan(store, within=[radius, 0.5], pairs_within=radius, tile=256, client=client)
    assert json.loads(result.attrs["certificate"])["products"] == element
    assert made, "no part of a tile was multiplied again"
    assert result["within_count"].values.tolist() == [(square <= radius).sum(), (square <= 0.5).sum()]
    assert result.sizes["pair"] == (square <= radius).sum()
    few = json.loads(result.attrs["certificate"])["float64_pairs"]
    assert few < 0.7 * 2 * crowd.size, "most of the crowd was looked at one by one"  # for either reduction


def test_two_digits_said_to_leave_out_too_little_count_pairs_wrongly(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(*given: Any) -> digits.Digits:
        found = digits.digits_of(*given)
        return found._replace(slack=found.slack * 1e-8)

    rows = np.random.default_rng(0).normal(size=(60, 48)).astype(np.float32)
    radii = np.sort(truth(rows).distance)[100::200]
    store, true = make_store(tmp_path / "m.zarr", output=rows), [100 + 200 * k + 1 for k in range(radii.size)]
    monkeypatch.setattr(devices, "fastest", lambda _: INT8_FIRST)
    with tuning.override(PRODUCT_COSTS={name: float(name != "int8x2") for name in COSTS}, RECHECK_COST=0.0):
        honest = scan(store, within=radii, client=client)
        monkeypatch.setattr("embgeom_dask.pairwise.points.digits_of", careless)
        wrong = scan(store, within=radii, client=client)
    assert json.loads(honest.attrs["certificate"])["products"] == "int8x2"
    assert honest["within_count"].values.tolist() == true
    assert wrong["within_count"].values.tolist() != true


@pytest.mark.parametrize("metric", ["chebyshev", "cityblock"])
def test_l2_rules_pairs_out_where_it_leaves_few(metric: str, client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(300, 32)).astype(np.float32)
    rows[7], rows[9, 0] = rows[3] + np.float32(0.01), rows[5, 0]
    rows[9, 1:] = rows[5, 1:]
    store = make_store(tmp_path / "m.zarr", output=rows)
    distance = pdist(rows.astype(float), metric)
    bulk = float(np.median(distance))
    for kept, of in (
        ({"pairs_within": 0.5}, "euclidean"),
        ({"within": [0.5]}, "euclidean"),
        ({"within": [bulk]}, metric),  # L2 tells of few pairs
        ({"within": [0.5], "farthest": 1}, metric),
    ):
        plan = scan(store, metric=metric, client=client, dry_run=True, **kept).attrs["plan"]
        assert plan["products_of"] == of, kept
    result = scan(store, metric=metric, within=[0.5, bulk], client=client)
    assert "products_of" not in json.loads(result.attrs["certificate"])
    result = scan(store, metric=metric, within=[0.5], pairs_within=0.5, client=client)
    assert result["within_count"].item() == result.sizes["pair"] == (distance <= 0.5).sum() == 2
    found = json.loads(result.attrs["certificate"])
    assert found["products_of"] == "euclidean"
    assert found["float64_pairs"] < 20
    assert result["pair_token_id"].values.tolist() == [[3, 7], [5, 9]]
    result = scan(store, against=store, metric=metric, pairs_within=0.5, distinct=True, client=client)
    assert json.loads(result.attrs["certificate"])["products_of"] == "euclidean"
    assert result["pair_token_id"].values.tolist() == [[3, 7], [7, 3]]


@pytest.mark.parametrize("metric", ["chebyshev", "cityblock"])
def test_l2_taken_for_the_distance_itself_loses_pairs(
    metric: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(40)[:, None] * np.ones((1, 16), np.float32)  # in all columns one step apart
    store, radius = make_store(tmp_path / "m.zarr", output=rows), 1.0 if metric == "chebyshev" else 16.0
    with tuning.override(UNDECIDED_BY_EUCLIDEAN={"cpu": 1.0}):
        honest = scan(store, metric=metric, pairs_within=radius, client=client)
        monkeypatch.setattr(type(METRICS[metric].by_l2), "terms", Euclidean.terms)
        wrong = scan(store, metric=metric, pairs_within=radius, client=client)
    assert honest.sizes["pair"] == 39
    assert wrong.sizes["pair"] != 39

"""One pair has one distance, whichever reduction reports it and whatever is counted by it."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.analyses.scan import scan
from embgeom_dask.metrics import DISTANCES
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import hostile, slow_examples


@slow_examples
@given(rows=hostile(), metric=st.sampled_from(DISTANCES), tiles=st.permutations([2, 3, 2048]))
def test_every_reduction_reports_and_counts_the_same_rounded_distances(
    rows: np.ndarray, metric: str, tiles: list[int], client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected, folder = truth(rows, metric=metric), tmp_path_factory.mktemp("reported")
    store, count = make_store(folder / "m.zarr", output=rows), expected.i.size
    asked = {"metric": metric, "client": client}
    first = scan(store, farthest=count, nearest=count, neighbors=len(rows) - 1, tile=tiles[0], **asked)
    reported = np.unique(expected.distance)
    edges = np.append(reported, np.nextafter(reported[-1], np.inf))
    second = scan(
        store,
        within=reported.tolist(),
        pairs_within=reported[len(reported) // 2],
        histogram_edges=edges.tolist(),
        quantiles=[0.0, 0.3, 1.0],
        exact_quantiles=True,
        tile=tiles[1],
        **asked,
    )
    distance = {(i, j): d for i, j, d in zip(expected.i.tolist(), expected.j.tolist(), expected.distance, strict=True)}
    for found, name in ((first, "farthest"), (first, "nearest"), (second, "pair")):
        pairs = map(tuple, found[f"{name}_token_id"].values.tolist())
        np.testing.assert_array_equal(found[f"{name}_distance"], [distance[pair] for pair in pairs])
    for token, others in enumerate(first["neighbor_token_id"].values.tolist()):
        pairs = [(min(token, other), max(token, other)) for other in others]
        np.testing.assert_array_equal(first["neighbor_distance"][token], [distance[pair] for pair in pairs])
    within = np.searchsorted(np.sort(expected.distance), reported, side="right")
    np.testing.assert_array_equal(second["within_count"], within)
    np.testing.assert_array_equal(second["histogram_count"], np.diff(within, prepend=0))
    assert second.sizes["pair"] == within[len(reported) // 2]
    assert [float(second["distance_min"]), float(second["distance_max"])] == [reported[0], reported[-1]]
    ranks = np.array([1, ceil(Fraction(3, 10) * count), count])
    np.testing.assert_array_equal(second["quantile_distance"], np.sort(expected.distance)[ranks - 1])
    third = scan(store, nearest=count, within=reported.tolist(), tile=tiles[2], **asked)
    np.testing.assert_array_equal(third["nearest_distance"], first["nearest_distance"])
    np.testing.assert_array_equal(third["within_degree"], second["within_degree"])


@pytest.mark.parametrize("exponent", [80, 100, 118])
def test_cosine_distances_of_rows_of_any_length_equal_rational_brute_force(
    exponent: int, client: Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(14, 6))
    rows[3:6] = rows[2] + 1e-3 * rng.normal(size=(3, 6))
    rows[:4] *= 10.0**exponent
    rows[4:] *= 10.0**-exponent
    expected = truth(rows, metric="cosine")
    radii = [0.01, float(np.median(expected.distance))]
    store = make_store(tmp_path / "m.zarr", output=rows)
    found = scan(
        store, metric="cosine", farthest=5, nearest=5, neighbors=3, within=radii, histogram=9, client=client, tile=4
    )
    for name in ("farthest", "nearest"):
        ids, distance = expected.best(5, farthest=name == "farthest")
        np.testing.assert_array_equal(found[f"{name}_token_id"], ids)
        np.testing.assert_array_equal(found[f"{name}_distance"], distance)
    for token in range(len(rows)):
        ids, distance = expected.neighbors(token, 3)
        assert found["neighbor_token_id"].values[token].tolist() == ids
        np.testing.assert_array_equal(found["neighbor_distance"][token], distance)
    assert found["within_count"].values.tolist() == [int((expected.distance <= radius).sum()) for radius in radii]
    np.testing.assert_array_equal(found["histogram_count"], expected.counts(found["bin_edge"].values))
    np.testing.assert_allclose(found["distance_mean"], expected.distance.mean(), rtol=1e-6)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embgeom_dask.errors import InputError
from embgeom_dask.metrics import METRICS
from embgeom_dask.scans import scan
from embgeom_dask.testing import make_store
from tests.reference import Truth, matrices, truth

slow_examples = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@st.composite
def cases(draw: Any) -> tuple[np.ndarray, np.ndarray | None, str, int]:
    """Rows, rows of a second matrix or None, a metric in which either has distances, and rows of a tile."""
    metric = draw(st.sampled_from(sorted(METRICS)))
    rows = draw(matrices(max_rows=30))
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    cut = draw(st.none() | st.integers(0, len(rows) - 1))
    tile = max(draw(st.sampled_from([1, 3, 16, 2048])), len(rows) // 6)
    return rows, None if cut is None else rows[cut:], metric, tile


def compare(case: tuple[np.ndarray, np.ndarray | None, str, int], folder: Any, client: Client, **kept: Any) -> Any:
    """Scan a case."""
    rows, other, metric, tile = case
    store = make_store(folder / "m.zarr", output=rows)
    against = None if other is None else make_store(folder / "n.zarr", output=other)
    return scan(store, against=against, metric=metric, tile=tile, client=client, **kept)


def true(case: tuple[np.ndarray, np.ndarray | None, str, int]) -> Truth:
    rows, other, metric, _ = case
    return truth(rows, metric=metric, against=None if other is None else (other, np.arange(len(other))))


def among(distance: np.ndarray, rng: np.random.Generator, count: int) -> list[float]:
    """Distances, some of them those of pairs, or next to them, some far, ascending and different."""
    near = rng.choice(distance, count) if distance.size else np.ones(count)
    near = np.where(rng.random(count) < 0.2, np.nextafter(near, np.inf), near)
    return np.unique([*near, *rng.choice([0.0, 1.0, 1.5, 2.0, 3.0, 1e300], 2), near[0] * rng.uniform(0, 2)]).tolist()


@slow_examples
@given(case=cases(), seed=st.integers(0, 1000))
def test_counts_within_radii_equal_rational_brute_force(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    seed: int,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, rng = true(case), np.random.default_rng(seed)
    radii = among(expected.distance, rng, 3)
    result = compare(case, tmp_path_factory.mktemp("within"), client, within=rng.permutation(radii))
    assert result["radius"].values.tolist() == radii
    for k, radius in enumerate(radii):
        near = expected.order <= expected.order_of(radius)
        assert int(result["within_count"][k]) == near.sum()
        degree = np.bincount(expected.i[near], minlength=len(case[0]))
        if expected.mutual:
            degree += np.bincount(expected.j[near], minlength=len(case[0]))
        np.testing.assert_array_equal(result["within_degree"][:, k], degree)
    assert result["token"].values.tolist() == [f"t{i}" for i in range(len(case[0]))]


def test_a_wrong_radius_is_refused_in_one_line(client: Client, tmp_path: Any) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    for within, words in (
        ("1,x", "--within 1,x: give numbers"),
        ([-0.5], "--within -0.5: give numbers of 0 or more"),
        ("nan", "--within nan"),
        (float("inf"), "--within inf"),
        ([], "--within: give one number"),
        ("1,2,1.0", "--within: 1 is given more than once"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            scan(store, within=within, client=client)
        assert "\n" not in str(refusal.value)
    assert scan(store, within=1.5, client=client)["within_count"].values.tolist() == [3]

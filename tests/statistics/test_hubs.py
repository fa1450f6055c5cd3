"""What lists of neighbors say of tokens: against plain numpy, scipy and clouds of known dimension."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask.errors import InputError
from embgeom_dask.statistics.hubs import density, local_dimension, skewness, two_nn
from embgeom_dask.testing import make_store

Array = np.ndarray


def cloud(dimension: int, count: int = 800, width: int = 12) -> Array:
    """Points spread evenly over a cube of fewer dimensions than its space, some of them identical."""
    rng = np.random.default_rng(dimension)
    rows = rng.uniform(size=(count, dimension)) @ np.linalg.qr(rng.normal(size=(width, width)))[0][:dimension]
    rows[[3, 9]] = rows[20]
    return rows


def test_every_number_is_that_of_its_formula(tmp_path: Path, client: Client) -> None:
    stats = pytest.importorskip("scipy.stats")
    path, out = make_store(tmp_path / "m.zarr", cloud(4)), tmp_path / "scan.zarr"
    scanned = eg.scan(path, neighbors=6, out=out, client=client)
    found = eg.tokens(path, neighbors_of=out, client=client)
    distance, neighbor = scanned["neighbor_distance"].values, scanned["neighbor_token_id"].values
    np.testing.assert_allclose(found["neighbor_density"], 1 / distance.mean(axis=1), rtol=1e-14)
    assert found["k_occurrence"].values.tolist() == [(neighbor == token).sum() for token in range(800)]
    assert found["k_occurrence"].sum() == 6 * 800
    np.testing.assert_allclose(found["k_occurrence_skewness"], stats.skew(found["k_occurrence"].values), rtol=1e-12)
    apart = np.array([token not in (3, 9, 20) for token in range(800)])
    expected = 5 / np.log(distance[apart, -1:] / distance[apart, :-1]).sum(axis=1)
    np.testing.assert_allclose(found["local_dimension"].values[apart], expected, rtol=1e-12)
    of_others = distance[20][distance[20] > 0]  # identical rows are left out
    assert of_others.size == 4
    np.testing.assert_allclose(
        found["local_dimension"].values[20], 3 / np.log(of_others[-1] / of_others[:-1]).sum(), rtol=1e-12
    )
    np.testing.assert_allclose(found["local_dimension_mean"], 1 / np.mean(1 / found["local_dimension"]), rtol=1e-12)
    assert found["two_nn_count"].item() == 797
    assert (found["neighbor_count"].item(), found["neighbor_metric"].item()) == (6, "euclidean")
    same = eg.tokens(path, neighbors_of=scanned, client=client)
    xr.testing.assert_identical(same.drop_attrs(), found.drop_attrs())
    assert "local_dimension" in found.embgeom.to_frame("tokens")


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_dimension_of_a_cloud_is_found(dimension: int, client: Client) -> None:
    rows = cloud(dimension, 2000)
    found = eg.tokens(rows, neighbors_of=eg.scan(rows, neighbors=20, client=client), client=client)
    assert abs(found["two_nn_dimension"].item() - dimension) < 0.15 * dimension
    assert abs(found["local_dimension_mean"].item() - dimension) < 0.15 * dimension


def test_two_nn_is_the_line_of_facco() -> None:
    rng = np.random.default_rng(0)
    distance = np.sort(rng.uniform(1, 2, size=(50, 3)), axis=1)
    x = np.sort(np.log(distance[:, 1] / distance[:, 0]))[:45]
    y = -np.log(1 - np.arange(1, 46) / 50)
    slope, count = two_nn(distance)
    assert count == 50
    np.testing.assert_allclose(slope, np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], rtol=1e-12)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_skewness_is_that_of_the_numbers(counts: list[int]) -> None:
    values = np.array(counts)
    found = skewness(values)
    if len(set(counts)) == 1:
        assert np.isnan(found)
    else:
        off = values - values.mean()
        np.testing.assert_allclose(found, (off**3).mean() / (off**2).mean() ** 1.5, rtol=1e-9, atol=1e-12)


def test_short_lists_zeros_and_ties() -> None:
    distance = np.array([[0, 0, 0], [0, 1, 1], [1, 2, np.nan], [np.nan] * 3, [0, 0, 2], [1, 2, 4]])
    np.testing.assert_array_equal(density(distance), [np.inf, 1.5, 1 / 1.5, np.nan, 1.5, 3 / 7])
    found = local_dimension(distance)
    np.testing.assert_allclose(found, [np.nan, np.inf, 1 / np.log(2), np.nan, np.nan, 2 / np.log(8)])
    slope, count = two_nn(distance[:, :1])
    assert np.isnan(slope)
    assert count == 0


@pytest.mark.parametrize("ids", [(40, 41, 60, 7, 8, 9), (7, 8, 9, 40, 41, 60)])
def test_hubs_of_some_rows_by_their_own_ids(ids: tuple[int, ...], tmp_path: Path, client: Client) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(3, 100))
    part = eg.open_model(path)["output_embedding"][list(ids)]
    scanned = eg.scan(part, neighbors=2, client=client)
    found = eg.tokens(part, neighbors_of=scanned, client=client)
    lists = scanned["neighbor_token_id"].values
    assert found["k_occurrence"].values.tolist() == [(lists == token).sum() for token in ids]


def test_what_is_refused(tmp_path: Path, client: Client) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(3, 100), model="org/m")
    other = make_store(tmp_path / "n.zarr", cloud(2, 100), model="org/n")
    none = eg.scan(path, nearest=1, client=client)
    some = eg.scan(path, neighbors=2, tokens="0:50", client=client)
    for result, said in (
        (none, "has no neighbors: give the result of scan with `neighbors`"),
        (some, "has 50 tokens, and not those of the table"),
        (
            eg.scan(other, neighbors=2, client=client),
            "is of org/n output_embedding, and not of org/m output_embedding alone",
        ),
        (
            eg.scan(path, against=other, neighbors=2, client=client),
            "is of org/m output_embedding against org/n output_embedding, and not",
        ),
    ):
        with pytest.raises(InputError) as error:
            eg.tokens(path, neighbors_of=result, client=client)
        assert said in str(error.value)
    with pytest.raises(InputError, match="`neighbors_of` is of one store"):
        eg.tokens([path, other], neighbors_of=none, client=client)

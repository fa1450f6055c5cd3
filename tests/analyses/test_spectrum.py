"""The spectrum against numpy in float64, against fractions, and against the steps of the papers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import embgeom_dask as eg
from embgeom_dask import devices, tuning
from embgeom_dask.analyses.spectrum import spectrum
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store

DTYPES = (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)
Array = np.ndarray


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=1 << 14):
        yield


def cloud(rows: int = 700, width: int = 24, seed: int = 0) -> Array:
    """Rows about a centre, whose columns differ in variance: one of far more than the others."""
    random = np.random.default_rng(seed)
    spread = np.linspace(0.5, 2, width)
    spread[width // 2] = 12
    return 0.3 + spread * random.normal(size=(rows, width)) @ np.linalg.qr(random.normal(size=(width, width)))[0] * 0.1


def isoscore(rows: Array) -> float:
    """By the six steps of Rudman, Gillman, Rayne and Eickhoff."""
    width = rows.shape[1]
    rotated = (rows - rows.mean(axis=0)) @ np.linalg.eigh(np.cov(rows.T))[1]
    diagonal = np.cov(rotated.T).diagonal()
    normalized = np.sqrt(width) * diagonal / np.linalg.norm(diagonal)
    defect = np.linalg.norm(normalized - 1) / np.sqrt(2 * (width - np.sqrt(width)))
    uniform = (width - defect**2 * (width - np.sqrt(width))) ** 2 / width**2
    return float((width * uniform - 1) / (width - 1))


def pairs_of(rows: Array) -> tuple[float, float]:
    """The mean cosine and the mean squared distance, pair by pair."""
    i, j = np.triu_indices(len(rows), 1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float((unit @ unit.T)[i, j].mean()), float((((rows[i] - rows[j]) ** 2).sum(axis=1)).mean())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_against_numpy_and_pair_by_pair(dtype: Any, tmp_path: Path) -> None:
    stored = cloud().astype(dtype)
    rows = stored.astype(np.float64)
    found = spectrum(make_store(tmp_path / "m.zarr", stored), components=24)
    covariance = np.cov(rows.T)
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(found["eigenvalue"], values, rtol=1e-11)
    assert 0 < found["eigenvalue_error"].item() < 1e-11 * values[0]
    np.testing.assert_allclose(found["eigenvalue_share"], values / values.sum(), rtol=1e-11)
    np.testing.assert_allclose(found["cumulative_share"], np.cumsum(values) / values.sum(), rtol=1e-11)
    assert found["cumulative_share"].values[-1] == 1
    np.testing.assert_allclose(found["column_variance"], covariance.diagonal(), rtol=1e-13)
    np.testing.assert_allclose(found["centroid"], rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found["participation_ratio"], values.sum() ** 2 / (values**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(found["isoscore"], isoscore(rows), rtol=1e-10)
    cosine, square = pairs_of(rows)
    np.testing.assert_allclose(found["mean_cosine"], cosine, rtol=1e-12)
    np.testing.assert_allclose(found["mean_square_distance"], square, rtol=1e-13)
    assert found["mean_cosine_error"].item() < 1e-15
    vectors, scores = found["component_vector"].values, found["score"].values
    np.testing.assert_allclose(covariance @ vectors.T, vectors.T * values, atol=1e-12)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(24), atol=1e-13)
    np.testing.assert_allclose(scores, (rows - rows.mean(axis=0)) @ vectors.T, atol=1e-12)
    assert (vectors[np.arange(24), np.abs(vectors).argmax(axis=1)] > 0).all()
    assert (found["component_error"].values < 1e-9).all()


def test_against_scikit_learn(tmp_path: Path) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = cloud(400, 12).astype(np.float32)
    model = decomposition.PCA(3, svd_solver="full").fit(rows.astype(np.float64))
    found = spectrum(make_store(tmp_path / "m.zarr", rows))
    np.testing.assert_allclose(found["eigenvalue"][:3], model.explained_variance_, rtol=1e-12)
    np.testing.assert_allclose(found["eigenvalue_share"][:3], model.explained_variance_ratio_, rtol=1e-12)
    signs = np.sign((found["component_vector"].values * model.components_).sum(axis=1))
    np.testing.assert_allclose(found["component_vector"], model.components_ * signs[:, None], atol=1e-11)
    np.testing.assert_allclose(found["score"], model.transform(rows.astype(np.float64)) * signs, atol=1e-11)


def test_a_dense_cluster_far_from_the_origin_loses_no_digit(tmp_path: Path) -> None:
    """Where one pass in float64, of X'X less the means, is noise."""
    random = np.random.default_rng(1)
    rows = 0.37 + 2.0**-30 * random.integers(-9, 10, size=(500, 6)).astype(np.float64)
    found = spectrum(make_store(tmp_path / "m.zarr", rows), components=0)
    values = np.linalg.eigvalsh(np.cov((rows - 0.37).T * 2.0**30))[::-1] * 2.0**-60
    np.testing.assert_allclose(found["eigenvalue"], values, rtol=1e-12)
    naive = (rows.T @ rows - 500 * np.outer(rows.mean(axis=0), rows.mean(axis=0))) / 499
    assert np.abs(np.linalg.eigvalsh(naive)[::-1] - values).max() > values[0] / 100


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 20), st.integers(1, 5)), elements=st.integers(-99, 99)),
)
@settings(max_examples=10)
def test_means_of_pairs_are_those_of_fractions(rows: Array) -> None:
    def product(a: list[float], b: list[float]) -> Fraction:
        return sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))

    pairs = [(a, b) for j, b in enumerate(rows.tolist()) for a in rows.tolist()[:j]]
    squares = [sum((Fraction(x) - Fraction(y)) ** 2 for x, y in zip(a, b, strict=True)) for a, b in pairs]
    found = eg.spectrum(rows, components=0)
    # rounded four times: each variance twice, their sum, and the fraction here
    np.testing.assert_allclose(found["mean_square_distance"], float(sum(squares) / len(pairs)), rtol=4.5e-16)
    cosines = [
        float(product(a, b)) / (sqrt(product(a, a)) * sqrt(product(b, b))) for a, b in pairs if any(a) and any(b)
    ]
    if not cosines:
        assert np.isnan(found["mean_cosine"])
    else:
        off = found["mean_cosine_error"].item() + 1e-15
        assert abs(found["mean_cosine"].item() - np.mean(cosines)) <= off
    assert found["zero_count"].item() == np.count_nonzero(~rows.any(axis=1))


def test_no_worker_thread_or_chunk_changes_a_bit(
    tmp_path: Path, workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cloud(20_000, 16).astype(ml_dtypes.bfloat16)
    path = make_store(tmp_path / "m.zarr", rows)
    alone = spectrum(path)
    xr.testing.assert_identical(spectrum(path, client=workers).drop_attrs(), alone.drop_attrs())
    with tuning.override(CHUNK_BYTES=1 << 20, PRODUCT_BYTES=1, STRIPE_COLUMNS=5):
        again = make_store(tmp_path / "big.zarr", rows)
        assert model_stores.find_matrix(again).chunk_rows > 8192 > model_stores.find_matrix(path).chunk_rows
        monkeypatch.setattr(devices, "compute_threads", lambda: 1)
        xr.testing.assert_equal(spectrum(again), alone)


def test_outlier_dimensions_are_those_of_five_times_the_mean_variance(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(300, 40))
    rows[:, 7] *= 6
    rows[:, 30] *= 9
    found = spectrum(make_store(tmp_path / "m.zarr", rows), components=0)
    variance = rows.var(axis=0, ddof=1)
    assert found["outlier_dimension"].values.tolist() == [30, 7]
    assert set(np.flatnonzero(variance >= 5 * variance.mean())) == {7, 30}
    assert "score" not in found
    assert "token_id" not in found.dims


def test_the_sky_of_three_components(tmp_path: Path) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(80, 9))
    found = eg.spectrum(path, components=4, sky=(4, 1, 2))
    x, y, z = found["score"].values.T[[3, 0, 1]]
    distance = found["sky_distance"].values
    np.testing.assert_allclose(distance, np.sqrt(x**2 + y**2 + z**2), rtol=1e-15)
    latitude, longitude = (np.radians(found[f"sky_{name}"].values) for name in ("latitude", "longitude"))
    np.testing.assert_allclose(distance * np.cos(latitude) * np.cos(longitude), x, atol=1e-14)
    np.testing.assert_allclose(distance * np.cos(latitude) * np.sin(longitude), y, atol=1e-14)
    np.testing.assert_allclose(distance * np.sin(latitude), z, atol=1e-14)
    assert found["sky_latitude"].attrs["units"] == "degrees"
    xr.testing.assert_identical(spectrum(path, components=4, sky="4,1,2").drop_attrs(), found.drop_attrs())
    assert found.embgeom.to_frame("sky")["sky_longitude"].tolist() == found["sky_longitude"].values.tolist()
    nowhere = spectrum(make_store(tmp_path / "n.zarr", np.ones((3, 4))), sky="1,2,3")
    assert np.isnan(nowhere["sky_latitude"]).all()
    assert np.isnan(nowhere["sky_longitude"]).all()
    skies: list[Any] = ["1,2", "1,1,2", "0,1,2", "a,b,c", (1, 2, 2.5), 7]
    for sky in skies:
        with pytest.raises(InputError, match=r"`sky` .*: give three different components, like 1,2,3"):
            spectrum(path, sky=sky)
    with pytest.raises(InputError, match="`sky` 1,2,4: give `components` 4 or more, not 3"):
        spectrum(path, sky="1,2,4")


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_isotropy_of_the_partition_function(scale: float, tmp_path: Path) -> None:
    rows = (cloud(seed=3) * np.geomspace(1, 3, 24) * 0.05 * scale).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", rows)
    found = spectrum(store, isotropy=True)
    wide = rows.astype(np.longdouble)
    _, vectors = np.linalg.eigh((wide.T @ wide).astype(np.float64))
    exponents = wide @ np.concatenate([vectors, -vectors], axis=1)  # up to 400 in size
    sums = np.exp(exponents).sum(axis=0)
    np.testing.assert_allclose(
        found["partition_isotropy"].item(), float(sums.min() / sums.max()), rtol=1e-7, atol=1e-300
    )
    assert "partition_isotropy" not in spectrum(store)


def test_labels_ids_and_files(tmp_path: Path) -> None:
    rows = cloud(50, 6).astype(np.float32)
    path = make_store(tmp_path / "m.zarr", rows, tokens=[f"t{i}" for i in range(50)], model="org/m")
    out = tmp_path / "r.zarr"
    found = spectrum(path, components=2, out=out)
    assert found["token"].values.tolist() == [f"t{i}" for i in range(50)]
    assert json.loads(found.attrs["settings"]) == {"components": 2}
    xr.testing.assert_identical(eg.open_result(out), found)
    xr.testing.assert_identical(spectrum(path, components=2, out=out), found)
    with pytest.raises(InputError, match="components is 2 there and 3 here"):
        spectrum(path, components=3, out=out)
    some = eg.spectrum(eg.open_model(path)["output_embedding"][10:40], components=1)
    assert some["token_id"].values.tolist() == list(range(10, 40))
    assert some["token"].values[0] == "t10"
    xr.testing.assert_equal(
        some["score"].drop_vars("token"),
        eg.spectrum(rows[10:40], components=1)["score"]
        .drop_vars("token")
        .assign_coords(token_id=some["token_id"].drop_vars("token"), model=some["model"]),
    )
    scores = found.embgeom.to_frame("scores")
    assert scores.columns.tolist() == ["token_id", "token", "component", "score"]
    assert len(scores) == 100
    assert found.embgeom.to_frame("eigenvalues")["eigenvalue"].tolist() == found["eigenvalue"].values.tolist()
    assert found.embgeom.to_frame("spectrum")["isoscore"].tolist() == [found["isoscore"].item()]
    assert found.embgeom.to_frame("columns")["column_variance"].tolist() == found["column_variance"].values.tolist()
    parquet = pytest.importorskip("pyarrow.parquet")
    found.embgeom.to_parquet(tmp_path / "r.parquet")
    columns = parquet.read_table(tmp_path / "r.parquet")
    assert columns.column_names == ["token_id", "token", "text", "score_1", "score_2"]
    assert columns["score_2"].to_pylist() == found["score"].values[:, 1].tolist()


def test_many_models_are_a_tree_with_a_table(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / f"{i}.zarr", cloud(60, 5 + i, i), model=f"org/m{i}") for i in range(3)]
    tree = spectrum(stores, out=tmp_path / "all")
    assert list(tree.children) == ["org--m0", "org--m1", "org--m2"]
    for i, store in enumerate(stores):
        alone = spectrum(store)
        xr.testing.assert_equal(tree[f"org--m{i}"].to_dataset(), alone)
        assert tree["isoscore"].values[i] == alone["isoscore"].item()
    assert tree["hidden_size"].values.tolist() == [5, 6, 7]
    opened = eg.open_result(tmp_path / "all")
    assert isinstance(opened, xr.DataTree)
    xr.testing.assert_equal(opened, tree)
    bad = cloud(60, 5)
    bad[3] = np.nan
    with pytest.raises(SomeFailed, match="token ids 3") as caught:
        spectrum([stores[0], make_store(tmp_path / "bad.zarr", bad, model="org/bad")])
    assert len(caught.value.results) == 1


def test_degenerate_rows(tmp_path: Path) -> None:
    same = spectrum(make_store(tmp_path / "same.zarr", np.full((9, 3), 0.1, np.float32)))
    assert same["eigenvalue"].values.tolist() == [0, 0, 0]
    assert np.isnan(same["participation_ratio"])
    assert np.isnan(same["cumulative_share"]).all()
    np.testing.assert_allclose(same["mean_cosine"], 1, rtol=1e-15)
    assert same["score"].values.tolist() == [[0.0] * 3] * 9
    zeros = spectrum(make_store(tmp_path / "zeros.zarr", np.zeros((4, 3), np.float32)))
    assert zeros["zero_count"].item() == 4
    assert np.isnan(zeros["mean_cosine"])
    narrow = spectrum(make_store(tmp_path / "narrow.zarr", np.array([[1.0], [2.0]])), components=1)
    assert narrow["eigenvalue"].values.tolist() == [0.5]
    assert np.isnan(narrow["isoscore"])
    few = spectrum(make_store(tmp_path / "few.zarr", cloud(3, 8)))  # fewer rows than columns
    assert (few["eigenvalue"].values[2:] <= few["eigenvalue_error"].item()).all()


def test_what_is_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(9, 5))
    with pytest.raises(InputError, match="`components` 6: give 0 to 5"):
        spectrum(path, components=6)
    with pytest.raises(InputError, match="`components` -1"):
        spectrum(path, components=-1)
    with pytest.raises(InputError, match="one row"):
        spectrum(make_store(tmp_path / "one.zarr", cloud(1, 5)))
    bad = cloud(40, 5)
    bad[[3, 30]] = np.inf
    with pytest.raises(InputError, match=r"2 of 40 rows .* hold NaN or infinity \(token ids 3, 30\)"):
        spectrum(make_store(tmp_path / "bad.zarr", bad), out=tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_covariance_that_does_not_fit_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(9, 1024))
    monkeypatch.setattr(devices, "memory", lambda _: (4 << 20, 1 << 20))
    with pytest.raises(InputError, match=r"the covariance of 1024 columns takes 48 MiB here, and 1 MiB are free"):
        spectrum(path)


def test_latitudes_by_rank_are_spread_evenly(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    path = make_store(tmp_path / "m.zarr", np.random.default_rng(5).normal(size=(101, 5)))
    found = spectrum(path, sky="1,2,3", sky_by_rank=True)
    ranks = stats.rankdata(found["sky_latitude"].values)
    expected = np.degrees(np.arcsin((2 * ranks - 1) / 101 - 1))
    np.testing.assert_allclose(found["sky_ranked_latitude"], expected, rtol=1e-12, atol=1e-12)
    assert "sky_ranked_latitude" not in spectrum(path, sky="1,2,3")
    with pytest.raises(InputError, match="`sky_by_rank`: give the components of the map with `sky`"):
        spectrum(path, sky_by_rank=True)

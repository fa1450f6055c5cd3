"""Whitened stores: against scipy's Mahalanobis distance and numpy's transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.whiten import whiten
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store

Array = np.ndarray


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with tuning.override(CHUNK_BYTES=1 << 14):
        return make_store("m.zarr", output=cloud(), model="org/m", tokens=[f"w{i}" for i in range(700)])


def cloud() -> Array:
    random = np.random.default_rng(0)
    return (random.normal(size=(700, 6)) @ random.normal(size=(6, 6)) + 3).astype(np.float32)


def written(path: str) -> Array:
    return eg.open_model(path)["output_embedding"].values.astype(float)


@pytest.mark.parametrize("divisor", ["n-1", "n"])
@pytest.mark.parametrize("how", ["causal", "pca", "zca"])
def test_distances_are_mahalanobis(how: Any, divisor: Any, store: str, client: Client) -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    rows = cloud().astype(float)
    made = whiten(store, how=how, ridge=0.25, divisor=divisor, dtype="float64", client=client)
    assert made == f"stores/org--m-{how}.zarr"
    covariance = np.cov(rows.T, ddof=int(divisor == "n-1")) + 0.25 * np.eye(6)
    inverse = np.linalg.inv(covariance)
    expected = distance.cdist(rows[:50], rows[:50], "mahalanobis", VI=inverse)
    found = written(made)
    np.testing.assert_allclose(distance.cdist(found[:50], found[:50]), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    scan = eg.scan(made, farthest=1, client=client)
    np.testing.assert_allclose(
        scan["farthest_distance"], distance.pdist(rows, "mahalanobis", VI=inverse).max(), rtol=1e-9
    )
    if how == "causal":
        factor = np.linalg.cholesky(inverse)
        np.testing.assert_allclose(found, (rows - rows.mean(axis=0)) @ factor, rtol=1e-8, atol=1e-9)
    if how == "zca":
        value, vector = np.linalg.eigh(covariance)
        np.testing.assert_allclose(found, (rows - rows.mean(axis=0)) @ (vector / np.sqrt(value)) @ vector.T, atol=1e-9)
    if how == "pca":
        off = np.cov(found.T) - np.diag(np.diag(np.cov(found.T)))
        np.testing.assert_allclose(off, 0, atol=1e-10)


def test_without_a_ridge_the_covariance_is_the_identity(store: str, client: Client) -> None:
    found = written(whiten(store, how="zca", ridge=0, dtype="float64", client=client))
    np.testing.assert_allclose(np.cov(found.T), np.eye(6), atol=1e-12)
    assert eg.spectrum(whiten(store, how="pca", ridge=0, client=client), client=client)["isoscore"] > 1 - 1e-9


def test_leading_components_are_removed(store: str, client: Client) -> None:
    rows = cloud().astype(float)
    made = whiten(store, how="remove", components=2, dtype="float64", client=client)
    top = np.linalg.eigh(np.cov(rows.T))[1][:, -2:]
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(written(made), centred - centred @ top @ top.T, atol=1e-10)
    assert model_stores.attributes(made)["whitening"]["components"] == 2
    assert (
        model_stores.attributes(whiten(store, how="remove", overwrite=True, client=client))["whitening"]["components"]
        == 1
    )


def test_the_store_says_what_it_was_made_from_and_keeps_labels(store: str, client: Client) -> None:
    (made,) = whiten([store], ridge=0.5, client=client)
    attrs, source = model_stores.attributes(made), model_stores.find_matrix(store)
    assert attrs["model"] == "org/m-causal"
    assert attrs["whitening"] == {
        **{"how": "causal", "ridge": 0.5, "divisor": "n-1", "components": 0, "dtype": "float32"},
        **{"model": "org/m", "revision": "", "matrix": "output_embedding", "sha256": source.sha256},
    }
    model = eg.open_model(made)
    assert model["token"].values.tolist() == [f"w{i}" for i in range(700)]
    assert model["output_embedding"].dtype == np.float32
    with pytest.raises(InputError, match="`overwrite` replaces it"):
        whiten(store, client=client)


def test_no_chunk_changes_a_bit(store: str, client: Client) -> None:
    alone = written(whiten(store, client=client))
    with tuning.override(CHUNK_BYTES=4096):
        small = make_store("s.zarr", output=cloud(), model="org/s")
        assert written(whiten(small, client=client)).tolist() == alone.tolist()


def test_what_is_refused(store: str, client: Client) -> None:
    with pytest.raises(InputError, match="`how` ica: choose one of causal, pca, zca, remove"):
        whiten(store, how="ica")  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(InputError, match="`ridge` -1: give a number, 0 or more"):
        whiten(store, ridge=-1)
    with pytest.raises(InputError, match="`components` 2: give 1 or more, and only to remove them"):
        whiten(store, components=2)
    for components in (6, 7):  # of rows without all of them only rounding errors would be left
        with pytest.raises(InputError, match=f"`components` {components}: org/m has 6 columns, give fewer"):
            whiten(store, how="remove", components=components)
    with pytest.raises(InputError, match="this is an array"):
        whiten(np.eye(3))
    flat = cloud()
    flat[:, 3] = flat[:, 2]
    singular = make_store("f.zarr", output=flat, model="org/f")
    with pytest.raises(InputError, match=r"the least eigenvalue of the covariance, .* give a `ridge` above that"):
        whiten(singular, ridge=0, client=client)
    assert not Path("stores/org--f-causal.zarr").exists()

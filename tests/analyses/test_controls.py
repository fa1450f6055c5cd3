"""Null models: the same bits whatever wrote them, of the distribution, shape and labels that were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.controls import Control, controls
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store


def rows_of(store: Any) -> np.ndarray:
    matrix = model_stores.find_matrix(store)
    return matrix.read(0, matrix.vocab_size)


def cloud(rows: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return 0.37 + random.uniform(0.01, 0.1, size=(rows, 1)) * random.normal(size=(rows, width))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("like", ["gaussian", "uniform"])
def test_numbers_are_those_of_the_seed_rounded(like: Any, dtype: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", cloud(2500, 7).astype(dtype), model="org/m")
    path = controls(store, like=like, seed=7, stores=tmp_path)
    found = rows_of(path)
    assert (found.dtype, found.shape) == (np.dtype(dtype), (2500, 7))
    blocks = []
    for block in range(3):
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, block])))
        draw = random.standard_normal if like == "gaussian" else lambda size, own=random: 2 * own.random(size) - 1
        blocks.append(draw((1024, 7)))
    np.testing.assert_array_equal(found, np.concatenate(blocks)[:2500].astype(dtype))
    stats = pytest.importorskip("scipy.stats")
    law = stats.norm if like == "gaussian" else stats.uniform(-1, 2)
    assert stats.kstest(found.astype(np.float64).ravel(), law.cdf).statistic < 0.02


def test_no_chunk_and_no_part_changes_a_bit_and_a_seed_changes_all(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", cloud(3000, 16).astype(np.float32), model="org/m")
    whole = rows_of(controls(store, stores=tmp_path / "a"))
    with tuning.override(CHUNK_BYTES=1 << 12):
        path = controls(store, stores=tmp_path / "b")
        assert model_stores.find_matrix(path).chunk_rows == 64
        np.testing.assert_array_equal(rows_of(path), whole)
    rows = Control(model_stores.find_matrix(store), "gaussian", 42)
    np.testing.assert_array_equal(rows.read(1000, 2100), whole[1000:2100])
    other = rows_of(controls(store, seed=43, stores=tmp_path))
    assert not (other == whole).any(axis=0).all()


@pytest.mark.parametrize("like", ["gaussian", "uniform"])
def test_the_same_distances_from_the_same_centroid(like: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", cloud(400, 64).astype(np.float32), model="org/m")
    path = controls(store, like=like, match="centroid", stores=tmp_path)
    centroid = eg.survey(store)["centroid"].values[0]
    wanted = eg.tokens(store)["centroid_distance"].values
    rows = rows_of(path).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(rows - centroid, axis=1), wanted, rtol=1e-5)
    np.testing.assert_allclose(rows.mean(axis=0), centroid, atol=1e-7)
    assert np.abs(rows - centroid).mean() > 0.01  # and not at the centroid


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
def test_the_same_norms_about_the_same_centroid(dtype: Any, tmp_path: Path) -> None:
    source = cloud(1200, 12).astype(dtype)  # far from the origin: the directions are nearly one
    path = controls(make_store(tmp_path / "m.zarr", source, model="org/m"), match="norms", stores=tmp_path)
    assert Path(path).name == "org--m-gaussian-42-norms.zarr"
    old, new = source.astype(np.float64), rows_of(path).astype(np.float64)
    rounding = 2.0 ** (-8 if dtype != np.float64 else -50)
    np.testing.assert_allclose(np.linalg.norm(new, axis=1), np.linalg.norm(old, axis=1), rtol=rounding)
    np.testing.assert_allclose(new.mean(axis=0), old.mean(axis=0), atol=1e-8 + rounding / np.sqrt(1200))
    assert np.linalg.norm(new - old, axis=1).mean() > 0.1


def test_labels_role_name_and_what_it_says_of_itself(tmp_path: Path) -> None:
    pieces = [f"t{i}" for i in range(40)]
    store = make_store(
        tmp_path / "m.zarr", cloud(40, 8), input=cloud(40, 6), tokens=pieces, model="org/m", revision="abc"
    )
    path = controls(store, "input", stores=tmp_path / "stores")
    assert path == str(tmp_path / "stores" / "org--m@abc-gaussian-42.zarr")
    matrix = model_stores.find_matrix(path)
    assert (matrix.name, matrix.model, matrix.hidden_size) == ("input_embedding", "org/m@abc-gaussian-42", 6)
    model = eg.open_model(path)
    assert model["token"].values.tolist() == pieces
    said = json.loads(model.attrs["control"])
    assert said == {
        "like": "gaussian",
        "seed": 42,
        "match": "",
        "sha256": model_stores.find_matrix(store, "input").sha256,
        "numpy": np.__version__,
    }
    assert eg.scan(path, nearest=1)["nearest_token"].shape == (1, 2)
    assert eg.list_models(tmp_path / "stores")["model"].values.tolist() == ["org/m@abc-gaussian-42"]


def test_several_stores_and_what_is_refused(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / f"{i}.zarr", cloud(20, 4), model=f"org/m{i}") for i in range(2)]
    paths = controls(stores, stores=tmp_path / "c")
    assert [Path(path).name for path in paths] == ["org--m0-gaussian-42.zarr", "org--m1-gaussian-42.zarr"]
    with pytest.raises(InputError, match="exists: `overwrite` replaces it"):
        controls(stores[0], stores=tmp_path / "c")
    assert controls(stores[0], stores=tmp_path / "c", overwrite=True) == paths[0]
    for settings, said in (
        ({"like": "cauchy"}, "`like` cauchy: choose gaussian or uniform"),
        ({"match": "moments"}, "`match` moments: choose centroid or norms"),
        ({"seed": -1}, "`seed` -1"),
        ({"seed": 1.5}, "`seed` 1.5"),
    ):
        with pytest.raises(InputError, match=said):
            controls(stores[0], **settings)
    with pytest.raises(InputError, match="this is an array"):
        controls(cloud(3, 2))

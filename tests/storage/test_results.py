from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from embgeom_dask import devices
from embgeom_dask.errors import InputError
from embgeom_dask.storage import replacement, results
from embgeom_dask.storage.model_stores import find_matrix
from embgeom_dask.testing import make_store


def dataset(store: str, **settings: object) -> xr.Dataset:
    attrs = results.provenance("scan", [find_matrix(store)], ["cpu"], 1.0, settings)
    values = {"farthest_token_id": (("farthest", "side"), np.array([[0, 2]])), "outlier_token_id": ((), np.array(1))}
    return results.with_tokens(xr.Dataset(values, attrs=attrs), [find_matrix(store)])


def test_tokens_ride_along_and_survive_saving(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32), tokens=["a", "Ġb", "日本"])
    results.save(dataset(store), tmp_path / "r.zarr")
    opened = xr.open_zarr(tmp_path / "r.zarr")
    assert opened["farthest_token"].values.tolist() == [["a", "日本"]]
    assert opened["outlier_token"].item() == "Ġb"
    assert opened.attrs["settings"] == "{}"


def test_provenance_has_the_versions_that_doctor_shows(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    assert json.loads(dataset(store).attrs["versions"]) == devices.describe()["versions"]


def test_saving_replaces_the_same_result_and_refuses_another(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    out = tmp_path / "r.zarr"
    results.save(dataset(store, farthest=1), out)
    results.save(dataset(store, farthest=1), out)
    with pytest.raises(InputError, match=r"farthest is 1 there and 2 here.*`out`"):
        results.save(dataset(store, farthest=2), out)
    other = make_store(tmp_path / "n.zarr", output=np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(InputError, match="sha256"):
        results.save(dataset(other, farthest=1), out)
    assert results.open_result(out).attrs["settings"] == '{"farthest": 1}'


def test_what_is_not_a_result_is_refused_and_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match="not a result"):
        results.save(dataset(store), store)
    assert find_matrix(store).vocab_size == 3
    folder = tmp_path / "notes"
    folder.mkdir()
    with pytest.raises(InputError, match="no result at"):
        results.save(dataset(store), folder)
    with pytest.raises(InputError, match="no result at"):
        results.open_result(tmp_path / "nowhere.zarr")


def test_a_result_ends_with_what_zarr_would_consolidate(tmp_path: Path) -> None:
    given = xr.Dataset(
        {"value": ("row", [1.5, np.nan]), "text": ("row", np.array(["a", "b"], object)), "one": ((), np.int64(3))},
        coords={"row": [4, 5]},
        attrs={"note": "x", "sha256": ["1"]},
    )
    with replacement.replacing(str(tmp_path / "r.zarr"), overwrite=False) as place:
        given.drop_attrs(deep=False).to_zarr(place, zarr_format=3, consolidated=False)
        replacement.finish(place, given.attrs)
    document = json.loads((tmp_path / "r.zarr/zarr.json").read_text())
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(tmp_path / "r.zarr", zarr_format=3)
    assert json.loads((tmp_path / "r.zarr/zarr.json").read_text()) == document
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "r.zarr").load(), given)

"""Which rows of a store an array holds."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from scipy.spatial.distance import pdist

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.row_selection import find_rows
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(ml_dtypes.bfloat16)
ROWS[7, 3], ROWS[8, 3], ROWS[30] = np.nan, -0.0, ROWS[31]


@pytest.fixture
def matrix(tmp_path: Path) -> xr.DataArray:
    with tuning.override(CHUNK_BYTES=16 * 12):  # three chunks of 16 rows
        store = make_store(tmp_path / "m.zarr", output=ROWS, input=ROWS[:35, :4])
    return model_stores.open_model(store).output_embedding


SELECTIONS = {
    "whole": (lambda m: m, range(40)),
    "range": (lambda m: m[10:20], range(10, 20)),
    "ids": (lambda m: m.sel(token_id=[3, 4, 39]), [3, 4, 39]),
    "positions": (lambda m: m.isel(token_id=[7, 8, 30, 31]), [7, 8, 30, 31]),
    "mask": (lambda m: m[np.arange(40) % 3 == 0], range(0, 40, 3)),
    "selected twice": (lambda m: m[10:30][5:9], range(15, 19)),
    "rechunked": (lambda m: m.chunk(token_id=7, hidden_output=2), range(40)),
    "loaded": (lambda m: m[5:9].load(), range(5, 9)),
    "renamed": (lambda m: m[5:9].rename("mine"), range(5, 9)),
    "without strings": (lambda m: m[5:9].drop_vars(["token", "text"]), range(5, 9)),
    "identical row under the other's label": (
        lambda m: m[[30]].assign_coords(token_id=[31]).drop_vars("token").drop_vars("text"),
        [31],
    ),
}


@pytest.mark.parametrize(("select", "ids"), SELECTIONS.values(), ids=SELECTIONS)
def test_rows_that_are_those_of_their_labels(matrix: xr.DataArray, select, ids) -> None:
    stored = find_rows(select(matrix))
    assert stored is not None
    assert stored[0] == model_stores.find_matrix(matrix.encoding["store"], "output")
    assert stored[1].tolist() == list(ids)


CHANGES = {
    "backwards": lambda m: m[::-1],
    "in another order": lambda m: m.sel(token_id=[4, 3, 39]),
    "relabelled": lambda m: m[10:20].assign_coords(token_id=np.arange(10)),
    "whole, relabelled": lambda m: m.assign_coords(token_id=np.arange(40)[::-1]),
    "reordered under the labels": lambda m: m[::-1].assign_coords(token_id=np.arange(40)),
    "under other strings": lambda m: m.assign_coords(token=("token_id", [f"x{i}" for i in range(40)])),
    "label dropped before": lambda m: m.drop_vars("token_id")[10:20],
    "label dropped after": lambda m: m[10:20].drop_vars("token_id"),
    "labels that are no ids": lambda m: m[:3].assign_coords(token_id=[0.0, 1.0, 2.0]),
    "labels past the end": lambda m: m[:2].assign_coords(token_id=[0, 40]),
    "repeated": lambda m: m[[5, 5, 6, 5]],
    "columns repeated": lambda m: m[:, [0, 0, 2, 3, 4, 5]],
    "columns left out": lambda m: m[:, :5],
    "columns in another order": lambda m: m[:, ::-1],
    "one value changed": lambda m: _named_as(m, xr.where(m.token_id == 39, -m, m)),
    "the sign of a zero": lambda m: _named_as(m, xr.where(m == 0, -m, m)),
    "another type": lambda m: _named_as(m, m.astype("f8")),
    "16 bits where more are stored": lambda m: _named_as(m, m.astype("f2")),
    "transposed": lambda m: m.T,
    "computed": lambda m: _named_as(m, m - m[0]),
    "under the name of another": lambda m: m.copy(data=m.data * 2),
    "assigned to": lambda m: _assigned(m),
    "of no store": lambda m: xr.DataArray(np.ones((3, 2))),
    "of a store that is gone": lambda m: _in_store(m, "nowhere.zarr"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_rows_that_are_not_those_of_their_labels(matrix: xr.DataArray, change) -> None:
    assert find_rows(change(matrix)) is None


def _named_as(matrix: xr.DataArray, derived: xr.DataArray) -> xr.DataArray:
    """What was computed, under all that says whose rows the matrix has."""
    derived = derived.assign_attrs(matrix.attrs)
    derived.encoding = dict(matrix.encoding)
    return derived


def _in_store(matrix: xr.DataArray, store: str) -> xr.DataArray:
    matrix.encoding["store"] = store
    return matrix


def _assigned(matrix: xr.DataArray) -> xr.DataArray:
    """The very object that `open_model` gave, with one value changed in place."""
    matrix[3, 0] = 7.0
    return matrix


def test_a_whole_matrix_is_recognised_without_reading_it(matrix: xr.DataArray, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Matrix, start: int, stop: int) -> tuple[np.ndarray, int]:
        raise AssertionError("read")

    monkeypatch.setattr(Matrix, "stretch", read)
    stored = find_rows(matrix)
    assert stored is not None
    assert stored[1].tolist() == list(range(40))


def test_an_array_is_of_the_matrix_it_was_taken_from(matrix: xr.DataArray, client: Client) -> None:
    rows = matrix[[3, 12, 15, 20]]
    expected = pdist(rows.values.astype(np.float64)).min()
    for array, role in ((rows, None), (rows.rename("input_embedding"), "input")):
        found = eg.scan(array, role=role, nearest=1, client=client)
        assert found.attrs["matrix"] == ["output_embedding"]
        assert float(found.nearest_distance[0]) == pytest.approx(expected, rel=1e-14)
        assert set(found.nearest_token_id.values.ravel().tolist()) <= {3, 12, 15, 20}


@pytest.mark.parametrize("raw", [True, False])
def test_rows_of_16_bits_are_those_stored_in_either_type(raw: bool, tmp_path: Path, client: Client) -> None:
    store = make_store(tmp_path / "h.zarr", output=ROWS.astype(ml_dtypes.bfloat16))
    rows = model_stores.open_model(store, raw=raw).output_embedding
    stored = find_rows(rows)
    assert stored is not None
    assert stored[1].tolist() == list(range(40))
    if not raw:
        values = torch.from_numpy(rows.values).to(torch.bfloat16).double().numpy()
        np.testing.assert_array_equal(values, ROWS.astype(np.float64))
    assert eg.scan(rows[10:20], nearest=2, client=client).equals(
        eg.scan(store, tokens="10:20", nearest=2, client=client)
    )
    changed = xr.where(rows.token_id == 3, rows * (2 if raw else 1 + 2**-20), rows)
    assert find_rows(_named_as(rows, changed.astype(rows.dtype))) is None


def test_an_array_of_a_store_that_was_replaced_is_its_own(matrix: xr.DataArray) -> None:
    rows = matrix[:5].load()
    make_store(matrix.encoding["store"], output=ROWS + ROWS)
    assert find_rows(rows) is None

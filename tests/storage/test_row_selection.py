"""Which rows an array holds."""

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
from embgeom_dask.errors import InputError
from embgeom_dask.storage import fill, model_stores
from embgeom_dask.storage.row_selection import find_rows
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(ml_dtypes.bfloat16)
ROWS[7, 3], ROWS[8, 3], ROWS[30] = np.nan, -0.0, ROWS[31]


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.DataArray:
    monkeypatch.setattr(fill, "_CHUNK_BYTES", 16 * 12)  # three chunks of 16 rows
    return model_stores.open_model(make_store(tmp_path / "m.zarr", output=ROWS, input=ROWS[:35, :4])).output_embedding


@pytest.mark.parametrize(
    ("select", "ids"),
    {
        "whole": (lambda m: m, range(40)),
        "range": (lambda m: m[10:20], range(10, 20)),
        "ids": (lambda m: m.sel(token_id=[4, 3, 39]), [4, 3, 39]),
        "backwards": (lambda m: m[::-1], range(39, -1, -1)),
        "positions": (lambda m: m.isel(token_id=[30, 31, 7, 8]), [30, 31, 7, 8]),
        "mask": (lambda m: m[np.arange(40) % 3 == 0], range(0, 40, 3)),
        "selected twice": (lambda m: m[10:30][5:9], range(15, 19)),
        "rechunked": (lambda m: m.chunk(token_id=7, hidden_output=2), range(40)),
        "loaded": (lambda m: m[5:9].load(), range(5, 9)),
        "renamed": (lambda m: m[5:9].rename("mine"), range(5, 9)),
        "identical rows swapped": (
            lambda m: m[[30, 31]].assign_coords(token_id=[31, 30]),
            [31, 30],
        ),
    }.values(),
    ids=str,
)
def test_rows_that_are_those_of_their_labels(matrix: xr.DataArray, select, ids) -> None:
    found, token_id = find_rows(select(matrix))
    assert found == model_stores.find_matrix(matrix.attrs["store"], "output")
    assert token_id.tolist() == list(ids)


@pytest.mark.parametrize(
    ("change", "words"),
    {
        "relabelled": (lambda m: m[10:20].assign_coords(token_id=np.arange(10)), "given as token 0 is not that of"),
        "whole, relabelled": (lambda m: m.assign_coords(token_id=np.arange(40)[::-1]), "given as token 39 is not"),
        "reordered under the labels": (lambda m: m[::-1].assign_coords(token_id=np.arange(40)), "given as token 0 is"),
        "label dropped before": (lambda m: m.drop_vars("token_id")[10:20], "have no token_id"),
        "label dropped after": (lambda m: m[10:20].drop_vars("token_id"), "have no token_id"),
        "labels that are no ids": (lambda m: m[:3].assign_coords(token_id=[0.0, 1.0, 2.0]), "have no token_id"),
        "labels past the end": (lambda m: m[:2].assign_coords(token_id=[0, 40]), "token ids 0 to 40 were given"),
        "repeated": (lambda m: m[[5, 5, 6, 5]], "token 5 is given 3 times"),
        "no row": (lambda m: m[:0], "has no row"),
        "columns repeated": (lambda m: m[:, [0, 0, 2, 3, 4, 5]], "given as token 0 is not that of"),
        "columns left out": (lambda m: m[:, :5], "with 6 columns"),
        "columns in another order": (lambda m: m[:, ::-1], "given as token 0 is not that of"),
        "one value changed": (lambda m: xr.where(m.token_id == 39, -m, m).assign_attrs(m.attrs), "token 39 is not"),
        "the sign of a zero": (lambda m: xr.where(m == 0, -m, m).assign_attrs(m.attrs), "token 8 is not"),
        "another type": (lambda m: m.astype("f8"), "is float64"),
        "16 bits where more are stored": (lambda m: m.astype("f2"), "is float16"),
        "one row": (lambda m: m[3], "have no token_id"),
        "transposed": (lambda m: m.T, "have no token_id"),
        "computed": (lambda m: m - m[0], "names no store|given as token"),
        "of no store": (lambda m: xr.DataArray(np.ones((3, 2))), "names no store"),
    }.values(),
    ids=str,
)
def test_rows_that_are_not_are_refused(matrix: xr.DataArray, change, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        find_rows(change(matrix))
    assert "give open_model(store).output_embedding, whole or with rows selected" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_array_is_of_the_matrix_it_was_taken_from(matrix: xr.DataArray, client: Client) -> None:
    rows = matrix[[20, 12, 3, 15]]
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
    assert find_rows(rows)[1].tolist() == list(range(40))
    if not raw:
        found = torch.from_numpy(rows.values).to(torch.bfloat16).double().numpy()
        np.testing.assert_array_equal(found, ROWS.astype(np.float64))
    assert find_rows(rows[5:9].load())[1].tolist() == [5, 6, 7, 8]
    assert eg.scan(rows[10:20], nearest=2, client=client).equals(
        eg.scan(store, tokens="10:20", nearest=2, client=client)
    )
    with pytest.raises(InputError, match="given as token 3 is not that of"):
        find_rows(
            xr.where(rows.token_id == 3, rows * (2 if raw else 1 + 2**-20), rows)
            .astype(rows.dtype)
            .assign_attrs(rows.attrs)
        )


def test_an_array_of_a_store_that_was_replaced_is_refused(matrix: xr.DataArray) -> None:
    rows = matrix[:5].load()
    make_store(matrix.attrs["store"], output=ROWS + ROWS)
    with pytest.raises(InputError, match="given as token 0 is not that of"):
        find_rows(rows)

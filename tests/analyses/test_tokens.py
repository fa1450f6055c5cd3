"""One line a token: against fractions, scipy's ranks and the analyses that find the same otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from safetensors.torch import save_file

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.tokens import tokens
from embgeom_dask.cli.one_pass_text import tokens_text
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import root

Array = np.ndarray
MEASURES = ("norm_l1", "norm_l2", "norm_linf", "centroid_distance", "origin_distance")


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=4096):
        yield


def cloud(rows: int = 300, width: int = 24, seed: int = 0) -> Array:
    """Rows about a centre far from the origin, some of them identical, others of zeros."""
    random = np.random.default_rng(seed)
    found = 0.37 + 1e-2 * random.normal(size=(rows, width))
    found[[5, 80, 81]] = found[200 % rows]
    found[[7, 90]] = found[30]
    found[[9, 10]] = 0
    return found


def exact(stored: Array, origin: int) -> dict[str, list[float]]:
    """Each number as the float64 nearest to the true one."""
    rows = [[Fraction(value) for value in row] for row in stored.astype(np.float64).tolist()]
    mean = [sum(column, Fraction()) / len(rows) for column in zip(*rows, strict=True)]

    def away(row: list[Fraction], point: list[Fraction]) -> float:
        return root(sum(((x - p) ** 2 for x, p in zip(row, point, strict=True)), Fraction()))

    return {
        "norm_l1": [float(sum(map(abs, row), Fraction())) for row in rows],
        "norm_l2": [away(row, [Fraction()] * len(row)) for row in rows],
        "norm_linf": [float(max(map(abs, row))) for row in rows],
        "centroid_distance": [away(row, mean) for row in rows],
        "origin_distance": [away(row, rows[origin]) for row in rows],
    }


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_every_number_is_the_nearest_to_the_true_one(dtype: Any, tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = cloud().astype(dtype)
    found = tokens(make_store(tmp_path / "m.zarr", rows), origin=30)
    for name, expected in exact(rows, 30).items():
        assert found[name].values.tolist() == expected, name
        ranks = stats.rankdata(-found[name].values, method="ordinal")
        assert found[f"{name}_rank"].values.tolist() == ranks.tolist(), name
    assert found["origin_distance"].values[[7, 30, 90]].tolist() == [0, 0, 0]
    assert (found["origin_kind"].item(), found["origin_token_id"].item()) == ("token", 30)


def test_distances_are_from_a_point_of_a_file_or_from_numbers(tmp_path: Path) -> None:
    rows = cloud(100, 6)[:40].astype(np.float32)
    path, file = make_store(tmp_path / "m.zarr", rows), tmp_path / "c.safetensors"
    point = np.append(cloud(100, 5, 1)[0], 1e-3).astype(ml_dtypes.bfloat16)
    save_file({"centroid": torch.tensor(point.astype(np.float32)).bfloat16(), "scale": torch.zeros(1)}, file)
    np.save(tmp_path / "c.npy", point.astype(np.float64))
    expected = exact(np.concatenate([rows, [point.astype(np.float32)]]), 40)["origin_distance"][:40]
    for origin in (f"{file}:centroid", tmp_path / "c.npy", point, point.astype(float).tolist()):
        found = tokens(path, origin=origin, out=tmp_path / "r.zarr")
        assert found["origin_distance"].values.tolist() == expected
        assert found["origin_point"].values.tolist() == point.astype(float).tolist()
        assert found["origin_kind"].item() == "point"
        assert "origin_token_id" not in found
    refused: list[tuple[Any, str]] = [
        (f"{file}", "has 2 lists of floats: name one"),
        (f"{file}:scale", r"has the shape \(1,\), output_embedding of test/model has 6 columns"),
        ([0.0] * 5 + [np.inf], "holds NaN, infinity"),
        (["a"] * 6, "give numbers, one a column"),
        (1.5, "is a float: give a token, a file, or a list of numbers"),
        ("cluster", "sought among 64 rows or more, and output_embedding has 40: give a token or a file as `origin`"),
    ]
    for origin, said in refused:
        with pytest.raises(InputError, match=said):
            tokens(path, origin=origin)


def test_distances_are_from_the_centre_of_the_dense_cluster(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 8))
    rows[40:70] = 1e-3 * rows[40:70] + 0.3
    path = make_store(tmp_path / "m.zarr", rows.astype(np.float32))
    found, dense = tokens(path, origin="cluster", client=client), eg.cluster(path, client=client)
    assert found["origin_distance"].values.tolist() == dense["cluster_distance"].values.tolist()
    assert found["origin_point"].values.tolist() == dense["centroid"].values.tolist()
    assert (found["origin_kind"].item(), found["cluster_count"].item()) == ("cluster", 30)
    assert json.loads(found.attrs["settings"]) == {"origin": "cluster"}
    assert "nearest to the centre of the dense cluster of 30 tokens" in tokens_text(found)
    with pytest.raises(InputError, match=r"stands apart .*: give a token or a file as `origin`"):
        tokens(make_store(tmp_path / "one.zarr", rows[70:]), origin="cluster", client=client)


def test_groups_survey_and_outliers_agree(tmp_path: Path) -> None:
    path = make_store(tmp_path / "m.zarr", cloud().astype(np.float32))
    found, survey, groups = tokens(path), eg.survey(path), eg.duplicates(path)
    assert "origin_distance" not in found
    xr.testing.assert_equal(found["token_to_group"].variable, groups["token_to_group"].variable)
    assert np.flatnonzero(found["token_to_group"] == 0).tolist() == [5, 80, 81, 200]
    for name in ("group_count", "member_count", "vocab_size"):
        assert found[name].item() == groups[name].item()
    assert found["norm_l2"].min() == survey["norm_min"]
    assert found["norm_l2"].max() == survey["norm_max"]
    spread = eg.outliers(path, None)
    assert found["centroid_distance"].max() == spread["centroid_distance_max"]
    assert found["centroid_distance"].median() == spread["centroid_distance_median"]


def test_no_worker_or_chunk_changes_a_bit(tmp_path: Path, workers: Client) -> None:
    rows = cloud(2000).astype(ml_dtypes.bfloat16)
    path = make_store(tmp_path / "m.zarr", rows)
    alone = tokens(path, origin=3)
    xr.testing.assert_equal(tokens(path, origin=3, client=workers), alone)
    with tuning.override(CHUNK_BYTES=1 << 20):
        xr.testing.assert_equal(tokens(make_store(tmp_path / "b.zarr", rows), origin=3), alone)


def test_labels_names_files_and_ids(tmp_path: Path) -> None:
    pieces = ["\u0120king", "queen", "\u0434\u0430", "12", "<s>", "", "\u6f22", "..."]
    path = make_store(tmp_path / "m.zarr", cloud(100)[:8].astype(np.float32), tokens=pieces, model="org/m")
    out = tmp_path / "r.zarr"
    found = tokens(path, origin="king", out=out)
    assert found["token"].values.tolist()[:5] == pieces[:5]
    assert found["script"].values[[1, 2, 3, 6, 7]].tolist() == ["latin", "cyrillic", "number", "cjk", "punctuation"]
    assert found["script"].values[~found["has_token"].values].tolist() == [""] * int((~found["has_token"]).sum())
    assert (found["origin_token_id"].item(), found["origin_token"].item()) == (0, pieces[0])
    assert {"is_added", "is_special"} <= set(found.data_vars)
    assert json.loads(found.attrs["settings"]) == {"origin": 0}
    xr.testing.assert_identical(eg.open_result(out), found)
    xr.testing.assert_identical(tokens(path, origin=0, out=out), found)
    with pytest.raises(InputError, match="origin is 0 there and 1 here"):
        tokens(path, origin="queen", out=out)
    frame = found.embgeom.to_frame("tokens")
    assert len(frame) == 8
    assert set(MEASURES) | {f"{name}_rank" for name in MEASURES} < set(frame.columns)
    assert frame["norm_l1"].tolist() == found["norm_l1"].values.tolist()
    parquet = pytest.importorskip("pyarrow.parquet")
    found.embgeom.to_parquet(tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet").to_pydict()
    assert table["script"] == found["script"].values.tolist()
    assert table["centroid_distance_rank"] == found["centroid_distance_rank"].values.tolist()


def test_some_rows_of_a_store_are_measured_from_their_own_mean(tmp_path: Path) -> None:
    rows = cloud(100).astype(np.float32)
    path = make_store(tmp_path / "m.zarr", rows, tokens=[f"t{i}" for i in range(100)])
    part = eg.open_model(path)["output_embedding"][40:60]
    found = tokens(part, origin="t50")
    assert found["token_id"].values.tolist() == list(range(40, 60))
    assert found["token"].values[0] == "t40"
    assert found["centroid_distance"].values.tolist() == exact(rows[40:60], 10)["centroid_distance"]
    assert found["origin_distance"].values.tolist() == exact(rows[40:60], 10)["origin_distance"]
    assert "is_special" not in found  # which the array does not say
    assert found["origin_token"].item() == "t50"
    with pytest.raises(InputError, match="none of the tokens selected is a row"):
        tokens(part, origin=3)


def test_many_models_are_a_tree_with_a_table(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / f"{i}.zarr", cloud(201 + i, 5 + i, i), model=f"org/m{i}") for i in range(2)]
    tree = tokens(stores, out=tmp_path / "all")
    for i, store in enumerate(stores):
        xr.testing.assert_equal(tree[f"org--m{i}"].to_dataset(), tokens(store))
    assert tree["vocab_size"].values.tolist() == [201, 202]
    xr.testing.assert_equal(eg.open_result(tmp_path / "all"), tree)
    with pytest.raises(SomeFailed, match=r"none.zarr"):
        tokens([stores[0], tmp_path / "none.zarr"])


def test_what_is_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(201), tokens=[f"t{i}" for i in range(201)])
    with pytest.raises(InputError, match="`origin` 3,4: give one token, not 2"):
        tokens(path, origin="3,4")
    with pytest.raises(InputError, match="no token is called 'king'"):
        tokens(path, origin="king")
    with pytest.raises(InputError, match="token id 201 is past"):
        tokens(path, origin=201)
    bad = cloud(201)
    bad[[3, 30]] = np.nan
    with pytest.raises(InputError, match=r"2 of 201 rows .* hold NaN or infinity \(token ids 3, 30\)"):
        tokens(make_store(tmp_path / "bad.zarr", bad), out=tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()

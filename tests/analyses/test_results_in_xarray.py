"""Results in the hands of xarray, pandas, netCDF and matplotlib."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from scipy.spatial.distance import pdist

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.testing import make_store

mpl.use("Agg")
SIZES = (30, 34)


class Made(NamedTuple):
    stores: list[str]
    outs: list[Path]
    scans: list[xr.Dataset]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two models of different vocabularies, padded with rows without a token, and a scan of each, saved."""
    folder, chance = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    stores, outs, scans = [], [], []
    for size in SIZES:
        rows = chance.normal(size=(size, 5)).astype(np.float32)
        tokens = [f"w{i}" for i in range(size - 3)] + [""] * 3
        stores.append(make_store(folder / f"{size}.zarr", output=rows, tokens=tokens, model=f"org/m{size}"))
        outs.append(folder / "results" / f"{size}.zarr")
        kept = {"farthest": 3, "nearest": 2, "neighbors": 2, "histogram": 8, "quantiles": [0.1, 0.5]}
        scans.append(eg.scan(stores[-1], out=outs[-1], within=[1, 2], pairs_within=1.0, **kept))
    return Made(stores, outs, scans)


def test_every_dimension_has_a_coordinate(made: Made, client: Client) -> None:
    pair = eg.outliers(made.stores[0], "0:9", client=client)
    for result in (*made.scans, eg.survey(made.stores), eg.duplicates(made.stores), pair):
        assert set(result.dims) <= set(result.coords)
        assert {"model", "revision", "matrix"} <= set(result.coords)
    scan = made.scans[0]
    assert scan["side"].values.tolist() == ["A", "B"]
    assert scan["farthest"].values.tolist() == [1, 2, 3]
    assert scan["neighbor"].values.tolist() == [1, 2]
    assert scan["model"].item() == "org/m30"


def test_reopened_is_what_was_computed(made: Made) -> None:
    for out, scan, store in zip(made.outs, made.scans, made.stores, strict=True):
        for again in (eg.open_result(out), xr.open_dataset(out), eg.scan(store, out=out, **_asked(scan))):
            xr.testing.assert_identical(again, scan)
            assert [*again.variables] == [*scan.variables]
            assert all(isinstance(each.data, np.ndarray) for each in again.variables.values())


def test_what_xarray_opens_has_the_accessor(made: Made) -> None:
    code = f"import xarray\nprint(xarray.open_dataset({str(made.outs[0])!r}).embgeom.tables)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "neighbors" in done.stdout


def test_what_xarray_writes_of_a_result_is_opened_but_not_taken_for_the_result(made: Made, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.zarr", tmp_path / "part.zarr"
    made.scans[0].to_zarr(whole, consolidated=False)  # without the chunks of zeros, of `histogram_above`
    for again in (eg.open_result(whole), xr.open_dataset(whole)):
        xr.testing.assert_identical(again, made.scans[0][[*again.variables]])
    eg.open_result(made.outs[0]).isel(farthest=[0]).to_zarr(part, consolidated=False)
    assert eg.open_result(part).sizes["farthest"] == 1
    with pytest.raises(eg.InputError, match="is what another program wrote of a result: choose another `out`"):
        eg.scan(made.stores[0], out=part, **_asked(made.scans[0]))


def test_options_of_xarray_for_zarr_open_results_too(made: Made, tmp_path: Path) -> None:
    scan = xr.open_dataset(made.outs[0], decode_times=False, consolidated=True, chunks={})
    assert scan["neighbor_distance"].chunks == ((SIZES[0],), (2,))
    xr.DataTree.from_dict({"/a": made.scans[0], "/b": made.scans[1]}).to_zarr(
        tmp_path / "tree.zarr", consolidated=False
    )
    found = xr.open_dataset(tmp_path / "tree.zarr", engine="embgeom", group="/b")
    xr.testing.assert_equal(found, made.scans[1][[*found.variables]])


def test_reopened_is_what_was_computed_of_several_stores(made: Made, tmp_path: Path) -> None:
    for command in (eg.survey, eg.duplicates):
        found = command(made.stores, out=tmp_path / command.__name__)
        xr.testing.assert_identical(eg.open_result(tmp_path / command.__name__), found)
    tree = eg.scan(made.stores[::-1], nearest=1, within=1, out=tmp_path / "scan")
    again = eg.open_result(tmp_path / "scan")
    assert again.groups == tree.groups == ("/", "/org--m34", "/org--m30")
    for folder, group in ((tmp_path / "scan", "org--m30"), (tmp_path, "/scan/org--m30")):
        node = xr.open_dataset(folder, engine="embgeom", group=group)
        xr.testing.assert_equal(node, again["org--m30"].to_dataset())
    with pytest.raises(eg.InputError, match=r"no result at .*org--m31: name"):
        xr.open_dataset(tmp_path / "scan", engine="embgeom", group="org--m31")
    xr.testing.assert_identical(again.to_dataset(), tree.to_dataset())
    for name, node in tree.children.items():
        xr.testing.assert_identical(again[name].to_dataset(), node.to_dataset())


def test_a_tree_that_xarray_wrote_is_opened_as_the_tree(made: Made, tmp_path: Path) -> None:
    tree = eg.scan(made.stores[::-1], nearest=1, within=1)
    bare = xr.DataTree.from_dict({"/deeper/a": made.scans[0], "/b": made.scans[1]})
    mine = {"/mine": xr.Dataset({"x": ("n", [1.0])})}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        for consolidated in (True, False):
            for name, whole in {"tree": tree, "bare": bare}.items():
                path = tmp_path / f"{name}{consolidated}.zarr"
                xr.DataTree.from_dict({**whole.to_dict(), **mine}).to_zarr(path, consolidated=consolidated)
                again = eg.open_result(path)
                assert set(again.groups) == set(whole.groups)
                for group in whole.groups:
                    node = again[group].to_dataset(inherit=False)
                    xr.testing.assert_identical(node, whole[group].to_dataset(inherit=False)[[*node.variables]])
            table = xr.open_dataset(tmp_path / f"tree{consolidated}.zarr")
            assert table.sel(model="org/m34")["revision"] == ""
        assert [*eg.open_result(tmp_path / "treeTrue.zarr").children] == ["org--m34", "org--m30"]
        xr.DataTree.from_dict(mine).to_zarr(tmp_path / "foreign.zarr")
    with pytest.raises(eg.InputError, match="is not a result of embgeom"):
        eg.open_result(tmp_path / "foreign.zarr")


def _asked(scan: xr.Dataset) -> dict[str, Any]:
    kept = {"farthest": 3, "nearest": 2, "neighbors": 2, "histogram": 8, "quantiles": [0.1, 0.5]}
    return {**kept, "within": scan["radius"].values, "pairs_within": 1.0}


@tuning.override(LOADED_BYTES=300)
def test_large_variables_are_read_when_used(made: Made) -> None:
    opened = eg.open_result(made.outs[0])
    assert opened["neighbor_distance"].chunks is not None
    assert opened["farthest_distance"].chunks is None
    xr.testing.assert_identical(opened.load(), made.scans[0])


def test_bins_have_edges_and_a_share_of_pairs(made: Made) -> None:
    scan = made.scans[0]
    rows = eg.open_model(made.stores[0])["output_embedding"].values.astype(np.float64)
    distance, edges = pdist(rows), scan["bin_edge"].values
    np.testing.assert_array_equal(scan["bin_left"], edges[:-1])
    np.testing.assert_array_equal(scan["bin_right"], edges[1:])
    np.testing.assert_allclose(scan["bin_center"], (edges[1:] + edges[:-1]) / 2, rtol=1e-15)
    expected = [(distance < edge).mean() for edge in edges[1:]]
    np.testing.assert_allclose(scan["histogram_cdf"], expected, rtol=1e-15)
    assert (
        scan["histogram_count"].sel(bin=2.0, method="nearest") == ((distance >= edges[2]) & (distance < edges[3])).sum()
    )


def test_results_are_plotted(made: Made) -> None:
    line = cast(Any, made.scans[0]["histogram_count"]).plot()[0]
    np.testing.assert_array_equal(line.get_xdata(), made.scans[0]["bin_center"])
    assert line.axes.get_xlabel() == "distance"
    assert line.axes.get_ylabel() == "pairs in the bin"
    line.figure.clear()
    line = cast(Any, eg.survey(made.stores)["centroid_l2"]).plot()[0]
    assert [*line.get_xdata()] == ["org/m30", "org/m34"]
    line.figure.clear()
    mpl.pyplot.close("all")


def test_models_are_put_together(made: Made) -> None:
    both = xr.concat(made.scans, "model", join="outer", coords="different", compat="equals")
    assert both["model"].values.tolist() == ["org/m30", "org/m34"]
    how = {"coords": "different", "compat": "equals", "join": "outer"}
    opened = xr.open_mfdataset(made.outs, combine="nested", concat_dim="model", **how)
    for together in (both, opened):
        chosen = together.sel(model="org/m30", token_id=5)
        np.testing.assert_array_equal(
            chosen["neighbor_distance"], made.scans[0].sel(token_id=5)["neighbor_distance"].values
        )
        assert together.sel(model="org/m34", token_id=5)["token"].item() == "w5"


def test_any_number_of_saved_results_are_put_together_each_under_its_own_tokens(made: Made, tmp_path: Path) -> None:
    """By xarray's coming defaults, coords="minimal", the neighbors of all would have the names of the first one's."""
    outs = [tmp_path / f"{name}.zarr" for name in "abc"]
    rows = eg.open_model(made.stores[0])["output_embedding"]
    scans = [eg.scan(rows * factor, neighbors=2, pairs_within=1, out=out) for factor, out in enumerate(outs, start=-1)]
    how: dict[str, Any] = {"combine": "nested", "concat_dim": "model", "data_vars": "all", "coords": "all"}
    together = xr.open_mfdataset(outs, join="outer", **how)
    for place, scan in enumerate(scans):
        tokens = together["neighbor_token"].isel(model=place).values.tolist()
        assert tokens == scan["neighbor_token"].values.tolist()


def test_tokens_are_chosen_by_their_strings(made: Made) -> None:
    scan = made.scans[0]
    for result in (scan, eg.open_result(made.outs[0])):
        alone = result.where(result["token"] == "w7", drop=True)
        assert alone["token_id"].values.tolist() == [7]
        np.testing.assert_array_equal(alone["neighbor_distance"], scan["neighbor_distance"][[7]])
        assert result.sel(token="w7")["neighbor_token_id"].values.ravel().tolist() == (
            scan["neighbor_token_id"].values[7].tolist()
        )
        some = result.isel(token_id=result["token"].isin(["w4", "w9"]))  # rows without a token share the string ""
        assert some["token_id"].values.tolist() == [4, 9]
        groups = result["neighbor_distance"].groupby(result["token"].str.len()).count()
        assert groups.sum() == scan["neighbor_distance"].size
    assert scan.reindex(token_id=range(40))["token"].isnull().values.nonzero()[0].tolist() == [*range(30, 40)]


def test_results_go_to_netcdf_and_back(made: Made, tmp_path: Path, client: Client) -> None:
    against = eg.scan(made.stores[0], against=made.stores[1], nearest=1, client=client)
    others = [eg.survey(made.stores), eg.duplicates(made.stores[0]), eg.outliers(made.stores[0], "0:9", client=client)]
    for result in (*made.scans, against, *others, eg.open_model(made.stores[0])):
        result.to_netcdf(tmp_path / "r.nc")
        with xr.open_dataset(tmp_path / "r.nc") as back:
            xr.testing.assert_equal(back.load(), result.load())
        (tmp_path / "r.nc").unlink()


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")  # of what netCDF has as numpy's strings
def test_a_result_in_another_format_is_refused_with_what_to_do(
    made: Made, tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    old, file, again = tmp_path / "old.zarr", tmp_path / "r.nc", tmp_path / "r.zarr"
    made.scans[0].to_zarr(old, zarr_format=2)
    with pytest.raises(eg.InputError, match=r"old.zarr is zarr v2: name another path, or write it again in zarr v3"):
        eg.open_result(old)
    tokens = eg.tokens(made.stores, client=client)
    others = [eg.survey(made.stores[0], client=client), eg.outliers(made.stores[0], "0:9", client=client)]
    for result in (made.scans[0], *others, tokens, eg.neighbors(made.stores[0], "3,4", client=client)):
        result.to_netcdf(file)
        with pytest.raises(eg.InputError, match=r"r.nc is netCDF or HDF5: .* `xarray.open_datatree\(PATH\).to_zarr"):
            eg.open_result(file)
        with xr.open_datatree(file) as opened:
            opened.to_zarr(again, consolidated=False)
        found = eg.open_result(again)
        xr.testing.assert_equal(found, result)
        assert found.attrs == result.attrs
        assert app.main(["show", str(again)]) == 0
        assert made.scans[0].attrs["model"][0] in capsys.readouterr().out
        file.unlink()
        shutil.rmtree(again)


def test_results_become_frames(made: Made) -> None:
    frame = made.scans[0]["neighbor_distance"].to_dataframe()
    assert frame.index.names == ["token_id", "neighbor"]
    assert frame.loc[(3, 1), "neighbor_distance"] == made.scans[0]["neighbor_distance"].values[3, 0]
    assert frame.loc[(3, 1), "token"] == "w3"
    table = eg.survey(made.stores).drop_dims("hidden").to_dataframe()
    assert table.index.tolist() == ["org/m30", "org/m34"]

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from safetensors.numpy import save_file

import embgeom_dask
import embgeom_dask as eg
from embgeom_dask import devices
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError
from embgeom_dask.storage import paths, replacement, result_tokens, results
from embgeom_dask.storage.model_stores import find_matrix
from embgeom_dask.testing import make_store


def dataset(store: str, **settings: object) -> xr.Dataset:
    attrs = results.provenance("scan", [find_matrix(store)], ["cpu"], 1.0, settings)
    values = {"farthest_token_id": (("farthest", "side"), np.array([[0, 2]])), "outlier_token_id": ((), np.array(1))}
    return result_tokens.with_tokens(xr.Dataset(values, attrs=attrs), [find_matrix(store).labels()])


def test_tokens_ride_along_and_survive_saving(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32), tokens=["a", "Ġb", "日本"])
    results.save(dataset(store), tmp_path / "r.zarr")
    opened = xr.open_zarr(tmp_path / "r.zarr")
    assert opened["farthest_token"].values.tolist() == [["a", "日本"]]
    assert opened["outlier_token"].item() == "Ġb"
    assert opened.attrs["settings"] == "{}"


def test_tokens_stay_coordinates_and_strings_where_nothing_lies_along_them(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    alone = {"token_id": [0, 1, 2], "token": ("token_id", np.array(["a", "b", "c"], object))}
    none = {"pair_token_id": (("pair", "side"), np.empty((0, 2), np.int64))}
    values = xr.Dataset(none, alone, dataset(store).attrs)
    made = results.finish(
        result_tokens.with_tokens(values, [find_matrix(store).labels()]), values.attrs, 0.0, tmp_path / "r.zarr"
    )
    opened = results.open_result(tmp_path / "r.zarr")
    assert [set(each.coords) for each in (opened, xr.open_zarr(tmp_path / "r.zarr"))] == [set(made.coords)] * 2
    assert opened.dtypes == made.dtypes
    assert {str(opened[name].dtype) for name in ("token", "pair_token")} == {"object"}


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


@pytest.mark.parametrize("make", [embgeom_dask.survey, partial(embgeom_dask.scan, nearest=1)])
def test_nothing_is_written_into_a_store(tmp_path: Path, make: Callable[..., Any]) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(9, dtype=np.float32))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"m\.zarr is a store or a result: name a path outside of it"):
        make(store, out=Path(store) / "x.zarr")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_a_result_is_refused_and_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match="not a result"):
        results.save(dataset(store), store)
    assert find_matrix(store).vocab_size == 3
    folder = tmp_path / "notes"
    folder.mkdir()
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    for other in (folder, file):
        with pytest.raises(InputError, match="is not a result of embgeom: name another path"):
            results.save(dataset(store), other)
    with pytest.raises(InputError, match="no result at"):
        results.open_result(tmp_path / "nowhere.zarr")
    with pytest.raises(InputError, match="a path is empty: name a file or a folder"):
        results.open_result("")


def test_a_result_ends_with_what_zarr_would_consolidate(tmp_path: Path) -> None:
    given = xr.Dataset(
        {"value": ("row", [1.5, np.nan]), "text": ("row", np.array(["a", "b"], object)), "one": ((), np.int64(3))},
        coords={"row": [4, 5]},
        attrs={"note": "x", "sha256": ["1"]},
    )
    with replacement.replacing(str(tmp_path / "r.zarr"), overwrite=False) as place:
        given.drop_attrs(deep=False).to_zarr(place, zarr_format=3, consolidated=False)
        replacement.finish(place, given.attrs, paths.writer(place))
    document = json.loads((tmp_path / "r.zarr/zarr.json").read_text())
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(tmp_path / "r.zarr", zarr_format=3)
    assert json.loads((tmp_path / "r.zarr/zarr.json").read_text()) == document
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "r.zarr").load(), given)


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda attrs: attrs.update(result_format=2), "format 2, written by embgeom-dask 9.1"),
        (lambda attrs: (attrs.clear(), attrs.update(result_format=2)), "format 2, written by another embgeom-dask"),
        (lambda attrs: attrs.pop("result_format"), "format None, written by embgeom-dask 9.1"),
        (
            lambda attrs: attrs.update(result_format="x" * 99),
            "format 'xxxxxxxxxxxxxxxxxxx, written by embgeom-dask 9.1",
        ),
    ],
    ids=["newer", "newer without what this version knows", "older", "nonsense"],
)
def test_a_result_of_another_format_is_refused_by_whoever_opens_it(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    given = dataset(store, farthest=1)
    given.attrs["versions"] = json.dumps({"embgeom-dask": "9.1"})
    results.save(given, tmp_path / "r" / "r.zarr")
    out = tmp_path / "r" / "r.zarr"
    rewrite(out / "zarr.json", lambda document: change(document["attributes"]))
    own = embgeom_dask.__version__
    said = f"{out} is a result in {said}; this version, {own}, knows format 1: use that version, or move it away and "
    said += "make it again"
    for opened in (
        lambda: results.open_result(out),
        lambda: results.open_result(out.parent),
        lambda: xr.open_dataset(out),
        lambda: results.existing(out, given.attrs),
        lambda: results.save(given, out),
        lambda: results.save(given, out, replace=True),
    ):
        with pytest.raises(InputError) as raised:
            opened()
        assert str(raised.value) == said
    assert app.main(["show", str(out)]) == 2
    assert capfd.readouterr().err == f"error: {said}\n"


def test_a_folder_gives_the_results_in_it_and_in_its_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = dataset(make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32)))
    folder = tmp_path / "folder"
    for path in (
        "one.zarr",
        "plain",
        "both.zarr",
        "both/deep.zarr",
        "journals/one.zarr.journal/x.zarr",
        "table/table.zarr",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        results.save(one, folder / path)
    results.save(one, folder / "table" / "model.zarr")
    tree = results.open_result(folder)
    assert {node.path for node in tree.subtree if node.data_vars} == {
        *("/one", "/plain", "/both.zarr", "/both/deep", "/table", "/table/model"),  # two of one name are told apart
    }
    for path in ("one", "plain", "both.zarr", "both/deep", "table/model"):
        xr.testing.assert_identical(tree[path].to_dataset(), one)
    assert app.main(["show", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()[1:]
    assert sorted(line.split()[0] for line in said) == ["both.zarr", "both/deep", "one", "plain", "table/model"]


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    rows = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    np.save(home / "rows.npy", rows)
    found = eg.scan("~/rows.npy", nearest=1, out="~/scan.zarr")
    found.embgeom.to_csv("~/nearest.csv", "nearest")
    store = eg.convert("~/rows.npy", stores="~/stores")
    assert store.startswith(str(home))
    assert eg.open_result(Path("~/scan.zarr")).equals(found)
    assert eg.scan(store, nearest=1)["nearest_distance"].item() == found["nearest_distance"].item()
    assert eg.open_model(store).output_embedding.values.tolist() == rows.tolist()
    assert {"nearest.csv", "scan.zarr", "stores"} <= {each.name for each in home.iterdir()}
    assert not list(here.iterdir())


def test_a_tilde_is_the_home_folder_of_selections_labels_lists_and_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    make_store(tmp_path / "rows.zarr", output=rows, tokens=list("abcdef"))
    (tmp_path / "ids.txt").write_text("1\n3\n4\n")
    (tmp_path / "labels.txt").write_text("\n".join("uvwxyz"))
    (tmp_path / "stores.txt").write_text("~/rows.zarr\n")
    save_file({"cluster_token_ids": np.array([1, 3, 4])}, tmp_path / "c.safetensors")
    save_file({"W": np.stack([rows, rows])}, tmp_path / "steps.safetensors")
    for tokens in ("@~/ids.txt", "~/c.safetensors", "~/c.safetensors:cluster_token_ids", Path("~/c.safetensors")):
        assert eg.scan("~/rows.zarr", neighbors=1, tokens=tokens)["token_id"].values.tolist() == [1, 3, 4]
    assert eg.undertrained("~/rows.zarr", unused="@~/ids.txt")["unused"].values.nonzero()[0].tolist() == [1, 3, 4]
    said = eg.readout("~/rows.npy", "~/rows.zarr", 1, labels="~/labels.txt")
    assert said["label"].values.tolist() == list("uvwxyz")
    assert eg.series("~/steps.safetensors").sizes["step"] == 2
    for command in ("survey --from-file ~/stores.txt", "series ~/steps.safetensors:W", "tokens ~/rows.zarr:output"):
        assert app.main([*command.split(), "--json"]) == 0, capsys.readouterr().err
    assert app.main(["cluster", "~/rows.zarr", "--mask", "~/ids.txt"]) == 2
    assert f"{tmp_path}/ids.txt exists" in " ".join(capsys.readouterr().err.split())

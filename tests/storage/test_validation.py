"""Stores that are damaged: refused whole, in one line, before anything is computed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import __version__, tuning
from embgeom_dask.analyses import all_pairs
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import planning, runner
from embgeom_dask.storage import model_stores, model_writing, paths
from embgeom_dask.storage.validation import is_store
from embgeom_dask.testing import make_store

CLOUD = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=8192):  # 128 rows: four chunks of 500 rows
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(make_store(tmp_path / "s/b.zarr", CLOUD, CLOUD[:400, :8], model="org/b"))


def edit_root(store: Path, edit: Edit) -> None:
    """Change the group's metadata; `edit` gets the attributes, and the metadata of the arrays under `arrays`."""
    root = json.loads((store / "zarr.json").read_text())
    edit(root["attributes"] | {"arrays": root["consolidated_metadata"]["metadata"], "set": root["attributes"]})
    (store / "zarr.json").write_text(json.dumps(root))


def edit_array(store: Path, name: str, edit: Edit) -> None:
    """Change what an array says of itself, in both places, so that these agree."""
    own = store / name / "zarr.json"
    array = json.loads(own.read_text())
    edit(array)
    own.write_text(json.dumps(array))
    edit_root(store, lambda root: root["arrays"].__setitem__(name, array))


def refused(store: Path, words: str, remedy: str = "convert the model again, and overwrite it") -> None:
    for use in (
        model_stores.open_model,
        model_stores.find_matrix,
        model_stores.labels,
        model_stores.attributes,
        lambda path: eg.export(path, path.with_suffix(".safetensors")),
    ):
        with pytest.raises(InputError, match=words) as told:
            use(store)
        assert str(store) in str(told.value)
        assert remedy in str(told.value)
        assert "\n" not in str(told.value)
    assert is_store(store)  # so `--overwrite` replaces it
    assert not store.with_suffix(".safetensors").exists()
    listed = eg.list_models(store.parent)
    assert listed.sizes["model"] == 0
    assert len(listed.attrs["broken"]) == 1
    assert words.replace("\\", "") in listed.attrs["broken"][0]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda root: root["set"].update(model=["a"]), "its model has no name"),
        (lambda root: root["set"].update(model=""), "its model has no name"),
        (lambda root: root["set"].pop("model"), "its model has no name"),
        (lambda root: root["set"].update(tied="no"), "its attribute tied is neither"),
        (lambda root: root["set"].update(tied=True), "its matrices are tied, and there are two"),
        (lambda root: root["set"].update(revision=5), "its attribute revision is no text"),
        (lambda root: root["set"].update(decision=[]), "its attribute decision is no object"),
        (lambda root: root["set"].update(decision={"input": {"how": 1}}), "decision names no tensor for input"),
        (lambda root: root["set"].pop("format_version"), "has layout None"),
        (
            lambda root: root["set"].update(format_version=1),
            "has layout 1, written by embgeom-dask ",
        ),
        (lambda root: root["arrays"].pop("token"), "it has no token"),
        (lambda root: root["arrays"].clear(), "it has no matrix"),
        (lambda root: root["arrays"].update(output_embedding=5), "its zarr.json has no consolidated metadata"),
        (lambda root: root["arrays"].update(other={}), "other/zarr.json is missing"),
        (lambda root: root["arrays"]["output_embedding"]["attributes"].pop("sha256"), "output_embedding has no sha256"),
        (lambda root: root["arrays"]["input_embedding"]["attributes"].pop("labels_sha256"), "has no labels_sha256"),
        (lambda root: root["arrays"]["output_embedding"].update(fill_value=1), "differ in fill_value"),
        (lambda root: root["arrays"]["output_embedding"]["attributes"].update(sha256="0" * 64), "differ in attributes"),
    ],
)
def test_a_group_that_says_something_wrong(store: Path, edit: Edit, words: str) -> None:
    edit_root(store, edit)
    refused(store, words)


def test_a_store_of_a_newer_layout_asks_for_the_newer_version(store: Path) -> None:
    edit_root(store, lambda root: root["set"].update(format_version=3, written_by="embgeom-dask 9.1"))
    said = f"has layout 3, written by embgeom-dask 9.1; this version, {__version__}, reads layout 2: use that version"
    refused(store, said.replace(".", r"\."), remedy="use that version")
    edit_root(store, lambda root: root["set"].update(written_by=["?"]))
    refused(store, "has layout 3, written by another embgeom-dask; this version", remedy="use that version")


def set_at(*keys: str, value: Any) -> Edit:
    def edit(array: Any) -> None:
        for key in keys[:-1]:
            array = array[key]
        array[keys[-1]] = value

    return edit


GRID = "chunk_grid", "configuration", "chunk_shape"


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("output_embedding", set_at("shape", value=[10**12, 16]), "has 4 chunk_sha256 for 7812500000 chunks"),
        ("output_embedding", set_at("shape", value=[490, 16]), "the shape of token_id is \\[500\\], not \\[490\\]"),
        ("output_embedding", set_at("shape", value=[510, 16]), "the shape of token_id is \\[500\\], not \\[510\\]"),
        ("output_embedding", set_at("shape", value=[500, 8]), "the chunks of output_embedding are \\[128, 16\\]"),
        ("output_embedding", set_at("shape", value=[True, 16]), "the shape of output_embedding is \\[True, 16\\]"),
        ("output_embedding", set_at("shape", value=[500.0, 16]), "the shape of output_embedding is"),
        ("output_embedding", set_at("shape", value="x"), "the shape of output_embedding is 'x'"),
        ("output_embedding", set_at(*GRID, value=[0, 16]), "the chunks of output_embedding are \\[0, 16\\]"),
        ("output_embedding", set_at(*GRID, value=[2**40, 16]), "the chunks of output_embedding are"),
        ("output_embedding", set_at("chunk_grid", value=None), "the chunks of output_embedding are None"),
        ("output_embedding", set_at("data_type", value="int32"), "the data type of output_embedding is 'int32'"),
        ("output_embedding", set_at("data_type", value={"a": 1}), "the data type of output_embedding is"),
        (
            "output_embedding",
            set_at("attributes", "dtype", value="float8"),
            "the dtype of output_embedding is 'float8'",
        ),
        ("output_embedding", set_at("attributes", value={}), "the dtype of output_embedding is None"),
        ("output_embedding", set_at("attributes", "source_tensor", value=3), "output_embedding has no source_tensor"),
        ("output_embedding", set_at("attributes", "sha256", value="abc"), "output_embedding has no sha256"),
        ("output_embedding", set_at("attributes", "chunk_sha256", value=["x"]), "output_embedding has no chunk_sha256"),
        ("output_embedding", set_at("codecs", value=[]), "the codecs of output_embedding are"),
        ("output_embedding", set_at("dimension_names", value=["a", "b"]), "the dimension_names of output_embedding"),
        ("output_embedding", set_at("chunk_key_encoding", value={"name": "v2"}), "the chunk_key_encoding of output_"),
        (
            "input_embedding",
            set_at("dimension_names", value=["token_id", "hidden"]),
            "the dimension_names of input_emb",
        ),
        ("token_id_input", set_at("shape", value=[399]), "the shape of token_id_input is"),
        ("token", set_at("shape", value=[10**12]), "the shape of token is"),
        ("token", set_at("data_type", value="int64"), "the data_type of token is 'int64'"),
        ("is_added", set_at(*GRID, value=[1]), "the chunk_shape of is_added is"),
        ("text", set_at("codecs", value=[{"name": "vlen-utf8"}]), "the codecs of text are"),
    ],
)
def test_an_array_that_says_something_wrong(store: Path, name: str, edit: Edit, words: str) -> None:
    edit_array(store, name, edit)
    refused(store, words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda store: (store / "output_embedding/c/2/0").unlink(), "chunk output_embedding/c/2/0 is missing"),
        (lambda store: (store / "output_embedding/c/2/0").write_bytes(b""), "chunk output_embedding/c/2/0 is empty"),
        (lambda store: shutil.rmtree(store / "token/c"), "chunk token/c/0 is missing"),
        (lambda store: (store / "token_id_input/c/0").write_bytes(b""), "chunk token_id_input/c/0 is empty"),
        (lambda store: (store / "text/zarr.json").unlink(), "text/zarr.json is missing"),
        (lambda store: (store / "text/zarr.json").write_text("{"), "text/zarr.json is no JSON object"),
        (lambda store: (store / "text/zarr.json").write_text("[" * 100_000), "text/zarr.json is no JSON object"),
    ],
)
def test_files_that_are_not_there_or_say_nothing(store: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(store)
    refused(store, words)


@pytest.mark.skipif(os.name == "nt", reason="no pipes")
@pytest.mark.parametrize("name", ["zarr.json", "text/zarr.json", "output_embedding/c/1/0", "token/c/0"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_what_is_no_file_is_not_read(store: Path, name: str, make: Callable[[Path], Any]) -> None:
    (store / name).unlink()
    make(store / name)
    with pytest.raises(EmbgeomError, match=r"json: (it is a pipe|Is a directory)|damaged: chunk .* is no file"):
        model_stores.find_matrix(store)
    assert len(eg.list_models(store.parent).attrs["broken"]) == 1


def test_a_group_that_is_no_json_is_broken_and_not_replaced(store: Path) -> None:
    (store / "zarr.json").write_bytes(b'{"attributes": {"model"')
    with pytest.raises(InputError, match=r"b\.zarr is damaged: its zarr.json is no JSON"):
        model_stores.find_matrix(store)
    assert "its zarr.json is no JSON" in eg.list_models(store.parent).attrs["broken"][0]
    with pytest.raises(InputError, match="is not a store: move it away"):
        model_writing.check_writable(store, overwrite=True)


def test_metadata_of_fewer_rows_in_the_group_alone(store: Path) -> None:
    def fewer(root: dict[str, Any]) -> None:
        for array in root["arrays"].values():
            if array["shape"][0] == 500:
                array["shape"][0] = array["chunk_grid"]["configuration"]["chunk_shape"][0] = 490
        root["arrays"]["output_embedding"]["chunk_grid"]["configuration"]["chunk_shape"][0] = 128

    edit_root(store, fewer)
    refused(store, "/zarr.json and the group's zarr.json differ in shape, chunk_grid")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def put_other_labels(store: Path) -> None:
    other = make_store(store.parent.parent / "other.zarr", CLOUD, CLOUD[:400, :8], [f"u{i}" for i in range(500)])
    shutil.copy(f"{other}/token/c/0", store / "token/c/0")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda store: flip(store / "token/c/0"), "its token labels cannot be read"),
        (lambda store: shutil.copy(store / "has_token/c/0", store / "token/c/0"), "its token labels cannot be read"),
        (put_other_labels, "its token labels are not those that were converted"),
    ],
)
def test_labels_are_verified_before_anything_is_computed(
    store: Path, damage: Callable[[Path], Any], words: str, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    damage(store)
    monkeypatch.setattr(runner, "run_panel", None)
    monkeypatch.setattr(model_stores.Matrix, "stretch", None)
    for use in (
        model_stores.labels,
        model_stores.open_model,
        lambda path: eg.scan(path, nearest=1, client=client),
        lambda path: eg.scan(path, nearest=1, against=path, client=client),
        lambda path: eg.outliers(path, "0:10", client=client),
        lambda path: eg.duplicates(path, client=client),
    ):
        with pytest.raises(InputError, match=words):
            use(store)


def swap_chunk(store: Path) -> str:
    """Put a chunk of another conversion of the same shape, with a valid checksum, into `store`."""
    other = make_store(store.parent.parent / "other.zarr", CLOUD + 1, CLOUD[:400, :8])
    shutil.copy(f"{other}/output_embedding/c/1/0", store / "output_embedding/c/1/0")
    return other


def test_a_chunk_of_another_conversion_is_never_used(store: Path, tmp_path: Path, client: Client) -> None:
    swap_chunk(store)
    assert zarr.open_group(store)["output_embedding"][128, 0] == CLOUD[128, 0] + 1  # its checksum is right
    words = "chunk 1 holds other bytes than were converted: convert the model again"
    matrix = model_stores.find_matrix(store)
    assert matrix.read(0, 128).tobytes() == CLOUD[:128].tobytes()
    for start, stop in ((128, 256), (0, 500), (200, 201), (100, 129)):
        with pytest.raises(EmbgeomError, match=words):
            matrix.read(start, stop)
    with pytest.raises(EmbgeomError, match=words):
        matrix.take(np.array([0, 130, 400]))
    with pytest.raises(EmbgeomError, match=words):
        model_stores.open_model(store).output_embedding[130].compute(scheduler="synchronous")
    for use in (
        lambda: eg.scan(store, nearest=1, out=tmp_path / "r.zarr", client=client),
        lambda: eg.survey(store, client=client),
        lambda: eg.duplicates(store, client=client),
        lambda: eg.outliers(store, "0:300", client=client),
        lambda: eg.export(store, tmp_path / "w.safetensors"),
    ):
        with pytest.raises(EmbgeomError, match=words):
            use()
    assert not (tmp_path / "w.safetensors").exists()
    assert not list(tmp_path.glob("r.zarr.journal/*/*"))
    assert eg.scan(store, tokens="0:128", nearest=1, client=client).sizes["nearest"] == 1  # no byte of it is used


def test_a_chunk_that_changes_under_a_scan_commits_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    made = planning.make_plan

    def swapped(*args: Any) -> Any:
        plan = made(*args)
        swap_chunk(store)
        return plan

    monkeypatch.setattr(all_pairs, "make_plan", swapped)
    with pytest.raises(EmbgeomError, match="chunk 1 holds other bytes than were converted"):
        eg.scan(store, neighbors=2, tile=128, out=tmp_path / "r.zarr", client=client)
    panels = [path.name for path in tmp_path.glob("r.zarr.journal/scan-*/*-*-*") if not path.name.endswith(".failed")]
    for row, start, stop in (map(int, name.split(".")[0].split("-")) for name in panels):
        assert row != 1
        assert not start <= 1 < stop
    assert not (tmp_path / "r.zarr").exists()


def test_one_broken_store_of_many_fails_alone(
    store: Path, tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    three = [tmp_path / f"s/{name}.zarr" for name in "abc"]
    for path in (three[0], three[2]):
        make_store(path, CLOUD[:50], model=f"org/{path.stem}")
    edit_root(store, lambda root: root["arrays"]["output_embedding"]["attributes"].pop("sha256"))
    for use in (eg.survey, eg.duplicates, lambda paths, **how: eg.scan(paths, nearest=1, **how)):
        with pytest.raises(eg.EmbgeomError, match=r"1 of 3 stores failed: .*b\.zarr is damaged: output_embedding has"):
            use(three, out=tmp_path / "out", client=client)
        assert {path.name for path in (tmp_path / "out").glob("*.zarr")} == {"org--a.zarr", "org--c.zarr", "table.zarr"}
        shutil.rmtree(tmp_path / "out")
    assert app.main(["list", "--stores", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "org/a", "org/c", "broken:"]
    assert lines[-1].startswith(f"broken: {store} is damaged: output_embedding has no sha256: convert the model again")
    assert app.main(["list", "--stores", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attrs"]["broken"] == [lines[-1].removeprefix("broken: ")]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["zarr.json", "token/zarr.json", "output_embedding", "output_embedding/c", "."])
def test_what_may_not_be_read_is_said_to_be_that(store: Path, name: str) -> None:
    mode = (store / name).stat().st_mode
    (store / name).chmod(0)
    try:
        cannot_be_read(store)
    finally:
        (store / name).chmod(mode)


@pytest.mark.parametrize("name", ["zarr.json", "token/zarr.json", "output_embedding/c/0/0"])
def test_what_cannot_be_read_is_said_to_be_that(store: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, stat = str(store / name), os.stat

    def cat_file(self: Any, path: str, **how: Any) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied", path)
        return Path(path).read_bytes()

    def denied(path: Any, *args: Any, **how: Any) -> os.stat_result:
        if path == file:
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **how)

    monkeypatch.setattr(type(paths.filesystem(file)[0]), "cat_file", cat_file)
    monkeypatch.setattr("embgeom_dask.storage.validation.os.stat", denied)
    cannot_be_read(store)


def cannot_be_read(store: Path) -> None:
    for use in (model_stores.find_matrix, model_stores.open_model):
        with pytest.raises(EmbgeomError, match=r"^cannot read .*b\.zarr.*: Permission denied$") as told:
            use(store)
        assert not isinstance(told.value, InputError)
    assert "Permission denied" in eg.list_models(store.parent).attrs["broken"][0]


def test_a_store_that_was_found_valid_costs_one_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_stores.labels(store)
    reads: list[str] = []
    read = type(paths.filesystem(str(store))[0]).cat_file

    def counted(self: Any, path: str, **how: Any) -> bytes:
        reads.append(path)
        return read(self, path, **how)

    monkeypatch.setattr(type(paths.filesystem(str(store))[0]), "cat_file", counted)
    monkeypatch.setattr(paths, "open_group", None)
    assert model_stores.labels(store, np.array([2])).token.values.tolist() == ["t2"]
    assert reads == [str(store / "zarr.json")]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (129, 7), (3, 5000)])
def test_what_is_written_is_valid(tmp_path: Path, dtype: Any, shape: tuple[int, int]) -> None:
    for given in ({"output": np.ones(shape, dtype)}, {"input": np.ones(shape, dtype), "tied": True}):
        store = make_store(tmp_path / "m.zarr", **given)
        assert model_stores.find_matrix(store).vocab_size == shape[0]
        assert model_stores.open_model(store).output_embedding.shape == shape


@pytest.mark.filterwarnings("ignore:.*no row has a token")
@pytest.mark.parametrize("damage", [swap_chunk, put_other_labels, lambda store: flip(store / "token_id/zarr.json")])
def test_a_conversion_replaces_a_damaged_store_where_it_is_told_to(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    checkpoint = tmp_path / "b.npy"
    np.save(checkpoint, CLOUD)
    store = Path(eg.convert(checkpoint, tmp_path / "s"))
    assert eg.convert(checkpoint, tmp_path / "s") == str(store)
    damage(store)
    with pytest.raises(InputError, match="is damaged"):
        eg.convert(checkpoint, tmp_path / "s")
    assert eg.convert(checkpoint, tmp_path / "s", overwrite=True) == str(store)
    assert model_stores.find_matrix(store).read(0, 500).tobytes() == CLOUD.tobytes()
    edit_root(store, lambda root: root["set"].update(format_version=1))
    with pytest.raises(
        InputError, match=r"has layout 1, written by .*, reads layout 2: convert the model again, and overwrite"
    ):
        eg.convert(checkpoint, tmp_path / "s")
    assert eg.convert(checkpoint, tmp_path / "s", overwrite=True) == str(store)

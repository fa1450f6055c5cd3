from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.storage import model_stores, model_writing, paths, replacement
from embgeom_dask.testing import ArrayRows, make_checkpoint, make_store
from tests import s3

HOW: dict[str, Any] = {"neighbors": 2}


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=8192):
        yield


def cloud(rows: int, columns: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def make_rows(url: str) -> str:
    return model_writing.write_model(url, {"output_embedding": ArrayRows(cloud(20))}, attrs={"model": "m"})


def keys(url: str) -> list[str]:
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    return [key.partition("/")[2] for key in fs.find(url)]


def test_a_checkpoint_becomes_a_store_in_a_bucket_and_is_listed(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cloud(500)
    checkpoint = make_checkpoint(tmp_path / "org/m", {"model.embed_tokens.weight": rows}, {"model_type": "llama"})
    where = f"{bucket}/some/stores"
    for _ in range(2):
        assert (
            app.main(
                [
                    "convert",
                    checkpoint,
                    "--stores",
                    where,
                    "--input-key",
                    "model.embed_tokens.weight",
                    "--role",
                    "input",
                    "--overwrite",
                ]
            )
            == 0
        )
        assert capsys.readouterr().out == f"{where}/org--m.zarr\n"
    with pytest.raises(eg.InputError, match="exists: `overwrite` replaces it"):
        make_rows(f"{where}/org--m.zarr")
    assert app.main(["list", "--stores", where, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["model"], listed["store"]) == (["org/m"], [f"{where}/org--m.zarr"])
    assert listed["bytes"] == [s3fs.S3FileSystem().du(f"{where}/org--m.zarr")]
    model = eg.open_model(f"{where}/org--m.zarr")
    assert model.input_embedding.values.tobytes() == rows.tobytes()
    assert xr.open_zarr(f"{where}/org--m.zarr").input_embedding.values.tobytes() == rows.tobytes()
    assert app.main(["list", "--stores", f"{bucket}/none"]) == 2
    assert "no folder of stores" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_that_share_no_folder_scan_a_bucket(bucket: str, endpoint: str, tmp_path: Path) -> None:
    rows = {name: cloud(200 + 40 * i, seed=i) for i, name in enumerate("ab")}
    remote = [make_store(f"{bucket}/stores/{name}.zarr", each, model=f"org/{name}") for name, each in rows.items()]
    local = [make_store(tmp_path / f"{name}.zarr", each, model=f"org/{name}") for name, each in rows.items()]
    with ExitStack() as running:
        address = running.enter_context(s3.scheduler(tmp_path / "scheduler"))
        for name in ("one", "two"):
            running.enter_context(s3.worker(tmp_path / name, address, endpoint))
        client = running.enter_context(Client(address, set_as_default=False))
        assert len(set(client.run(lambda: __import__("os").getcwd()).values())) == 2
        out = f"{bucket}/results"
        tree = eg.scan(remote, out=f"{out}/scan", client=client, tile=128, **HOW)
        found = [node.to_dataset() for node in tree.children.values()]
        for name, store, each in zip("ab", local, found, strict=True):
            alone = eg.scan(store, **HOW).drop_attrs()
            xr.testing.assert_identical(each.load().drop_attrs(), alone)
            xr.testing.assert_identical(eg.open_result(f"{out}/scan/org--{name}.zarr").load().drop_attrs(), alone)
        assert eg.open_result(f"{out}/scan/table.zarr")["model"].values.tolist() == ["org/a", "org/b"]
        told = eg.survey(remote, client=client)
        xr.testing.assert_identical(told.drop_attrs(), eg.survey(local).drop_attrs())
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    said = b"".join(fs.cat_file(key) for key in fs.find(out))
    assert all(secret.encode() not in said for name, secret in s3.CREDENTIALS.items() if "KEY" in name)


@pytest.mark.parametrize("kind", ["store", "result"])
def test_what_is_unfinished_in_a_bucket_is_neither_and_is_written_again(bucket: str, kind: str) -> None:
    target = f"{bucket}/x.zarr"
    with pytest.raises(eg.EmbgeomError, match="ZeroDivisionError"), replacement.replacing(target, overwrite=False):
        assert json.loads(s3fs.S3FileSystem().cat_file(f"{target}/zarr.json"))["attributes"] == {"unfinished": True}
        raise ZeroDivisionError
    assert keys(bucket) == []
    whole = make_store(f"{bucket}/whole.zarr", cloud(300))
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    for key in fs.find(whole):  # as a writer that was killed before the end leaves it
        fs.copy(key, key.replace("whole", "x"))
    fs.pipe_file(f"{target}/zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {"unfinished": true}}')
    assert model_stores.is_store(whole)
    assert not model_stores.is_store(target)
    for open_it in (eg.open_model, eg.open_result):
        with pytest.raises(eg.InputError, match=r"x.zarr is unfinished: its \w+ still runs, or was stopped"):
            open_it(target)
    assert eg.list_models(bucket)["store"].values.tolist() == [whole]
    if kind == "store":
        make_rows(target)
        assert eg.open_model(target).output_embedding.values.tobytes() == cloud(20).tobytes()
    else:
        eg.survey(whole, out=target)
        assert eg.open_result(target)["vocab_size"].values.tolist() == [300]


@pytest.mark.slow
def test_a_writer_to_a_bucket_goes_on_from_the_chunks_there(bucket: str) -> None:
    array = cloud(600)  # five chunks of 128 rows

    class Counted(ArrayRows):
        def read(self, start: int, stop: int) -> np.ndarray:
            if start >= fails_at:
                raise KeyboardInterrupt
            reads.append(start // 128)
            return super().read(start, stop)

    def write(resume: str | None) -> list[int]:
        reads.clear()
        matrices = {"input_embedding": ArrayRows(array[:, :7]), "output_embedding": Counted(array)}
        model_writing.write_model(f"{bucket}/m.zarr", matrices, attrs={"model": "m"}, resume=resume)
        return sorted(reads)

    reads: list[int] = []
    for resume, again in {"these": [1, 3, 4], "others": [0, 1, 2, 3, 4], None: [0, 1, 2, 3, 4]}.items():
        fails_at = 3 * 128
        with pytest.raises(KeyboardInterrupt):
            write("these")
        assert not model_stores.is_store(f"{bucket}/m.zarr")
        chunk = f"{bucket}/m.zarr/output_embedding/c/1/0"
        fs = s3fs.S3FileSystem(use_listings_cache=False)
        fs.pipe_file(chunk, fs.cat_file(chunk)[:-1])
        fails_at = 1 << 40
        assert write(resume) == again
        matrix = model_stores.find_matrix(f"{bucket}/m.zarr")
        assert matrix.read(0, 600).tobytes() == array.tobytes()
        assert matrix.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
        fs.rm(f"{bucket}/m.zarr", recursive=True)


def test_a_store_of_shards_lies_in_a_bucket(bucket: str) -> None:
    rows = cloud(900)
    matrices = {"output_embedding": ArrayRows(rows)}
    store = model_writing.write_model(f"{bucket}/m.zarr", matrices, attrs={"model": "m"}, shard=4 * 8192)
    objects = [key for key in keys(bucket) if key.startswith("m.zarr/output_embedding/c/")]
    assert objects == ["m.zarr/output_embedding/c/0/0", "m.zarr/output_embedding/c/1/0"]
    matrix = model_stores.find_matrix(store)
    assert matrix.read(0, 900).tobytes() == rows.tobytes()
    assert matrix.read(500, 520).tobytes() == rows[500:520].tobytes()
    assert xr.open_zarr(store).output_embedding.values.tobytes() == rows.tobytes()


def test_damage_in_a_bucket_is_reported(bucket: str) -> None:
    store = make_store(f"{bucket}/m.zarr", cloud(400))
    matrix = model_stores.find_matrix(store)
    assert matrix.chunk_rows == 128
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    chunk = f"{store}/output_embedding/c/1/0"
    content = fs.cat_file(chunk)
    fs.pipe_file(chunk, content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert matrix.read(0, 128).tobytes() == cloud(400)[:128].tobytes()
    with pytest.raises(eg.EmbgeomError, match=r"cannot read rows 100:200 of s3://"):
        matrix.read(100, 200)
    fs.rm(chunk)
    with pytest.raises(eg.EmbgeomError, match=r"chunk output_embedding/c/1/0 is missing"):
        matrix.read(100, 200)
    with pytest.raises(eg.EmbgeomError, match="is missing"):
        eg.survey(store)
    with pytest.raises(eg.EmbgeomError, match=r"cannot write s3://nowhere-at-all/m.zarr: "):
        make_store("s3://nowhere-at-all/m.zarr", cloud(9))


def test_a_store_is_read_over_http(tmp_path: Path) -> None:
    local = make_store(tmp_path / "m.zarr", cloud(300))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{serving.server_port}"
        remote = eg.scan(f"{url}/m.zarr", **HOW).drop_attrs()
        xr.testing.assert_identical(remote, eg.scan(local, **HOW).drop_attrs())
        with pytest.raises(eg.InputError, match="no store at http"):
            eg.open_model(f"{url}/n.zarr")
        with pytest.raises(eg.InputError, match="is only read"):
            make_store(f"{url}/n.zarr", cloud(9))
        serving.shutdown()


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:se/cret+@bucket/m.zarr",
        "https://me:secret@host/m.zarr",
        "https://secret@host/m.zarr",
        "https://host:8080/m.zarr?X-Amz-Signature=secret",
        "simplecache::s3://key:secret@bucket/m.zarr",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    for opened in (eg.open_model, eg.open_result, eg.list_models):
        with pytest.raises(eg.InputError, match="credentials belong in the environment") as refused:
            opened(url)
        assert "cret" not in str(refused.value)
        assert "AKIA" not in str(refused.value)


def test_places_that_are_urls_and_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.locate("file:///a%20b/c") == "/a b/c"
    assert paths.locate("s3://bucket/m.zarr/") == "s3://bucket/m.zarr"
    assert paths.locate("https://host:8080/m.zarr") == "https://host:8080/m.zarr"
    assert paths.locate("memory://m") == "memory://m"
    with pytest.raises(eg.InputError, match="no foo:// is known here"):
        paths.locate("foo://m")

    def missing(protocol: str) -> None:
        raise ImportError(f"Install x to access {protocol}")

    monkeypatch.setattr(paths, "get_filesystem_class", missing)
    with pytest.raises(eg.InputError, match=r"that is not installed: pip install 'embgeom-dask\[gcs\]'"):
        paths.locate("gs://m")

"""Stores, results and journals in Google's buckets and in those of a Hugging Face hub, served on the loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from huggingface_hub import constants
from huggingface_hub.utils import close_session, enable_progress_bars

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.errors import AbortRun
from embgeom_dask.execution import journal
from embgeom_dask.storage import model_stores, model_writing, paths, replacement
from embgeom_dask.testing import ArrayRows, make_checkpoint, make_store
from tests.loopback_buckets import GS_ENVIRONMENT, HF_ENVIRONMENT, Buckets, Google, HuggingFace, serve


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=8192):
        yield


def google(patch: pytest.MonkeyPatch, address: str, name: str) -> tuple[str, str]:
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'embgeom-dask[gcs]'")
    patch.setenv("STORAGE_EMULATOR_HOST", address)
    return name, f"gs://{name}"


def hugging_face(patch: pytest.MonkeyPatch, address: str, name: str) -> tuple[str, str]:
    patch.setenv("HF_ENDPOINT", address)
    patch.setenv("HF_HUB_OFFLINE", "0")
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    return f"me/{name}", f"hf://buckets/me/{name}"


KINDS = {"gs": (Google, GS_ENVIRONMENT, google), "hf": (HuggingFace, HF_ENVIRONMENT, hugging_face)}


@pytest.fixture(params=["gs", pytest.param("hf", marks=pytest.mark.slow)])  # the hub's library waits at each commit
def served(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Buckets, str]]:
    """What is stored in an empty bucket, and its URL."""
    served, environment, begin = KINDS[request.param]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # The hub's client keeps by address what a server has: of the next at that address it would believe it too.
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    with serve(served) as (address, buckets):
        name, url = begin(monkeypatch, address, f"b{abs(hash(request.node.name)):x}")
        buckets.objects[name] = {}
        close_session()
        yield buckets, url
        close_session()
        enable_progress_bars()


@pytest.fixture
def bucket(served: tuple[Buckets, str]) -> str:
    return served[1]


@pytest.fixture
def keys(served: tuple[Buckets, str]) -> Callable[[], set[str]]:
    return lambda: set(next(iter(served[0].objects.values())))


def cloud(rows: int, columns: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def test_a_checkpoint_becomes_a_store_that_is_listed_opened_and_replaced(
    bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = f"{bucket}/some/stores"
    for seed in range(2):
        rows = cloud(500, seed=seed)
        tensors = {"model.embed_tokens.weight": rows}
        checkpoint = make_checkpoint(tmp_path / f"{seed}/org/m", tensors, {"model_type": "llama"})
        how = ["--input-key", "model.embed_tokens.weight", "--role", "input", "--overwrite"]
        assert app.main(["convert", checkpoint, "--stores", where, *how]) == 0
        printed, said = capfd.readouterr()
        assert printed == f"{where}/org--m.zarr\n"
        assert "Processing Files" not in said  # the bars of the hub's library
    assert app.main(["list", "--stores", where, "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert (listed["model"], listed["store"]) == (["org/m"], [f"{where}/org--m.zarr"])
    assert listed["bytes"] == [paths.size(listed["store"][0])]
    model = eg.open_model(f"{where}/org--m.zarr")
    assert model.input_embedding.values.tobytes() == rows.tobytes()
    assert xr.open_zarr(f"{where}/org--m.zarr").input_embedding.values.tobytes() == rows.tobytes()
    assert app.main(["list", "--stores", f"{bucket}/none"]) == 2
    assert "no folder of stores" in capfd.readouterr().err


def test_a_scan_that_breaks_off_goes_on_from_the_panels_in_the_bucket(
    bucket: str, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, keys: Callable[[], set[str]]
) -> None:
    rows, out = cloud(400), f"{bucket}/results/r.zarr"
    store, local = make_store(f"{bucket}/m.zarr", rows), make_store(tmp_path / "m.zarr", rows)
    commits, commit = [], journal.Pass.commit

    def breaks(self: journal.Pass, *panel: object) -> None:
        if len(commits) == 2:
            raise AbortRun("the disk is full")
        commit(self, *panel)
        commits.append(panel)

    with monkeypatch.context() as patch, pytest.raises(eg.EmbgeomError, match="the disk is full"):
        patch.setattr(journal.Pass, "commit", breaks)
        eg.scan(store, neighbors=2, tile=64, out=out, client=client)
    there = journal.status(out)
    assert (there["state"], there["last_commit"] is None) == ("begun", False)
    assert 2 <= there["panels_done"] < there["panels_total"]
    found = eg.scan(store, neighbors=2, tile=64, out=out, client=client)
    alone = eg.scan(local, neighbors=2, client=client)
    for each in (found, eg.open_result(out).load()):
        xr.testing.assert_identical(each.drop_attrs(), alone.drop_attrs())
    assert journal.status(out)["state"] == "finished"
    left = {key for key in keys() if key.startswith("results/r.zarr.journal/")}
    assert left == {"results/r.zarr.journal/run.json", "results/r.zarr.journal/history.csv"}
    history = paths.filesystem(f"{out}.journal/history.csv")
    assert len(history[0].cat_file(history[1]).decode().splitlines()) == 1 + there["panels_total"]
    with pytest.raises(eg.InputError, match="other settings"):
        eg.scan(store, neighbors=3, tile=64, out=out, client=client)


def test_what_is_unfinished_or_damaged_is_told(bucket: str, keys: Callable[[], set[str]]) -> None:
    with (
        pytest.raises(eg.EmbgeomError, match="ZeroDivisionError"),
        replacement.replacing(f"{bucket}/x.zarr", overwrite=False),
    ):
        assert keys() == {"x.zarr/zarr.json"}
        raise ZeroDivisionError
    assert keys() == set()
    store = make_store(f"{bucket}/m.zarr", cloud(400))
    matrix = model_stores.find_matrix(store)
    fs, chunk = paths.filesystem(f"{store}/output_embedding/c/1/0")
    content = fs.cat_file(chunk)
    fs.pipe_file(chunk, content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert matrix.read(0, 128).tobytes() == cloud(400)[:128].tobytes()
    with pytest.raises(eg.EmbgeomError, match=f"cannot read rows 100:200 of {store}"):
        matrix.read(100, 200)
    paths.remove(fs, [chunk])
    with pytest.raises(eg.EmbgeomError, match=r"chunk output_embedding/c/1/0 is missing"):
        matrix.read(100, 200)
    fs.pipe_file(f"{paths.filesystem(store)[1]}/zarr.json", b'{"zarr_format": 3, "attributes": {"unfinished": true}}')
    assert not model_stores.is_store(store)
    with pytest.raises(eg.InputError, match="is unfinished"):
        eg.open_result(store)
    nowhere = f"{bucket}c"
    with pytest.raises(eg.InputError, match="no store at"):
        eg.open_model(f"{nowhere}/m.zarr")
    with pytest.raises(eg.EmbgeomError, match=f"cannot write {nowhere}/m.zarr: there is no such bucket"):
        make_store(f"{nowhere}/m.zarr", cloud(9))


def test_a_writer_goes_on_from_the_chunks_there(bucket: str) -> None:
    array = cloud(600)  # five chunks of 128 rows

    class Counted(ArrayRows):
        def read(self, start: int, stop: int) -> np.ndarray:
            if start >= fails_at:
                raise KeyboardInterrupt
            reads.append(start // 128)
            return super().read(start, stop)

    def write() -> None:
        reads.clear()
        matrices = {"input_embedding": ArrayRows(array[:, :7]), "output_embedding": Counted(array)}
        model_writing.write_model(f"{bucket}/m.zarr", matrices, attrs={"model": "m"}, resume="these")

    reads: list[int] = []
    fails_at = 3 * 128
    with pytest.raises(KeyboardInterrupt):
        write()
    fails_at = 1 << 40
    write()
    assert {3, 4} <= set(reads) < {0, 1, 2, 3, 4}
    assert model_stores.find_matrix(f"{bucket}/m.zarr").read(0, 600).tobytes() == array.tobytes()


def test_a_store_of_shards_is_read_chunk_by_chunk(bucket: str, keys: Callable[[], set[str]]) -> None:
    rows = cloud(900)  # eight chunks of 128 rows, of which four make a shard
    matrices = {"output_embedding": ArrayRows(rows)}
    store = model_writing.write_model(f"{bucket}/m.zarr", matrices, attrs={"model": "m"}, shard=4 * 8192)
    assert {key for key in keys() if "_embedding/c/" in key} == {f"m.zarr/output_embedding/c/{i}/0" for i in range(2)}
    matrix = model_stores.find_matrix(store)
    assert matrix.read(0, 900).tobytes() == rows.tobytes()
    assert matrix.read(500, 520).tobytes() == rows[500:520].tobytes()
    assert xr.open_zarr(store).output_embedding.values.tobytes() == rows.tobytes()


@pytest.mark.slow
def test_a_command_ends_without_a_word(bucket: str) -> None:
    store = make_store(f"{bucket}/m.zarr", cloud(300))
    code = f"from embgeom_dask.cli.app import run; import sys; sys.argv = ['embgeom', 'survey', {store!r}]; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Task" not in done.stderr


def test_a_model_of_the_hub_is_no_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", cloud(9))

    def refused(url: str, why: str) -> None:
        for write in (lambda: make_store(url, cloud(9)), lambda: eg.scan(store, farthest=1, out=url)):
            with pytest.raises(eg.InputError, match=f"cannot write {url}.*: {why}$"):
                write()

    refused("hf://org/model/m.zarr", "of hf:// only buckets are written, hf://buckets/OWNER/NAME/")
    monkeypatch.setattr(paths, "find_spec", lambda name: None)
    monkeypatch.setattr(paths, "look", lambda place: paths.Contents(free=True))
    refused("hf://buckets/me/b/m.zarr", "it needs a package that is not installed: pip install hf_xet")

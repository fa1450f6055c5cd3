"""Matrices whose chunks lie together in shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

from embgeom_dask import tuning, units
from embgeom_dask.checkpoints import existing
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.storage import fill, model_stores, model_writing, validation
from embgeom_dask.testing import ArrayRows, make_checkpoint

COLUMNS = 24
CHUNK = 20_000  # bytes of a chunk at most, a power of two of whole rows: of float32 128
FOUR = 4 * 128 * COLUMNS * 4  # bytes of four such chunks


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=CHUNK):
        yield


def cloud(rows: int, dtype: Any = "f4", seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(dtype)
    array[-1] = -0.0
    return array


def write(path: Path, array: np.ndarray, shard: int, **more: Any) -> str:
    matrices = {"output_embedding": ArrayRows(array)}
    return model_writing.write_model(path, matrices, attrs={"model": "m"}, shard=shard, **more)


def objects(path: Path | str) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in Path(path).glob("output_embedding/c/*/*"))


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", [300, 1024, 1100, 2000])
def test_shards_hold_the_chunks_bit_for_bit_for_every_reader(tmp_path: Path, dtype: Any, rows: int) -> None:
    array = cloud(rows, dtype)
    store = write(tmp_path / "m.zarr", array, 3 * CHUNK)
    matrix = model_stores.find_matrix(store)
    step = matrix.chunk_rows
    found = zarr.open_group(store)["output_embedding"]
    assert isinstance(found, zarr.Array)
    together = min(-(-rows // step), 3 * CHUNK // (step * COLUMNS * array.itemsize))
    assert (found.chunks, found.shards) == ((step, COLUMNS), (together * step, COLUMNS))
    assert objects(store) == [f"output_embedding/c/{i}/0" for i in range(-(-rows // (together * step)))]
    others = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{store}/output_embedding/"}).result()
    opened = xr.open_zarr(store).output_embedding.values
    for read in (matrix.read(0, rows), found[:], others.read().result(), opened):
        assert np.asarray(read).tobytes() == array.tobytes()
    start, stop = step // 2, min(rows, 2 * step + 5)
    for read in (matrix.read(start, stop), found[start:stop], others[start:stop].read().result()):
        assert np.asarray(read).tobytes() == array[start:stop].tobytes()


@pytest.mark.parametrize("rows", [1024, 1100])
def test_shards_are_those_that_zarr_writes(tmp_path: Path, rows: int) -> None:
    array = cloud(rows)
    group = zarr.open_group(LocalStore(tmp_path))
    ours = fill.create(group, "m", ArrayRows(array), ["token_id", "hidden"], FOUR)
    fill.fill(ours, ArrayRows(array), lambda n, said="", *, fresh=True: None)
    theirs = fill.create(
        zarr.open_group(MemoryStore()), "m", ArrayRows(array), ["token_id", "hidden"], 4 * 128 * COLUMNS * 4
    )
    theirs[:] = array
    stored: dict[str, Any] = theirs.store._store_dict  # type: ignore[attr-defined]
    for key in sorted(key for key in stored if "/c/" in key):
        here, there = chunks_of((tmp_path / key).read_bytes()), chunks_of(stored[key].to_bytes())
        assert here == there[: len(here)]  # zarr writes also the chunks past the end


def chunks_of(shard: bytes, count: int = 4) -> list[bytes]:
    """The chunks that a shard has, by its index."""
    index = np.frombuffer(shard[-16 * count - 4 : -4], "<u8").reshape(count, 2)
    return [shard[start : start + length] for start, length in index.tolist() if start != (1 << 64) - 1]


def test_a_store_of_shards_is_validated(tmp_path: Path) -> None:
    store = write(tmp_path / "m.zarr", cloud(1100), FOUR)
    shard = tmp_path / "m.zarr" / objects(store)[1]
    content = shard.read_bytes()
    for wrong, said in {content[:-1]: "cannot read rows", b"": "is empty"}.items():
        shard.write_bytes(wrong)
        validation.forget()
        with pytest.raises(EmbgeomError, match=said):
            model_stores.find_matrix(store).read(0, 1100)
    shard.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    matrix = model_stores.find_matrix(store)
    assert matrix.read(0, 512).tobytes() == cloud(1100)[:512].tobytes()
    with pytest.raises(EmbgeomError, match="cannot read rows 600:700"):
        matrix.read(600, 700)
    shard.unlink()
    with pytest.raises(EmbgeomError, match=r"chunk output_embedding/c/1/0 is missing"):
        matrix.read(600, 700)
    validation.forget()
    with pytest.raises(InputError, match=r"is damaged: chunk output_embedding/c/1/0 is missing"):
        model_stores.find_matrix(store)
    shard.write_bytes(content)
    for keys, value, said in (
        (("chunk_grid", "configuration", "chunk_shape"), [500, COLUMNS], "the shards of output_embedding are"),
        (("codecs", 0, "configuration", "index_location"), "start", "the index_location of output_embedding is"),
        (("codecs", 0, "configuration", "index_codecs"), [], "the index_codecs of output_embedding is"),
        (("codecs", 0, "configuration", "chunk_shape"), [0, COLUMNS], "the chunks of output_embedding are"),
    ):
        root = json.loads((tmp_path / "m.zarr/zarr.json").read_text())
        kept = json.dumps(root)
        at = root["consolidated_metadata"]["metadata"]["output_embedding"]
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        (tmp_path / "m.zarr/zarr.json").write_text(json.dumps(root))
        with pytest.raises(InputError, match=said):
            model_stores.find_matrix(store)
        (tmp_path / "m.zarr/zarr.json").write_text(kept)


@pytest.mark.parametrize("damage", ["none", "cut", "gone"])
def test_a_writer_goes_on_from_the_shards_there(tmp_path: Path, damage: str) -> None:
    array = cloud(1280)  # ten chunks of 128 rows, of which four make a shard

    class Counted(ArrayRows):
        def read(self, start: int, stop: int) -> np.ndarray:
            if start >= fails_at:
                raise KeyboardInterrupt
            reads.append(start // 128)
            return super().read(start, stop)

    def resumed() -> list[int]:
        reads.clear()
        matrices = {"output_embedding": Counted(array)}
        model_writing.write_model(tmp_path / "m.zarr", matrices, attrs={"model": "m"}, resume="these", shard=FOUR)
        return sorted(reads)

    reads: list[int] = []
    fails_at = 9 * 128
    with pytest.raises(KeyboardInterrupt):
        resumed()
    (left,) = tmp_path.glob(".m.zarr.these.partial")
    there = objects(left)
    assert 1 <= len(there) <= 2
    shard = left / there[0]
    if damage != "none":
        content = shard.read_bytes()
        shard.unlink() if damage == "gone" else shard.write_bytes(content[:-1])
    fails_at = 1 << 40
    again = resumed()
    assert set(again) >= {8, 9}
    assert (0 in again) == (damage != "none")
    assert model_stores.find_matrix(tmp_path / "m.zarr").read(0, 1280).tobytes() == array.tobytes()


def test_a_matrix_that_one_chunk_holds_has_no_shards(tmp_path: Path) -> None:
    store = write(tmp_path / "m.zarr", cloud(100), 1 << 30)
    assert zarr.open_group(store)["output_embedding"].shards is None


def test_tokens_that_are_added_leave_the_shards(tmp_path: Path) -> None:
    store = write(tmp_path / "m.zarr", cloud(1100), FOUR)
    assert validation.shard_bytes(validation.read_metadata(store)) == FOUR
    plain = model_writing.write_model(
        tmp_path / "p.zarr", {"output_embedding": ArrayRows(cloud(9))}, attrs={"model": "p"}
    )
    assert validation.shard_bytes(validation.read_metadata(plain)) is None
    assert existing.has_rows(store, {"output_embedding": ArrayRows(cloud(1100))}, tied=False)


def test_the_command_shards_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cloud(1100)
    checkpoint = make_checkpoint(tmp_path / "org/m", {"model.embed_tokens.weight": rows}, {"model_type": "llama"})
    stores = str(tmp_path / "stores")
    command = ["convert", checkpoint, "--stores", stores, "--role", "input", "--input-key", "model.embed_tokens.weight"]
    for wrong in ("much", "1kB", "-1GiB"):
        for sources in ([], [str(tmp_path / "another")]):
            assert app.main([*command, *sources, "--shard", wrong]) == 2
            assert capsys.readouterr().err.startswith(f"error: --shard {wrong}: give a size like 1GiB, of at least ")
        assert not (tmp_path / "stores").exists()
    assert app.main([*command, "--shard", ""]) == 2
    assert capsys.readouterr().err.startswith("error: --shard is empty: give a value")
    assert app.main([*command, "--shard", "1GiB"]) == 0
    (store,) = capsys.readouterr().out.split()
    found = zarr.open_group(store)["input_embedding"]
    assert isinstance(found, zarr.Array)
    assert (found.chunks, found.shards) == ((128, COLUMNS), (9 * 128, COLUMNS))
    assert model_stores.find_matrix(store).read(0, 1100).tobytes() == rows.tobytes()


@given(st.integers(0, 1 << 50), st.sampled_from(["", "B", "KiB", "MiB", "GiB", "TiB", "kB", "MB", "GB", "TB"]))
def test_sizes_are_read_as_dask_reads_them(number: int, unit: str) -> None:
    from dask.utils import parse_bytes

    assert units.bytes_of(f"{number}{unit}") == parse_bytes(f"{number}{unit}")
    assert units.bytes_of(f"-{number}{unit}") is None

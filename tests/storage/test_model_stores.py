from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask import __version__
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.storage import listing, model_stores, model_writing
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.row_selection import find_rows
from embgeom_dask.testing import ArrayRows, make_store

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), BFLOAT16]


def random_bits(rows: int, columns: int, dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """Every kind of value: NaN with payloads, infinities, subnormals, both zeros."""
    array = np.frombuffer(np.random.default_rng(seed).bytes(rows * columns * dtype.itemsize), dtype=dtype).copy()
    array[: array.size // 4] = -0.0
    return array.reshape(rows, columns)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, np.ndarray]]:
    """A store of several chunks: 20,000 rows of 2,048 bytes are five chunks of 4,096 rows."""
    array, store = random_bits(20_000, 1024, BFLOAT16), tmp_path_factory.mktemp("small") / "m.zarr"
    yield make_store(store, output=array), array
    shutil.rmtree(store)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_survive_and_are_hashed(tmp_path: Path, dtype: np.dtype) -> None:
    array = random_bits(3_000, 700, dtype)
    store = make_store(tmp_path / "m.zarr", output=array)
    matrix = model_stores.find_matrix(store)
    assert matrix.sha256 == hashlib.sha256(bits(array)).hexdigest()
    assert (matrix.vocab_size, matrix.hidden_size, matrix.dtype) == (3_000, 700, dtype.name)
    assert bits(matrix.read(0, 3_000)) == bits(array)
    assert bits(model_stores.open_model(store, raw=True).output_embedding.values) == bits(array)
    for name, expected in {
        "output_embedding": array,
        "token_id": np.arange(3_000),
        "has_token": np.ones(3_000, bool),
    }.items():
        driver = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store}/{name}"}}
        assert bits(tensorstore.open(driver).result().read().result()) == bits(expected)


def test_a_chunk_of_negative_zeros_stays_negative(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.full((10, 4), -0.0, dtype=np.float32))
    assert np.signbit(model_stores.find_matrix(store).read(0, 10)).all()


def test_rows_by_range_and_by_id(small: tuple[str, np.ndarray]) -> None:
    store, array = small
    matrix = model_stores.find_matrix(store)
    assert matrix.chunk_rows == 4_096
    random = np.random.default_rng(1)
    for start, stop in [(0, 0), (0, 1), (4_000, 9_000), (19_999, 20_000), (0, 20_000)]:
        assert bits(matrix.read(start, stop)) == bits(array[start:stop])
        assert bits(matrix.take(np.arange(start, stop))) == bits(array[start:stop])
    for ids in (random.permutation(20_000)[:500], random.integers(0, 20_000, 500), np.array([7, 6, 5]), np.array([3])):
        assert bits(matrix.take(ids)) == bits(array[ids])
    for start, stop in [(-1, 3), (3, 2), (0, 20_001)]:
        with pytest.raises(IndexError):
            matrix.read(start, stop)


def test_a_matrix_travels_small(small: tuple[str, np.ndarray]) -> None:
    store, array = small
    matrix = model_stores.find_matrix(store)
    matrix.read(0, 1)
    travelled = pickle.dumps(matrix)
    assert len(travelled) < 1_000
    assert bits(pickle.loads(travelled).read(5, 9)) == bits(array[5:9])


def test_layout_on_disk(tmp_path: Path) -> None:
    array = random_bits(9_000, 512, BFLOAT16)
    store = Path(make_store(tmp_path / "m.zarr", output=array, input=array.astype(np.float32), model="org/name"))
    assert contents(store) == [
        *("bytes", "has_token", "input_embedding", "is_added", "is_special", "output_embedding"),
        *("text", "token", "token_id", "zarr.json"),
    ]
    root = json.loads((store / "zarr.json").read_text())
    by = {"format_version": 2, "written_by": f"embgeom-dask {__version__}"}
    assert root["attributes"] == {"model": "org/name", "revision": "", "tied": False, **by}
    metadata = json.loads((store / "output_embedding/zarr.json").read_text())
    assert metadata["data_type"] == "bfloat16"
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [8_192, 512]
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert metadata["codecs"][1]["configuration"]["cname"] == "lz4"
    assert metadata["dimension_names"] == ["token_id", "hidden"]
    expected = {"source_tensor", "dtype", "sha256", "labels_sha256", "chunk_sha256", "coordinates"}
    assert set(metadata["attributes"]) == expected
    digests = [hashlib.sha256(bits(part)).hexdigest() for part in (array[:8_192], array[8_192:])]
    assert metadata["attributes"]["chunk_sha256"] == digests
    tokens = [f"t{i}" for i in range(9_000)]
    labels = [tokens, tokens, [""] * 9_000, [True] * 9_000, [False] * 9_000, [False] * 9_000]
    assert metadata["attributes"]["labels_sha256"] == hashlib.sha256(json.dumps(labels).encode()).hexdigest()
    assert metadata["attributes"]["dtype"] == "bfloat16"


def test_plain_xarray_opens_a_store_without_a_warning_or_this_package(tmp_path: Path) -> None:
    array = random_bits(50, 8, BFLOAT16)
    tokens = ["", "\0", "\0x\0", "▁été", "𝔘", *(f"t{i}" for i in range(45))]
    store = make_store(tmp_path / "m.zarr", output=array, tokens=tokens)
    code = f"""
import sys, xarray as xr
assert not any(name.startswith("embgeom") for name in sys.modules)
model = xr.open_zarr({store!r})
print(model.output_embedding.dtype, model.output_embedding.dims, sorted(model.coords), list(model.data_vars))
print(model.output_embedding.values.tobytes().hex())
print(model.token.values.tolist())
print(model.token_id.values.tolist() == list(range(50)), model.has_token.dtype, model.has_token.values.all())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "bfloat16 ('token_id', 'hidden') ['bytes', 'has_token', 'is_added', 'is_special', 'text', 'token', 'token_id'] "
        "['output_embedding']",
        bits(array).hex(),
        repr(tokens),
        "True bool True",
    ]


def test_open_model_is_lazy_and_labelled(small: tuple[str, np.ndarray]) -> None:
    store, _ = small
    model = model_stores.open_model(store)
    assert model.output_embedding.chunks == ((4_096,) * 4 + (3_616,), (1_024,))
    assert model.output_embedding.encoding["store"] == store
    assert model.output_embedding.attrs["model"] == "test/model"
    assert str(model.output_embedding[5].token.item()) == "t5"


@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype("float16"), np.dtype("float32"), np.dtype("float64")])
def test_values_compute_as_float64_does(dtype: np.dtype[Any], tmp_path: Path) -> None:
    rows = (np.random.default_rng(0).normal(0.02, 1, (3000, 8))).astype(dtype)
    store = make_store(tmp_path / "m.zarr", output=rows)
    values, expected = model_stores.open_model(store).output_embedding, rows.astype(np.float64)
    assert values.dtype == (dtype if dtype.itemsize > 2 else np.float32)
    assert values.chunks is not None
    np.testing.assert_array_equal(values.values, expected)
    np.testing.assert_allclose(values.mean("token_id"), expected.mean(0), atol=1e-6)
    np.testing.assert_allclose(values.std("token_id"), expected.std(0), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(values.values.mean(0)), np.linalg.norm(expected.mean(0)), rtol=1e-4)
    np.testing.assert_allclose(values - values.mean("token_id"), expected - expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(xr.dot(values, values, dim="token_id"), (expected**2).sum(0), rtol=1e-5)
    assert model_stores.open_model(store, raw=True).output_embedding.dtype == dtype
    assert values.encoding["stored_dtype"] == dtype.name


def test_what_is_computed_from_a_matrix_is_not_called_that_matrix(tmp_path: Path) -> None:
    """Xarray keeps attributes in arithmetic: they say what the values come from, and not whose bytes they are."""
    matrices = [
        model_stores.open_model(make_store(tmp_path / f"{name}.zarr", np.ones((3, 2)), model=name)).output_embedding
        for name in ("base", "tuned")
    ]
    base, tuned = matrices
    kept = {"model": "base", "revision": "", "matrix": "output_embedding", "source_tensor": "output_embedding"}
    with xr.set_options(keep_attrs=True):
        for derived in (base - base.mean("token_id"), base * 2, base.where(base > 0), np.sqrt(base), base.astype("f4")):
            assert derived.attrs == kept
            assert "store" not in derived.encoding
        assert "model" not in (tuned - base).attrs
    assert base[1:].encoding["sha256"] == model_stores.find_matrix(tmp_path / "base.zarr").sha256


@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype("float16")])
def test_a_matrix_of_16_bits_is_saved_by_xarray_as_it_is_in_memory(dtype: np.dtype[Any], tmp_path: Path) -> None:
    """Not rounded to what the store has: it may be computed in place."""
    model = changed(dtype, tmp_path)
    model.to_zarr(tmp_path / "saved.zarr", zarr_format=3, consolidated=False)
    saved = xr.open_zarr(tmp_path / "saved.zarr", consolidated=False)
    np.testing.assert_array_equal(saved["output_embedding"], model["output_embedding"])
    with pytest.raises(InputError, match=r"saved\.zarr is what xarray wrote of a model, not a model's store: copy"):
        model_stores.find_matrix(tmp_path / "saved.zarr")
    model.drop_encoding().to_zarr(tmp_path / "old.zarr", zarr_format=2)
    with pytest.raises(InputError, match=r"old\.zarr is zarr v2, not a model's store: copy the store itself, or give"):
        model_stores.find_matrix(tmp_path / "old.zarr")


@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype("float16")])
def test_a_matrix_of_16_bits_is_saved_as_netcdf(dtype: np.dtype[Any], tmp_path: Path) -> None:
    """It has no such types."""
    pytest.importorskip("netCDF4")
    model = changed(dtype, tmp_path)
    model.to_netcdf(tmp_path / "saved.nc", engine="netcdf4")
    saved = xr.open_dataset(tmp_path / "saved.nc", engine="netcdf4")
    np.testing.assert_array_equal(saved["output_embedding"], model["output_embedding"])
    with pytest.raises(InputError, match=r"saved\.nc is netCDF or HDF5, not a model's store: copy the store itself"):
        model_stores.find_matrix(tmp_path / "saved.nc")


def changed(dtype: np.dtype[Any], folder: Path) -> xr.Dataset:
    """A model of which the matrix was computed in place to what `dtype` does not hold."""
    model = model_stores.open_model(make_store(folder / "m.zarr", output=np.ones((3, 2), dtype))).load()
    model["output_embedding"] += 2**-20
    return model


def test_labels_in_the_order_asked(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.ones((4, 2)), tokens=["a", "b", "a\0", "▁"])
    labels = model_stores.labels(store, np.array([3, 0, 3]))
    assert labels.token_id.values.tolist() == [3, 0, 3]
    assert labels.token.values.tolist() == labels.text.values.tolist() == ["▁", "a", "▁"]
    assert labels.has_token.values.tolist() == [True] * 3
    assert model_stores.labels(store).token.values.tolist() == ["a", "b", "a\0", "▁"]
    assert isinstance(labels.token.variable.data, np.ndarray)


def test_without_labels_there_are_no_tokens(tmp_path: Path) -> None:
    store = model_writing.write_model(
        tmp_path / "m.zarr", {"output_embedding": ArrayRows(np.ones((3, 2)))}, attrs={"model": "m"}
    )
    labels = model_stores.labels(store)
    assert labels.token.values.tolist() == labels.text.values.tolist() == [""] * 3
    assert not labels.has_token.values.any()


def test_a_tied_matrix_is_stored_once_and_found_under_both_names(tmp_path: Path) -> None:
    array = random_bits(10, 4, BFLOAT16)
    store = make_store(tmp_path / "m.zarr", input=array, tied=True)
    assert not (Path(store) / "output_embedding").exists()
    model = model_stores.open_model(store, raw=True)
    for role in ("input", "output", None):
        matrix = model_stores.find_matrix(store, role)
        assert (matrix.name, matrix.tied) == ("input_embedding", True)
    for name in model_stores.MATRICES:
        assert bits(model[name].values) == bits(array)
        assert model[name].attrs["matrix"] == "input_embedding"
    assert listing.list_models(tmp_path).matrices.values.tolist() == ["input, output"]


def test_matrices_of_different_widths(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.ones((5, 3)), input=np.zeros((5, 2), dtype=np.float32))
    model = xr.open_zarr(store)
    assert model.input_embedding.dims == ("token_id", "hidden")
    assert model.output_embedding.dims == ("token_id", "hidden_output")
    assert model_stores.find_matrix(store).hidden_size == 3
    assert model_stores.find_matrix(store, "input").dtype == "float32"


@pytest.mark.parametrize("shorter", ["input", "output"])
def test_matrices_of_different_rows(tmp_path: Path, shorter: str) -> None:
    arrays = {name: random_bits(5 - (name == shorter), 3, DTYPES[1]) for name in ("input", "output")}
    store = make_store(tmp_path / "m.zarr", **arrays)
    model = model_stores.open_model(store, raw=True)
    for name, array in arrays.items():
        assert bits(model[f"{name}_embedding"].values) == bits(array)
        assert model[f"{name}_embedding"].dims[0] == (f"token_id_{name}" if name == shorter else "token_id")
    assert model.token_id.values.tolist() == list(range(5))
    assert model[f"token_id_{shorter}"].values.tolist() == list(range(4))
    assert find_rows(model[f"{shorter}_embedding"][1:3])[1].tolist() == [1, 2]


def test_find_matrix_defaults_and_refusals(tmp_path: Path) -> None:
    only_input = make_store(tmp_path / "i.zarr", input=np.ones((5, 3)))
    assert model_stores.find_matrix(Path(only_input)).name == "input_embedding"
    with pytest.raises(InputError, match="has no output_embedding, only input_embedding"):
        model_stores.find_matrix(only_input, "output")
    with pytest.raises(InputError, match="choose input or output"):
        model_stores.find_matrix(only_input, "sideways")


def test_list_models(tmp_path: Path) -> None:
    make_store(tmp_path / "b.zarr", output=np.ones((5, 3)), model="a/second")
    make_store(tmp_path / "a.zarr", input=np.ones((6, 2), dtype=np.float16), model="b/third")
    make_store(tmp_path / "c.zarr", output=np.ones((7, 2)), input=np.ones((7, 2)), model="a/first")
    xr.Dataset({"other": ("x", [1])}).to_zarr(tmp_path / "result.zarr", consolidated=False)
    (tmp_path / "empty.zarr").mkdir()
    listed = listing.list_models(tmp_path)
    assert listed.model.values.tolist() == ["a/first", "a/second", "b/third"]
    assert listed.matrices.values.tolist() == ["input, output", "output", "input"]
    assert listed.vocab_size.values.tolist() == [7, 5, 6]
    assert listed.hidden_size.values.tolist() == [2, 3, 2]
    assert listed.dtype.values.tolist() == ["float64", "float64", "float16"]
    assert listed.store.values.tolist() == [str(tmp_path / f"{name}.zarr") for name in "cba"]
    on_disk = sum(path.stat().st_size for path in (tmp_path / "b.zarr").rglob("*") if path.is_file())
    assert listed.bytes.sel(model="a/second") == on_disk
    assert listing.list_models(tmp_path / "empty.zarr").sizes["model"] == 0
    with pytest.raises(InputError, match="no folder of stores"):
        listing.list_models(tmp_path / "none")


def test_what_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "m.zarr", output=np.ones((5, 3))))
    newer = shutil.copytree(store, tmp_path / "newer.zarr")
    root = json.loads((newer / "zarr.json").read_text())
    root["attributes"]["format_version"] = 99
    (newer / "zarr.json").write_text(json.dumps(root))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    xr.Dataset({"other": ("x", [1])}).to_zarr(tmp_path / "result.zarr", consolidated=False)
    for name, words in {
        "none": "no store at",
        "folder": "no store at",
        "file": "no store at",
        "result.zarr": "is not a model's store",
        "hf": "is a checkpoint, not a store: embgeom convert",
        "model.safetensors": "is a checkpoint, not a store: embgeom convert",
        "newer.zarr": "has layout 99",
    }.items():
        for opened in (model_stores.open_model, model_stores.find_matrix, model_stores.labels, model_stores.attributes):
            with pytest.raises(InputError, match=words) as refused:
                opened(tmp_path / name)
            assert "\n" not in str(refused.value)
        assert model_stores.is_store(tmp_path / name) == (name == "newer.zarr")  # it may be overwritten


def test_damage_is_reported(tmp_path: Path, small: tuple[str, np.ndarray]) -> None:
    store, array = shutil.copytree(small[0], tmp_path / "m.zarr"), small[1]
    chunk = store / "output_embedding/c/2/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    matrix = model_stores.find_matrix(store)
    assert bits(matrix.read(0, 8_192)) == bits(array[:8_192])
    with pytest.raises(EmbgeomError, match="cannot read rows 8000:9000"):
        matrix.read(8_000, 9_000)
    chunk.unlink()
    model_stores._stored_array.cache_clear()
    with pytest.raises(
        EmbgeomError, match=r"cannot read rows 8000:9000 of .*: chunk output_embedding/c/2/0 is missing"
    ):
        matrix.read(8_000, 9_000)
    for opened in (model_stores.open_model, model_stores.find_matrix):
        with pytest.raises(InputError, match="is damaged: chunk output_embedding/c/2/0 is missing: convert the model"):
            opened(shutil.copytree(store, tmp_path / f"{opened.__name__}.zarr"))


def test_a_store_that_was_replaced_is_not_read(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.ones((5, 3)))
    matrix = model_stores.find_matrix(store)
    make_store(store, output=np.zeros((5, 3)))
    with pytest.raises(EmbgeomError, match="was replaced"):
        matrix.read(0, 5)


def test_labels_of_another_conversion_are_not_taken(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.ones((5, 3)))
    matrix = model_stores.find_matrix(store)
    assert model_stores.labels_of(matrix, np.array([4, 0])).token.values.tolist() == ["t4", "t0"]
    make_store(store, output=np.ones((5, 3)), tokens=[*"abcde"])
    assert model_stores.labels(store).token.values.tolist() == [*"abcde"]
    for use in (model_stores.labels_of, Matrix.labels, Matrix.check_unchanged):
        with pytest.raises(EmbgeomError, match="was replaced by another conversion"):
            use(matrix)


@dataclass(frozen=True)
class Failing(ArrayRows):
    """Rows that fail at the second block, after they looked at the folder that is written to."""

    error: BaseException | None = None
    folder: Path | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        if start and self.error:
            assert self.folder
            assert len([path for path in self.folder.iterdir() if path.name.startswith(".m.zarr.")]) == 1
            raise self.error
        return super().read(start, stop)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), InputError("x")])
def test_a_failed_write_leaves_nothing_and_keeps_the_old_store(tmp_path: Path, error: BaseException) -> None:
    rows = Failing(np.ones((20_000, 512)), error=error, folder=tmp_path)
    caught = EmbgeomError if isinstance(error, OSError) else type(error)
    with pytest.raises(caught):
        model_writing.write_model(tmp_path / "m.zarr", {"output_embedding": rows}, attrs={"model": "m"})
    assert contents(tmp_path) == []
    make_store(tmp_path / "m.zarr", output=np.ones((5, 3)))
    with pytest.raises(caught):
        model_writing.write_model(tmp_path / "m.zarr", {"output_embedding": rows}, attrs={"model": "m"}, overwrite=True)
    assert contents(tmp_path) == ["m.zarr"]
    assert model_stores.find_matrix(tmp_path / "m.zarr").read(0, 5).tolist() == np.ones((5, 3)).tolist()


def test_a_writer_that_may_be_resumed_reads_only_what_is_missing(tmp_path: Path) -> None:
    array = random_bits(20_000, 512, np.dtype("f4"))  # five chunks of 4,096 rows

    @dataclass(frozen=True)
    class Counted(ArrayRows):
        fails_at: int = 1 << 40

        def read(self, start: int, stop: int) -> np.ndarray:
            if start >= self.fails_at:
                raise KeyboardInterrupt
            reads.append(start // 4096)
            return super().read(start, stop)

    def write(fails_at: int = 1 << 40, resume: str | None = "these") -> list[int]:
        reads.clear()
        matrices = {"input_embedding": ArrayRows(array[:, :7]), "output_embedding": Counted(array, fails_at=fails_at)}
        model_writing.write_model(tmp_path / "m.zarr", matrices, attrs={"model": "m"}, resume=resume)
        return sorted(reads)

    reads: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write(fails_at=3 * 4096)
    assert contents(tmp_path) == [".m.zarr.these.partial"]
    chunk = tmp_path / ".m.zarr.these.partial/output_embedding/c/1/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    assert write() == [1, 3, 4]
    assert contents(tmp_path) == ["m.zarr"]
    matrix = model_stores.find_matrix(tmp_path / "m.zarr")
    assert bits(matrix.read(0, 20_000)) == bits(array)
    assert matrix.sha256 == hashlib.sha256(bits(array)).hexdigest()
    shutil.rmtree(tmp_path / "m.zarr")
    with pytest.raises(KeyboardInterrupt):
        write(fails_at=3 * 4096)
    assert write(resume="others") == [0, 1, 2, 3, 4]
    assert contents(tmp_path) == ["m.zarr"]


def test_two_matrices_of_the_same_bits_are_stored_once(tmp_path: Path) -> None:
    array = random_bits(50, 8, BFLOAT16)
    store = make_store(tmp_path / "m.zarr", input=array, output=array.copy())
    assert model_stores.find_matrix(store, "output").tied
    assert not (tmp_path / "m.zarr/output_embedding").exists()
    assert bits(model_stores.open_model(store, raw=True).output_embedding.values) == bits(array)
    other = make_store(tmp_path / "n.zarr", input=array, output=array.reshape(100, 4)[:50])
    assert not model_stores.find_matrix(other, "output").tied


def test_an_existing_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    rows = {"output_embedding": ArrayRows(np.ones((5, 3)))}
    model_writing.write_model(tmp_path / "m.zarr", rows, attrs={"model": "old"})
    with pytest.raises(InputError, match="exists: `overwrite` replaces it"):
        model_writing.write_model(tmp_path / "m.zarr", rows, attrs={"model": "new"})
    assert model_stores.open_model(tmp_path / "m.zarr").attrs["model"] == "old"
    model_writing.write_model(tmp_path / "m.zarr", rows, attrs={"model": "new"}, overwrite=True)
    assert model_stores.open_model(tmp_path / "m.zarr").attrs["model"] == "new"
    assert contents(tmp_path) == ["m.zarr"]
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr/mine").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not a store: move it away"):
            model_writing.write_model(tmp_path / "notes.zarr", rows, attrs={"model": "m"}, overwrite=overwrite)
    with pytest.raises(InputError, match="cannot make the folder"):
        model_writing.write_model(tmp_path / "notes.zarr/mine/m.zarr", rows, attrs={"model": "m"})
    assert contents(tmp_path / "notes.zarr") == ["mine"]


def test_wrong_matrices_are_refused(tmp_path: Path) -> None:
    def write(labels: xr.Dataset | None = None, **arrays: np.ndarray) -> None:
        rows = {f"{name}_embedding": ArrayRows(array, name) for name, array in arrays.items()}
        model_writing.write_model(tmp_path / "m.zarr", rows, attrs={"model": "m"}, labels=labels)

    with pytest.raises(InputError, match="has dtype int32: only float64, float32, float16, bfloat16"):
        write(output=np.ones((4, 2), dtype=np.int32))
    with pytest.raises(InputError, match="is empty"):
        write(output=np.ones((0, 2)))
    with pytest.raises(InputError, match="3 labels for 4 rows"):
        write(output=np.ones((4, 2)), labels=xr.Dataset(coords={"token_id": np.arange(3)}))
    assert contents(tmp_path) == []


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_rows_of_any_small_matrix(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    array = random_bits(rows, columns, dtype, seed=data.draw(st.integers(0, 1_000)))
    store = make_store(tmp_path_factory.mktemp("any") / "m.zarr", output=array)
    ids = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=60)), dtype=np.int64)
    assert bits(model_stores.find_matrix(store).take(ids)) == bits(array[ids])

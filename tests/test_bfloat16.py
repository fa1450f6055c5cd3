from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from zarr.dtype import data_type_registry

from embgeom_dask.bfloat16 import BFloat16

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EVERY_VALUE = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256).view(BFLOAT16)

KEEP = {"write_empty_chunks": True}  # else zarr compares every value with the fill value


def open_tensorstore(path: Path, **spec: object) -> tensorstore.TensorStore:
    return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, **spec}).result()


def test_every_bit_pattern_survives_zarr_and_tensorstore(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(256, 256), chunks=(100, 256), dtype=BFLOAT16, config=KEEP)
    array[:] = EVERY_VALUE
    metadata = json.loads((tmp_path / "a/zarr.json").read_text())
    assert metadata["data_type"] == "bfloat16"
    assert metadata["codecs"][0] == {"name": "bytes", "configuration": {"endian": "little"}}
    for read in (zarr.open_array(tmp_path / "a")[:], open_tensorstore(tmp_path / "a").read().result()):
        assert read.dtype == BFLOAT16
        np.testing.assert_array_equal(read.view(np.uint16), EVERY_VALUE.view(np.uint16))


def test_an_array_of_tensorstore_is_read(tmp_path: Path) -> None:
    written = open_tensorstore(tmp_path / "a", create=True, metadata={"shape": [256, 256], "data_type": "bfloat16"})
    written.write(EVERY_VALUE).result()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a")[:].view(np.uint16), EVERY_VALUE.view(np.uint16))


def test_a_process_that_never_imports_the_package_reads_it_without_torch_or_dask(tmp_path: Path) -> None:
    zarr.create_group(tmp_path).create_array("a", data=EVERY_VALUE, config=KEEP)
    code = f"""
import sys, zarr
import numpy as np
read = zarr.open_group({str(tmp_path)!r}, mode="r")["a"][:]
assert read.dtype.name == "bfloat16" and (read.view(np.uint16).ravel() == np.arange(1 << 16)).all()
print(sorted({{"torch", "dask", "distributed", "transformers", "numba"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_file_works_alone(tmp_path: Path) -> None:
    """A copy under another name, where nothing of this package can be imported."""
    source = Path(inspect.getfile(BFloat16)).read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in getattr(node, "names", [])]
        )
    }
    assert imported == {"__future__", "dataclasses", "ml_dtypes", "numpy", "struct", "typing", "zarr"}
    (tmp_path / "copied.py").write_text(source)
    code = """
import sys
sys.modules["embgeom_dask"] = None  # what imports it fails
import importlib.metadata
importlib.metadata.entry_points = lambda **_: importlib.metadata.EntryPoints()  # nor does zarr find it
import zarr
import numpy as np
import copied, ml_dtypes
every = np.arange(1 << 16, dtype=np.uint16)
zarr.create_array("a", data=every.view(ml_dtypes.bfloat16), config={"write_empty_chunks": True})
assert (zarr.open_array("a")[:].view(np.uint16) == every).all()
assert zarr.open_array("a").metadata.to_dict()["data_type"] == "bfloat16"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x3F80, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0x0001])
def test_fill_values_keep_their_bits(tmp_path: Path, bits: int) -> None:
    value = np.array(bits, dtype=np.uint16).view(BFLOAT16)[()]
    zarr.create_array(tmp_path / "a", shape=(3,), dtype=BFLOAT16, fill_value=value)
    assert zarr.open_array(tmp_path / "a")[:].view(np.uint16).tolist() == [bits] * 3
    np.testing.assert_array_equal(open_tensorstore(tmp_path / "a").read().result().view(np.uint16), [bits] * 3)


@pytest.mark.parametrize(
    ("stored", "value"), [("NaN", np.nan), ("Infinity", np.inf), ("-Infinity", -np.inf), (1.5, 1.5)]
)
def test_fill_values_that_others_write_are_read(stored: str | float, value: float) -> None:
    np.testing.assert_equal(float(BFloat16().from_json_scalar(stored, zarr_format=3)), value)


@pytest.mark.parametrize("wrong", ["1.5", "nan", None, [1]])
def test_wrong_fill_values_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        BFloat16().from_json_scalar(wrong, zarr_format=3)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u2", "i2", "?", "c8", ml_dtypes.float8_e4m3fn])
def test_other_dtypes_are_left_to_others(dtype: object) -> None:
    with pytest.raises(ValueError, match="expected bfloat16"):
        BFloat16.from_native_dtype(np.dtype(dtype))  # type: ignore[call-overload]
    assert isinstance(data_type_registry.match_dtype(BFLOAT16), BFloat16)


def test_zarr_v2_and_big_endian_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zarr v2 has no bfloat16"):
        zarr.create_array(tmp_path / "v2", shape=(3,), dtype=BFLOAT16, zarr_format=2)
    codecs = [{"name": "bytes", "configuration": {"endian": "big"}}]
    spec = {"shape": [2], "data_type": "bfloat16", "codecs": codecs}
    open_tensorstore(tmp_path / "big", create=True, metadata=spec).write(EVERY_VALUE[0, 1:3]).result()
    with pytest.raises(ValueError, match="big-endian"):
        zarr.open_array(tmp_path / "big")[:]

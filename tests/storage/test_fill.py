"""The chunks of a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from embgeom_dask import tuning
from embgeom_dask.storage import fill
from embgeom_dask.testing import ArrayRows


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", [1, 1024, 1100])
@tuning.override(CHUNK_BYTES=20_000)
def test_chunks_are_those_that_zarr_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, rows: int
) -> None:
    array = np.random.default_rng(0).normal(size=(rows, 24)).astype(dtype)
    array[-1] = -0.0
    group = zarr.open_group(LocalStore(tmp_path))
    filled = fill.create(group, "m", ArrayRows(array), ["token_id", "hidden"])
    assert filled.chunks[0] < rows or rows == 1
    fill.fill(filled, ArrayRows(array), lambda n, said="", *, fresh=True: None)
    expected = fill.create(zarr.open_group(MemoryStore()), "m", ArrayRows(array), ["token_id", "hidden"])
    expected[:] = array
    chunks = {str(file.relative_to(tmp_path)): file.read_bytes() for file in tmp_path.glob("m/c/*/*")}
    assert chunks == {key: data.to_bytes() for key, data in expected.store._store_dict.items() if "/c/" in key}  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(filled[:]).view(np.uint8), array.view(np.uint8))

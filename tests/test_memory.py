from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from embgeom_dask import memory
from embgeom_dask.errors import InputError
from embgeom_dask.scans import scan
from embgeom_dask.testing import make_store

_PEAK = """
import re, sys
import embgeom_dask as eg
eg.scan(sys.argv[1], tokens="0:600", neighbors=3)
result = eg.scan(sys.argv[1], neighbors=3, memory_limit=sys.argv[2])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(int(peak[1]) * 1024, result.sizes["token_id"])
"""


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1.5 gib", 3 << 29), (4096, 4096), ("3k", 3000)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert memory.allowed(text) == size


@pytest.mark.parametrize("text", ["", "much", "2 PiB", "-1GiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="--memory-limit"):
        memory.allowed(text)


def test_too_little_is_refused_with_both_numbers(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(40, dtype=np.float32))
    with pytest.raises(InputError, match=r"needs \S+ .iB and 10 MiB are allowed: raise --memory-limit"):
        scan(store, nearest=1, memory_limit="10MiB", out=tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_dry_run_says_the_plan_and_computes_nothing(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    result = scan(store, nearest=1, dry_run=True, memory_limit="8GiB", out=tmp_path / "r.zarr")
    assert not result.variables
    assert not (tmp_path / "r.zarr").exists()
    plan = json.loads(json.dumps(result.attrs["plan"]))
    assert (plan["rows"], plan["values"], plan["metric"], plan["tile"], plan["tiles"]) == (
        [5000],
        8,
        "euclidean",
        2048,
        6,
    )
    assert 0 < plan["memory_projected"] < plan["memory_allowed"] == 8 << 30


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
def test_a_process_keeps_to_its_limit_and_forgets_blocks(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(6000, 12288)).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    limit = 1400 << 20
    found = subprocess.run(
        [sys.executable, "-c", _PEAK, store, str(limit)], check=True, capture_output=True, text=True, timeout=300
    )
    peak, tokens = map(int, found.stdout.split())
    assert tokens == 6000
    assert peak <= limit

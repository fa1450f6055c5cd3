from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import ml_dtypes
import numpy as np
import psutil
import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker

import embgeom_dask as eg
from embgeom_dask import devices
from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import InputError
from embgeom_dask.execution import memory
from embgeom_dask.execution.plan import ScanPlan
from embgeom_dask.pairwise import blocks
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.rows import DistinctRows
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
    assert memory.parse_limit(text) == size


def test_a_size_beyond_all_memory_is_no_limit() -> None:
    assert memory.parse_limit("9" * 400) == memory.parse_limit("9" * 300 + "TiB") > 1 << 60


@pytest.mark.parametrize("text", ["", " ", "much", "2 XiB", "-1GiB", "0"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="`memory_limit`"):
        memory.parse_limit(text)


def test_the_memory_is_that_of_the_workers(tmp_path: Path) -> None:
    small = 2 * psutil.Process().memory_info().rss + (4 << 30)  # both workers live in this process
    limits = {
        name: {"cls": Worker, "options": {"memory_limit": limit}} for name, limit in enumerate((2 * small, small))
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "dashboard_address": ":0"}}
    store = make_store(tmp_path / "m.zarr", output=np.eye(40, dtype=np.float32))
    with SpecCluster(limits, scheduler) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)
        found = list(memory.of_workers(client, "cpu").values())
        assert sorted(each.limit for each in found) == [small, 2 * small]
        assert 0 < found[0].free <= psutil.virtual_memory().total // 2  # both are on this host
        plan = partial(scan, store, nearest=1, dry_run=True, client=client)
        least = int(0.6 * small)
        assert plan().attrs["plan"]["memory_allowed"] <= least
        assert plan(memory_limit=2 * small).attrs["plan"]["memory_allowed"] == least
        held = found[0].held
    shared = memory.WorkerMemory(held, 8 << 30, 0, "cpu", 0).allowed(held + (4 << 20), 0.25)
    assert shared == held + (1 << 20)


def test_the_tightest_worker_is_the_one_with_the_least_left() -> None:
    one = memory.Memory(base=5 << 30, rows=1 << 30, blocks=0, tiles=0, states=0, allowed=10 << 30)
    other = memory.Memory(base=1 << 30, rows=1 << 30, blocks=0, tiles=0, states=0, allowed=3 << 30)
    assert memory.tightest([one, other]) == other
    assert memory.tightest([one, replace(other, allowed=1 << 30)]).fits is False


def test_too_little_is_refused_with_both_numbers(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(40, dtype=np.float32))
    for kept, words in (
        ({"nearest": 1}, "raise `memory_limit` or compare fewer rows"),
        ({"neighbors": 1}, "raise `memory_limit`, keep fewer of each row or compare fewer rows"),
        ({"pairs_within": 1}, "raise `memory_limit`, lower `max_pairs` or compare fewer rows"),
    ):
        asked: dict[str, Any] = {"memory_limit": "10MiB", "out": tmp_path / "r.zarr", **kept}
        with pytest.raises(InputError, match=r"needs \S+ .iB and 10 MiB are allowed: " + words):
            scan(store, **asked)
        with pytest.raises(InputError, match=r"needs \S+ .iB and 1 B are allowed: " + words):
            scan(store, **asked | {"memory_limit": 1})
        assert not (tmp_path / "r.zarr").exists()


def test_memory_is_projected_for_no_more_than_there_can_be(client: Client) -> None:
    rows, many = np.random.default_rng(0).normal(size=(7, 3)), 10**12
    found = scan(rows, farthest=many, nearest=many, neighbors=many, client=client)
    assert dict(found.sizes) == {"farthest": 21, "nearest": 21, "side": 2, "token_id": 7, "neighbor": 6}
    found = scan(rows, against=rows[:2], farthest=many, neighbors=many, client=client)
    assert dict(found.sizes) == {"farthest": 14, "side": 2, "token_id": 7, "neighbor": 2}
    found = scan(rows, metric="dot", largest=many, smallest=many, top=many, bottom=many, client=client)
    assert {found.sizes[name] for name in ("largest", "smallest")} == {21}
    assert {found.sizes[name] for name in ("top", "bottom")} == {6}


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


def test_a_plan_prints_as_the_notes_of_its_scan_and_has_their_numbers(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    plan = eg.plan_scan(store, nearest=1, client=client, memory_limit="8GiB", out=tmp_path / "r.zarr", progress=True)
    assert isinstance(plan, ScanPlan)
    assert (plan.rows, plan.values, plan.tiles, plan.memory_allowed) == ([50], 8, 1, 8 << 30)
    assert repr(plan).splitlines()[0] == "50 distinct rows of 8 values, euclidean"
    noted = capsys.readouterr().err
    assert all(line in noted for line in repr(plan).splitlines()[:2])
    assert not (tmp_path / "r.zarr").exists()
    array = eg.plan_scan(rows, histogram=4, client=client)
    assert isinstance(array, ScanPlan)
    assert repr(array).endswith("written of arrays")
    other = make_store(tmp_path / "n.zarr", output=rows[:1], model="test/other")
    both = eg.plan_scan([store, other], nearest=1, client=client)
    assert isinstance(both, dict)
    assert [each.rows for each in both.values()] == [[50], [1]]


def test_a_device_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(9000, 16)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)

    def plan(kind: str, free: int, limit: str | None = None) -> dict[str, Any]:
        monkeypatch.setattr(devices, "own_memory", lambda _: (kind, free))
        return scan(store, nearest=1, dry_run=True, memory_limit=limit, tile=None).attrs["plan"]

    assert plan("cpu", 0)["device_memory_projected"] == 0
    large = plan("cuda", 80 << 30, "16GiB")
    assert (large["tile"], large["tiles"]) == (8192, 3)
    assert large["device_memory_allowed"] == 16 << 30
    assert plan("cuda", 10 << 30, "16GiB")["device_memory_allowed"] == 10 << 30
    small = plan("cuda", 2 << 30)
    assert small["tile"] == 4096
    assert 0 < small["device_memory_projected"] <= small["device_memory_allowed"] == int(0.6 * (2 << 30))
    with pytest.raises(InputError, match=r"needs \S+ MiB of the device and 1 MiB are allowed: raise `memory_limit`"):
        plan("mps", 2 << 20)


def test_blocks_on_a_device_and_rows_on_the_host_keep_to_their_limits() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 32)).astype(ml_dtypes.bfloat16)
    reads: list[int] = []

    class Stored:
        def take(self, token_id: np.ndarray) -> np.ndarray:
            reads.append(int(token_id[0]))
            return rows[token_id]

    every = np.arange(64)
    distinct_rows = DistinctRows(every, every, np.arange(65), every[:0])
    size = 8 * 32 * 2 + 2 * 8 * 8  # points, and two float64 a row
    device = torch.device("meta")
    for keep, kept in ((0, 0), (3 * size, 3), (8 * size, 8)):
        reader = blocks.BlockReader(blocks.BlockCache())
        reads.clear()
        point_format = PointFormat("euclidean", "bfloat16", np.zeros(32), 1.0)
        source = blocks.BlockSource(Stored(), distinct_rows, point_format, 8, False, 8 * size, keep, "key")
        loaded = [ref(reader.block(source, index, device)) for index in range(8)]
        assert sum(block() is not None for block in loaded) == kept
        again = [reader.block(source, index, device) for index in range(8)]
        assert all(block.points.device == device and block.stored.size == 0 for block in again)
        assert all(reader.block(source, index, device) is block for index, block in enumerate(again))
        np.testing.assert_array_equal(reader.rows(source)[np.array([9, 63])], rows[[9, 63]])
        assert reads == list(range(0, 64, 8))  # what the device does not hold comes from the host, not from the store
        assert reader.nbytes == rows.nbytes


@pytest.mark.slow
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

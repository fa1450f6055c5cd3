from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.planning import Resources, make_plan
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.execution.worker_state import WorkerState, blocks_for, state_of
from embgeom_dask.pairwise.blocks import BlockCache
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)


def holds(blocks: BlockCache) -> int:
    return sum(len(kept._blocks) + len(kept._used) for kept in (blocks.host, blocks.device))


def test_a_scan_reads_each_block_once_and_leaves_none(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "m.zarr", output=ROWS)
    (worker,) = client.cluster.workers.values()
    state = state_of(worker)
    assert state_of(worker) is state
    assert blocks_for(client) is state.blocks  # this process is the worker's: one memory, one limit
    read: list[int] = []
    honest = model_stores.Matrix.take
    scan(store, neighbors=3, tile=32, client=client)
    monkeypatch.setattr(model_stores.Matrix, "take", lambda self, ids: read.append(int(ids[0])) or honest(self, ids))
    scan(store, neighbors=3, tile=32, client=client)
    assert read[:2] == [0, 0]  # a sample, and one look at every row
    assert sorted(read[2:]) == [0, 32, 64]  # worker and client read through the same blocks
    assert holds(state.blocks) == 0
    assert not state.halved


def test_a_process_without_workers_has_blocks_of_its_own() -> None:
    elsewhere: Any = SimpleNamespace(nthreads=lambda: {"tcp://10.0.0.1:1": 2})
    assert blocks_for(elsewhere) is not blocks_for(elsewhere)


def test_workers_of_one_process_have_states_of_their_own_within_one_limit(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=ROWS)
    matrix = model_stores.find_matrix(store)
    how: dict[str, Any] = {"threads_per_worker": 1, "processes": False, "memory_limit": 0, "dashboard_address": ":0"}
    kept = []
    for count in (1, 2):
        with (
            LocalCluster(n_workers=count, **how) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            states = [state_of(worker) for worker in cluster.workers.values()]
            assert len({id(state) for state in states}) == count
            side = [(matrix, np.arange(90))]
            plan = make_plan(client, side, ScanSpec("euclidean", nearest=1), Resources(tile=32, memory_limit=8 << 30))
            assert plan.memory.workers == count
            kept.append(plan.sides[0].keep * count)
            scan(store, nearest=1, tile=32, client=client)
            assert not any(holds(state.blocks) for state in states)
    assert abs(kept[0] - kept[1]) < 1 << 30  # what the process holds besides differs a little


def test_what_is_forgotten_is_made_again() -> None:
    state = WorkerState()
    state.halved["key"] += 1
    unpacked = state.unpacked
    state.forget({"key"})
    assert not state.halved
    assert state.unpacked is not unpacked

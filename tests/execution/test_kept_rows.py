from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution.kept_rows import Keeping, RowsOnWorkers, keeping, rows_on_workers
from embgeom_dask.execution.map_rows import by_chunk, map_rows
from embgeom_dask.execution.worker_state import KeptRows, WorkerState, state_of
from embgeom_dask.storage.model_stores import Matrix, find_matrix
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(700, 4)).astype(np.float32)


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    """A matrix of chunks of 128 rows."""
    with tuning.override(CHUNK_BYTES=2048):
        return find_matrix(make_store(tmp_path / "m.zarr", output=ROWS))


def test_threads_read_a_stretch_once_and_what_is_too_much_is_not_kept() -> None:
    kept, read = KeptRows(100), list[int]()

    def load() -> np.ndarray:
        read.append(1)
        sleep(0.05)
        return np.zeros(60, np.uint8)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: kept.get(3, 60, load), range(4)))
    assert len(read) == 1
    assert all(each is found[0] for each in found)
    assert kept.get(4, 60, load) is None
    assert kept.get(3, 60, load) is found[0]


def test_a_task_that_comes_late_leaves_nothing() -> None:
    state = WorkerState()
    state.kept_rows("one", 10).get(0, 5, lambda: np.zeros(5, np.uint8))
    state.forget({"one"})
    assert state.kept_rows("one", 10).get(0, 5, lambda: np.zeros(5, np.uint8)) is None
    assert not state.rows


def test_parts_go_to_the_worker_that_keeps_their_rows_as_long_as_it_is_there() -> None:
    there = {"a": 1, "b": 1}
    client: Any = SimpleNamespace(nthreads=lambda: dict(there))
    on_workers = RowsOnWorkers(client, Any, Keeping("key", 20, 0))
    parts = [(start, start + 10) for start in range(0, 60, 10)]
    dealt = on_workers.dealt(parts)
    assert dealt.threads() == there
    assert [dealt.take(worker) for worker in "abab"] == [0, 2, 1, 3]
    assert dealt.threads() == there
    assert [dealt.take(worker) for worker in "ba"] == [4, None]
    assert dealt.threads() == {"b": 1}
    assert [dealt.take(worker) for worker in ("b", "b", "")] == [5, None, None]
    assert dealt.threads() == {}
    del there["b"]
    dealt = on_workers.dealt(parts)
    assert dealt.threads() == there
    assert [dealt.take("a") for _ in parts] == [0, 1, 2, 3, 4, 5]
    assert {*on_workers.keeper.values()} == {"a"}


@pytest.mark.parametrize("rows", [128, 256, 200])
@pytest.mark.parametrize("most", [0, 5000, 1 << 30])
def test_rows_are_the_same_through_those_kept(
    matrix: Matrix, client: Client, monkeypatch: pytest.MonkeyPatch, rows: int, most: int
) -> None:
    has = SimpleNamespace(held=7, workers=1, allowed=lambda limit, share: 7 + most)
    monkeypatch.setattr("embgeom_dask.execution.memory.of_workers", lambda *_: {"a": has})

    def look(matrix: Matrix, part: tuple[int, int]) -> np.ndarray:
        return matrix.read(*part)

    def take(matrix: Matrix, ids: np.ndarray) -> np.ndarray:
        return matrix.take(ids)

    (worker,) = client.cluster.workers.values()
    ids = [np.arange(1, 700, 3), np.array([699, 3, 3, 400]), np.arange(100, 300)]
    with tuning.override(KEPT_SHARE=1), keeping(client, matrix, rows):
        for _ in range(2):
            found = dict(by_chunk("look", matrix, look, client=client))
            assert np.concatenate([found[start] for start in sorted(found)]).tobytes() == ROWS.tobytes()
            for part, each in zip(ids, map_rows(client, "take", matrix, ids, take), strict=True):
                np.testing.assert_array_equal(each, ROWS[part])
        assert len(state_of(worker).rows) == 1
    assert not state_of(worker).rows


@pytest.mark.parametrize(("limit", "each"), [(7 + 6000, 3000), (None, 6000)])
def test_workers_of_one_process_share_its_limit(
    matrix: Matrix, client: Client, monkeypatch: pytest.MonkeyPatch, limit: int | None, each: int
) -> None:
    has = SimpleNamespace(held=7, workers=2, allowed=lambda limit, share: 7 + 6000)
    monkeypatch.setattr("embgeom_dask.execution.memory.of_workers", lambda *_: {"a": has, "b": has})
    with tuning.override(KEPT_SHARE=1), keeping(client, matrix, 128, memory_limit=limit):
        kept = rows_on_workers(matrix)
        assert kept is not None
        assert kept.keeping.most == each


def test_nothing_is_kept_after_an_error(matrix: Matrix, client: Client) -> None:
    def fail(matrix: Matrix, part: tuple[int, int]) -> None:
        matrix.read(*part)
        raise OSError("the disk is gone")

    (worker,) = client.cluster.workers.values()
    with pytest.raises(EmbgeomError, match="the disk is gone"), keeping(client, matrix, 128):
        list(by_chunk("fail", matrix, fail, client=client))
    assert not state_of(worker).rows
    with pytest.raises(KeyboardInterrupt), keeping(client, matrix, 128):
        map_rows(client, "read", matrix, [np.arange(9)], lambda matrix, ids: matrix.take(ids))
        assert state_of(worker).rows
        raise KeyboardInterrupt
    assert not state_of(worker).rows

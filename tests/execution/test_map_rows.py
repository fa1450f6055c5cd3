from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import embgeom_dask as eg
from embgeom_dask import progress
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution.map_rows import in_order, map_rows, parts_of
from embgeom_dask.storage.model_stores import Matrix, find_matrix
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(700, 5)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return make_store(tmp_path / "m.zarr", output=ROWS)


def total(matrix: Matrix, token_id: np.ndarray, factor: float) -> float:
    return float(matrix.take(token_id).astype(np.float64).sum() * factor)


def test_every_part_is_mapped_once_and_in_order(store: str, client: Client) -> None:
    matrix, ids = find_matrix(store), np.arange(0, 700, 3)
    parts = np.split(ids, range(10, ids.size, 10))
    found = map_rows(client, "sum", matrix, parts, total, 2.0)
    assert found == [ROWS[part].astype(np.float64).sum() * 2.0 for part in parts]
    assert map_rows(client, "sum", matrix, [], total, 2.0) == []
    np.testing.assert_array_equal(np.concatenate(parts_of(matrix, ids)), ids)


def test_parts_of_any_kind_come_in_order_though_some_are_late(store: str, client: Client) -> None:
    def work(matrix: Matrix, part: tuple[int, int]) -> int:
        sleep(0.2 if part[0] % 3 == 0 else 0)
        return len(matrix.read(*part))

    parts = [(start, start + 10 + start % 7) for start in range(0, 100, 10)]
    with (
        LocalCluster(n_workers=1, threads_per_worker=4, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as several,
    ):
        found = in_order(several, "count", find_matrix(store), parts, [10] * 10, work)
        assert list(found) == [stop - start for start, stop in parts]
    assert list(in_order(client, "count", find_matrix(store), [], [], work)) == []


def test_what_fails_is_told_in_one_line(store: str, client: Client) -> None:
    def work(matrix: Matrix, token_id: np.ndarray) -> None:
        raise OSError("the disk\nis gone")

    with pytest.raises(EmbgeomError, match=r"cannot read .*m\.zarr: .*the disk") as told:
        map_rows(client, "sum", find_matrix(store), [np.arange(3)], work)
    assert "\n" not in str(told.value)


def test_every_pass_over_rows_shows_its_progress(store: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: Counter[str] = Counter()

    @contextmanager
    def bar(total: int, what: str, unit: str) -> Iterator[Callable[..., None]]:
        def advance(n: int, *_: Any, **__: Any) -> None:
            moved[f"{what.split()[-1]} {unit}"] += n

        yield advance

    monkeypatch.setattr(progress, "bar", bar)
    eg.scan(store, nearest=1, dry_run=True, client=client)
    assert moved == {"rows rows": 700}
    moved.clear()
    eg.scan(store, farthest=1, metric="chebyshev", dry_run=True, client=client)
    assert (moved["extent rows"], moved["reach rows"] > 0) == (700, True)
    moved.clear()
    eg.outliers(store, "0:300", client=client)
    assert (moved["outliers rows"], moved["distances rows"]) == (300, 300)

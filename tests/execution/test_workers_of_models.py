"""Many models in work at a time: each has workers of its own."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, get_worker

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.execution import known_workers
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.workers_of_models import WorkersOfModels
from embgeom_dask.testing import make_store
from tests.clusters import workers_of_one_thread

WORKERS = 4


@pytest.fixture
def client() -> Iterator[Client]:
    with workers_of_one_thread(WORKERS) as client:
        yield client


def stores(folder: Path, count: int, rows: int = 200) -> list[str]:
    generator = np.random.default_rng(count)
    return [
        make_store(folder / f"{each}.zarr", generator.normal(size=(rows, 8)).astype(np.float32), model=f"org/m{each}")
        for each in range(count)
    ]


class Seen:
    """Which workers began panels of each model."""

    def __init__(self) -> None:
        self.workers: dict[str, set[str]] = defaultdict(set)
        self.panels: dict[str, int] = defaultdict(int)

    def __call__(self, event: str, plan: Plan, panel: Panel) -> None:
        if event == "started":
            self.workers[plan.sides[0].matrix.model].add(get_worker().address)
            self.panels[plan.sides[0].matrix.model] += 1


def test_each_of_many_models_is_read_by_its_home_and_the_result_is_the_same(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, seen, asked, honest = stores(tmp_path, 12), Seen(), list[str](), known_workers.run_on

    def run(client: Client, workers: Collection[str], *what: Any) -> Any:
        asked.extend(workers)
        return honest(client, workers, *what)

    monkeypatch.setattr(known_workers, "run_on", run)
    with PanelCallback(seen):
        found = eg.scan(given, nearest=3, neighbors=2, tile=32, client=client)
    assert len(asked) < 2 * 3 * (WORKERS + len(given))  # three questions to all, then three by each model to its own
    assert len(seen.panels) == 12
    assert all(count > 2 * WORKERS for count in seen.panels.values())  # enough for every worker to have one
    # only the last ones are helped
    assert sum(len(each) == 1 for each in seen.workers.values()) >= 12 - 2 * WORKERS
    assert set().union(*seen.workers.values()) == set(client.nthreads())
    for each, node in zip(given, found.children.values(), strict=True):
        alone = eg.scan(each, nearest=3, neighbors=2, tile=32, client=client)
        xr.testing.assert_identical(node.to_dataset().drop_attrs(), alone.drop_attrs())


def test_workers_without_a_model_help_the_others_evenly(client: Client) -> None:
    homes = WorkersOfModels(client, "cpu")
    with homes.enter():
        assert set(known_workers.workers_of_context(client)) == set(client.nthreads())
    one, two = (_Model(homes) for _ in range(2))
    assert len(one.workers(client) | two.workers(client)) == WORKERS
    first, second = one.workers(client), two.workers(client)
    assert (len(first), len(second)) == (2, 2)
    assert not first & second
    two.end()
    assert one.workers(client) == set(client.nthreads())
    more = [_Model(homes) for _ in range(2 * WORKERS - 1)]
    every = [each.workers(client) for each in (one, *more)]  # the first call deals
    every = [each.workers(client) for each in (one, *more)]
    assert all(len(each) == 1 for each in every)
    assert all(sum(each == {address} for each in every) == 2 for address in client.nthreads())
    for each in (one, *more):
        each.end()


class _Model:
    """A model that is in work in a thread of its own, until it ends."""

    def __init__(self, homes: WorkersOfModels) -> None:
        self._asked, self._ended = threading.Semaphore(0), threading.Event()
        self._told = threading.Semaphore(0)
        self._client: Client
        self._found: set[str] = set()
        self._thread = threading.Thread(target=self._run, args=(homes,))
        self._thread.start()

    def _run(self, homes: WorkersOfModels) -> None:
        with homes.enter():
            while self._asked.acquire() and not self._ended.is_set():
                self._found = set(known_workers.workers_of_context(self._client))
                self._told.release()

    def workers(self, client: Client) -> set[str]:
        self._client = client
        self._asked.release()
        self._told.acquire()
        return self._found

    def end(self) -> None:
        self._ended.set()
        self._asked.release()
        self._thread.join()


def test_a_home_that_goes_passes_its_panels_on(tmp_path: Path) -> None:
    given, seen, gone = stores(tmp_path, 6), Seen(), threading.Event()
    with workers_of_one_thread(2) as client:
        undisturbed = [eg.scan(each, nearest=3, tile=32, client=client) for each in given]

        def watch(event: str, plan: Plan, panel: Panel) -> None:
            seen(event, plan, panel)
            if event == "received" and not gone.is_set() and len(seen.panels) >= 2:
                gone.set()
                client.retire_workers([next(iter(client.nthreads()))], close_workers=True)

        with PanelCallback(watch):
            found = eg.scan(given, nearest=3, tile=32, client=client)
        assert gone.is_set()
        assert len(client.nthreads()) == 1
    for one, node in zip(undisturbed, found.children.values(), strict=True):
        xr.testing.assert_identical(node.to_dataset().drop_attrs(), one.drop_attrs())


@pytest.mark.slow
def test_the_blocks_of_a_model_stay_while_another_one_ends(client: Client, tmp_path: Path) -> None:
    rows = 400
    given = stores(tmp_path, 8, rows)
    eg.scan(given, neighbors=2, tile=32, client=client, out=tmp_path / "out")
    read = 0
    for path in (tmp_path / "out").glob("*.journal/history.csv"):
        head, *lines = path.read_text().splitlines()
        place = head.split(",").index("read_bytes")
        read += sum(int(line.split(",")[place]) for line in lines)
    once = len(given) * rows * 8 * 4
    assert once <= read <= 1.6 * once  # the last models are helped; all workers reading all models is 4


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3])
def test_no_more_models_are_in_work_than_this_process_has_room_for(client: Client, tmp_path: Path, most: int) -> None:
    begun, ended = list[str](), list[int]()
    given = stores(tmp_path, 6)

    def watch(event: str, plan: Plan, panel: Panel) -> None:
        del panel
        if event == "started" and (model := plan.sides[0].matrix.model) not in begun:
            begun.append(model)
            ended.append(len(list((tmp_path / "out").glob("*.zarr/zarr.json"))))

    with tuning.override(MODELS_AT_ONCE=most), PanelCallback(watch):
        eg.scan(given, nearest=1, tile=64, client=client, out=tmp_path / "out")
    assert len(begun) == 6
    assert all(place - done < most for place, done in enumerate(ended))

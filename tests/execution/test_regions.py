"""Panels of one model are dealt by regions of the pair matrix."""

from __future__ import annotations

import csv
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Grid, Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.regions import Regions
from embgeom_dask.testing import make_store

WORKERS = 16


def blocks(panels: list[Panel]) -> set[int]:
    return {block for panel in panels for block in (panel.row, *range(panel.start, panel.stop))}


def threads(count: int) -> dict[str, int]:
    return {f"worker{each:02}": 1 for each in range(count)}


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.booleans(), st.integers(0, 20), st.data())
def test_every_panel_is_dealt_once_whoever_comes_and_goes(
    rows: int, columns: int, run: int, symmetric: bool, count: int, data: st.DataObject
) -> None:
    grid = Grid(rows, rows if symmetric else columns, 1, run, symmetric)
    panels = list(grid.rest())
    regions = Regions(panels, lambda: threads(count))
    dealt = []
    while (panel := regions.take(data.draw(st.sampled_from(["", "new", *threads(count)])))) is not None:
        dealt.append(panel)
    assert sorted(panel.name for panel in dealt) == sorted(panel.name for panel in panels)


@pytest.mark.parametrize(("workers", "most"), [(2, 2.0), (4, 3.4), (8, 5.4), (16, 8.0), (64, 19.0)])
@pytest.mark.parametrize("count", [32, 64, 128])
def test_workers_need_few_of_the_rows(workers: int, most: float, count: int) -> None:
    """About 2 / sqrt(W) of them each: less, as regions on the diagonal read their rows once."""
    regions = Regions(Grid(count, count, 1, 8, True).rest(), lambda: threads(workers))
    found: dict[str, list[Panel]] = {worker: [] for worker in threads(workers)}
    for worker in cycle(found):
        if (panel := regions.take(worker)) is None:
            break
        found[worker].append(panel)
    assert sum(len(blocks(panels)) for panels in found.values()) / count <= most
    tiles = [sum(panel.stop - panel.start for panel in panels) for panels in found.values()]
    assert max(tiles) <= 1.2 * sum(tiles) / workers + 16


def _cluster() -> LocalCluster:
    """Workers in this process without a limit: at their share of the memory all of them would pause."""
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": ":0", "memory_limit": 0}
    return LocalCluster(n_workers=WORKERS, **options)


@pytest.fixture(scope="module")
def many() -> Any:
    with (
        _cluster() as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.slow
def test_sixteen_workers_read_nine_times_the_matrix_at_most(many: Client, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(1024, 16)).astype(np.float32)
    store, out = make_store(tmp_path / "m.zarr", values), tmp_path / "r.zarr"
    found = eg.scan(store, neighbors=3, histogram=8, tile=32, client=many, out=out)
    with Path(f"{out}.journal/history.csv").open() as file:
        lines = list(csv.DictReader(file))
    read = sum(int(line["read_bytes"]) for line in lines)
    assert len({line["worker"] for line in lines}) == WORKERS
    assert read <= 9 * values.nbytes, read / values.nbytes
    print(f"\n{WORKERS} workers read {read / values.nbytes:.2f} x the matrix")
    alone = eg.scan(store, neighbors=3, histogram=8, tile=32)
    xr.testing.assert_identical(found.drop_attrs(), alone.drop_attrs())


@pytest.mark.slow
def test_a_worker_that_comes_late_takes_over_from_the_others(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(1500, 8)).astype(np.float32)
    store, by = make_store(tmp_path / "m.zarr", values), tmp_path / "r.zarr"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        seen = list[str]()

        def watch(event: str, plan: Plan, panel: Panel) -> None:
            if event == "received":
                seen.append(panel.name)
                if len(seen) == 60:
                    cluster.scale(3)
                    client.wait_for_workers(3)
                if len(seen) == 120:
                    client.retire_workers([sorted(client.nthreads())[0]], close_workers=True)

        with PanelCallback(watch):
            found = eg.scan(store, neighbors=2, tile=32, client=client, out=by)
        assert len(seen) == len(set(seen)) > 200
    xr.testing.assert_identical(found.drop_attrs(), eg.scan(store, neighbors=2, tile=32).drop_attrs())

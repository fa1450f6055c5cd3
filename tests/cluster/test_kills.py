from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import xarray as xr

import embgeom_dask as eg
from embgeom_dask.storage import paths
from embgeom_dask.testing import make_store
from tests import s3
from tests.cluster.conftest import cloud
from tests.cluster.processes import Processes, committed, wait_for

pytestmark = pytest.mark.cluster

TILE = 50
PANELS = 168  # of 42 blocks: 42 on the diagonal and 126 beside it


@pytest.fixture(params=["a folder", "a bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the store, the results and their journals are."""
    if request.param == "a folder":
        yield str(tmp_path)
        return
    with s3.server(tmp_path / "s3") as endpoint:
        for name, value in {**s3.CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem().mkdir("kills")
        yield "s3://kills"


def same(out: str, undisturbed: xr.Dataset) -> None:
    xr.testing.assert_identical(eg.open_result(out).drop_attrs().load(), undisturbed.drop_attrs().load())


def test_kills_at_any_moment(place: str, processes: Processes, pytestconfig: pytest.Config) -> None:
    """Kill a random process at a random event of the workers, again and again; go on; compare bits and executions."""
    store = make_store(f"{place}/m.zarr", cloud())
    undisturbed = eg.scan(store, farthest=5, neighbors=4, within=[3.0], tile=TILE)
    chance = random.Random(pytestconfig.getoption("--seed"))
    kills = pytestconfig.getoption("--kills")
    left = max(1, kills // 5) if paths.is_url(place) else kills
    killed: Counter[str] = Counter()
    for run in range(left):
        left -= scan_with_kills(store, f"{place}/{run}.zarr", processes, chance, left, killed)
        same(f"{place}/{run}.zarr", undisturbed)
        if not left:
            break
    print(f"killed: {dict(killed)} in {run + 1} runs")


def scan_with_kills(
    store: str, out: str, processes: Processes, chance: random.Random, most: int, killed: Counter[str]
) -> int:
    """Scan with at most `most` kills and return how many there were."""
    command = ["scan", store, "--farthest", "5", "--neighbors", "4", "--within", "3", "--tile", str(TILE)]
    begun, kills = len(processes.events()), 0
    known: list[tuple[int, set[str]]] = []
    processes.start_cluster()
    processes.start_client(*command, "--out", out)
    while True:
        at = len(processes.events()) + chance.randrange(1, 100)
        wait_for(lambda: not processes.runs("client") or (kills < most and len(processes.events()) >= at))  # noqa: B023
        if not processes.runs("client"):
            break
        victim = chance.choice(["worker-0", "worker-1", "scheduler", "client", "everything"])
        processes.kill(*([victim] if victim != "everything" else ["client", "scheduler", *processes.workers]))
        kills += 1
        killed[victim.partition("-")[0]] += 1
        if victim == "scheduler":
            assert processes.wait("client") == 1
            assert processes.said("client").splitlines()[-1].startswith("error: lost the dask scheduler at tcp://")
            processes.kill(*processes.workers)
        known.append((len(processes.events()), committed(out)))
        processes.start_cluster()
        if not processes.runs("client"):
            processes.start_client(*command, "--out", out)
    assert processes.wait("client") == 0, processes.said("client")
    events = processes.events()
    for index, before in known:
        again = {panel for what, panel in events[index:] if what == "started"} & before
        assert not again, f"computed again though committed: {sorted(again)}"
    runs = Counter(panel for what, panel in events[begun:] if what == "started")
    assert len(runs) == PANELS
    assert runs.total() <= PANELS + len(processes.workers) * kills
    fs, path = paths.filesystem(f"{out}.journal/history.csv")
    with fs.open(path, "r") as file:
        assert sorted(line["panel"] for line in csv.DictReader(file)) == sorted(runs)
    return kills

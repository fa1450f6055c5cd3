from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.errors import SomeFailed
from embgeom_dask.execution.worker_state import state_of
from embgeom_dask.testing import make_store

EACH = ("survey", "tokens", "duplicates", "spectrum")
SHAPE = (8192 * 4 + 100, 4)  # of several parts of spectrum
NBYTES = 4 * SHAPE[0] * SHAPE[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of chunks of 2,048 rows, some of which are the same."""
    rows = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    rows[5], rows[20000:20003] = rows[9000], rows[7]
    with tuning.override(CHUNK_BYTES=2048 * 16):
        return make_store(tmp_path_factory.mktemp("stores") / "m.zarr", rows, model="org/m")


@pytest.fixture(scope="module")
def alone(store: str, client: Client) -> dict[str, xr.Dataset]:
    """What each function gives by itself."""
    return {name: getattr(eg, name)(store, client=client) for name in EACH}


def small(folder: Path, names: str) -> list[str]:
    rows = np.random.default_rng(1).normal(size=(70, 3)).astype(np.float32)
    return [make_store(folder / f"{name}.zarr", rows[i:], model=f"org/{name}") for i, name in enumerate(names)]


def same(found: Any, expected: Any) -> None:
    """Assert that a node is what a function gave: a Dataset or a tree."""
    assert [*found.children] == [*getattr(expected, "children", {})]
    table = expected.to_dataset() if found.children else expected
    xr.testing.assert_identical(found.to_dataset().drop_attrs(), table.drop_attrs())
    assert {**found.attrs, "seconds": 0} == {**expected.attrs, "seconds": 0}
    for name, child in found.children.items():
        same(child, expected[name].to_dataset())


def read_by(client: Client, work: Any) -> int:
    """The bytes of chunks of matrices that the workers of a client read from files while `work` is done."""

    def begin() -> None:
        from zarr.storage import LocalStore

        honest: Any = LocalStore.get

        async def counted(self: Any, key: str, *args: Any, **more: Any) -> Any:
            found = await honest(self, key, *args, **more)
            if "embedding/c/" in key and found is not None:
                LocalStore.read_here += len(found)
            return found

        LocalStore.honest, LocalStore.read_here, LocalStore.get = honest, 0, counted

    def end() -> int:
        from zarr.storage import LocalStore

        LocalStore.get = LocalStore.honest
        return int(LocalStore.read_here)

    client.run(begin)
    try:
        work()
    finally:
        nbytes = sum(client.run(end).values())
    return nbytes


def kept(client: Client) -> list[int]:
    """How many runs have rows that the workers keep."""
    return [*client.run(lambda dask_worker: len(state_of(dask_worker).rows)).values()]


def test_each_is_what_its_function_gives_and_the_store_is_read_once(
    store: str, alone: dict[str, xr.Dataset], client: Client, workers: Client, tmp_path: Path
) -> None:
    stored = sum(path.stat().st_size for path in Path(store, "output_embedding/c").rglob("*") if path.is_file())
    for cluster, most in ((client, 1.0), (workers, 1.2)):
        found = list[Any]()
        nbytes = read_by(cluster, lambda cluster=cluster, found=found: found.append(eg.describe(store, client=cluster)))
        assert 0 < nbytes <= most * stored, nbytes / stored
        assert not any(kept(cluster))
        assert [*found[0].children] == [*EACH]
        for name in EACH:
            same(found[0][name], alone[name])

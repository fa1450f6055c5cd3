"""What workers of a cluster say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from embgeom_dask import devices
from embgeom_dask.errors import InputError
from embgeom_dask.execution.worker_inspection import describe_workers
from embgeom_dask.testing import make_store


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=3, memory_limit="1GiB", processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def test_every_worker_says_what_it_is_and_has(address: str) -> None:
    found = describe_workers(address)
    assert len(found) == 2
    here = devices.describe()
    for each in found:
        assert each["worker"].startswith("tcp://")
        assert (each["threads"], each["memory_limit"], each["problem"]) == (3, 1 << 30, None)
        assert each["versions"] == here["versions"]
        assert [device["device"] for device in each["devices"]] == [device["device"] for device in here["devices"]]
        assert "sees" not in each


def test_a_worker_says_whether_it_can_read_a_store(address: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(3, dtype=np.float32))
    assert {each["sees"] for each in describe_workers(address, store)} == {""}
    (why,) = {each["sees"] for each in describe_workers(address, str(tmp_path / "none.zarr"))}
    assert "none.zarr" in why
    (chunk,) = (path for path in Path(store, "output_embedding", "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"damaged")
    (why,) = {each["sees"] for each in describe_workers(address, store)}
    assert why


def test_where_no_scheduler_is_one_line_says_so() -> None:
    with pytest.raises(InputError, match="no dask scheduler answers at 'nowhere'"):
        describe_workers("nowhere")


def test_a_scheduler_without_workers_has_none_to_tell_of() -> None:
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        assert describe_workers(cluster.scheduler_address) == []

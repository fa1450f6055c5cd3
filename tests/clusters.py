"""Clusters on this machine, for as long as a test or a fixture needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def workers_of_one_thread(count: int, *, processes: bool = False) -> Iterator[Client]:
    """A client, not dask's default, of so many workers of one thread each, in this process or in their own."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=count, threads_per_worker=1, processes=processes, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client

"""The dask cluster that a run uses: the caller's own, one that runs already, or a local one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from distributed import Client, LocalCluster
from distributed.core import rpc
from distributed.security import Security
from distributed.utils import LoopRunner

from embgeom_dask import devices
from embgeom_dask.errors import InputError

_PATIENCE = 5.0  # seconds


@contextmanager
def connect(client: Client | None = None, scheduler: str | None = None, device: str = "auto") -> Iterator[Client]:
    """Yield `client` itself, a client of the scheduler at address `scheduler`, or a client of a new local cluster.

    The local cluster is one worker in this process with one dask thread, whose torch and numba calls use all cores;
    with several CUDA devices it is one process and one thread for each. What was opened here is closed on exit.

    Raises
    ------
    InputError
        where no scheduler answers at `scheduler` within 5 seconds, or a worker has no `device`.
    """
    with _client(client, scheduler) as active:
        if device != "auto":
            active.run(devices.choose, device)
        yield active


@contextmanager
def _client(client: Client | None, scheduler: str | None) -> Iterator[Client]:
    if client is not None:
        yield client
    elif scheduler is not None:
        _check_scheduler(scheduler)
        with Client(scheduler, set_as_default=False) as remote:
            yield remote
    else:
        with (
            LocalCluster(
                n_workers=max(1, torch.cuda.device_count()),
                threads_per_worker=1,
                processes=torch.cuda.device_count() > 1,
                dashboard_address=":0",
                memory_limit=0,
                silence_logs=40,
            ) as cluster,
            Client(cluster, set_as_default=False) as local,
        ):
            yield local


def _check_scheduler(address: str) -> None:
    """Ask for what only a scheduler answers: a `Client` of a wrong address would fail, then hang when it is deleted."""

    async def ask() -> None:
        async with rpc(address, connection_args=Security().get_connection_args("client")) as remote:
            await remote.identity(n_workers=0)

    try:
        LoopRunner().run_sync(lambda: asyncio.wait_for(ask(), _PATIENCE))
    except Exception as error:  # whatever is at that address can answer anything
        raise InputError(
            f"no dask scheduler answers at {address!r}: start one with `dask scheduler`, and give the address it prints"
        ) from error

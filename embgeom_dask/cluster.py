"""The dask cluster that a run uses: the caller's own, one that runs already, or a local one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from distributed import Client, LocalCluster

from embgeom_dask.errors import InputError


@contextmanager
def connect(client: Client | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """Yield `client` itself, a client of the scheduler at address `scheduler`, or a client of a new local cluster.

    The local cluster is one worker in this process with one dask thread, whose torch and numba calls use all cores;
    with several CUDA devices it is one process and one thread for each. What was opened here is closed on exit.

    Raises
    ------
    InputError
        where nothing answers at `scheduler`.
    """
    if client is not None:
        yield client
    elif scheduler is not None:
        try:
            remote = Client(scheduler, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"no dask scheduler answers at {scheduler!r}: start one with `dask scheduler`") from error
        with remote:
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

"""The dask cluster to use: the one given, the active one, or a local one."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import dask
import torch
from distributed import (
    Client,
    LocalCluster,
    Status,
    Worker,
    default_client,
    get_worker,
    performance_report,
    worker_client,
)
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from distributed.deploy import Cluster

from embgeom_dask import devices, private_apis, progress, tuning
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import known_workers, workers
from embgeom_dask.storage import paths
from embgeom_dask.storage.paths import PathLike

Closed = TypeVar("Closed", Client, LocalCluster)
ClientLike = Client | Cluster | str
"""A client, a cluster, or the address of a scheduler."""


_LOOPBACK = "127.0.0.1:0"  # a free port that nobody else reaches

_DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""Run by worker processes of this machine: a Ctrl-C in the terminal is for this process, which ends them."""


LOST = (CommClosedError, ClosedClientError, CancelledError)
"""What dask raises where the scheduler is gone."""


_report: ContextVar[PathLike | None] = ContextVar("_report", default=None)
"""Where the next `connect` of this context writes dask's report; None: nowhere."""


_told: ContextVar[str] = ContextVar("_told", default="")
"""The address of the scheduler that the `connect` around this one told of."""


@contextmanager
def connect(
    client: ClientLike | None = None,
    device: str = "auto",
    out: PathLike | None = None,
) -> Iterator[Client]:
    """Yield a client of the cluster to use, and say which it is.

    That is `client`, a client, a cluster or the address of a scheduler, where one is given; else the client that is
    active: `distributed.default_client`, or in a dask task the one of its worker; else that of a new local cluster. The
    local cluster is one worker in this process. On a cpu it has two dask threads, which share the cores: one keeps them
    busy while the other reads, filters or waits. With a GPU it has one; with several it is one process and one thread
    for each. It listens on loopback alone. What was opened here is closed on exit.

    Where no temporary folder can be written, dask's is beside `out` for as long.

    Raises
    ------
    InputError
        where no scheduler answers at the address within 5 seconds, `client` is asynchronous, closed or something else,
        no worker has this version of this package and the `device`, or this process was forked from one that has
        connected: there dask waits for threads that are not in this one.
    EmbgeomError
        where the scheduler is lost, or no local cluster starts.
    """
    if _first_process() != os.getpid():
        raise InputError(
            "this process was forked from one that has used dask, whose threads are not here: start it with "
            "multiprocessing.get_context('spawn')"
        )
    with _client(client, out) as (active, whose), known_workers.entered(active):
        lost = f"lost the dask scheduler at {_address(active)}: start one, and run the same command again"
        try:
            with _telling(active, whose), _reported(active):
                _wait_for_a_worker(active)
                workers.check(active, device)
                with devices.subnormal():
                    yield active
        except LOST as error:
            raise EmbgeomError(lost) from error
        except Exception as error:
            if isinstance(error, EmbgeomError) or _answers(active):
                raise
            raise EmbgeomError(lost) from error


@cache
def _first_process() -> int:
    """The process that has connected first: this one, or the one that it was forked from."""
    return os.getpid()


@contextmanager
def in_threads() -> Iterator[None]:
    """While entered, dask arrays are computed in threads of this process, whatever client is active."""
    with dask.config.set(scheduler="threads"):
        yield


def check_usable(client: ClientLike | None) -> None:
    """Refuse what `connect` would refuse of `client`, or of the client that is active, before anything else is done.

    Raises
    ------
    InputError
        as `connect` does, but for what it says of workers.
    """
    if isinstance(client, str):
        _check_scheduler(client)
    elif client is not None:
        _check(client)
    elif not _in_a_task() and (active := _default()) is not None:
        _check(active)


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler else "?"


def _answers(client: Client) -> bool:
    """Whether the scheduler of a client is there."""
    try:
        private_apis.ask_scheduler(client, tuning.SCHEDULER_PATIENCE)
    except Exception:  # whatever dask raises of a client that is closed, or closes
        return False
    return True


@contextmanager
def reach(address: str) -> Iterator[Client]:
    """Yield a client of the scheduler at an address, whatever its workers are.

    Raises
    ------
    InputError
        where no scheduler answers there.
    """
    _check_scheduler(address)
    with Client(address, set_as_default=False) as remote:
        yield remote


@contextmanager
def report_to(path: PathLike) -> Iterator[None]:
    """While entered, the first `connect` writes dask's performance report, a page of HTML, to `path` where it ends.

    Raises
    ------
    InputError
        where no file can be written there.
    """
    url = paths.locate(path)
    if not paths.is_url(url) and not Path(url).parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {Path(url).parent}")
    if not paths.is_url(url) and Path(url).is_dir():
        raise InputError(f"cannot write {path}: it is a folder, give the name of a file in it")
    entered = _report.set(url)
    try:
        yield
    finally:
        _report.reset(entered)


@contextmanager
def _reported(client: Client) -> Iterator[None]:
    """Have dask report what its workers do meanwhile, where that was asked for: of all of it, not of each part."""
    if (path := _report.get()) is None:
        yield
        return
    entered, report = _report.set(None), performance_report(path)
    try:
        with client.as_current():  # no longer: what else dask computes here is not for that cluster
            report.__enter__()
        yield
    finally:
        _report.reset(entered)
        try:
            with client.as_current():
                report.__exit__(None, None, None)
        except Exception as error:  # what was computed is there all the same
            progress.note(f"no performance report at {path}: {paths.explain(error)}")


@contextmanager
def _client(client: ClientLike | None, out: PathLike | None) -> Iterator[tuple[Client, str]]:
    """The client to use, and whose it is."""
    if isinstance(client, str):
        with reach(client) as remote:
            yield remote, "as given"
    elif client is not None:
        with _usable(client) as given:
            yield given, "as given"
    elif (active := _active()) is not None:
        with active as found, _usable(found) as given:
            yield given, "of the active client"
    else:
        with (
            _temporary_folder(out),
            _closed(_local_cluster()) as cluster,
            _closed(Client(cluster, set_as_default=False)) as local,
        ):
            try:
                yield local, "local"
            except KeyboardInterrupt:
                local.run(_leave, wait=False)
                raise


@contextmanager
def _closed(opened: Closed) -> Iterator[Closed]:
    """Close a client or cluster of this command in the end. How that goes changes nothing: its work is done or failed.

    On a busy machine dask may give up waiting, with a TimeoutError.
    """
    entered = opened.__enter__()
    try:
        yield cast(Closed, entered)
    finally:
        with suppress(Exception):
            opened.__exit__(None, None, None)


@contextmanager
def _telling(client: Client, whose: str) -> Iterator[None]:
    """Say once which cluster is used, and where its dashboard is."""
    before, address = _told.get(), _address(client)
    if address != before:
        here, link = address.startswith("inproc:"), dashboard(client)
        told = [f"dask cluster: {whose}" if here else f"dask cluster: {whose}, {address}"]
        told += [f"dashboard: {link}"] if link else []
        for line in ["; ".join(told)] if here else told:  # an address and a link are no line of 80 columns
            progress.note(line)
    _told.set(address)
    try:
        yield
    finally:
        _told.set(before)


def _active() -> AbstractContextManager[Client] | None:
    """The client that is active here: in a task of dask's that of its worker, which works on while the task waits."""
    if _in_a_task():
        return worker_client()
    active = _default()
    return None if active is None else nullcontext(active)


def _default() -> Client | None:
    with suppress(ValueError):
        return cast(Client, default_client())
    return None


def _in_a_task() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


@contextmanager
def _usable(client: Client | Cluster) -> Iterator[Client]:
    """The client given, or one of the cluster given."""
    _check(client)
    if isinstance(client, Client):
        yield client
        return
    with Client(client, set_as_default=False) as own:
        yield own


def _check(client: Client | Cluster) -> None:
    """Refuse a client or cluster that is none, or that nothing can be asked of from here."""
    if not isinstance(client, Client | Cluster):
        raise InputError(f"`client` is a {type(client).__name__}: give a dask client, a cluster or an address")
    if client.asynchronous:
        raise InputError("the dask client is asynchronous: give one that is not, Client(address), as `client`")
    if client.status not in (Status.running, "running"):
        raise InputError("the dask client is closed: give one that is connected as `client`")


def _local_cluster() -> LocalCluster:
    processes = torch.cuda.device_count() > 1
    try:
        return LocalCluster(
            n_workers=max(1, torch.cuda.device_count()),
            threads_per_worker=1 if len(devices.available()) > 1 else min(2, dask.system.CPU_COUNT),
            processes=processes,
            preload=dask.config.get("distributed.worker.preload") + [_DEAF] * processes,
            dashboard_address=_LOOPBACK,
            worker_dashboard_address=_LOOPBACK,
            memory_limit=0,
            silence_logs=40,
        )
    except Exception as error:  # a port, a folder, a setting of dask's
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        raise EmbgeomError(f"dask cannot start a cluster on this machine: {paths.explain(error)}") from error


@contextmanager
def _temporary_folder(out: PathLike | None) -> Iterator[None]:
    """Give this process a temporary folder where it finds none: dask does not start without."""
    try:
        tempfile.gettempdir()
        yield
        return
    except FileNotFoundError:
        pass
    above = [] if out is None or paths.is_url(out) else Path(out).absolute().parents
    beside = [folder for folder in above if folder.is_dir()][:1]
    for parent in (*beside, Path("/dev/shm")):
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix=".embgeom-", dir=parent)
            break
    else:
        raise EmbgeomError("dask needs a folder to write in and finds none: name one with TMPDIR")
    progress.note(f"no temporary folder can be written: dask writes in {folder.name}")
    with folder:
        tempfile.tempdir = folder.name
        try:
            yield
        finally:
            tempfile.tempdir = None


def dashboard(client: Client) -> str:
    """The address of dask's dashboard, as this process reaches it; empty where there is none."""
    link = ""
    with suppress(KeyError):
        link = client.dashboard_link or ""
    inside = client.scheduler is not None and str(client.scheduler.address).startswith("inproc:")
    return re.sub(r"//[^:/]+", "//127.0.0.1", link) if inside else link


async def _leave(dask_worker: Worker) -> None:
    """Close a worker without waiting for the panel that it computes."""
    if dask_worker.nanny:  # a process of its own ends with it, and its connections break in any order
        logging.disable()
    await dask_worker.close(executor_wait=False)


def _wait_for_a_worker(client: Client) -> None:
    """Wait for one, however long: those of a batch system take hours. Others start workers where there is work."""
    if known_workers.all_workers(client):
        return
    work = client.submit(pow, 1, 1, pure=False)
    while not known_workers.all_workers(client):
        progress.note("no worker yet: waiting for one, until Ctrl-C")
        with suppress(TimeoutError):
            work.result(timeout=tuning.WORKER_REMINDER)


def _check_scheduler(address: str) -> None:
    try:
        private_apis.ask_address(address, tuning.SCHEDULER_PATIENCE)
    except Exception as error:  # whatever is at that address can answer anything
        raise InputError(
            f"no dask scheduler answers at {address!r}: start one with `dask scheduler`, and give the address it prints"
        ) from error

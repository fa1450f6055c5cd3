from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import torch
from dask.delayed import delayed
from distributed import Client, LocalCluster, Reschedule, Security, get_client, get_worker

import embgeom_dask as eg
from embgeom_dask import progress, tuning
from embgeom_dask.analyses import all_pairs
from embgeom_dask.errors import AbortRun, EmbgeomError, InputError
from embgeom_dask.execution import cluster, known_workers, passes, workers
from embgeom_dask.execution.cluster import connect
from embgeom_dask.execution.journal import Pass
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        yield cluster


def refused(address: str) -> None:
    with pytest.raises(InputError, match=r"no dask scheduler answers at ") as caught, connect(client=address):
        pass
    assert repr(address) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scheduler_that_runs_is_used(running: LocalCluster) -> None:
    with connect(client=running.scheduler_address) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    with Client(running, set_as_default=False) as own, connect(own) as client:
        assert client is own


@tuning.override(WORKER_REMINDER=0.1)
def test_a_scheduler_without_workers_is_waited_for_with_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if len(notes) == 4:
            empty.scale(1)

    monkeypatch.setattr(progress, "note", note)
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as empty,
        connect(client=empty.scheduler_address) as client,
    ):
        assert len(client.nthreads()) == 1
    assert notes[0].startswith("dask cluster: as given, tcp://")
    assert notes[1].startswith("dashboard: http://")
    assert set(notes[2:]) == {"no worker yet: waiting for one, until Ctrl-C"}
    assert len(notes) >= 4


@pytest.mark.parametrize("address", ["", "foo", "foo:bar", "http://127.0.0.1:8786", "tcp://"])
def test_an_address_that_is_none(address: str) -> None:
    refused(address)


@tuning.override(SCHEDULER_PATIENCE=0.3)
def test_an_address_where_no_scheduler_is(monkeypatch: pytest.MonkeyPatch, running: LocalCluster) -> None:
    refused(next(iter(running.workers.values())).address)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        refused(address)

        def answer() -> None:
            with server.accept()[0] as caller:
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)

        answering = threading.Thread(target=answer)
        answering.start()
        refused(address)
        answering.join()
    refused(address)


@pytest.mark.slow  # in a process of its own, which loads all
def test_the_command_says_so_in_one_line_and_ends(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(3, dtype=np.float32))
    command = [Path(sys.executable).with_name("embgeom"), "survey", store, "--scheduler", "foo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: no dask scheduler answers at 'foo': start one with `dask scheduler`, and give the address it prints"
    ]


def listening() -> set[str]:
    """The addresses on which this process waits for others."""
    return {each.laddr.ip for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"}


def test_a_cluster_of_its_own_listens_on_loopback_alone() -> None:
    before = listening()
    with connect() as client:
        assert listening() - before <= {"127.0.0.1"}
        with urllib.request.urlopen(cluster.dashboard(client).removesuffix("/status") + "/health") as answer:
            assert answer.read() == b"ok"


def test_without_a_temporary_folder_scratch_is_beside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        if tempfile.tempdir is None:
            raise FileNotFoundError("No usable temporary directory found")
        return tempfile.tempdir

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", found)
    with connect(out=tmp_path / "r.zarr") as client:
        (folder,) = tmp_path.iterdir()
        assert client.submit(lambda: get_worker().local_directory).result().startswith(str(folder))
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_start_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "file")}),
        pytest.raises(EmbgeomError, match=r"^dask cannot start a cluster on this machine: .*") as told,
        connect(),
    ):
        pass
    assert "\n" not in str(told.value)


def test_a_device_that_workers_lack_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: LocalCluster
) -> None:
    missing = next(name for name in ("mps", "cuda") if not getattr(torch, name).is_available())
    store = make_store(tmp_path / "m.zarr", np.eye(3, dtype=np.float32))
    for work in (
        "analyses.all_pairs.make_plan",
        "execution.workers.completed",
        "analyses.outliers._norms_and_centroid",
    ):
        monkeypatch.setattr(f"embgeom_dask.{work}", lambda *_, **__: pytest.fail("work was done"))
    for command in (
        lambda **how: eg.scan(store, nearest=1, **how),
        lambda **how: eg.outliers(store, "0:3", **how),
    ):
        for where in ({}, {"client": running.scheduler_address}):
            with pytest.raises(InputError, match=rf"^no device '{missing}' here: choose auto or one of .*cpu$"):
                command(device=missing, **where)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person is told."""
    told: list[str] = []
    monkeypatch.setattr(progress, "note", told.append)
    return told


def here() -> str:
    """The address of the worker that this is done on; none on no worker."""
    try:
        return get_worker().address
    except ValueError:
        return ""


def other_version(monkeypatch: pytest.MonkeyPatch, bad: list[str]) -> str:
    honest = workers.version  # type: ignore[attr-defined]
    monkeypatch.setattr(workers, "version", lambda name: "9.9" if here() in bad else honest(name))
    return r"^worker \S+ has embgeom-dask 9.9, and this process embgeom-dask 0.1.0: install the same there"


def blind(monkeypatch: pytest.MonkeyPatch, bad: list[str]) -> str:
    def unless_bad(work: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any) -> Any:
            if here() in bad:
                raise EmbgeomError("cannot open m.zarr: No such file or directory")
            return work(*args)

        return tried

    monkeypatch.setattr(model_stores.Matrix, "take", unless_bad(model_stores.Matrix.take))
    monkeypatch.setattr(model_stores.Matrix, "stretch", unless_bad(model_stores.Matrix.stretch))
    unchanged = model_stores.Matrix.check_unchanged
    monkeypatch.setattr(model_stores.Matrix, "check_unchanged", unless_bad(unchanged))
    return r"cannot open m.zarr: No such file or directory"


def full(monkeypatch: pytest.MonkeyPatch, bad: list[str]) -> str:
    honest = Pass.commit

    def commit(self: Pass, panel: Any, found: Any) -> None:
        if here() in bad:
            raise AbortRun("cannot write r.zarr: No space left on device")
        honest(self, panel, found)

    monkeypatch.setattr(Pass, "commit", commit)
    return r"cannot write r.zarr: No space left on device"


@pytest.mark.parametrize("fault", [other_version, blind, full])
def test_what_is_wrong_with_one_worker_is_that_workers_alone(
    fault: Callable[..., str], running: LocalCluster, notes: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", rows)
    expected = eg.scan(store, nearest=3, tile=16)
    bad = next(iter(running.workers.values())).address
    words = fault(monkeypatch, [bad])
    notes.clear()
    found = eg.scan(store, nearest=3, tile=16, out=tmp_path / "r.zarr", client=running.scheduler_address)
    assert found.drop_attrs().identical(expected.drop_attrs())
    (told,) = (note for note in notes if "gets no more work" in note)
    assert re.search(words, told)
    assert bad in told
    assert bad not in (tmp_path / "r.zarr.journal/history.csv").read_text()
    if fault is not full:
        assert eg.survey(store, client=running.scheduler_address)["norm_max"].size == 1


@pytest.mark.parametrize("fault", [other_version, blind, full])
def test_where_no_worker_is_left_one_line_says_why(
    fault: Callable[..., str], running: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(40, dtype=np.float32))
    words = fault(monkeypatch, [worker.address for worker in running.workers.values()])
    with (
        Client(running, set_as_default=False) as client,
        pytest.raises(EmbgeomError, match=words) as told,
    ):
        eg.scan(store, nearest=3, tile=16, out=tmp_path / "r.zarr", client=client)
    assert "\n" not in str(told.value)


def test_work_goes_on_where_those_that_could_do_it_left_and_others_came() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as own,
        Client(own, set_as_default=False) as client,
        known_workers.entered(client),
    ):
        bad, good = (worker.address for worker in own.workers.values())

        def work(number: int) -> int:
            if here() == bad:
                raise AbortRun("no disk")
            if number and here() == good:
                raise Reschedule
            return number

        done: list[int] = []
        for batch in workers.completed(client, work, range(6), lambda number: (number,), lambda: 6, TaskTitle("test")):
            done += [ended.result() for _, ended in batch]
            if 0 in done and good in client.nthreads():
                own.scale(3)
                client.wait_for_workers(3)
                client.retire_workers([good])
        assert sorted(done) == list(range(6))


@tuning.override(WORKERS_LOOK=0.05)
def test_results_that_come_late_are_waited_for_by_every_thread(
    running: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = running.scheduler.handlers["gather"]

    async def late(*args: Any, **more: Any) -> Any:
        await asyncio.sleep(0.3)
        return await honest(*args, **more)

    monkeypatch.setitem(running.scheduler.handlers, "gather", late)
    with Client(running, set_as_default=False) as client, ThreadPoolExecutor(12) as threads:
        found = [threads.submit(workers.gather, client, abs, [(-each,)], TaskTitle("test")) for each in range(48)]
        assert [each.result() for each in found] == [[each] for each in range(48)]


def test_a_cluster_that_starts_workers_where_there_is_work_gets_some(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(3, dtype=np.float32))
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0") as own:
        own.adapt(minimum=0, maximum=1, interval="50ms")
        assert eg.scan(store, nearest=1, client=own)["nearest_distance"].item() == 2**0.5


def test_a_client_may_be_a_cluster_or_an_address(running: LocalCluster) -> None:
    for given in (running, running.scheduler_address):
        with connect(given) as client:
            assert client.scheduler.address == running.scheduler_address
        assert client.status == "closed"
    assert running.status.name == "running"


def test_the_active_client_is_used_where_none_is_given(
    running: LocalCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    at = f"{running.scheduler_address}\ndashboard: {running.dashboard_link}"
    with progress.showing(True):
        with Client(running) as active, connect() as used:
            assert used is active
        assert capfd.readouterr().err == f"dask cluster: of the active client, {at}\n"
        with Client(running) as active, Client(running, set_as_default=False) as given, connect(given) as used:
            assert used is given
            with connect(given):  # within a call that told it
                pass
        assert capfd.readouterr().err == f"dask cluster: as given, {at}\n"
        with connect() as client:
            link = cluster.dashboard(client)
        assert link.startswith("http://127.0.0.1:")
        assert capfd.readouterr().err == f"dask cluster: local; dashboard: {link}\n"


def test_clients_over_tls_are_used_as_dask_configures_them(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(4, dtype=np.float32))
    keys = Security.temporary()
    texts = {"ca-file": keys.tls_ca_file, "client.cert": keys.tls_client_cert, "client.key": keys.tls_client_key}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    configured = {f"distributed.comm.tls.{name}": str(tmp_path / name) for name in texts}
    how = {"n_workers": 1, "processes": False, "protocol": "tls", "dashboard_address": ":0"}
    with LocalCluster(security=keys, **how) as own:
        assert own.scheduler_address.startswith("tls://")
        with Client(own, set_as_default=False) as client, dask.config.set(configured):
            for given in (own, client, own.scheduler_address):
                assert eg.survey(store, client=given)["centroid_l2"].item() == 0.5
        with Client(own):  # the one that is active
            found = eg.scan(store, nearest=1, out=tmp_path / "r.zarr")
        assert found["nearest_distance"].item() == 2**0.5


def test_in_a_dask_task_the_client_of_its_worker_is_used(running: LocalCluster, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(4, dtype=np.float32))
    with Client(running, set_as_default=False) as client:
        found = client.submit(lambda: (get_client().scheduler.address, eg.scan(store, nearest=1))).result()
    assert (found[0], float(found[1]["nearest_distance"][0])) == (running.scheduler_address, np.sqrt(2))


def test_a_client_that_cannot_be_used_is_refused_before_an_array_is_read(running: LocalCluster, tmp_path: Path) -> None:
    def read() -> None:
        raise AssertionError("the array is read")

    rows = da.from_delayed(delayed(read)(), (4, 4), np.float64)
    said = r"^the dask client is asynchronous: "
    of_a_store = eg.open_model(make_store(tmp_path / "m.zarr", output=np.eye(4)))["output_embedding"][1:]
    steps = da.stack([rows, rows])

    async def asynchronous() -> None:
        async with Client(running.scheduler_address, asynchronous=True, set_as_default=False) as given:
            for call in (partial(eg.scan, nearest=1), eg.survey, eg.duplicates):
                with pytest.raises(InputError, match=said):
                    call(rows, client=given)
        async with Client(running.scheduler_address, asynchronous=True):  # the active one
            for call in (partial(eg.scan, rows, nearest=1), partial(eg.survey, of_a_store), partial(eg.series, steps)):
                with pytest.raises(InputError, match=said):
                    call()

    asyncio.run(asynchronous())
    closed = Client(running, set_as_default=False)
    closed.close()
    for given in (closed, "tcp://127.0.0.1:9"):
        with pytest.raises(InputError, match=r"client is closed|no dask scheduler answers"):
            eg.scan(rows, nearest=1, client=given)


def test_a_fork_of_a_process_that_has_used_dask_is_refused_instead_of_waiting(tmp_path: Path) -> None:
    script = """
import os
import numpy as np, embgeom_dask as eg
eg.scan(np.eye(3), nearest=1)
child = os.fork()
if child == 0:
    try:
        eg.scan(np.eye(3), nearest=1)
    except eg.InputError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "this process was forked from one that has used dask" in done.stdout, done.stderr


def test_what_is_no_client_of_use_is_refused_in_one_line(running: LocalCluster) -> None:
    closed = Client(running, set_as_default=False)
    closed.close()

    async def asynchronous() -> None:
        async with Client(running.scheduler_address, asynchronous=True, set_as_default=False) as given:
            with pytest.raises(InputError, match=r"^the dask client is asynchronous: "), connect(given):
                pass

    asyncio.run(asynchronous())
    for given, words in (
        (closed, "the dask client is closed: "),
        (7, "`client` is a int: "),
        ("nowhere", "no dask scheduler"),
    ):
        with pytest.raises(InputError, match=f"^{words}"), connect(given):
            pass


@pytest.mark.parametrize("moment", ["waiting", "planning", "tiles"])
@tuning.override(WORKER_REMINDER=0.1)
def test_a_scheduler_that_dies_is_told_in_one_line(
    moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(64, dtype=np.float32))
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        LocalCluster(n_workers=moment != "waiting", processes=False, protocol="tcp", dashboard_address=":0") as own,
    ):
        if moment == "waiting":
            monkeypatch.setattr(progress, "note", lambda text: own.close() if "no worker" in text else None)
        else:
            module, name = (all_pairs, "make_plan") if moment == "planning" else (passes, "execute")
            honest = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *args: own.close() or honest(*args))
        with pytest.raises(EmbgeomError, match=r"^lost the dask scheduler at tcp://\S+: start one, and run") as told:
            eg.scan(store, nearest=1, tile=8, client=own.scheduler_address)
    assert "\n" not in str(told.value)

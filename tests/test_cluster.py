from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import torch
from distributed import Client, LocalCluster, get_worker

import embgeom_dask as eg
from embgeom_dask import cluster, progress
from embgeom_dask.cluster import connect
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.testing import make_store


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, processes=False, protocol="tcp", dashboard_address=None) as cluster:
        yield cluster


def refused(address: str) -> None:
    with pytest.raises(InputError, match=r"no dask scheduler answers at ") as caught, connect(scheduler=address):
        pass
    assert repr(address) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scheduler_that_runs_is_used(running: LocalCluster) -> None:
    with connect(scheduler=running.scheduler_address) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    with Client(running, set_as_default=False) as own, connect(own, "foo") as client:
        assert client is own


def test_a_scheduler_without_workers_is_waited_for_with_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if len(notes) == 2:
            empty.scale(1)

    monkeypatch.setattr(cluster, "_REMINDER", 0.1)
    monkeypatch.setattr(progress, "note", note)
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as empty,
        connect(scheduler=empty.scheduler_address) as client,
    ):
        assert len(client.nthreads()) == 1
    assert set(notes) == {"no worker yet: waiting for one, until Ctrl-C"}
    assert len(notes) >= 2


@pytest.mark.parametrize("address", ["", "foo", "foo:bar", "http://127.0.0.1:8786", "tcp://"])
def test_an_address_that_is_none(address: str) -> None:
    refused(address)


def test_an_address_where_no_scheduler_is(monkeypatch: pytest.MonkeyPatch, running: LocalCluster) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.3)
    refused(next(iter(running.workers.values())).address)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        refused(address)
        answering = threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9))
        answering.start()
        refused(address)
        answering.join()
    refused(address)


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
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
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
    for work in ("scans.make_plan", "chunks.as_completed", "clusters._norms_and_centroid"):
        monkeypatch.setattr(f"embgeom_dask.{work}", lambda *_, **__: pytest.fail("work was done"))
    for command in (
        lambda **how: eg.scan(store, nearest=1, **how),
        lambda **how: eg.survey(store, **how),
        lambda **how: eg.outliers(store, "0:3", **how),
    ):
        for where in ({}, {"scheduler": running.scheduler_address}):
            with pytest.raises(InputError, match=rf"^no device '{missing}' here: choose auto or one of .*cpu$"):
                command(device=missing, **where)

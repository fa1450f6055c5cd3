from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.cli.app import main
from embgeom_dask.testing import make_store
from tests.cluster.conftest import cloud
from tests.cluster.processes import AUDIT, Processes, committed, wait_for

pytestmark = pytest.mark.cluster

PANELS = 168
WANTED = ["--farthest", "2", "--tile", "50"]
CLIENT = [sys.executable, "-c", "from embgeom_dask.cli.app import run; run()"]


def in_a_namespace(script: str) -> list[str]:
    """A command that runs `script` where it may mount."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    return ["unshare", "-Urm", "sh", "-c", script]


def last_line(processes: Processes, code: int) -> str:
    assert processes.wait("client") == code, processes.said("client")
    lines = processes.said("client").splitlines()
    # Python's own tracker of a process that ends at once may warn, after it, of what that has left to it
    return [line for line in lines if "resource_tracker" not in line][-1]


def test_the_first_interrupt_finishes_what_is_in_flight_and_the_command_goes_on(
    store: str, tmp_path: Path, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.zarr"
    processes.start_cluster()
    processes.start_client("scan", store, *WANTED, "--out", str(out))
    wait_for(lambda: len(committed(out)) > 20)
    processes.kill("client", number=signal.SIGINT)
    said = last_line(processes, 130)
    assert said.startswith("interrupted: the same command goes on: embgeom scan ")
    events = processes.events()
    assert sum(what == "started" for what, _ in events) == sum(what == "committed" for what, _ in events)
    done = len(committed(out))
    assert main(["status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["panels_done"], status["panels_total"]) == (done, PANELS)
    assert status["resume"] == said.removeprefix("interrupted: the same command goes on: ")
    processes.start_client("scan", store, *WANTED, "--out", str(out))
    assert processes.wait("client") == 0
    assert sum(what == "started" for what, _ in processes.events()) == PANELS


@pytest.mark.parametrize("where", ["here", "processes of this machine", "another cluster"])
def test_the_second_interrupt_stops_at_once_and_the_command_goes_on(where: str, store: str, tmp_path: Path) -> None:
    out, stuck = tmp_path / "r.zarr", "3-4-12"
    undisturbed = eg.scan(store, farthest=2, tile=50)
    processes = Processes(tmp_path, STUCK=stuck, DASK_DISTRIBUTED__WORKER__PRELOAD=repr([str(AUDIT)]))
    command = ["scan", store, *WANTED, "--out", str(out)]

    def start() -> None:
        if where == "another cluster":
            processes.start_cluster()
            processes.start_client(*command)
        else:
            two = "import torch; torch.cuda.device_count = lambda: 2; " if where != "here" else ""
            processes.start("client", [*CLIENT[:2], two + CLIENT[2], *command])

    try:
        start()
        wait_for(lambda: ("started", stuck) in processes.events())
        processes.kill("client", number=signal.SIGINT)
        wait_for(lambda: "interrupt again to stop at once" in processes.said("client"))
        processes.kill("client", number=signal.SIGINT)
        said = last_line(processes, 130)
        assert said.startswith("interrupted: the same command goes on: embgeom scan ")
        assert "Traceback" not in processes.said("client")
        wait_for(lambda: not processes.left("client"))
        done = committed(out)
        assert 0 < len(done) < PANELS
        assert stuck not in done
        processes.free()
        before = len(processes.events())
        start()
        assert processes.wait("client") == 0, processes.said("client")
    finally:
        processes.stop()
    again = {panel for what, panel in processes.events()[before:] if what == "started"}
    assert not again & done
    xr.testing.assert_identical(eg.open_result(out).drop_attrs().load(), undisturbed.drop_attrs().load())


def test_a_panel_that_kills_its_workers_does_not_stop_the_others(store: str, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    processes = Processes(tmp_path, POISON="3-3-4", DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        processes.start_cluster("--nanny")
        processes.start_client("scan", store, *WANTED, "--out", str(out))
        said = last_line(processes, 1)
    finally:
        processes.stop()
    assert said.endswith("panel 3-3-4: every worker that ran it died (out of memory?)")
    assert said.startswith(f"error: 1 of {PANELS} panels failed")
    assert len(committed(out)) == PANELS - 1


def test_the_models_of_a_worker_that_is_killed_go_on_elsewhere(tmp_path: Path, processes: Processes) -> None:
    stores = [make_store(tmp_path / f"{each}.zarr", cloud() + each, model=f"org/m{each}") for each in range(5)]
    undisturbed = [eg.scan(each, farthest=2, tile=50) for each in stores]
    processes.start_cluster()
    processes.start_client("scan", *stores, *WANTED, "--out", str(tmp_path / "out"))
    wait_for(lambda: len(processes.events()) > 2 * PANELS)
    processes.kill("worker-0")
    assert processes.wait("client") == 0, processes.said("client")
    assert processes.runs("worker-1")
    for each, alone in enumerate(undisturbed):
        found = eg.open_result(tmp_path / "out" / f"org--m{each}.zarr")
        xr.testing.assert_identical(found.drop_attrs().load(), alone.drop_attrs().load())


def test_a_scheduler_without_workers_is_waited_for_until_one_comes_or_an_interrupt(
    store: str, processes: Processes
) -> None:
    workers, processes.workers = processes.workers, []
    processes.start_cluster()
    for end in ("interrupt", "worker"):
        processes.start_client("scan", store, *WANTED)
        wait_for(lambda: "no worker yet: waiting for one" in processes.said("client"))
        if end == "interrupt":
            processes.kill("client", number=signal.SIGINT)
            assert last_line(processes, 130).startswith("interrupted: ")
    processes.workers = workers
    processes.start_cluster()
    assert processes.wait("client") == 0, processes.said("client")


def test_a_worker_without_the_package_is_named(store: str, tmp_path: Path, processes: Processes) -> None:
    hide = tmp_path / "hide.py"
    hide.write_text("import sys\ndef dask_setup(worker):\n    sys.modules['embgeom_dask'] = None\n")
    processes.start_cluster("--no-nanny", "--preload", str(hide))
    processes.start_client("scan", store, *WANTED)
    said = last_line(processes, 2)
    assert said.startswith("error: worker tcp://127.0.0.1:")
    assert "has no embgeom-dask" in said


def test_a_worker_that_does_not_see_the_store_is_named(store: str, tmp_path: Path, processes: Processes) -> None:
    worker = f"{sys.executable} -m distributed.cli.dask_worker {processes.address} --no-nanny --no-dashboard"
    command = in_a_namespace(f"mount -t tmpfs tmpfs {store} && exec {worker}")
    processes.start("worker-1", command)
    processes.workers = []
    processes.start_cluster()
    processes.start_client("scan", store, *WANTED)
    said = last_line(processes, 2)
    assert said.startswith("error: worker tcp://")
    assert f"cannot see {store}/" in said
    processes.workers = ["worker-0"]  # which sees it
    processes.start_cluster()
    with Client(processes.address, set_as_default=False) as client:
        client.wait_for_workers(2)
    processes.start_client("scan", store, *WANTED)
    assert processes.wait("client") == 0, processes.said("client")
    assert f"cannot see {store}/" in processes.said("client")


@pytest.mark.parametrize("fault", ["size=200k", "size=100m"])
def test_a_disk_that_is_full_or_read_only(fault: str, store: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    scan = f"{' '.join(CLIENT[:2])} '{CLIENT[2]}' scan {store} {' '.join(WANTED)} --neighbors 9 --out {disk}/r.zarr"
    # a second mount on top: the disk's own stays busy while the command holds the lock of its journal
    seal = "while ! ls $0/*/*/3-3-4 >/dev/null 2>&1; do :; done; mount --bind $0 $0; mount -o remount,bind,ro $0"
    script = f"mount -t tmpfs -o {fault} tmpfs {disk} && "
    script += f"{scan} & client=$!; sh -c '{seal}' {disk}; wait $client" if fault == "size=100m" else scan
    done = subprocess.run(in_a_namespace(script), capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"error: cannot write {disk}/r.zarr")
    assert said.endswith("Read-only file system" if fault == "size=100m" else "No space left on device")

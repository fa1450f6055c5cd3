"""Do a scheduler and a client keep up with a large cluster? The real ones, with waits in place of tiles.

The scheduler and the workers are processes of their own; the planner, the grid, the journal, the submission of panels
and the merge of their states are those of a scan for the 100 farthest pairs. Prints what `docs/scaling.md` has.

    python -m benchmarks.simulate [--panels 100000] [--threads 64] [--seconds 0.1]
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import Client

from embgeom_dask.execution import runner
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.journal import Journal, Pass
from embgeom_dask.execution.monitor import Monitor
from embgeom_dask.execution.panel_result import PanelResult, PanelStats
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.planning import Resources, make_plan
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.pairwise.blocks import BlockCache
from embgeom_dask.pairwise.exact import Pairs
from embgeom_dask.storage import model_stores, results
from embgeom_dask.testing import make_store

TILE, KEPT, PROCESSES = 16, 100, 4


class Peaks:
    """The most memory that each process held, looked at every quarter of a second, and its seconds of cpu."""

    def __init__(self, processes: dict[str, int]) -> None:
        self.bytes = dict.fromkeys(processes, 0)
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        threading.Thread(target=self._look, daemon=True).start()

    def seconds(self) -> dict[str, float]:
        """Of each process, so far."""
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def _look(self) -> None:
        while True:
            with suppress(psutil.NoSuchProcess):  # at the end
                for name, process in self._processes.items():
                    self.bytes[name] = max(self.bytes[name], process.memory_info().rss)
            time.sleep(0.25)


def wait_panel(seconds: float, plan: bytes, panel: Panel, hints: bytes, journal: Pass) -> PanelResult:  # noqa: ARG001
    """A panel that waits, and finds as many pairs as one that computes."""
    start = time.time()
    time.sleep(seconds)
    chance = np.random.default_rng([panel.row, panel.start])
    state = Pairs(
        first=np.full(KEPT, panel.row),
        second=np.arange(panel.stop, panel.stop + KEPT),
        high=chance.random(KEPT),
        low=np.zeros(KEPT),
        exact=np.ones(KEPT, np.bool_),
    )
    work = PanelStats(start, time.time(), "", 0, 0)
    found = PanelResult({"farthest": state}, {"cpu"}, Counter(float64=KEPT), {"cpu float32"}, work)
    journal.commit(panel, found)
    return found


def main() -> None:
    """Simulate, print figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=100_000, help="at least")
    parser.add_argument("--threads", type=int, default=64, help=f"of {PROCESSES} workers, each in place of a device")
    parser.add_argument("--seconds", type=float, default=0.1, help="that a panel waits")
    given = parser.parse_args()
    blocks = next(n for n in range(1, 10**6) if n + n * n // 16 >= given.panels)
    with tempfile.TemporaryDirectory() as folder, closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.close()
        store = make_store(f"{folder}/m.zarr", np.random.default_rng(0).random((blocks * TILE, 2), np.float32))
        python, port = [sys.executable, "-m"], address.rpartition(":")[2]
        where = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        started = [subprocess.Popen([*python, "distributed.cli.dask_scheduler", *where], stderr=subprocess.DEVNULL)]
        worker = [*python, "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
        worker += ["--nthreads", str(given.threads // PROCESSES)]
        started += [subprocess.Popen(worker, stderr=subprocess.DEVNULL) for _ in range(PROCESSES)]
        try:
            names = ["scheduler", *(f"worker {i}" for i in range(PROCESSES))]
            peaks = Peaks({"client": psutil.Process().pid} | dict(zip(names, (p.pid for p in started), strict=True)))
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(PROCESSES)
                simulate(client, store, f"{folder}/r.zarr", given.seconds, given.threads, peaks)
        finally:
            for process in started:
                process.kill()
                process.wait()


def simulate(client: Client, store: str, out: str, seconds: float, threads: int, peaks: Peaks) -> None:
    """Make one pass, and then once more with every panel committed."""
    matrix = model_stores.find_matrix(store)
    settings = ScanSpec("euclidean", farthest=KEPT)
    plan = make_plan(client, [(matrix, np.arange(matrix.vocab_size))], settings, Resources("cpu", TILE))
    attrs = results.provenance("scan", [matrix], [], 0.0, settings.as_dict())
    journal = Journal(out)
    with journal.claimed(attrs):
        make_passes(client, journal, attrs, plan, seconds, threads, peaks)


def make_passes(
    client: Client, journal: Journal, attrs: dict[str, Any], plan: Plan, seconds: float, threads: int, peaks: Peaks
) -> None:
    """Make the pass twice, with the journal in hand."""
    journal.begin(attrs, plan)
    client.run(__import__, "embgeom_dask.execution.runner")
    kept, done = journal.open_pass(plan, "scan"), 0
    runner.run_panel = partial(import_module("benchmarks.simulate").wait_panel, seconds)  # not that of __main__

    def advance(*_: Any, **__: Any) -> None:
        nonlocal done
        done += 1
        if done == 5000 or not done % 25_000:
            print(f"after {done:>7,} panels: {memory(peaks)}", flush=True)

    began, before = time.perf_counter(), peaks.seconds()
    runner.execute(plan, client, BlockCache(), Monitor(client, advance), kept)
    lasted = time.perf_counter() - began
    used = {name: seconds - before[name] for name, seconds in peaks.seconds().items()}
    ideal = done * seconds / threads
    print(f"{done:,} panels in {lasted:.0f} s: {done / lasted:.0f} a second; {threads} devices alone: {ideal:.0f} s")
    print(f"cpu time a panel: {', '.join(f'{name} {1e3 * spent / done:.1f} ms' for name, spent in used.items())}")
    print(f"most memory: {memory(peaks)}")
    size = sum(path.stat().st_size for path in Path(f"{journal.out}.journal").rglob("*-*-*"))
    began = time.perf_counter()
    runner.execute(plan, client, BlockCache(), Monitor(client, lambda *_, **__: None), kept)
    print(f"journal: {size / 1e6:.0f} MB; every panel read again in {time.perf_counter() - began:.0f} s")


def memory(peaks: Peaks) -> str:
    """The peaks, in MiB."""
    return ", ".join(f"{name} {held >> 20} MiB" for name, held in peaks.bytes.items())


if __name__ == "__main__":
    main()

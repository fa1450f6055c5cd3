"""Many models on a large cluster, with the real scheduler, client, planner and journal: a panel waits, then computes.

python -m benchmarks.batch [--models 1000] [--workers 64] [--seconds 2.0] [--anywhere]

The scheduler is a process of its own, and so are the workers together, each of one thread; models are tiny. Prints what
`docs/scaling.md` has: bytes read by panels, the share of the workers' time without a panel, tasks, memory. With
`--anywhere` four models are in work at a time and their panels go to any worker, as they did before models had homes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import torch
from distributed import Client, Scheduler, Worker

from benchmarks.models import in_panels, panels_of
from benchmarks.simulate import Peaks, memory
from embgeom_dask import scan, tuning
from embgeom_dask.execution import runner
from embgeom_dask.execution.workers_of_models import WorkersOfModels
from embgeom_dask.testing import make_store

BLOCKS, TILE, WIDTH = 4, 16, 64


def main() -> None:
    """Simulate, print figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="that a panel waits")
    parser.add_argument("--anywhere", action="store_true", help="as it was before models had homes")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # what a process of the cluster does
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve_workers(given.serve, given.workers, given.seconds))
        return
    name = torch.cpu.get_capabilities().get("cpu_name", "CPU")
    print(f"{name}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    print(f"{given.models:,} models of {BLOCKS} blocks on {given.workers} workers; a panel waits {given.seconds} s\n")
    with tempfile.TemporaryDirectory() as folder, closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.close()
        python, port = [sys.executable, "-m"], address.rpartition(":")[2]
        where = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        more = ["--workers", str(given.workers), "--seconds", str(given.seconds)]
        commands = ["distributed.cli.dask_scheduler", *where], ["benchmarks.batch", "--serve", address, *more]
        started = [subprocess.Popen([*python, *each], stderr=subprocess.DEVNULL) for each in commands]
        try:
            names = zip(("scheduler", "workers"), (each.pid for each in started), strict=True)
            with Client(address, set_as_default=False, timeout=60) as client:
                client.wait_for_workers(given.workers)
                simulate(client, folder, given, Peaks({"client": os.getpid()} | dict(names)))
        finally:
            for process in started:
                process.kill()
                process.wait()


async def serve_workers(address: str, count: int, seconds: float) -> None:
    """Be so many workers, of which each panel waits first."""
    honest = runner._compute

    def wait(*args: Any) -> Any:
        time.sleep(seconds)
        return honest(*args)

    runner._compute = wait
    dask.config.set({"distributed.worker.profile.enabled": False})  # a thread for each worker, a hundred looks a second
    workers = [Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(each.finished() for each in workers))


def simulate(client: Client, folder: str, given: argparse.Namespace, peaks: Peaks) -> None:
    """Scan all models, print figures."""
    rows = np.random.default_rng(0).standard_normal((BLOCKS * TILE, WIDTH), np.float32)
    stores = [make_store(f"{folder}/m0.zarr", rows, model="org/m0")]
    for each in range(1, given.models):
        stores.append(shutil.copytree(stores[0], f"{folder}/m{each}.zarr"))
        root = Path(stores[-1], "zarr.json")
        root.write_text(root.read_text().replace('"org/m0"', f'"org/m{each}"'))
    how: dict[str, Any] = {"nearest": 1, "tile": TILE, "memory_limit": "16GiB", "client": client}
    scan(stores[0], **how)  # imports and compiles
    tasks = client.run_on_scheduler(_tasks)
    began, before = time.perf_counter(), peaks.seconds()
    changed = {"MODELS_AT_ONCE": 4} if given.anywhere else {}
    if given.anywhere:
        WorkersOfModels.enter = nullcontext  # type: ignore[method-assign,assignment]
    with tuning.override(**changed):
        scan(stores, out=f"{folder}/results", **how)
    lasted, tasks = time.perf_counter() - began, client.run_on_scheduler(_tasks) - tasks
    used = {name: spent - before[name] for name, spent in peaks.seconds().items()}
    panels, done = panels_of(f"{folder}/results"), given.models
    read = sum(int(row["read_bytes"]) for row in panels) / (done * rows.nbytes)
    idle = 1 - in_panels(panels, given.workers)
    alone = len(panels) * given.seconds / given.workers
    print(f"{done:,} models, {len(panels):,} panels in {lasted:.0f} s; the waits alone: {alone:.0f} s")
    print(f"{len(panels) / lasted:.1f} panels a second, {tasks / lasted:.1f} tasks")
    print(f"read by panels: {read:.2f} times the matrices; idle: {idle:.0%} of the workers' time")
    print(f"cpu time a model: {', '.join(f'{name} {spent / done:.2f} s' for name, spent in used.items())}")
    print(f"most memory: {memory(peaks)}")


def _tasks(dask_scheduler: Scheduler) -> int:
    """How many tasks were done so far."""
    return sum(prefix.state_counts["memory"] for prefix in dask_scheduler.task_prefixes.values())


if __name__ == "__main__":
    main()

"""Many models on one cluster: time, what was read of the stores, and the share of time that workers spend in panels.

python -m benchmarks.models [--models 8] [--workers 4] [--rows 12000] [--width 1024]

Each worker is a process with one thread. Bytes read are those that panels read, from the history of each scan; planning
reads each matrix once more.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from datetime import datetime
from pathlib import Path
from time import perf_counter

import numpy as np
from distributed import Client, LocalCluster

from embgeom_dask import scan
from embgeom_dask.testing import make_store


def main() -> None:
    """Scan, and print a line of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--neighbors", type=int, default=10)
    given = parser.parse_args()
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    print(f"{given.models} models of {given.rows:,} x {given.width:,} float32, neighbors {given.neighbors}\n")
    print("| workers | time | read by panels, of the matrices | by planning and panels, of two reads | in panels |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        stores = [
            make_store(
                f"{folder}/m{each}.zarr",
                generator.standard_normal((given.rows, given.width), np.float32),
                model=f"org/m{each}",
            )
            for each in range(given.models)
        ]
        lasted, read, share = measure(stores, f"{folder}/results", given.workers, given.neighbors)
    whole = given.models * given.rows * given.width * 4
    print(
        f"| {given.workers} | {lasted:.1f} s | {read / whole:.2f} | {(whole + read) / (2 * whole):.2f} | {share:.0%} |"
    )


def measure(stores: list[str], out: str, workers: int, neighbors: int) -> tuple[float, int, float]:
    """Wall time, bytes that panels read, and the share of the workers' time in panels from the first to the last."""
    how = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "memory_limit": 0}
    with LocalCluster(n_workers=workers, **how) as cluster, Client(cluster, set_as_default=False) as client:
        scan(stores[0], neighbors=neighbors, client=client)  # imports and compiles
        started = perf_counter()
        scan(stores, neighbors=neighbors, tile=1024, client=client, out=out)
        lasted = perf_counter() - started
    panels = panels_of(out)
    return lasted, sum(int(row["read_bytes"]) for row in panels), in_panels(panels, workers)


def panels_of(out: str) -> list[dict[str, str]]:
    """The lines of the histories of all results in a folder."""
    return [row for path in sorted(Path(out).glob("*/history.csv")) for row in csv.DictReader(path.open())]


def in_panels(panels: list[dict[str, str]], workers: int) -> float:
    """The share of the workers' time, from the first panel's start to the last one's end, that they spend in panels."""
    begun, ended = ([datetime.fromisoformat(row[end]).timestamp() for row in panels] for end in ("start", "end"))
    return (sum(ended) - sum(begun)) / (workers * (max(ended) - min(begun)))


if __name__ == "__main__":
    main()

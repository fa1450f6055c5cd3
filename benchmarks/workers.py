"""Two workers against one: the same scan on clusters of one and of two processes with a core each, and of one with two.

python -m benchmarks.workers [--rows 16000] [--width 4096] [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from statistics import median
from time import perf_counter, process_time

import numpy as np
from distributed import Client, LocalCluster

from embgeom_dask import scan
from embgeom_dask.testing import make_store


def main() -> None:
    """Time, and print a line of a table for each cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3, help="the medians of so many runs are given")
    given = parser.parse_args()
    print(f"{given.rows:,} x {given.width:,} float32, neighbors 10, with a journal\n")
    print("| cluster | time | throughput | cpu time of the workers | of client and scheduler |")
    print("| --- | --- | --- | --- | --- |")
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).standard_normal((given.rows, given.width), np.float32)
        store = make_store(f"{folder}/m.zarr", rows)
        for workers, cores in ((1, 1), (2, 1), (1, 2)):
            lasted, of_workers, of_client = seconds(store, folder, workers, cores, given.repeat)
            first = first or lasted
            name = f"{workers} worker{'s' * (workers > 1)}, {cores} core{'s' * (cores > 1)} each"
            print(
                f"| {name} | {lasted:.1f} s | {first / lasted:.2f} | {of_workers:.1f} s | {of_client:.1f} s |",
                flush=True,
            )


def seconds(store: str, folder: str, workers: int, cores: int, repeat: int) -> list[float]:
    """One scan without the start of its cluster: wall time, cpu time of the workers, and of client and scheduler."""
    found = []
    os.environ |= {f"{library}_NUM_THREADS": str(cores) for library in ("OMP", "MKL", "OPENBLAS")}
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for run in range(repeat + 1):
            before = perf_counter(), sum(client.run(process_time).values()), process_time()
            scan(store, neighbors=10, tile=1024, client=client, out=f"{folder}/{workers}-{cores}-{run}.zarr")
            after = perf_counter(), sum(client.run(process_time).values()), process_time()
            found.append([end - start for start, end in zip(before, after, strict=True)])
    return [median(column) for column in zip(*found[1:], strict=True)]  # the first imports and compiles


if __name__ == "__main__":
    main()

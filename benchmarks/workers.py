"""Two workers against one: the same scan on clusters of one and of two processes with a core each, and of one with two.

python -m benchmarks.workers [--rows 20000] [--width 1024] [--repeat 3]
"""

from __future__ import annotations

import argparse
import tempfile
from statistics import median
from time import perf_counter

import numpy as np
from distributed import Client, LocalCluster

from embgeom_dask import scan
from embgeom_dask.testing import make_store


def main() -> None:
    """Time, and print one line for each cluster and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many runs is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).standard_normal((given.rows, given.width), np.float32)
        store = make_store(f"{folder}/m.zarr", rows)
        took = {
            name: seconds(store, folder, workers, cores, given.repeat)
            for name, workers, cores in (("one worker, one core", 1, 1), ("two workers, a core each", 2, 1))
        }
        took["one worker, two cores"] = seconds(store, folder, 1, 2, given.repeat)
    first = took["one worker, one core"]
    print(f"{given.rows:,} x {given.width:,} float32, neighbors 10, with a journal")
    for name, lasted in took.items():
        print(f"{name:25} {lasted:6.2f} s  {first / lasted:.2f} times the throughput of one worker on one core")


def seconds(store: str, folder: str, workers: int, cores: int, repeat: int) -> float:
    """Seconds of wall time of one scan, without the start of the cluster."""
    lasted = []
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,
            env={"OMP_NUM_THREADS": str(cores)},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for run in range(repeat + 1):
            start = perf_counter()
            scan(store, neighbors=10, tile=1024, client=client, out=f"{folder}/{workers}-{cores}-{run}.zarr")
            lasted.append(perf_counter() - start)
    return median(lasted[1:])  # the first imports and compiles


if __name__ == "__main__":
    main()

"""Hosts that share only a network scan a bucket: run by test_hosts in namespaces that end with this process.

The object store and this process are one host, a scheduler and two workers, each in a folder of its own, three others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import s3fs
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.testing import make_store
from tests import s3

NET = "10.213.77"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def make_network() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # where ip keeps the names of hosts
    ip("link", "set", "lo", "up")
    ip("link", "add", "switch", "type", "bridge")
    ip("addr", "add", f"{NET}.1/24", "dev", "switch")
    ip("link", "set", "switch", "up")


def add_host(number: int) -> tuple[str, Sequence[str]]:
    """Return its address, and what runs a command there."""
    name, address = f"host{number}", f"{NET}.{number}"
    ip("netns", "add", name)
    ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", f"port{number}", "master", "switch", "up")
    ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        ip("-n", name, "link", "set", device, "up")
    return address, ["ip", "netns", "exec", name]


def main(folder: Path) -> None:
    """Raise AssertionError where what the hosts find is not what this process finds alone."""
    rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    make_network()
    with ExitStack() as running:
        endpoint = running.enter_context(s3.server(folder / "s3", f"{NET}.1"))
        os.environ.update(s3.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        s3fs.S3FileSystem().mkdir("hosts")
        store = make_store("s3://hosts/m.zarr", rows)
        address = running.enter_context(s3.scheduler(folder / "scheduler", *add_host(2)))
        workers = [add_host(3), add_host(4)]
        for host, within in workers:
            running.enter_context(s3.worker(folder / host, address, endpoint, host, within))
        client = running.enter_context(Client(address, set_as_default=False))
        seen = sorted(worker.rpartition(":")[0] for worker in client.nthreads())
        assert seen == [f"tcp://{host}" for host, _ in workers], seen
        found = eg.scan(store, neighbors=3, tile=64, out="s3://hosts/r.zarr", client=client)
        xr.testing.assert_identical(eg.open_result("s3://hosts/r.zarr").load(), found.load())
    alone = eg.scan(make_store(folder / "m.zarr", rows), neighbors=3)
    xr.testing.assert_identical(found.drop_attrs(), alone.drop_attrs())
    print("the same")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

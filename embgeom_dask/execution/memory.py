"""Project how much memory a scan takes, before it starts."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psutil
import torch
from dask.utils import parse_bytes
from distributed import Client, Worker

from embgeom_dask import devices, private_apis, tuning
from embgeom_dask.errors import InputError
from embgeom_dask.execution import workers
from embgeom_dask.units import bytes_text

_PRODUCT = {1: 4, 2: 2, 3: 16, 4: 4, 5: 20, 8: 8}  # bytes for each pair of a tile, by those of an element
# bytes for each pair of a tile on a device, by those of an element: products, passes
_PASS = {1: 32, 2: 32, 3: 160, 4: 32, 5: 160, 8: 160}
_CANDIDATE = 40  # bytes for each pair of a tile, where a tile leaves every pair to be rechecked


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's process: `base` (it is there already), `rows` (ids, norms, groups), and for each of its
    threads `blocks` (one of either side, with what loading takes), `tiles` (products and candidates) and `states`; all
    may come to `allowed`.

    `on_device`, where a device has memory of its own, is a block of either side and a tile with the passes over it; it
    may come to `allowed_on_device`. What is left is for the blocks that the `workers` of the process keep.
    """

    base: int
    rows: int
    blocks: int
    tiles: int
    states: int
    allowed: int
    on_device: int = 0
    allowed_on_device: int = 0
    workers: int = 1

    @property
    def fits(self) -> bool:
        """Whether host and device may hold what is projected."""
        return self.projected <= self.allowed and self.on_device <= self.allowed_on_device

    @property
    def projected(self) -> int:
        """The most that the process takes, before it keeps any block for later."""
        return self.base + self.rows + self.blocks + self.tiles + self.states

    @property
    def cache(self) -> int:
        """What is left to each worker to keep blocks in."""
        return max(0, self.allowed - self.projected) // self.workers

    @property
    def cache_on_device(self) -> int:
        """What is left to each worker of the device's memory to keep blocks in."""
        return max(0, self.allowed_on_device - self.on_device) // self.workers


def memory_text(projected: int, allowed: int) -> str:
    """What is projected and what is allowed, in words."""
    return f"{bytes_text(projected)} projected, {bytes_text(allowed)} allowed"


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of a worker's process: what it holds, what is free beside that, and dask's own limit of it (0: none); of
    its device (`kind`) what is free there, 0 where it has no memory of its own. `process` is its number on its host,
    and `workers` how many workers are in it."""

    held: int
    free: int
    limit: int
    kind: str
    free_on_device: int
    process: int = 0
    workers: int = 1

    def allowed(self, limit: int | None, share: float) -> int:
        """What it may hold: `limit`, or a share of what is free; at most the share of dask's limit that is not spilled.

        Of what is not held yet a scan takes `share`.
        """
        most = self.held + int(tuning.MEMORY_SHARE * self.free) if limit is None else limit
        if self.limit:
            most = min(most, int(tuning.MEMORY_SHARE * self.limit))
        return most if share == 1 else self.held + int(share * max(0, most - self.held))

    def allowed_on_device(self, limit: int | None, share: float) -> int:
        """What it may hold on its device."""
        most = int(tuning.MEMORY_SHARE * self.free_on_device) if limit is None else min(limit, self.free_on_device)
        return int(share * most)


def own_memory(device: str, dask_worker: Worker) -> WorkerMemory:
    """The memory of this worker; it runs there."""
    kind, free_on_device = devices.own_memory(device)
    return WorkerMemory(
        held=int(psutil.Process().memory_info().rss),
        free=devices.memory(torch.device("cpu"))[1],
        limit=private_apis.memory_limit(dask_worker),
        kind=kind,
        free_on_device=free_on_device,
        process=os.getpid(),
    )


def of_workers(client: Client, device: str) -> dict[str, WorkerMemory]:
    """The memory of every worker there, by its address; those of one host share what is free on it."""
    found = workers.ask(client, own_memory, device)
    hosts = Counter(_host(address) for address in found)
    processes = Counter((_host(address), each.process) for address, each in found.items())
    return {
        address: replace(
            each,
            free=each.free // hosts[_host(address)],
            workers=processes[_host(address), each.process],
        )
        for address, each in found.items()
    }


def _host(address: str) -> str | None:
    return urlsplit(address).hostname


def tightest(each: Iterable[Memory]) -> Memory:
    """Of what a scan takes of several workers, that of the one with the least left, on the host and on a device."""
    several = list(each)
    host = min(several, key=lambda memory: memory.allowed - memory.projected)
    device = min(several, key=lambda memory: memory.allowed_on_device - memory.on_device)
    return replace(host, on_device=device.on_device, allowed_on_device=device.allowed_on_device)


def parse_limit(limit: str | int | None) -> int | None:
    """Read `limit` ("2GiB", "500MB" or bytes) as bytes; None stays None.

    Raises
    ------
    InputError
        where it is no size.
    """
    if limit is None:
        return None
    try:
        size = min(parse_bytes(str(limit)), sys.maxsize) if str(limit).strip() else 0
    except OverflowError:
        size = sys.maxsize
    except ValueError:
        size = 0
    if size <= 0:
        raise InputError(f"`memory_limit` {limit}: give a size like 2GiB or 500MB")
    return size


def project(
    *,
    rows: int,
    width: int,
    stored: int,
    element: int,
    unrounded: int,
    tile: int,
    threads: int,
    as_stored: bool,
    states: int,
    held: int,
    most: int,
    most_on_device: int,
    workers: int = 1,
) -> Memory:
    """Project the memory of a scan of `rows` rows of `width` values.

    `stored` and `element` are the bytes of a value in the store and in a product, `unrounded` those in the product that
    may follow one of integers, else 0; `tile` the rows of a block, `threads` how many a worker has, `states` the bytes
    of the reductions' states, `held` what the process holds already, `most` what is allowed, `most_on_device` on the
    device (0 where it has no memory of its own), and `workers` how many keep blocks in the process.
    """
    values = tile * width
    block = values * (2 * stored if as_stored else stored + element)
    loading = 8 * values if as_stored else values * (8 + stored + 2 * unrounded)  # or a tile's rows, unrounded
    doubled = 16 * min(tuning.DOUBLED_ROWS, tile) * width if as_stored or unrounded else 0
    products = _PRODUCT[element] + (_PRODUCT[unrounded] if unrounded else 0)
    return Memory(
        base=held,
        rows=100 * rows,
        blocks=threads * (2 * block + max(loading, doubled)) + tuning.READING_BYTES,
        tiles=threads * tile * tile * (products + _CANDIDATE),
        states=threads * states,
        allowed=most,
        on_device=threads * (2 * values * element + tile * tile * _PASS[element]) if most_on_device else 0,
        allowed_on_device=most_on_device,
        workers=workers,
    )


def peak() -> int:
    """The most bytes that this process ever held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10

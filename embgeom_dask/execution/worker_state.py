"""What a worker keeps between panels. No result depends on it."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

from distributed import Client, Worker
from numpy.typing import NDArray

from embgeom_dask import private_apis
from embgeom_dask.execution import known_workers
from embgeom_dask.execution.plan import Plan
from embgeom_dask.metrics import Workspace
from embgeom_dask.pairwise.blocks import BlockCache

Array = NDArray[Any]

_NAME = "embgeom_dask"
"""The attribute of a dask worker that holds its state."""


def _unpacked() -> Callable[[bytes], Plan]:
    return lru_cache(maxsize=4)(pickle.loads)


class KeptRows:
    """Stretches of rows of one matrix, as stored, by their numbers: the first ones read, up to `most` bytes.

    Nothing is evicted. Passes go over all rows in the same order: with eviction a stretch would always be gone before
    the next pass needs it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._loading: dict[int, Lock] = {}
        self._rows: dict[int, Array] = {}
        self._lock = Lock()

    def get(self, number: int, nbytes: int, load: Callable[[], Array]) -> Array | None:
        """A stretch of `nbytes` bytes, which `load` reads once for all threads; None where there is no room for it."""
        with self._lock:
            if number not in self._loading:
                if self._held + nbytes > self._most:
                    return None
                self._held += nbytes
                self._loading[number] = Lock()
        with self._loading[number]:
            if number not in self._rows:
                self._rows[number] = load()
            return self._rows[number]


@dataclass
class WorkerState:
    """What the threads of one worker share.

    `blocks` are those read last; `unpacked` gives a plan from its bytes, and keeps the last few; `halved` is how many
    times the tiles of a plan were halved here, by the key of the plan's first side; `idle` are the workspaces that no
    panel uses; `rows` are those kept for later passes over them, by the key of what keeps them; `ended` are the last
    keys that keep nothing any more, though a task of theirs may still come.
    """

    blocks: BlockCache = field(default_factory=BlockCache)
    unpacked: Callable[[bytes], Plan] = field(default_factory=_unpacked)
    halved: Counter[str] = field(default_factory=Counter)
    idle: list[Workspace] = field(default_factory=list)
    rows: dict[str, KeptRows] = field(default_factory=dict)
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=64))

    def kept_rows(self, key: str, most: int) -> KeptRows:
        """The rows kept by that key, up to so many bytes; none once it has ended."""
        return KeptRows(0) if key in self.ended else self.rows.setdefault(key, KeptRows(most))

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """Memory for the products of a panel, for itself while entered; a later panel takes it over."""
        try:
            workspace = self.idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            yield workspace
        finally:
            self.idle.append(workspace)

    def free_memory(self) -> None:
        """Drop what takes memory."""
        self.blocks.clear()
        self.idle.clear()
        self.rows.clear()

    def forget(self, keys: set[str]) -> None:
        """Drop what is kept of the sources of these keys, and all of it where nothing else is kept."""
        self.blocks.forget(keys)
        self.ended.extend(keys)
        for key in keys:
            self.rows.pop(key, None)
        for key in [key for key in self.halved if key.partition(" ")[0] in keys]:
            del self.halved[key]
        if not self.blocks:
            self.idle.clear()
            self.unpacked = _unpacked()


def state_of(worker: Worker) -> WorkerState:
    """The state of a worker of this process, which ends with the worker."""
    state: WorkerState = vars(worker).setdefault(_NAME, WorkerState())
    return state


def forget(keys: set[str], dask_worker: Worker) -> None:
    """Drop what this worker keeps of the sources of these keys; it runs there."""
    state_of(dask_worker).forget(keys)


def blocks_for(client: Client) -> BlockCache:
    """The blocks through which a client's process reads rows: those of its worker, where it is one; else new ones."""
    here = private_apis.workers_here()
    there = known_workers.all_workers(client) if here else {}
    here = [worker for worker in here if worker.address_safe in there]
    return state_of(here[0]).blocks if here else BlockCache()

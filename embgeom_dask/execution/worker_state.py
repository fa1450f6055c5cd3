"""What a worker keeps from one panel to the next: no result depends on it."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from distributed import Client, Worker

from embgeom_dask import private_apis
from embgeom_dask.execution import roster
from embgeom_dask.execution.plan import Plan
from embgeom_dask.metrics import Workspace
from embgeom_dask.pairwise.blocks import BlockCache

_NAME = "embgeom_dask"
"""The attribute of a dask worker that holds its state."""


def _unpacked() -> Callable[[bytes], Plan]:
    return lru_cache(maxsize=4)(pickle.loads)


@dataclass
class WorkerState:
    """What the threads of one worker share.

    `blocks` are those read last; `unpacked` gives a plan from its bytes, and keeps the last few; `halved` is how many
    times the tiles of a plan were halved here, by the key of the plan's first side; `idle` are the workspaces that no
    panel uses.
    """

    blocks: BlockCache = field(default_factory=BlockCache)
    unpacked: Callable[[bytes], Plan] = field(default_factory=_unpacked)
    halved: Counter[str] = field(default_factory=Counter)
    idle: list[Workspace] = field(default_factory=list)

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

    def forget(self, keys: set[str]) -> None:
        """Drop what is kept of the sources of these keys, and all of it where nothing else is kept."""
        self.blocks.forget(keys)
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
    there = roster.there(client) if here else {}
    here = [worker for worker in here if worker.address_safe in there]
    return state_of(here[0]).blocks if here else BlockCache()

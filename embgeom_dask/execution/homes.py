"""Which workers have which of many models in work, so that few of them read each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from time import monotonic

from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.execution import memory, workers


class Homes:
    """The workers of a cluster as they are dealt to the models in work.

    Every model has a worker of its own, its home: of those with the fewest models one with a GPU, and of these the one
    with the most free memory. Workers that are no model's home help the others, as many each, and stay where they are
    while that is so. A model whose home is gone gets another.
    """

    def __init__(self, client: Client, device: str) -> None:
        self._client, self._lock = client, Lock()
        self._rank = {
            address: (has.kind == "cpu", -(has.free_on_device or has.free))
            for address, has in memory.of_workers(client, device).items()
        }
        self._there: list[str] = []
        self._looked = -math.inf
        self._home: dict[object, str] = {}
        self._helped: dict[str, object] = {}

    @property
    def size(self) -> int:
        """The number of workers there."""
        return max(1, len(self._look()))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """While entered, in this context, tasks go to the workers of one model, which begins now."""
        model = object()
        try:
            with workers.only(partial(self._of, model)):
                yield
        finally:
            with self._lock:
                self._home.pop(model, None)

    def _of(self, model: object) -> list[str]:
        """The addresses of the workers of a model; none where no worker is there."""
        with self._lock:
            there = self._look()
            if not there:
                return []
            if self._home.get(model) not in there:
                taken = Counter(self._home.values())
                self._home[model] = min(there, key=lambda each: (taken[each], self._rank.get(each, (True, 0)), each))
            self._deal(there)
            return [self._home[model], *(each for each, helped in self._helped.items() if helped is model)]

    def _deal(self, there: list[str]) -> None:
        """Give the workers that are no home to the models evenly; those that help one already stay, as far as it is."""
        idle = [each for each in there if each not in self._home.values()]
        before, self._helped = self._helped, {}
        helpers = Counter[object]()
        most = -(-len(idle) // len(self._home))
        for each in sorted(idle, key=lambda each: before.get(each) not in self._home):
            model = before.get(each)
            if model not in self._home or helpers[model] == most:
                model = min(self._home, key=helpers.__getitem__)
            self._helped[each] = model
            helpers[model] += 1

    def _look(self) -> list[str]:
        if monotonic() - self._looked >= tuning.WORKERS_LOOK:
            self._there, self._looked = sorted(self._client.nthreads()), monotonic()
        return self._there

"""Which workers work on which model, when many models are in work: so few workers read each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock

from distributed import Client

from embgeom_dask.execution import known_workers, memory


class WorkersOfModels:
    """Assigns the workers of a cluster to the models in work.

    Every model has a home: the worker with the fewest models; among equals one with a GPU, then the one with the most
    free memory. Workers that are the home of no model help with the models, evenly, and stay with a model while that is
    possible. A model whose home has left gets another one.
    """

    def __init__(self, client: Client, device: str) -> None:
        self._client, self._lock = client, Lock()
        self._rank = {
            address: (has.kind == "cpu", -(has.free_on_device or has.free))
            for address, has in memory.of_workers(client, device).items()
        }
        self._home: dict[object, str] = {}
        self._helpers: dict[object, list[str]] = {}
        self._dealt: Collection[str] | None = None

    @property
    def size(self) -> int:
        """The number of workers there."""
        return max(1, len(known_workers.all_workers(self._client)))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Begin a model: while entered, the tasks of this context go to its workers only."""
        model = object()
        try:
            with known_workers.restricted_to(partial(self._of, model)):
                yield
        finally:
            with self._lock:
                if self._home.pop(model, None) is not None:
                    self._dealt = None

    def _of(self, model: object) -> list[str]:
        """The addresses of the workers of a model; none where no worker is there."""
        there = known_workers.all_workers(self._client).keys()
        with self._lock:
            if not there:
                return []
            if self._home.get(model) not in there:
                taken = Counter(self._home.values())
                self._home[model] = min(there, key=lambda each: (taken[each], self._rank.get(each, (True, 0)), each))
                self._dealt = None
            if self._dealt != there:
                self._deal(sorted(there))
                self._dealt = there
            return [self._home[model], *self._helpers.get(model, ())]

    def _deal(self, there: list[str]) -> None:
        """Give the workers that are no home to the models, evenly; helpers stay with their model as far as possible."""
        homes = set(self._home.values())
        idle = [each for each in there if each not in homes]
        before, self._helpers = {each: model for model, some in self._helpers.items() for each in some}, {}
        most = -(-len(idle) // len(self._home))
        for each in sorted(idle, key=lambda each: before.get(each) not in self._home):
            model = before.get(each)
            if model not in self._home or len(self._helpers.get(model, ())) == most:
                model = min(self._home, key=lambda one: len(self._helpers.get(one, ())))
            self._helpers.setdefault(model, []).append(each)

"""Rows that workers keep from one pass to the next, so that several passes together read a store once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from distributed import Client, get_worker
from numpy.typing import NDArray

from embgeom_dask import progress, tuning
from embgeom_dask.execution import known_workers, memory
from embgeom_dask.execution.plan import ITEMSIZE
from embgeom_dask.execution.worker_state import forget, state_of
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.units import bytes_text

Array = NDArray[Any]
Work = Callable[..., Any]


@dataclass(frozen=True)
class Keeping:
    """What workers keep: stretches of `rows` rows of a matrix, up to `most` bytes on each worker, under `key`."""

    key: str
    rows: int
    most: int


class RowsOnWorkers:
    """The rows of a matrix that the workers of a cluster keep, and which worker keeps which stretch of rows."""

    def __init__(self, client: Client, matrix: Matrix, keeping: Keeping) -> None:
        self.client, self.matrix, self.keeping = client, matrix, keeping
        self.keeper: dict[int, str] = {}

    def through(self, work: Work) -> Work:
        """Wrap `work` so that it reads rows through the kept ones; it returns its result and the bytes read."""
        return partial(_through, self.keeping, work)

    def dealt(self, parts: Sequence[Any]) -> PartsOfPass:
        """Assign the parts of a pass to the workers that keep their rows."""
        return PartsOfPass(self, parts)


class PartsOfPass:
    """Assigns the parts of a pass over rows, by their index, to the workers of a cluster.

    A stretch of rows that no worker keeps goes to the next idle worker. It stays with that worker as long as the worker
    is there, since another one would have to read it again. The first item of a part is the number of its first row.
    """

    def __init__(self, on_workers: RowsOnWorkers, parts: Sequence[Any]) -> None:
        self._client, self._keeper = on_workers.client, on_workers.keeper
        self._left: dict[int, deque[int]] = {}
        for place, part in enumerate(parts):
            self._left.setdefault(int(part[0]) // on_workers.keeping.rows, deque()).append(place)
        self._there: dict[str, int] = {}

    def threads(self) -> Mapping[str, int]:
        """The threads of each worker that there is something for, by its address."""
        self._there = known_workers.workers_of_context(self._client)
        keepers = {self._keeper.get(stretch, "") for stretch in self._left}
        if keepers <= self._there.keys():
            return {worker: self._there[worker] for worker in keepers}
        return self._there

    def take(self, worker: str) -> int | None:
        """The next part for a worker ("": for any worker); None where none is left for it."""
        for stretch, places in self._left.items():
            keeper = self._keeper.get(stretch, "")
            if not worker or keeper == worker or keeper not in self._there:
                if worker:
                    self._keeper[stretch] = worker
                place = places.popleft()
                if not places:
                    del self._left[stretch]
                return place
        return None


_kept_here: ContextVar[RowsOnWorkers | None] = ContextVar("rows_on_workers", default=None)
"""What passes of this context read through; None outside `keeping`."""


def rows_on_workers(matrix: Matrix) -> RowsOnWorkers | None:
    """Where the rows of a matrix are kept in this context, if they are."""
    on_workers = _kept_here.get()
    return on_workers if on_workers is not None and on_workers.matrix == matrix else None


@contextmanager
def keeping(
    client: Client, matrix: Matrix, rows: int, *, memory_limit: int | None = None, sharing: int = 1
) -> Iterator[None]:
    """While entered, in this context, workers keep the rows of a matrix that they read, as stored, as far as they may.

    Each keeps up to `tuning.KEPT_SHARE` of what it may hold beside what it holds already: that is `memory_limit`, or
    `tuning.MEMORY_SHARE` of what is free, of which `sharing` models have equal shares. What does not fit is read by
    every pass; a note says so. Nothing is left of it in the end.

    Parameters
    ----------
    rows : int
        The rows that one worker keeps together: those that a task of any of the passes reads, or a multiple.
    """
    rows = matrix.chunk_rows if rows % matrix.chunk_rows else rows  # a chunk is kept whole, and once
    mine, has = known_workers.workers_of_context(client), memory.of_workers(client, "cpu")
    there = [has[worker] for worker in has if worker in mine] or [*has.values()]
    free = min(each.allowed(memory_limit, 1 / sharing) - each.held for each in there)
    if memory_limit is not None:  # it is the process's: its workers share it, as they do already what is free
        free //= max(each.workers for each in there)
    on_workers = RowsOnWorkers(client, matrix, Keeping(f"rows {uuid4()}", rows, max(0, int(tuning.KEPT_SHARE * free))))
    kept, needed = on_workers.keeping.most * len(there), _nbytes(matrix, matrix.vocab_size)
    if kept < needed:
        some, all_of_it = bytes_text(kept), bytes_text(needed)
        progress.note(f"{matrix.label}: workers keep {some} of {all_of_it} of rows: what does not fit is read again")
    entered = _kept_here.set(on_workers)
    try:
        yield
    finally:
        _kept_here.reset(entered)
        if client.status == "running":
            known_workers.run_where_used(client, forget, {on_workers.keeping.key})


def reading_once(client: Client, matrix: Matrix, rows: int | None = None) -> AbstractContextManager[None]:
    """While entered, several passes over a matrix read it once: workers keep its rows, as with `keeping`.

    The memory is shared by as many models as may be on a worker at a time. Nothing changes where the rows are kept
    already. `rows` is the number of rows that are kept together, by default those of a chunk.
    """
    if rows_on_workers(matrix) is not None:
        return nullcontext()
    return keeping(client, matrix, rows or matrix.chunk_rows, sharing=tuning.MODELS_A_WORKER)


def _nbytes(matrix: Matrix, rows: int) -> int:
    return rows * matrix.hidden_size * ITEMSIZE[matrix.dtype]


def _through(keeping: Keeping, work: Work, matrix: Matrix, *args: Any) -> tuple[Any, int]:
    """Do `work` on rows read through those that this worker keeps; return what it gives, and the bytes read."""
    kept = state_of(get_worker()).kept_rows(keeping.key, keeping.most)
    nbytes = 0

    def load(start: int, stop: int) -> Array:
        nonlocal nbytes
        rows = matrix.read(start, stop)
        nbytes += rows.nbytes
        return rows

    def stretch(start: int, stop: int) -> tuple[Array, int]:
        if not 0 <= start < stop <= matrix.vocab_size:
            return matrix.stretch(start, stop)
        pieces = []
        for number in range(start // keeping.rows, -(-stop // keeping.rows)):
            first = number * keeping.rows
            last = min(first + keeping.rows, matrix.vocab_size)
            here = slice(max(start, first), min(stop, last))
            found = kept.get(number, _nbytes(matrix, last - first), partial(load, first, last))
            pieces.append(
                load(here.start, here.stop) if found is None else found[here.start - first : here.stop - first]
            )
        return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)), start

    through = copy(matrix)
    vars(through)["stretch"] = stretch  # its `read` and `take`, of whatever kind of matrix it is, read through it
    found = work(through, *args)
    return found, nbytes

"""One pass over rows of a matrix: a dask task for each part of them, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import progress, tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution import kept_rows, known_workers, workers
from embgeom_dask.execution.cluster import LOST, ClientLike, connect
from embgeom_dask.execution.monitor import tally
from embgeom_dask.execution.plan import ITEMSIZE
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.paths import PathLike, explain


def map_rows(
    client: Client, what: str, matrix: Matrix, parts: Sequence[NDArray[np.int64]], work: Callable[..., Any], *args: Any
) -> list[Any]:
    """Do `work(matrix, part, *args)` on the workers for each of `parts`, token ids (n,) int64 of the rows to read.

    Parameters
    ----------
    what : the title of the progress bar

    Returns
    -------
    list
        what `work` gave, in the order of `parts`.

    Raises
    ------
    EmbgeomError
        where rows cannot be read or their worker is lost.
    """
    done = _each_part(client, what, matrix, parts, [part.size for part in parts], work, *args)
    found = dict(done)
    return [found[index] for index in range(len(parts))]


def parts_of(matrix: Matrix, token_id: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Divide token ids (n,) int64 into parts, each of which one task reads."""
    rows = rows_of_task(matrix)
    return [token_id[start : start + rows] for start in range(0, token_id.size, rows)]


def parts_of_kept(client: Client, matrix: Matrix, token_id: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The same of ascending ids, where there are several passes: each part is of rows that are kept together.

    No more ids than a chunk has rows are one part.
    """
    if token_id.size <= matrix.chunk_rows:
        return [token_id] if token_id.size else []
    starts = np.arange(0, matrix.vocab_size, rows_of_pass(client, matrix))
    return [part for part in np.split(token_id, np.searchsorted(token_id, starts[1:])) if part.size]


def rows_of_task(matrix: Matrix) -> int:
    """The rows that one task reads: those of whole chunks."""
    chunk_bytes = matrix.chunk_rows * matrix.hidden_size * ITEMSIZE[matrix.dtype]
    return int(matrix.chunk_rows * max(1, tuning.PART_BYTES // chunk_bytes))


def rows_of_pass(client: Client, matrix: Matrix) -> int:
    """The rows that one task reads where there are several passes over a matrix: those that are kept together.

    Where none are kept they are those of whole chunks, few tasks for each thread.
    """
    if (kept := kept_rows.rows_on_workers(matrix)) is not None:
        return kept.keeping.rows
    chunk_bytes = matrix.chunk_rows * matrix.hidden_size * ITEMSIZE[matrix.dtype]
    tasks = 4 * max(1, sum(known_workers.all_workers(client).values()))
    chunks = min(tuning.KEPT_PART_BYTES // chunk_bytes, matrix.vocab_size // (tasks * matrix.chunk_rows))
    return max(rows_of_task(matrix), matrix.chunk_rows * chunks)


def by_chunk(
    what: str,
    matrix: Matrix,
    work: Callable[..., Any],
    *args: Any,
    client: ClientLike | None = None,
    out: PathLike | None = None,
    rows: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """Do `work(matrix, (start, stop), *args)` on the cluster for the rows of every chunk, or for every `rows`.

    Yields the start of each and what `work` gave for it, in the order in which they are done.

    The cluster is that of `client`, as `connect` takes it with `out`.

    Raises
    ------
    EmbgeomError
        where a chunk cannot be read or its worker is lost.
    """
    kept, step = kept_rows.rows_on_workers(matrix), rows or matrix.chunk_rows
    if kept is not None and kept.keeping.rows % step:  # a part is of rows that one worker keeps
        step = matrix.chunk_rows
    parts = [(start, min(start + step, matrix.vocab_size)) for start in range(0, matrix.vocab_size, step)]
    with connect(client, out=out) as cluster:
        for index, found in _each_part(cluster, what, matrix, parts, [b - a for a, b in parts], work, *args):
            yield parts[index][0], found


def in_order(
    client: Client, what: str, matrix: Matrix, parts: Sequence[Any], sizes: Sequence[int], work: Callable[..., Any]
) -> Iterator[Any]:
    """Do `work(matrix, part)` on the workers for each of `parts`, of `sizes` rows, and yield what it gave, in order.

    A few parts for each thread are in work or waiting for an earlier one: what `work` gives may be large.

    Raises
    ------
    EmbgeomError
        where rows cannot be read or their worker is lost.
    """
    waiting: dict[int, Any] = {}
    following = 0
    threads = max(1, sum(known_workers.all_workers(client).values()))
    for index, found in _each_part(client, what, matrix, parts, sizes, work, ahead=tuning.PANELS_AHEAD * threads):
        waiting[index] = found
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _each_part(
    client: Client,
    what: str,
    matrix: Matrix,
    parts: Sequence[Any],
    sizes: Sequence[int],
    work: Callable[..., Any],
    *args: Any,
    ahead: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield the index of a part and what `work` gave for it, in the order in which they are done.

    `ahead` of them are submitted at a time, all where it is not given. Rows that workers keep are read from there.
    """
    kept = kept_rows.rows_on_workers(matrix)

    def arguments(index: int) -> tuple[Any, ...]:
        return matrix, parts[index], *args

    with progress.bar(sum(sizes), f"{matrix.label} {what}", "rows") as advance:
        title, window = TaskTitle(what, matrix.label), lambda: ahead or len(parts)
        dealt = None if kept is None else kept.dealt(parts)
        done = work if kept is None else kept.through(work)
        batches = workers.completed(client, done, range(len(parts)), arguments, window, title, dealt)
        with closing(batches):
            for index, part in chain.from_iterable(batches):
                try:
                    found = part.result()
                except (EmbgeomError, *LOST):
                    raise
                except Exception as error:  # a worker that died, or ran out of memory
                    raise EmbgeomError(f"{matrix.model}: cannot read {matrix.store}: {explain(error)}") from error
                nbytes = sizes[index] * matrix.hidden_size * ITEMSIZE[matrix.dtype]
                if kept is not None:
                    found, nbytes = found
                advance(sizes[index])
                tally(nbytes)
                yield index, found

"""One pass over the rows of a matrix: a dask task a zarr chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from distributed import Client

from embgeom_dask import progress
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution import workers
from embgeom_dask.execution.cluster import LOST, connect
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.paths import PathLike, explain


def by_chunk(
    what: str,
    matrix: Matrix,
    work: Callable[..., Any],
    *args: Any,
    how: tuple[Client | None, str | None, str, PathLike | None],
) -> Iterator[tuple[int, Any]]:
    """Do `work(matrix, start, stop, *args)` on the cluster for the rows of every chunk.

    Yields the start of a chunk and what `work` gave for it, in the order in which they are done.

    `how` is client, scheduler, device and output, as `connect` takes them.

    Raises
    ------
    EmbgeomError
        where a chunk cannot be read or its worker is lost.
    """
    starts = range(0, matrix.vocab_size, matrix.chunk_rows)
    stops = [min(start + matrix.chunk_rows, matrix.vocab_size) for start in starts]
    with connect(*how) as active, progress.bar(matrix.vocab_size, f"{matrix.label} {what}", "rows") as advance:
        chunks = zip(starts, stops, strict=True)
        done = workers.completed(active, work, chunks, lambda chunk: (matrix, *chunk, *args), lambda: len(starts))
        with closing(done):
            for (start, stop), part in chain.from_iterable(done):
                try:
                    found = part.result()
                except (EmbgeomError, *LOST):
                    raise
                except Exception as error:  # a worker that died, or ran out of memory
                    raise EmbgeomError(f"{matrix.model}: cannot read {matrix.store}: {explain(error)}") from error
                advance(stop - start)
                yield start, found

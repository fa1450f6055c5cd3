"""One pass over the rows of a matrix: a dask task a zarr chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, as_completed

from embgeom_dask import progress
from embgeom_dask.cluster import connect
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.places import Place, explain
from embgeom_dask.stores import Matrix


def by_chunk(
    what: str,
    matrix: Matrix,
    work: Callable[..., Any],
    *args: Any,
    how: tuple[Client | None, str | None, str, Place | None],
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
        parts = {
            active.submit(work, matrix, start, stop, *args, pure=False): (start, stop)
            for start, stop in zip(starts, stops, strict=True)
        }
        for part in as_completed(list(parts), loop=active.loop):
            try:
                found = part.result()
            except EmbgeomError:
                raise
            except Exception as error:  # a worker that died, or ran out of memory
                raise EmbgeomError(f"{matrix.model}: cannot read {matrix.store}: {explain(error)}") from error
            start, stop = parts.pop(part)
            advance(stop - start)
            yield start, found

"""Fill a zarr array with rows: read ahead, hash in order, compress and write meanwhile."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from embgeom_dask import tuning
from embgeom_dask.progress import Advance
from embgeom_dask.storage.shards import BLOSC, ChunkWriter, object_rows

_most_readers: ContextVar[int | None] = ContextVar("_most_readers", default=None)
"""The most chunks that a source is asked for at a time; None: as `tuning` says."""


@contextmanager
def reading_at_most(chunks: int) -> Iterator[None]:
    """While entered, `fill` reads at most so many chunks of a source at a time: each may be a connection."""
    entered = _most_readers.set(chunks)
    try:
        yield
    finally:
        _most_readers.reset(entered)


class RowSource(Protocol):
    """A matrix that is read row block by row block while a store is written.

    `shape` is (rows, columns), `dtype` one of `stores.DTYPES` in the machine's byte order, `tensor` the name of the
    tensor that the rows come from, and `read(start, stop)` gives rows start..stop-1 as a C-contiguous array, from any
    thread.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def tensor(self) -> str: ...  # noqa: D102
    def read(self, start: int, stop: int) -> np.ndarray: ...  # noqa: D102


def create(
    group: zarr.Group, name: str, source: RowSource, dimensions: list[str], shard: int | None = None
) -> zarr.Array[Any]:
    """Create the array of a matrix, or open the one that is there.

    Its chunks are a power of two of whole rows, 8 MiB at most; as many as are `shard` bytes make an object, where that
    is given.
    """
    if name in group:
        return cast(zarr.Array[Any], group[name])
    rows, columns = source.shape
    chunk_rows = min(rows, 1 << max(0, (tuning.CHUNK_BYTES // (columns * source.dtype.itemsize)).bit_length() - 1))
    together = min(-(-rows // chunk_rows), (shard or 0) // (chunk_rows * columns * source.dtype.itemsize))
    return group.create_array(
        name,
        shape=source.shape,
        chunks=(chunk_rows, columns),
        shards=(together * chunk_rows, columns) if together > 1 else None,
        dimension_names=dimensions,
        **values_as_stored(source.dtype),
    )


def values_as_stored(dtype: np.dtype[Any]) -> dict[str, Any]:
    """How zarr is to store the values of a matrix: their type, and the codecs of its chunks, all of which are there."""
    return {
        "dtype": dtype,
        "compressors": [BloscCodec(**BLOSC, shuffle="bitshuffle", typesize=dtype.itemsize), Crc32cCodec()],
        "config": {"write_empty_chunks": True},  # else zarr drops a chunk of -0.0, which would come back as 0.0
    }


def fill(
    array: zarr.Array[Any], source: RowSource, advance: Advance, kept: Container[str] = ()
) -> tuple[str, list[str]]:
    """Write the rows of `source` to `array`, chunk by chunk; return the SHA-256 of their bytes, and of each chunk's.

    `kept` names the files of the array that an earlier writer of the same rows left: the chunks among them that are
    whole are not read from the source again. `advance` is told the bytes done.
    """
    digest, chunk_digests = hashlib.sha256(), list[str]()
    at_once = min(tuning.CHUNKS_READ_AHEAD, _most_readers.get() or tuning.CHUNKS_READ_AHEAD)
    with (
        ThreadPoolExecutor(at_once) as readers,
        ThreadPoolExecutor(tuning.CHUNKS_WRITTEN_BEHIND) as writers,
    ):
        writes: deque[Future[Any]] = deque()
        writer = ChunkWriter(array, writers)
        try:
            for start, block, chunk_digest, fresh in _read(readers, array, source, kept):
                writes.extend(writer.write(start, block, fresh=fresh))
                digest.update(cast(Any, block.view(np.uint8).data))
                chunk_digests.append(chunk_digest)
                while len(writes) >= tuning.CHUNKS_WRITTEN_BEHIND:
                    writes.popleft().result()
                advance(block.nbytes, fresh=fresh)
            while writes:
                writes.popleft().result()
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    return digest.hexdigest(), chunk_digests


def sha256(values: np.ndarray) -> str:
    """The SHA-256, in hexadecimal, of the bytes of an array in C order; they are copied where they lie otherwise."""
    return hashlib.sha256(cast(Any, np.ascontiguousarray(values).view(np.uint8).data)).hexdigest()


def _read(
    readers: ThreadPoolExecutor, array: zarr.Array[Any], source: RowSource, kept: Container[str]
) -> Iterator[tuple[int, np.ndarray, str, bool]]:
    """Yield first row, rows and SHA-256 of each chunk in order, and whether they came from the source."""

    def read(start: int) -> tuple[int, np.ndarray, str, bool]:
        block, fresh = find(start)
        return start, block, sha256(block), fresh

    def find(start: int) -> tuple[np.ndarray, bool]:
        stop = min(start + step, rows)
        if f"c/{start // object_rows(array)}/0" in kept:
            try:
                return cast(np.ndarray, array[start:stop]), False
            except Exception:  # a chunk that is damaged is read again
                pass
        return source.read(start, stop), True

    rows, step = array.shape[0], array.chunks[0]
    ahead: deque[Future[tuple[int, np.ndarray, str, bool]]] = deque()
    for start in range(0, rows, step):
        ahead.append(readers.submit(read, start))
        if len(ahead) == tuning.CHUNKS_READ_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()

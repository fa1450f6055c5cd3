"""Write the chunks of a matrix: each as an object of its own, or many together in a shard with an index.

A shard is what zarr's `sharding_indexed` codec says: its chunks one after another, each as it would be stored alone,
then for each chunk of the grid where it begins and how long it is, in 64 bits each, and the checksum of that index.
"""

from __future__ import annotations

import struct
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from embgeom_dask import private_apis

BLOSC: Any = {"cname": "lz4", "clevel": 5}

_NO_CHUNK = (1 << 64) - 1
"""What an index has in place of where a chunk is that lies past the end of the array."""


def object_rows(array: zarr.Array[Any]) -> int:
    """The rows of an object of an array: of a shard, or of a chunk where it has none."""
    return array.chunks[0] if array.shards is None else array.shards[0]


class ChunkWriter:
    """Writes the chunks of `array` that it is given in order, with the threads of a pool.

    Chunks that are objects are written without zarr on this machine: every chunk passes the one thread of its event
    loop, which takes half as long again. A shard is written once its last chunk is there: until then its chunks are in
    memory, compressed. What a kill leaves of an object fails its checksum.
    """

    def __init__(self, array: zarr.Array[Any], threads: ThreadPoolExecutor) -> None:
        self._array, self._threads = array, threads
        self._chunks: list[Future[bytes]] = []
        self._is_stale = False

    def write(self, start: int, block: np.ndarray, *, fresh: bool) -> list[Future[Any]]:
        """Write the chunk that begins with row `start`, unless it is not `fresh`: it was read from where it belongs.

        Returns what to wait for.
        """
        rows = object_rows(self._array)
        if self._array.shards is None:
            return [self._threads.submit(_write_chunk, self._array, start, block)] if fresh else []
        self._chunks.append(self._threads.submit(_packed, self._array, block))
        self._is_stale |= fresh
        waiting: list[Future[Any]] = [self._chunks[-1]]
        if (stop := start + len(block)) % rows == 0 or stop == self._array.shape[0]:
            if self._is_stale:
                waiting.append(self._threads.submit(_write_shard, self._array, start // rows, self._chunks))
            self._chunks, self._is_stale = [], False
        return waiting


def _packed(array: zarr.Array[Any], block: np.ndarray) -> bytes:
    """A chunk as it is stored; rows past the end of the array are zero."""
    rows, columns = array.chunks
    if len(block) < rows:
        block = np.concatenate([block, np.zeros((rows - len(block), columns), block.dtype)])
    packed = Blosc(**BLOSC, shuffle=Blosc.BITSHUFFLE, typesize=block.itemsize).encode(block.view(np.uint8))
    return b"".join((packed, struct.pack("<I", google_crc32c.value(packed))))


def _write_chunk(array: zarr.Array[Any], start: int, block: np.ndarray) -> None:
    if isinstance(array.store, LocalStore):
        _put(array, start // array.chunks[0], [_packed(array, block)])
    else:
        array[start : start + len(block)] = block


def _write_shard(array: zarr.Array[Any], index: int, chunks: list[Future[bytes]]) -> None:
    parts = [chunk.result() for chunk in chunks]
    count = object_rows(array) // array.chunks[0]
    places = np.full((count, 2), _NO_CHUNK, "<u8")
    lengths = [len(part) for part in parts]
    places[: len(parts)] = np.stack([np.cumsum([0, *lengths[:-1]]), lengths], axis=1)
    packed = places.tobytes()
    _put(array, index, [*parts, packed, struct.pack("<I", google_crc32c.value(packed))])


def _put(array: zarr.Array[Any], index: int, parts: list[bytes]) -> None:
    """Write an object of an array, of these parts."""
    if not isinstance(array.store, LocalStore):
        content = default_buffer_prototype().buffer.from_bytes(b"".join(parts))
        private_apis.wait_for_zarr(array.store.set(f"{array.path}/c/{index}/0", content))
        return
    file = array.store.root / array.path / "c" / str(index) / "0"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as written:
        written.writelines(parts)

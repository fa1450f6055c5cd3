"""Groups at URLs, where every request takes long: small keys are read, or written, in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import MemoryStore, WrapperStore

from embgeom_dask import tuning


class Fetched(WrapperStore[Store]):
    """A store to read whose keys are known, and the contents of the small ones: no request is made for these.

    A copy that is sent to another process asks for them again, one by one.
    """

    def __init__(self, store: Store, names: Iterable[str], contents: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._names, self._contents = frozenset(names), contents

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is under a key; None where there is none."""
        if key not in self._names:
            return None
        if byte_range is None and (content := self._contents.get(key)) is not None:
            return prototype.buffer.from_bytes(content)
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether a key is there."""
        return key in self._names

    def _with_store(self, store: Store) -> Fetched:
        return Fetched(store, self._names, self._contents)

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain, (self._store,)


def _plain(store: Store) -> Store:
    return store


class Collected(WrapperStore[Store]):
    """A store to write a new group, in memory; what is large goes on to the store `beyond` at once.

    `contents` is what is left to be written there.
    """

    def __init__(self, beyond: Store, buffers: dict[str, Buffer] | None = None, large: set[str] | None = None) -> None:
        self._buffers: dict[str, Buffer] = {} if buffers is None else buffers
        self._large: set[str] = set() if large is None else large
        self._beyond = beyond
        super().__init__(MemoryStore(self._buffers))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what was written under a key; None where nothing was."""
        store = self._beyond if key in self._large else self._store
        return await store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        if len(value) > tuning.COLLECTED_BYTES and not key.endswith("zarr.json"):
            self._large.add(key)
            await self._beyond.set(key, value)
        else:
            await super().set(key, value)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all keys that begin so."""
        await super().delete_dir(prefix)
        if any(key.startswith(f"{prefix.rstrip('/')}/") for key in self._large):
            await self._beyond.delete_dir(prefix)

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Give what was kept, by its keys."""
        for key, value in self._buffers.items():
            yield key, value.to_bytes()

    def _with_store(self, store: Store) -> Collected:
        del store
        return Collected(self._beyond, self._buffers, self._large)

"""The directions of a readout: the rows of what is given or its columns, and those times a gain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.execution.arrays import Given, temporary_store
from embgeom_dask.storage import model_writing
from embgeom_dask.storage.fill import RowSource

_TOGETHER = 1 << 28
"""Bytes of columns that are held together: so many need one pass over the rows."""


@contextmanager
def directions_of(given: Given, columns: bool, gain: NDArray[np.float64] | None) -> Iterator[Given]:
    """The rows, or the `columns` as rows without labels, with each value times the gain, where there is one.

    What are not the rows themselves is written to a temporary store.
    """
    if not columns and gain is None:
        yield given
        return
    source: RowSource = _Columns(given) if columns else _Rows(given)
    what = "a store of the columns" if columns else "directions"
    if gain is not None:
        source, what = _Products(source, gain), f"{what} times gain"
    attrs = {"model": given.matrix.model, "revision": given.matrix.revision}

    def write(folder: str) -> str:
        return model_writing.write_model(f"{folder}/directions.zarr", {given.matrix.name: source}, attrs=attrs)

    with temporary_store(write, what) as found:
        yield found if columns else replace(found, token_id=given.token_id)


@dataclass(frozen=True)
class _Products:
    """Rows times a gain, as a store is written from."""

    rows: RowSource
    gain: NDArray[np.float64]
    tensor: str = "product"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # infinity is refused as in any matrix
            return self.rows.read(start, stop).astype(np.float64) * self.gain


@dataclass(frozen=True)
class _Rows:
    """The rows given, as a store is written from."""

    given: Given
    tensor: str = "rows"

    @property
    def shape(self) -> tuple[int, int]:
        return self.given.rows.size, self.given.matrix.hidden_size

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.given.matrix.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self.given.matrix.take(self.given.rows[start:stop])


@dataclass
class _Columns:
    """The columns of a matrix as rows, as a store is written from; threads share the columns read last."""

    given: Given
    tensor: str = "columns"
    _lock: Lock = field(default_factory=Lock)
    _first: int = 0
    _held: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.given.matrix.hidden_size, self.given.rows.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.given.matrix.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with self._lock:
            if self._held is None or not self._first <= start <= stop <= self._first + len(self._held):
                self._first, self._held = start, self._from(start, max(stop - start, self._columns_together()))
            return self._held[start - self._first : stop - self._first].copy()

    def _columns_together(self) -> int:
        return _TOGETHER // (self.shape[1] * self.dtype.itemsize)

    def _from(self, first: int, count: int) -> NDArray[Any]:
        matrix, rows = self.given.matrix, self.given.rows
        found = np.empty((min(count, self.shape[0] - first), rows.size), self.dtype)
        for start in range(0, rows.size, matrix.chunk_rows):
            part = slice(start, start + matrix.chunk_rows)
            found[:, part] = matrix.take(rows[part])[:, first : first + len(found)].T
        return found

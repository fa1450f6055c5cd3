"""The values of arrays given as data, as a store is written from them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dask.config
import numpy as np
import zarr
from dask import threaded
from dask.base import get_scheduler
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from embgeom_dask.errors import InputError

_LARGEST_INTEGER = 2**53
"""Float64 holds every integer up to this one."""


def computed(rows: Any, path: str) -> zarr.Array[Any]:
    """The values of a dask array in a zarr array at `path`, a chunk of rows at a time."""
    rows = rows.map_blocks(_as_said, dtype=rows.dtype, meta=rows._meta)
    rows = rows.rechunk({0: "auto", 1: -1}) if rows.numblocks[1] > 1 else rows
    chunk = max(rows.chunks[0])
    target = zarr.create_array(path, shape=rows.shape, chunks=(chunk, rows.shape[1]), dtype=rows.dtype)
    rows, blocks = rows.rechunk({0: chunk}), _Blocks(target, path)
    scheduler = cast(Any, get_scheduler)(collections=[rows])
    if scheduler is not threaded.get or dask.config.get("pool", None) is not None:
        rows.store(blocks, lock=False)
        return target
    # dask leaves its threads at work where one fails: these are waited for, before the folder is removed
    with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as pool:
        rows.store(blocks, lock=False, pool=pool)
    return target


class _Blocks:
    """Where dask writes blocks. On a cluster some are still computed after one has failed and the folder is removed."""

    def __init__(self, array: zarr.Array[Any], path: str) -> None:
        self._array = array
        self._path = Path(path)

    def __setitem__(self, where: Any, block: Any) -> None:
        self._check_there()
        self._array[where] = block
        try:
            self._check_there()
        except InputError:  # removed meanwhile, and zarr has made folders anew for this block
            shutil.rmtree(self._path, ignore_errors=True)
            with suppress(OSError):
                self._path.parent.rmdir()
            raise

    def _check_there(self) -> None:
        if not (self._path / "zarr.json").exists():
            raise InputError(f"no folder {self._path} here: set dask's temporary-directory to one that all workers see")


def _as_said(block: Any, block_info: Any = None) -> NDArray[Any]:
    """A block of a dask array: it has the shape and the type that it is said to have, or one that this type holds.

    Dask does not check what functions return; a store would repeat a row that is alone, and round numbers.
    """
    values, said = np.asanyarray(block), block_info[None]
    if np.ma.is_masked(values):
        raise InputError("the array given has masked values: select the rows to compare")
    if values.shape != said["chunk-shape"]:
        raise InputError(
            f"a chunk of the array given has the shape {values.shape}, and dask was told {said['chunk-shape']}: "
            "give what makes it the right `chunks`"
        )
    if not np.can_cast(values.dtype, said["dtype"]):
        raise InputError(
            f"the array given is {values.dtype.name}, and dask was told {said['dtype'].name}: give what makes it the "
            "right `dtype`"
        )
    _check_held(values)
    return cast(NDArray[Any], values)


def _check_held(rows: NDArray[Any]) -> None:
    """Raise InputError where float64 does not hold an integer; numpy casts all of 64 bits to it without a word."""
    if rows.dtype.kind in "iu" and rows.dtype.itemsize == 8 and rows.size:
        largest = max(abs(int(rows.min())), abs(int(rows.max())))
        if largest > _LARGEST_INTEGER:
            raise InputError(f"the array given holds {largest}, which float64 does not: give integers up to 2^53")


@dataclass(frozen=True)
class GivenRows:
    """The rows of an array, as a store is written from; integers as float64, which must hold them."""

    array: Any
    tensor: str = "array"

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return cast(tuple[int, ...], self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that rows are stored in."""
        own = np.dtype(self.array.dtype)
        return np.dtype(np.float64) if own.kind in "biu" else own.newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`. Raises InputError where float64 does not hold an integer."""
        rows = np.asarray(self.array[start:stop])
        _check_held(rows)
        return np.ascontiguousarray(rows, dtype=self.dtype)

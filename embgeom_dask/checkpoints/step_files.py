"""Files that hold a matrix at many steps of a training, (steps, rows, columns): safetensors and HDF5."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embgeom_dask import tuning
from embgeom_dask.checkpoints.torch_files import from_torch
from embgeom_dask.errors import EmbgeomError, InputError

Array = NDArray[Any]

_KINDS = ("bfloat16", "float16", "float32", "float64", "uint16")
_LABELS = ("step", "steps")
"""What a list of integers beside the matrix is called that says which step each is."""


class Stack(NamedTuple):
    """A matrix at many steps: `shape` is (steps, rows, columns), `read(i)` gives the rows of the i-th, as floats.

    `step` (steps,) int64, ascending, are the numbers of the steps; `name` is the file and the tensor, and `identity`
    what tells it from others.
    """

    shape: tuple[int, int, int]
    read: Callable[[int], Array]
    name: str
    step: NDArray[np.int64]
    identity: dict[str, Any]


@contextmanager
def open_stack(file: str, key: str = "") -> Iterator[Stack]:
    """Open the steps of a file, of the tensor `key` or of the only one that it may be, for as long as they are read.

    Raises
    ------
    InputError
        where the file cannot be read, or has no such tensor of three dimensions, or several and none is named.
    """
    try:
        facts = os.stat(file)  # noqa: PTH116
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    opened = _open_safetensors if file.endswith(".safetensors") else _open_hdf5
    with opened(file, key) as (name, shape, read, step):
        shape = checked(shape, name)
        identity = {"file": Path(file).name, "tensor": name, "modified": [facts.st_size, facts.st_mtime_ns]}
        yield Stack(shape, read, f"{Path(file).stem}:{name}", _numbers(step, shape[0]), identity)


def checked(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """Return the shape if it is (steps, rows, columns); else raise InputError."""
    if len(shape) != 3 or not all(shape):
        raise InputError(f"{name} has the shape {list(shape)}: give steps, rows and columns")
    return cast(tuple[int, int, int], tuple(map(int, shape)))


def check_kind(dtype: str, name: str) -> None:
    """Refuse what is neither floats nor the bits of bfloat16."""
    if dtype not in _KINDS:
        raise InputError(f"{name} is {dtype}: give floats, or bits of bfloat16 as uint16")


def as_floats(rows: Array) -> Array:
    """Rows as floats in C order, of this machine's byte order: 16-bit unsigned integers are the bits of bfloat16."""
    rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
    return rows.view(ml_dtypes.bfloat16) if rows.dtype == np.uint16 else rows


_Opened = Iterator[tuple[str, tuple[int, ...], Callable[[int], Array], Array | None]]
"""The name and shape of a tensor, what reads a step of it, and the numbers of its steps where the file has them."""


@contextmanager
def _open_safetensors(file: str, key: str) -> _Opened:
    try:
        opened = safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    with opened as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        name = _only(file, key, shapes)
        kept = tensors.get_slice(name)
        labels = next((tensors.get_tensor(each).numpy() for each in _LABELS if len(shapes.get(each, ())) == 1), None)

        def read(step: int) -> Array:
            try:
                return as_floats(from_torch(kept[step : step + 1][0]))
            except (SafetensorError, TypeError) as error:
                raise EmbgeomError(f"cannot read step {step} of {file}: {error}") from error

        yield name, shapes[name], read, labels


@contextmanager
def _open_hdf5(file: str, key: str) -> _Opened:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError("h5py is not installed: pip install 'embgeom-dask[hdf5]'") from error
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise InputError(f"cannot read {file}: {str(error).partition(chr(10))[0]}") from error
    with opened:
        shapes: dict[str, tuple[int, ...]] = {}

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                shapes[name] = item.shape

        opened.visititems(look)
        name = _only(file, key.strip("/"), shapes)
        matrix = opened[name]
        check_kind(matrix.dtype.name if matrix.dtype.newbyteorder("=") != "V2" else "uint16", name)
        beside = [f"{name.rpartition('/')[0]}/{each}".lstrip("/") for each in _LABELS]
        labels = next((opened[each][:] for each in beside if len(shapes.get(each, ())) == 1), None)

        def read(start: int, stop: int) -> Array:
            try:
                rows = matrix[start:stop]
            except (OSError, TypeError) as error:
                raise EmbgeomError(f"cannot read steps {start}:{stop} of {file}: {error}") from error
            return as_floats(rows.view(np.uint16) if rows.dtype.kind == "V" else rows)

        step_bytes = int(np.prod(matrix.shape[1:])) * matrix.dtype.itemsize
        together = min((matrix.chunks or (1,))[0], max(1, tuning.STEPS_BYTES // max(1, step_bytes)))
        yield name, matrix.shape, _in_blocks(read, matrix.shape[0], together), labels


def _in_blocks(read: Callable[[int, int], Array], count: int, together: int) -> Callable[[int], Array]:
    """Read a step out of the block of `together` steps that it is in, the last of which is kept.

    A chunk of a file may hold many steps: each would be decompressed again for every one of them.
    """
    kept: tuple[int, Array] | None = None
    lock = Lock()

    def read_one(step: int) -> Array:
        nonlocal kept
        start = step - step % together
        with lock:
            if kept is None or kept[0] != start:
                kept = None  # else two blocks are in memory
                kept = start, read(start, min(start + together, count))
            rows: Array = kept[1][step - start]
            return rows

    return read_one


def _only(file: str, key: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The tensor of three dimensions that is named, or the only one."""
    names = [name for name, shape in shapes.items() if len(shape) == 3 and key in ("", name)]
    if len(names) != 1:
        there = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:5])
        raise InputError(f"{file} has {len(names)} tensors of steps, rows and columns: name one, FILE:KEY ({there})")
    return names[0]


def _numbers(step: Array | None, count: int) -> NDArray[np.int64]:
    """The numbers of the steps: those given where they are ascending integers, one a step; else from 0."""
    if step is None or step.dtype.kind not in "iu" or step.shape != (count,):
        return np.arange(count)
    numbers = step.astype(np.int64)
    return numbers if numbers[0] >= 0 and (np.diff(numbers) > 0).all() else np.arange(count)

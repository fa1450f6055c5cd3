"""The rows of a stored matrix as a dask array."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embgeom_dask.storage.model_stores import Matrix


def lazy_rows(matrix: Matrix, dtype: str) -> Any:
    """Return all rows of a matrix as a dask array (V, d): a dask chunk is a zarr chunk, verified as it is read.

    They are of `dtype`, that of the matrix or one that holds all its values.
    """
    import dask.array

    make: Any = dask.array.map_blocks
    whole, rest = divmod(matrix.vocab_size, matrix.chunk_rows)
    chunks = (*[matrix.chunk_rows] * whole, *[rest] * (rest > 0)), (matrix.hidden_size,)
    of = np.dtype(dtype)
    read = partial(_read, matrix, of)
    array = make(read, chunks=chunks, dtype=of, meta=np.empty((0, 0), of), name=_name(matrix, dtype))
    array._embgeom_rows = matrix, array.name
    return array


def matrix_of_rows(array: object) -> Matrix | None:
    """The matrix of an array, if it is the very one that `lazy_rows` gave, unchanged; else None.

    What is computed from that array is another object. Assignment to it changes its name.
    """
    matrix, name = getattr(array, "_embgeom_rows", (None, None))
    return matrix if matrix is not None and getattr(array, "name", None) == name else None


def _name(matrix: Matrix, dtype: str) -> str:
    """Name the dask array by what it is made of, as dask does."""
    from dask.base import tokenize

    return f"{matrix.name}-{tokenize(matrix, dtype)}"


def computing_dtype(stored: str) -> str:
    """The dtype in which numpy computes with values of a stored dtype rightly: float32 in place of 16 bits."""
    return "float32" if stored in ("bfloat16", "float16") else stored


def _read(matrix: Matrix, dtype: np.dtype[Any], block_id: tuple[int, int]) -> np.ndarray:
    start = block_id[0] * matrix.chunk_rows
    return matrix.read(start, min(start + matrix.chunk_rows, matrix.vocab_size)).astype(dtype, copy=False)

"""The rows of a stored matrix as a dask array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embgeom_dask.storage.model_stores import Matrix


def lazy_rows(matrix: Matrix) -> Any:
    """Return all rows of a matrix as a dask array (V, d): a dask chunk is a zarr chunk, verified as it is read."""
    import dask.array

    make: Any = dask.array.map_blocks
    whole, rest = divmod(matrix.vocab_size, matrix.chunk_rows)
    chunks = (*[matrix.chunk_rows] * whole, *[rest] * (rest > 0)), (matrix.hidden_size,)
    return make(_read, matrix=matrix, chunks=chunks, dtype=np.dtype(matrix.dtype), name=lazy_name(matrix))


def lazy_name(matrix: Matrix) -> str:
    """The name of the dask array that `lazy_rows` gives, and of no other: dask names an array by what it is made of."""
    from dask.base import tokenize

    return f"{matrix.name}-{tokenize(matrix)}"


def _read(matrix: Matrix, block_id: tuple[int, int]) -> np.ndarray:
    start = block_id[0] * matrix.chunk_rows
    return matrix.read(start, min(start + matrix.chunk_rows, matrix.vocab_size))

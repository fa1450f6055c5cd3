"""Which rows of a store an array holds: told by their labels and their values, never by where the array came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.lazy_rows import computing_dtype, lazy_name
from embgeom_dask.storage.model_stores import MATRICES, Matrix, Role

_BLOCK_BYTES = 8 << 20
_GIVE = "give open_model(store).output_embedding, whole or with rows selected"


def find_rows(array: xr.DataArray) -> tuple[Matrix, np.ndarray]:
    """Return the stored matrix whose rows `array` (rows, columns) holds, and their token ids, int64 (rows,), as given.

    Rows belong to the matrix that the attributes `store` and `matrix` name where each has the bits of the row that is
    stored under its token id, the label along the first dimension. They are read once to tell. Only the dask array
    that `open_model` gave, under the labels that it gave, is known without.

    Raises
    ------
    InputError
        where attributes or labels are missing, a token id is given twice, or a row is not the one stored.
    """
    name = array.attrs.get("matrix")
    if "store" not in array.attrs or name not in MATRICES:
        raise InputError(f"the array given names no store: {_GIVE}")
    matrix = model_stores.find_matrix(array.attrs["store"], cast(Role, name.removesuffix("_embedding")))
    ids, dtypes = _token_ids(array, matrix), (matrix.dtype, computing_dtype(matrix))
    if array.ndim != 2 or array.shape[1] != matrix.hidden_size or array.dtype.name not in dtypes:
        raise InputError(
            f"the array given is {array.dtype.name} {array.shape}, the rows of {matrix.store}/{matrix.name} are "
            f"{matrix.dtype} with {matrix.hidden_size} columns: {_GIVE}"
        )
    if not _is_whole(array, matrix, ids):
        for start, stop in _blocks(array):
            given = np.ascontiguousarray(array[start:stop].to_numpy()).view(np.uint8)
            stored = matrix.take(ids[start:stop]).astype(array.dtype, copy=False).view(np.uint8)
            differing = np.flatnonzero((given != stored).any(axis=1))
            if differing.size:
                raise InputError(
                    f"the row given as token {ids[start + differing[0]]} is not that of {matrix.store}/{matrix.name}: "
                    f"{_GIVE}"
                )
    return matrix, ids


def _token_ids(array: xr.DataArray, matrix: Matrix) -> np.ndarray:
    label = str(array.dims[0]) if array.ndim else ""
    if not label.startswith("token_id") or label not in array.coords or array[label].dtype.kind not in "iu":
        raise InputError(f"the rows of the array given have no token_id: {_GIVE}")
    ids = array[label].to_numpy().astype(np.int64)
    if not ids.size:
        raise InputError(f"the array given has no row: {_GIVE}")
    if ids.min() < 0 or ids.max() >= matrix.vocab_size:
        raise InputError(
            f"token ids {ids.min()} to {ids.max()} were given, {matrix.store} has {matrix.vocab_size}: {_GIVE}"
        )
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"token {values[counts.argmax()]} is given {counts.max()} times: {_GIVE}, each once")
    return ids


def _is_whole(array: xr.DataArray, matrix: Matrix, ids: np.ndarray) -> bool:
    named = getattr(array.data, "name", None) == lazy_name(matrix, array.dtype.name)
    return named and np.array_equal(ids, np.arange(matrix.vocab_size))


def _blocks(array: xr.DataArray) -> Iterator[tuple[int, int]]:
    """First row and end of parts to compare: the chunks of a dask array."""
    rows = max(1, _BLOCK_BYTES // max(1, array.shape[1] * array.dtype.itemsize))
    sizes = array.chunks[0] if array.chunks else [min(rows, len(array) - i) for i in range(0, len(array), rows)]
    stops = np.cumsum(sizes).tolist()
    yield from zip([0, *stops], stops, strict=False)

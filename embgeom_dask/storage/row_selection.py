"""Recognise an array as rows of a store: by identity, or by its labels and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import xarray as xr

from embgeom_dask import tuning
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.labels import TOKEN_IDS
from embgeom_dask.storage.lazy_rows import computing_dtype, matrix_of_rows
from embgeom_dask.storage.model_stores import MATRICES, Matrix, Role


def find_rows(array: xr.DataArray) -> tuple[Matrix, np.ndarray] | None:
    """Return the stored matrix whose rows `array` (rows, columns) holds, and their token ids (rows,) int64, ascending.

    They are those of the matrix that the attribute `matrix` and, in the encoding, `store` name where token ids ascend,
    every label is the one stored, and each row has the bits of the row that is stored under its id. The rows are read
    once to tell, but for the very dask array that `open_model` gave. None: the rows or labels are others.
    """
    name, store = array.attrs.get("matrix"), array.encoding.get("store")
    if not isinstance(store, str) or name not in MATRICES:
        return None
    try:
        matrix = model_stores.find_matrix(store, cast(Role, name.removesuffix("_embedding")))
        stored = model_stores.labels_of(matrix)
    except InputError:  # another store is there now, or none
        return None
    token_id = _token_id(array, matrix)
    if token_id is None or not _same_labels(array, stored, token_id):
        return None
    if matrix_of_rows(array.data) == matrix and token_id.size == matrix.vocab_size:
        return matrix, token_id
    if array.shape[1] != matrix.hidden_size or array.dtype.name not in (matrix.dtype, computing_dtype(matrix.dtype)):
        return None
    for start, stop in _blocks(array):
        given = np.ascontiguousarray(array[start:stop].to_numpy()).view(np.uint8)
        rows = matrix.take(token_id[start:stop]).astype(array.dtype, copy=False).view(np.uint8)
        if not np.array_equal(given, rows):
            return None
    return matrix, token_id


def _token_id(array: xr.DataArray, matrix: Matrix) -> np.ndarray | None:
    """The labels of the rows, where they are token ids of the matrix that ascend."""
    dim = str(array.dims[0])
    if dim not in TOKEN_IDS or dim not in array.coords or array[dim].dtype.kind not in "iu":
        return None
    ids = array[dim].to_numpy().astype(np.int64)
    within = ids.size and ids[0] >= 0 and ids[-1] < matrix.vocab_size and (np.diff(ids) > 0).all()
    return ids if within else None


def _same_labels(array: xr.DataArray, stored: xr.Dataset, token_id: np.ndarray) -> bool:
    """Whether the token strings of the rows are those stored. An array without is no other one."""
    suffix = str(array.dims[0]).removeprefix("token_id")
    return all(
        array[name + suffix].to_numpy().tolist() == stored[name].to_numpy()[token_id].tolist()
        for name in ("token", "text", "has_token")
        if name + suffix in array.coords
    )


def _blocks(array: xr.DataArray) -> Iterator[tuple[int, int]]:
    """First row and end of parts to compare: the chunks of a dask array."""
    rows = max(1, tuning.COMPARED_BYTES // max(1, array.shape[1] * array.dtype.itemsize))
    sizes = array.chunks[0] if array.chunks else [min(rows, len(array) - i) for i in range(0, len(array), rows)]
    stops = np.cumsum(sizes).tolist()
    yield from zip([0, *stops], stops, strict=False)

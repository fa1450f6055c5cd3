"""Write a store made from the matrix of another store: new rows under the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embgeom_dask.errors import parse_path
from embgeom_dask.storage import model_stores, model_writing, paths
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.paths import PathLike


def free_target(stores: PathLike, named: str, *, overwrite: bool) -> str:
    """Where the store of a model called `named` goes in the folder `stores`.

    Raises
    ------
    InputError
        where a store is there and `overwrite` is not given, or something else is.
    """
    target = paths.join(parse_path("stores", stores), model_stores.file_name(named))
    model_writing.check_writable(target, overwrite=overwrite)
    return target


def write_derived(
    target: str, named: str, rows: RowSource, matrix: Matrix, made: Mapping[str, Any], *, overwrite: bool
) -> str:
    """Write rows with the tokens of a matrix, and what made them, as attributes; return the path."""
    tokens = model_stores.all_labels_of(matrix)
    attrs = {"model": named, "revision": "", **made}
    return model_writing.write_model(target, {matrix.name: rows}, attrs=attrs, labels=tokens, overwrite=overwrite)

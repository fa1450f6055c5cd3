"""List the stores of a folder, and what is wrong with those that are broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from embgeom_dask.errors import EmbgeomError, InputError, parse_path
from embgeom_dask.storage import paths
from embgeom_dask.storage.model_stores import MATRICES, matrix_of
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.validation import NoStore, read_metadata

if TYPE_CHECKING:
    import xarray as xr

COLUMNS: dict[str, Any] = {
    "model": np.str_,
    "store": np.str_,
    "dtype": np.str_,
    "vocab_size": np.int64,
    "hidden_size": np.int64,
    "tied": np.bool_,
    "matrices": np.str_,
    "revision": np.str_,
    "steps": np.int64,
    "bytes": np.int64,
}
"""What is said of a store, and the types of numpy's that it has."""


def list_models(stores: PathLike = "stores") -> xr.Dataset:
    """Describe every model's store in the folder `stores`, as a Dataset over `model`, sorted by name.

    Parameters
    ----------
    stores : path or URL
        The folder.

    Returns
    -------
    xarray.Dataset
        `store` (its path), `dtype`, `vocab_size`, `hidden_size`, `tied`, `matrices`, `revision`, `steps` and `bytes`
        (on disk), each over `model`. Sizes and dtype are those of the matrix that commands take by default. Series
        stores are in it with the number of their `steps`, which of all others is 0. The attribute `broken` says what is
        wrong with each store that is damaged, has another layout or cannot be read.

    Raises
    ------
    InputError
        If there is no such folder.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> for width in (2, 3):
    ...     store = make_store(f"stores/{width}.zarr", output=np.eye(4, width, dtype=np.float32), model=f"org/{width}")
    >>> list_models("stores")["hidden_size"].values
    array([2, 3])
    """
    import xarray as xr

    rows, broken = describe(parse_path("stores", stores))
    columns = {
        name: ("model", np.array([row[place] for row in rows], dtype=kind))
        for place, (name, kind) in enumerate(COLUMNS.items())
    }
    return xr.Dataset(columns, attrs={"broken": broken}).set_coords("model")


def describe(stores: PathLike) -> tuple[list[tuple[Any, ...]], list[str]]:
    """What `list_models` says, a row of `COLUMNS` each store, and of those that are broken.

    It takes half the time: it imports neither xarray nor, as the first Dataset does, dask.
    """
    try:
        found = paths.groups_in(stores)
    except FileNotFoundError:
        raise InputError(f"no folder of stores at {stores}: embgeom convert makes one") from None
    with ThreadPoolExecutor(8) as pool:
        described = list(pool.map(_description, found))
    rows = sorted(row for row in described if isinstance(row, tuple))
    return rows, [row for row in described if isinstance(row, str)]


def _description(path: str) -> tuple[str | int | bool, ...] | str | None:
    """What `list_models` says of one store; in one line what is wrong with it; None where there is none at `path`."""
    try:
        metadata = read_metadata(path)
        matrix, size = matrix_of(metadata, None), paths.size(path)
    except NoStore:
        return _of_series(path)
    except EmbgeomError as error:
        return str(error)
    roles = [name.removesuffix("_embedding") for name in MATRICES if matrix.tied or name in metadata.arrays]
    facts = (matrix.dtype, matrix.vocab_size, matrix.hidden_size, matrix.tied)
    return (matrix.model, path, *facts, ", ".join(roles), matrix.revision, 0, size)


def _of_series(path: str) -> tuple[str | int | bool, ...] | str | None:
    """The same of a series store; None where there is none."""
    try:
        if "series_format" not in paths.open_group(path).attrs:
            return None
        from embgeom_dask.storage import series_stores  # which takes xarray

        found, size = series_stores.read_series(path), paths.size(path)
    except (FileNotFoundError, ValueError) as error:
        return str(error) if isinstance(error, EmbgeomError) else None
    except EmbgeomError as error:
        return str(error)
    steps, rows, width = found.shape
    facts = (np.dtype(found.array.dtype).name, rows, width, False, found.matrix.removesuffix("_embedding"))
    return (found.model, path, *facts, "", steps, size)

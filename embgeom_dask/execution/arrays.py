"""Arrays given as data: rows of a store are recognised, all others are written to a temporary store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import dask
import dask.array
import numpy as np
import torch
import xarray as xr
from dask.delayed import Delayed
from distributed import Client
from numpy.typing import NDArray
from pandas import isna

from embgeom_dask import progress
from embgeom_dask.checkpoints.bare_files import read_matrix
from embgeom_dask.checkpoints.matrix_files import find_matrix_file
from embgeom_dask.checkpoints.torch_files import from_torch
from embgeom_dask.errors import InputError
from embgeom_dask.execution.array_rows import GivenRows, computed
from embgeom_dask.execution.cluster import ClientLike, check_usable
from embgeom_dask.storage import fill, model_stores, model_writing, series_stores
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.labels import TOKEN_IDS
from embgeom_dask.storage.model_stores import DTYPES, Matrix, Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.row_selection import find_rows
from embgeom_dask.units import bytes_text

_UNNAMED = "array"


@dataclass(frozen=True)
class Given:
    """The rows that a call is given.

    Attributes
    ----------
    matrix : Matrix
        The stored matrix that they are rows of.
    rows : (n,) int64, ascending
        Which rows of it.
    token_id : (matrix.vocab_size,) int64, optional
        The id by which the caller knows each row of the matrix; None where that is its number.
    nbytes : int
        Bytes of the temporary store that the rows were written to; 0 where they are stored already.
    copied : Matrix, optional
        The stored matrix that these rows are some of, where they were written to a temporary store all the same.
    read : dict
        The labels of the matrix once they were read; selections of the rows share it.
    """

    matrix: Matrix
    rows: NDArray[np.int64]
    token_id: NDArray[np.int64] | None = None
    nbytes: int = 0
    copied: Matrix | None = None
    read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The token ids of the rows, (n,) int64."""
        return self.ids_of(self.rows)

    def ids_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The token ids (n,) int64 of rows (n,) of the matrix, by their numbers."""
        return rows if self.token_id is None else self.token_id[rows]

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that a row can have."""
        return self.matrix.vocab_size if self.token_id is None else int(self.token_id.max()) + 1

    @property
    def selection(self) -> str | None:
        """What tells these rows and their ids from others; None for a whole matrix by its own ids."""
        whole = self.token_id is None and self.rows.size == self.matrix.vocab_size
        return None if whole else fill.sha256(self.ids)

    def labels(self) -> xr.Dataset:
        """The token ids and strings of the rows: the coordinates `token_id`, `token`, `text` and `has_token`."""
        return model_stores.named(self.stored_labels(), self.rows).assign_coords(token_id=self.ids)

    def stored_labels(self) -> dict[str, Any]:
        """All the labels of the matrix, as `Matrix.labels` gives them, read and verified once. Raises as that.

        Commands call it before what takes long, not when the result is labelled.
        """
        if not self.read:
            self.read.update(self.matrix.labels())
        return self.read

    def select(self, token_id: NDArray[np.int64]) -> Given:
        """Of the rows given, those of the tokens `token_id`.

        Raises
        ------
        InputError
            where none is.
        """
        rows = self.rows[np.isin(self.ids, token_id)]
        if not rows.size:
            raise InputError("none of the tokens selected is a row of the array given")
        return replace(self, rows=rows)


Data: TypeAlias = PathLike | xr.DataArray | xr.Dataset | NDArray[Any] | dask.array.Array | torch.Tensor | Matrix | Given
"""What a command computes with: the path of a store or of a matrix in a file, or an array (rows, columns), by value;
or of the package's own modules a stored matrix, or what `given_rows` found of one of these.
"""


def names_role(data: Data) -> bool:
    """Whether `data` is a store named with its role: `STORE:input` or `STORE:output`."""
    return isinstance(data, str | os.PathLike) and model_stores.split_role(data)[1] is not None


def is_array(data: object) -> bool:
    """Whether `data` is an array, and not the path of a store or a list of these."""
    return hasattr(data, "shape") or isinstance(data, xr.Dataset)


@contextmanager
def given_rows(
    data: Data, role: Role | None = None, client: ClientLike | None = None, *, whole: bool = False
) -> Iterator[Given]:
    """Find the rows of `data`, for as long as they are needed.

    Parameters
    ----------
    data : path, xarray.DataArray or Dataset, numpy or dask array, torch tensor
        A store, or whatever `role` is one matrix of it, `STORE:input` or `STORE:output`; a step of a series store,
        `STORE.zarr:STEP`; a matrix in a file, `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:KEY`; or the values
        to compare, one row each: along the dimension `token_id` of a DataArray, if it has one, else along the first. Of
        a Dataset of `open_model`, the matrix of `role`. The ids of rows are the coordinate `token_id` along that
        dimension, or else its integers; their token strings the coordinate `token`, or labels that are no integers;
        without, ids are positions. Rows may be repeated.
    role : {"input", "output"}, optional
        The matrix of a store or of a Dataset.
    client : Client, cluster or str, optional
        What `connect` takes. A dask array is computed by a client given; else as dask does, where other things are.
    whole : bool
        Whether the caller reads all rows of a matrix: then some rows of a stored one are written, too.

    Yields
    ------
    Given
        Of a stored matrix, the rows themselves. All others are written to a temporary store, in dask's
        `temporary-directory` or else in the system's, where every worker must see it; it is removed in the end.

    Raises
    ------
    InputError
        where the store, the matrix, an array of such a type or shape, or the client cannot be used.

    Examples
    --------
    >>> with given_rows(np.eye(3, dtype=np.float32)) as given:
    ...     print(given.matrix.read(0, 1), given.rows, given.token_id)
    [[1. 0. 0.]] [0 1 2] None
    """
    model_stores.check_role(role)
    if isinstance(data, Given):
        yield data
        return
    if isinstance(data, Matrix):
        yield Given(data, np.arange(data.vocab_size))
        return
    if not is_array(data):
        if not isinstance(data, str | os.PathLike):
            raise InputError(f"one store or array is needed, and a {type(data).__name__} is given: name a store")
        if (file := find_matrix_file(os.fspath(cast(PathLike, data)))) is not None:
            matrix_of_file = read_matrix(*file)
            with temporary_store(lambda folder: _copy(matrix_of_file, file, role, folder), file[0].name) as given:
                yield given
            return
        if (step := series_stores.find_step(os.fspath(cast(PathLike, data)))) is not None:
            matrix: Matrix = series_stores.find_matrix(*step)
            yield Given(matrix, np.arange(matrix.vocab_size))
            return
        matrix = model_stores.find_matrix(cast(PathLike, data), role)
        yield Given(matrix, np.arange(matrix.vocab_size))
        return
    array = as_data_array(data, role)
    check_usable(client)  # rows of a dask array are compared by the client that is active
    stored = find_rows(array)
    if stored is not None and not (whole and stored[1].size < stored[0].vocab_size):
        yield Given(*stored)
        return

    def write(folder: str) -> str:
        # only where dask computes: entering a client sets dask's scheduler for all threads, and two get in their way
        by = client if isinstance(client, Client) and isinstance(array.data, dask.array.Array) else None
        with cast(AbstractContextManager[Any], nullcontext()) if by is None else by.as_current():
            return _write(array, folder)

    name = named(array)[0]
    with temporary_store(write, "the array given" if name == _UNNAMED else name) as given:
        yield replace(given, token_id=token_id_of(array), copied=stored[0] if stored else None)


def temporary_folder() -> AbstractContextManager[str]:
    """A folder for as long as it is entered, where every worker must see it: in dask's `temporary-directory`."""
    return tempfile.TemporaryDirectory(prefix="embgeom-array-", dir=dask.config.get("temporary-directory"))


@contextmanager
def temporary_store(write: Callable[[str], str], what: str) -> Iterator[Given]:
    """The rows of a store that `write` makes in a folder, for as long as they are needed; a note says where it is."""
    with temporary_folder() as folder:
        matrix = model_stores.find_matrix(write(folder))
        nbytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        progress.note(f"{what} is in {folder} meanwhile, {bytes_text(nbytes)} (dask's temporary-directory says where)")
        yield Given(matrix, np.arange(matrix.vocab_size), None, nbytes)


def _copy(source: RowSource, file: tuple[Path, str], role: Role | None, folder: str) -> str:
    """Write a store of the matrix of a file, a chunk of rows at a time; the file and its tensor are the model."""
    attrs = {"model": _model_of(file), "revision": ""}
    return model_writing.write_model(f"{folder}/file.zarr", {f"{role or 'output'}_embedding": source}, attrs=attrs)


def _model_of(file: tuple[Path, str]) -> str:
    path, key = file
    return f"{path.name}:{key}" if key else path.name


class Identity(NamedTuple):
    """Whose rows are compared: `matrix` is empty where they are of no store."""

    model: str
    revision: str
    matrix: str = ""


def name_of(data: Data, role: Role | None = None) -> Identity:
    """The model and revision that results of `data` bear, and its matrix.

    Raises
    ------
    InputError
        as `given_rows`.
    """
    if isinstance(data, Matrix):
        return Identity(data.model, data.revision, data.name)
    if is_array(data):
        return Identity(*named(as_data_array(data, role)))
    if (file := find_matrix_file(os.fspath(cast(PathLike, data)))) is not None:
        return Identity(_model_of(file), "")
    if (step := series_stores.find_step(os.fspath(cast(PathLike, data)))) is not None:
        return Identity(series_stores.find_matrix(*step).model, "")
    matrix = model_stores.find_matrix(cast(PathLike, data), role)
    return Identity(matrix.model, matrix.revision, matrix.name)


def named(array: xr.DataArray) -> tuple[str, str]:
    """The model and revision that results of an array bear."""
    model, revision = (array.attrs.get(name) for name in ("model", "revision"))
    name = model if isinstance(model, str) else array.name
    return f"{name} (array)" if name else _UNNAMED, revision if isinstance(revision, str) else ""


def matrix_name(array: xr.DataArray) -> str:
    """What the matrix of an array is called in a store: output_embedding unless it says that it is the input's."""
    return "input_embedding" if array.attrs.get("matrix", array.name) == "input_embedding" else "output_embedding"


def matrix_of(data: Any, role: Role | None) -> Any:
    """Of a Dataset the matrix of `role`, and any other array as it is. Raises InputError where there is none."""
    if not isinstance(data, xr.Dataset):
        return data
    names = [f"{each}_embedding" for each in ((role,) if role else ("output", "input"))]
    found = next((name for name in names if name in data), None)
    if found is None:
        raise InputError(f"the dataset given has no {' or '.join(names)}: give one of its arrays")
    return data[found]


def as_data_array(data: Any, role: Role | None) -> xr.DataArray:
    """Any array as a DataArray of two dimensions, rows first. Raises InputError where it is none."""
    data = matrix_of(data, role)
    if isinstance(data, torch.Tensor):
        if data.is_meta or data.layout != torch.strided:
            kind = "on the device meta" if data.is_meta else data.layout
            raise InputError(f"the tensor given is {kind}: give a dense one that has values")
        try:
            data = from_torch(data)
        except TypeError as error:
            raise InputError(f"the tensor given is {data.dtype}: give it as float32, `tensor.float()`") from error
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise InputError("the array given has masked values: select the rows to compare")
    if isinstance(data, Delayed):
        raise InputError("the array given is a Delayed: give its compute(), or dask.array.from_delayed of it")
    if hasattr(data, "toarray"):
        raise InputError(f"the array given is a sparse {type(data).__name__}: give its toarray()")
    if np.isnan(data.shape).any():
        raise InputError("the array given does not know its shape: call its compute_chunk_sizes() first")
    if len(data.shape) != 2 or not all(data.shape):
        raise InputError(f"the array given has the shape {tuple(data.shape)}: give one of rows and columns")
    array = data if isinstance(data, xr.DataArray) else xr.DataArray(data).rename(None)
    if array.dtype.name not in DTYPES and array.dtype.kind not in "biu":
        raise InputError(f"the array given is {array.dtype.name}: give float64, float32, float16, bfloat16 or integers")
    along = [dim for dim in array.dims if dim in TOKEN_IDS] or _labelled(array)
    return array.transpose(along[0], ...) if len(along) == 1 else array


def _labelled(array: xr.DataArray) -> list[Hashable]:
    """The dimensions along which token ids or tokens lie: rows keep them where their dimension is renamed."""
    names = [*TOKEN_IDS, *(name.replace("_id", "") for name in TOKEN_IDS)]
    named = [array.coords[name] for name in names if name in array.coords]
    return [dim for dim in array.dims if any(coord.dims == (dim,) for coord in named)]


def token_id_of(array: xr.DataArray) -> NDArray[np.int64] | None:
    """The ids of the rows (n,) int64, where they have any: integers along them, those called token ids first."""
    dim = array.dims[0]
    names = [*TOKEN_IDS, dim]
    along = [array[name] for name in names if name in array.coords and array[name].dims == (dim,)]
    ids = next((found for labels in along if (found := _integers(labels)) is not None), None)
    if ids is None:
        return None
    if ids.min() < 0 or ids.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"the labels of the rows given are {ids.min()} to {ids.max()}: token ids are 0 or more, below 2^63"
        )
    return ids.astype(np.int64)


def _integers(labels: xr.DataArray) -> NDArray[Any] | None:
    """Labels that are integers, of any type: xarray and pandas make token ids floats where some are missing."""
    values = labels.to_numpy()
    kind = values.dtype.kind
    if kind in "iu" or (kind == "O" and all(isinstance(each, Integral) for each in values.tolist())):
        return values
    if kind not in "fO" or labels.name not in TOKEN_IDS:
        return None
    if kind == "O" and {isinstance(each, str) for each in values[~isna(values)].tolist()} == {True}:
        return None
    if kind == "O" or not (np.isfinite(values) & (values == np.rint(values))).all():
        raise InputError("the token ids of the rows given are no integers, or some are missing (NaN): give integers")
    return values.astype(np.int64)


def labels_of(array: xr.DataArray) -> xr.Dataset:
    """The token strings of the rows: their coordinates, or labels that are no integers; empty where there are none."""
    dim = str(array.dims[0])
    suffix = dim.removeprefix("token_id") if dim in TOKEN_IDS else ""
    named = {name: array.coords.get(name + suffix) for name in ("token", "text", "has_token")}
    along = {name: coord.to_numpy() for name, coord in named.items() if coord is not None and coord.dims == (dim,)}
    if "token" not in along and dim in array.coords and _integers(array[dim]) is None:
        along["token"] = array[dim].to_numpy()
    # None and NaN are no label
    along = {name: np.where(isna(values), "", values.astype(np.object_)) for name, values in along.items()}
    none = np.full(array.shape[0], "")
    token, text = (list(map(str, along.get(name, along.get("token", none)).tolist())) for name in ("token", "text"))
    has = along["has_token"].astype(bool).tolist() if "has_token" in along else [bool(each) for each in token]
    return model_stores.make_labels(token, text, has)


def _write(array: xr.DataArray, folder: str) -> str:
    """Write a store of the rows; what dask has to compute, it computes once, and writes aside."""
    rows: Any = array.data
    if isinstance(rows, dask.array.Array):
        rows = computed(rows, f"{folder}/computed")
    elif not isinstance(rows, np.ndarray):
        rows = array.to_numpy()
    model, revision = named(array)
    matrices = {matrix_name(array): GivenRows(rows)}
    attrs = {"model": model, "revision": revision}
    return model_writing.write_model(f"{folder}/array.zarr", matrices, attrs=attrs, labels=labels_of(array))

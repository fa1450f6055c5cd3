"""Model stores: one zarr v3 group a model, written once, then opened by xarray, dask and the workers.

The layout is documented in `stores/README.md`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import zarr

from embgeom_dask import tuning
from embgeom_dask.bfloat16 import BFloat16  # registers the data type
from embgeom_dask.errors import EmbgeomError, InputError, parse_path
from embgeom_dask.storage import fill, paths, records
from embgeom_dask.storage.labels import digest_labels as digest_labels
from embgeom_dask.storage.labels import empty_label, kinds_of, read_labels
from embgeom_dask.storage.labels import labels_of as stored_labels_of
from embgeom_dask.storage.lazy_rows import computing_dtype, lazy_rows
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.validation import MATRICES as MATRICES
from embgeom_dask.storage.validation import Metadata, chunk_rows, damaged, read_metadata
from embgeom_dask.storage.validation import is_store as is_store

if TYPE_CHECKING:
    import xarray as xr

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", BFloat16._zarr_v3_name: "BF16"}
"""What a store can hold, and what safetensors files call it."""


_NAMED = ("token", "text", "has_token")
Role = Literal["input", "output"]
ROLES: tuple[Role, Role] = ("input", "output")


@dataclass(frozen=True)
class Matrix:
    """One stored matrix, as it travels to workers: where it is and what it must contain. Rows are token ids.

    `name` is the stored array (`input_embedding` or `output_embedding`; of a tied store, the one that is there),
    `revision` the model's commit ("" where it is not known), `dtype` the stored type's name, `sha256` that of the rows'
    bytes in order, `labels_sha256` that of its rows' labels, `chunk_rows` the rows of a zarr chunk.
    """

    store: str
    name: str
    model: str
    vocab_size: int
    hidden_size: int
    dtype: str
    sha256: str
    tied: bool
    chunk_rows: int
    revision: str = ""
    labels_sha256: str = ""

    @property
    def role(self) -> Role:
        """What the matrix is in the model; of a tied store, the role under which it is there."""
        return cast(Role, self.name.removesuffix("_embedding"))

    @property
    def label(self) -> str:
        """The model, with its revision where it is known."""
        return label(self.model, self.revision)

    @property
    def where(self) -> str:
        """What messages call the place of its rows."""
        return paths.join(self.store, self.name)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 as (stop - start, hidden_size) in the stored dtype (ml_dtypes' bfloat16 for that).

        Raises IndexError for rows outside the matrix, and EmbgeomError where the store was replaced or is damaged.
        """
        rows, first = self.stretch(start, stop)
        return rows if len(rows) == stop - start else rows[start - first : stop - first].copy()

    def stretch(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return rows that hold start..stop-1, those of whole chunks, and the number of the first; raises as `read`."""
        if not 0 <= start <= stop <= self.vocab_size:
            raise IndexError(f"rows {start}:{stop} of {self.vocab_size} in {self.where}")
        array, digests = self._stored()
        where = self.where
        first, last = start // self.chunk_rows, math.ceil(stop / self.chunk_rows)
        begin = first * self.chunk_rows
        with paths.explained(f"read rows {start}:{stop} of {where}", passing=()):
            rows = cast(np.ndarray, array[begin : min(last * self.chunk_rows, self.vocab_size)])
        for chunk, digest in enumerate(digests[first:last]):
            if fill.sha256(rows[chunk * self.chunk_rows : (chunk + 1) * self.chunk_rows]) != digest:
                raise EmbgeomError(
                    f"cannot read rows {start}:{stop} of {where}: chunk {first + chunk} holds other bytes than were "
                    "converted: convert the model again, and overwrite the store"
                )
        return rows, begin

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of token ids `ids` (n integers, any order) as (n, hidden_size); each chunk is read once."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and np.ptp(ids) < tuning.READ_WHOLE * ids.size:
            rows, start = self.stretch(int(ids.min()), int(ids.max()) + 1)
            return rows if len(rows) == ids.size and (np.diff(ids) == 1).all() else rows[ids - start]
        rows = np.empty((ids.size, self.hidden_size), dtype=np.dtype(self.dtype))
        order = np.argsort(ids, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(ids[order] // self.chunk_rows)) + 1):
            if group.size:
                first, last = int(ids[group[0]]), int(ids[group[-1]])
                read, start = self.stretch(first, last + 1)
                rows[group] = read[ids[group] - start]
        return rows

    def labels(self) -> dict[str, Any]:
        """Return all the labels of the rows by name, and of rows after them where they share them, read once.

        Raises
        ------
        InputError
            where they are damaged.
        EmbgeomError
            where they are not those that the store had when the matrix was found.
        """
        metadata = read_metadata(self.store)
        _check_same(self, metadata.arrays.get(self.name, {}).get("attributes", {}))
        return stored_labels_of(metadata, self.name)

    def rows(self) -> xr.DataArray:
        """Return the rows with their labels, as `open_model` does: a dask array of the stored dtype."""
        return open_model(self.store, raw=True)[self.name]

    def check_unchanged(self) -> None:
        """Raise EmbgeomError where the store was replaced or removed since the matrix was found: one small read."""
        _check_same(self, attributes_now(self.where))

    def _stored(self) -> tuple[Any, Sequence[str]]:
        """What slices of rows are read from, and the SHA-256 of each chunk."""
        return _stored_array(self)


def attributes_now(path: str) -> Mapping[str, Any]:
    """Return the attributes of the group or array at a path, by one small read. Raises EmbgeomError where it fails."""
    with paths.explained(f"open {path}", passing=()):
        found: Mapping[str, Any] = json.loads(records.read(paths.join(path, "zarr.json")))["attributes"]
    return found


def label(model: str, revision: str) -> str:
    """Name a model and its revision, `organisation/name@revision`, of a commit the first 12 digits."""
    return f"{model}@{revision[:12] if re.fullmatch('[0-9a-f]{40}', revision) else revision}" if revision else model


def file_name(model: str, revision: str = "") -> str:
    """Name the store, or the result, of a model: `<organisation>--<name>.zarr`, or `...@<revision>.zarr`."""
    return f"{label(model, revision).replace('/', '--')}.zarr"


@lru_cache(maxsize=64)
def _stored_array(matrix: Matrix) -> tuple[zarr.Array[Any], Sequence[str]]:
    """The zarr array of a matrix, and the SHA-256 of each of its chunks."""
    with paths.explained(f"open {paths.join(matrix.store, matrix.name)}", passing=()):
        array = zarr.open_array(paths.reader(matrix.store), path=matrix.name, mode="r")
    _check_same(matrix, array.attrs)
    grid = (matrix.vocab_size, matrix.hidden_size), (matrix.chunk_rows, matrix.hidden_size), matrix.dtype
    if (array.shape, array.chunks, np.dtype(array.dtype).name) != grid:
        raise damaged(matrix.store, f"{matrix.name}/zarr.json and the group's zarr.json differ")
    return array, cast(Sequence[str], array.attrs["chunk_sha256"])


def _check_same(matrix: Matrix, attrs: Mapping[str, Any]) -> None:
    if (attrs.get("sha256"), attrs.get("labels_sha256")) != (matrix.sha256, matrix.labels_sha256):
        raise EmbgeomError(f"{matrix.store} was replaced by another conversion while it was in use: run again")


def open_model(store: PathLike, *, raw: bool = False) -> xr.Dataset:
    """Open a model's store: its matrices as dask arrays with one dask chunk a zarr chunk, and its token labels.

    Rows are checked against the SHA-256 of their chunk when they are read.

    Parameters
    ----------
    store : path or URL
        The store.
    raw : bool
        Whether matrices have the dtype that they are stored in. By default, matrices of bfloat16 and float16 become
        float32, which holds all their values, because numpy, and so xarray, would sum them in 16 bits.

    Returns
    -------
    xarray.Dataset
        `input_embedding` and `output_embedding`, those that the store has, over `(token_id, hidden)`. If their widths
        differ, the output has the dimension `hidden_output`; if one has fewer rows, or other tokens, it has a dimension
        of its own in place of `token_id`. Both are one matrix if the store is tied. The labels `token`, `text` and so
        on are coordinates over `token_id`.

        Each matrix has the attributes `model`, `revision`, `matrix` (the name of the stored array) and `source_tensor`,
        which hold of what is computed from it, too: xarray keeps attributes in arithmetic. Its `encoding`, which xarray
        drops there, has `store`, `sha256` and `stored_dtype`. The attributes of the Dataset are strings and numbers;
        `decision` is JSON, `tied` is 0 or 1.

    Raises
    ------
    InputError
        If `store` is not a model's store, or is damaged.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> model = open_model(make_store("tiny.zarr", output=np.eye(3, 2, dtype=np.float32), tokens=["a", "b", "c"]))
    >>> model["output_embedding"].sel(token_id=1).values
    array([0., 1.], dtype=float32)
    """
    import xarray as xr

    metadata = read_metadata(parse_path("store", store))
    dataset = xr.open_zarr(cast(Any, paths.reader(metadata.path)), consolidated=True, chunks={})
    dataset.attrs = {name: _plain(value) for name, value in dataset.attrs.items()}
    for name, values in read_labels(metadata).items():
        dataset = dataset.assign_coords({name: dataset[name].copy(data=values.copy())})
    for role in ROLES:
        if metadata.attrs["tied"] or f"{role}_embedding" in metadata.arrays:
            matrix = matrix_of(metadata, role)
            name, stored = f"{role}_embedding", dataset[matrix.name]
            dataset[name] = stored.copy(data=lazy_rows(matrix, matrix.dtype if raw else computing_dtype(matrix.dtype)))
            dataset[name].attrs = {"source_tensor": stored.attrs["source_tensor"], "model": matrix.model}
            dataset[name].attrs |= {"revision": matrix.revision, "matrix": matrix.name}
            dataset[name].encoding = {"store": matrix.store, "sha256": matrix.sha256, "stored_dtype": matrix.dtype}
    return cast("xr.Dataset", dataset)


def _plain(value: Any) -> Any:
    """An attribute that netCDF takes: of a dict its JSON, of a bool 0 or 1."""
    return int(value) if isinstance(value, bool) else json.dumps(value) if isinstance(value, dict | list) else value


def labels(store: PathLike, ids: np.ndarray | None = None, name: str = "") -> xr.Dataset:
    """Return the coordinates token_id, token, text and has_token of `ids` (default: every row), in the order given.

    `name` is the stored matrix whose rows `ids` are: it may have labels of its own. They are numpy arrays, of objects
    where they are strings, read and verified once.

    Raises
    ------
    InputError
        where `store` is not a model's store, or is damaged.
    """
    return named(stored_labels_of(read_metadata(store), name), ids)


def labels_of(matrix: Matrix, ids: np.ndarray | None = None) -> xr.Dataset:
    """Return the `labels` of a matrix's rows. Raises as `Matrix.labels`."""
    return named(matrix.labels(), ids)


def named(found: Mapping[str, np.ndarray], ids: np.ndarray | None) -> xr.Dataset:
    """Return what `labels` does of labels that were read."""
    import xarray as xr

    rows = np.arange(len(found["token"])) if ids is None else np.asarray(ids, dtype=np.int64)
    coords: dict[str, Any] = {"token_id": ("token_id", rows)}
    return xr.Dataset(coords=coords | {label: ("token_id", found[label][rows]) for label in _NAMED})


def make_labels(
    token: Sequence[str], text: Sequence[str], has_token: Sequence[bool], **others: Sequence[Any]
) -> xr.Dataset:
    """Return all the labels of a model: `token[i]`, `text[i]` and `has_token[i]` belong to token id i.

    `others` are `bytes` (hexadecimal strings), `is_added` and `is_special` (bools): by default empty, and False; and
    `reachability`, which is there if given.
    """
    import xarray as xr

    given = {"token": token, "text": text, "has_token": has_token, **others}
    coords: dict[str, Any] = {"token_id": np.arange(len(token), dtype=np.int64)}
    for name, kind in kinds_of(given).items():
        coords[name] = ("token_id", np.array(given.get(name, [empty_label(name)] * len(token)), kind))
    return xr.Dataset(coords=coords)


def empty_labels(rows: int) -> xr.Dataset:
    """Return the labels of so many rows without tokens."""
    return make_labels([""] * rows, [""] * rows, [False] * rows)


def all_labels_of(matrix: Matrix) -> xr.Dataset:
    """Return all the labels of a matrix's rows, as `make_labels` does. Raises as `Matrix.labels`."""
    return make_labels(**{name: each[: matrix.vocab_size] for name, each in matrix.labels().items()})


def split_role(store: PathLike) -> tuple[str, Role | None]:
    """The store and the role of `STORE:input` or `STORE:output`; of every other path no role.

    Examples
    --------
    >>> split_role("stores/a.zarr:input"), split_role("stores/a.zarr")
    (('stores/a.zarr', 'input'), ('stores/a.zarr', None))
    """
    text = parse_path("store", store)
    path, _, named = text.rpartition(":")
    whose = path and named in ROLES and not path.endswith(".safetensors")  # where that is the name of a tensor
    return (path, cast(Role, named)) if whose else (text, None)


def check_role(role: Role | None) -> None:
    """Refuse what is no role."""
    if role not in (None, *ROLES):
        raise InputError(f"no role {role!r}: choose input or output")


def find_matrix(store: PathLike, role: Role | None = None) -> Matrix:
    """Find a stored matrix: `input` or `output`; by default the output matrix, or the input matrix where it is alone.

    A store may be called `STORE:input` or `STORE:output`: that comes before `role`.

    Raises
    ------
    InputError
        where there is no such store or matrix, or where the store is damaged.
    """
    check_role(role)
    path, named = split_role(store)
    return matrix_of(read_metadata(path), named or role)


def matrix_of(metadata: Metadata, role: Role | None) -> Matrix:
    """Find a matrix as `find_matrix` does, of a store whose metadata was read."""
    stored = [name for name in MATRICES if name in metadata.arrays]
    name = stored[-1] if role is None or metadata.attrs["tied"] else f"{role}_embedding"
    if name not in stored:
        raise InputError(f"{metadata.path} has no {name}, only {stored[0]}")
    array = metadata.arrays[name]
    return Matrix(
        store=metadata.path,
        name=name,
        model=metadata.attrs["model"],
        vocab_size=array["shape"][0],
        hidden_size=array["shape"][1],
        dtype=array["attributes"]["dtype"],
        sha256=array["attributes"]["sha256"],
        tied=metadata.attrs["tied"],
        chunk_rows=chunk_rows(array),
        revision=metadata.attrs.get("revision", ""),
        labels_sha256=array["attributes"]["labels_sha256"],
    )


def attributes(store: PathLike) -> dict[str, Any]:
    """Return the attributes of a model's store and, as `matrices`, those of each matrix; a tied one has both names.

    Raises
    ------
    InputError
        where `store` is not a model's store, or is damaged.
    """
    metadata = read_metadata(store)
    matrices = {name: metadata.arrays[name]["attributes"] for name in MATRICES if name in metadata.arrays}
    if metadata.attrs["tied"]:
        matrices = dict.fromkeys(MATRICES, *matrices.values())
    return deepcopy({**metadata.attrs, "matrices": matrices})

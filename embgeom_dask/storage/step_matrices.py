"""One step of a series store as a matrix."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.storage import fill, labels, paths
from embgeom_dask.storage.lazy_rows import lazy_rows
from embgeom_dask.storage.model_stores import Matrix, attributes_now
from embgeom_dask.storage.validation import LABELS

if TYPE_CHECKING:
    import xarray as xr

IDENTITY = "sha256"
"""The attribute of a group with steps that tells what is in it: another has another."""

_SERIES_REPLACED = "{} was replaced by another series while it was in use: run again"


@dataclass(frozen=True)
class StepMatrix(Matrix):
    """One step of a series: its rows as a matrix.

    `step` is its number, `place` its place among all the `steps` of the series, `identity` that of the group that they
    are in, `chunk_sha256` the digest of each of its chunks.
    """

    step: int = 0
    place: int = 0
    steps: int = 1
    identity: str = ""
    chunk_sha256: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"step {self.step} of {self.store}"

    def labels(self) -> dict[str, Any]:
        """Return the labels of the rows by name, as `Matrix.labels` does: those that the series has."""
        return dict(_labels(self.store, self.identity, self.vocab_size, self.labels_sha256))

    def rows(self) -> xr.DataArray:
        """Return the rows with their labels, as a dask array of the stored dtype."""
        import xarray as xr

        coords: dict[str, Any] = {name: ("token_id", values) for name, values in self.labels().items()}
        coords["token_id"] = np.arange(self.vocab_size)
        return xr.DataArray(lazy_rows(self, self.dtype), coords, ("token_id", "hidden"), self.model)

    def check_unchanged(self) -> None:
        """Raise EmbgeomError where the series was replaced or removed since the step was found: one small read."""
        if attributes_now(self.store).get(IDENTITY) != self.identity:
            raise EmbgeomError(_SERIES_REPLACED.format(self.store))

    def _stored(self) -> tuple[Any, Sequence[str]]:
        shape = (self.steps, self.vocab_size, self.hidden_size)
        return _OneStep(_array(self.store, self.identity, self.name, shape), self.place), self.chunk_sha256


@dataclass(frozen=True)
class _OneStep:
    """The rows of one step of an array of all."""

    array: zarr.Array[Any]
    place: int

    def __getitem__(self, rows: slice) -> Any:
        return self.array[self.place, rows]


@lru_cache(maxsize=8)
def _array(store: str, identity: str, name: str, shape: tuple[int, int, int]) -> zarr.Array[Any]:
    """The array of all steps, opened once in a process; which bytes are read, the digests of their chunks say."""
    with paths.explained(f"open {paths.join(store, name)}", passing=(EmbgeomError,)):
        array = cast(zarr.Array[Any], _group(store, identity)[name])
    if array.shape != shape:
        raise EmbgeomError(_SERIES_REPLACED.format(store))
    return array


def _group(store: str, identity: str) -> zarr.Group:
    group = zarr.open_group(paths.reader(store), mode="r", zarr_format=3)
    if group.attrs.get(IDENTITY) != identity:
        raise EmbgeomError(_SERIES_REPLACED.format(store))
    return group


@lru_cache(maxsize=8)
def _labels(store: str, identity: str, rows: int, sha256: str) -> dict[str, np.ndarray]:
    """The labels of the rows, read and verified once; empty ones where the group has none and `sha256` is empty."""
    with paths.explained(f"read the token labels of {store}", passing=(EmbgeomError,)):
        group = _group(store, identity)
        found = {name: labels.strings(np.asarray(cast(Any, group[name])[:])) for name in LABELS if name in group}
    if not found and not sha256:
        return {each: np.full(rows, labels.empty_label(each), LABELS[each]) for each in ("token", "text", "has_token")}
    if labels.digest_labels(found, rows) != sha256:
        raise EmbgeomError(_SERIES_REPLACED.format(store))
    return found


def create_steps(group: zarr.Group, name: str, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> zarr.Array[Any]:
    """Create the array of all steps, or open the one that is there; a chunk is of one step, and 8 MiB at most."""
    if name in group:
        return cast(zarr.Array[Any], group[name])
    return group.create_array(
        name,
        shape=shape,
        chunks=(1, rows_of_chunk(shape, dtype), shape[2]),
        dimension_names=["step", "token_id", "hidden"],
        **fill.values_as_stored(dtype),
    )


def rows_of_chunk(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    """The rows of a chunk of steps of a shape."""
    return max(1, min(shape[1], tuning.CHUNK_BYTES // (shape[2] * dtype.itemsize)))


def digests_of(rows: NDArray[Any], chunk_rows: int) -> tuple[str, ...]:
    """The SHA-256 of each chunk of the rows of a step."""
    return tuple(fill.sha256(rows[start : start + chunk_rows]) for start in range(0, len(rows), chunk_rows))


class StepsAside:
    """Steps that are in no store, written to a folder for as long as each is read, with their labels once.

    `matrix` is what each is in a store, `shape` (steps, V, d), `named` the labels as `make_labels` gives, or None.
    """

    def __init__(
        self, folder: str, model: str, matrix: str, shape: tuple[int, int, int], named: xr.Dataset | None
    ) -> None:
        self.folder, self.model, self.matrix, self.shape = folder, model, matrix, shape
        self.named = {} if named is None else {name: named[name].to_numpy() for name in LABELS}
        self._labels_sha256 = labels.digest_labels(self.named, shape[1]) if self.named else ""
        self._arrays: dict[str, tuple[str, zarr.Array[Any]]] = {}

    def put(self, place: int, step: int, rows: NDArray[Any]) -> StepMatrix:
        """Write the rows (V, d) of the step at a place."""
        identity, array = self._arrays.get(rows.dtype.name) or self._begin(rows.dtype)
        array[place] = rows
        return StepMatrix(
            store=self._store(rows.dtype),
            name=self.matrix,
            model=f"{self.model} step {step}",
            vocab_size=self.shape[1],
            hidden_size=self.shape[2],
            dtype=rows.dtype.name,
            sha256=fill.sha256(rows),
            tied=False,
            chunk_rows=array.chunks[1],
            labels_sha256=self._labels_sha256,
            step=step,
            place=place,
            steps=self.shape[0],
            identity=identity,
            chunk_sha256=digests_of(rows, array.chunks[1]),
        )

    def drop(self, step: Matrix) -> None:
        """Remove a step that was put, and is read no more."""
        if isinstance(step, StepMatrix):
            shutil.rmtree(f"{step.store}/{step.name}/c/{step.place}", ignore_errors=True)

    def _store(self, dtype: np.dtype[Any]) -> str:
        return f"{self.folder}/{dtype.name}.zarr"  # steps of a folder of checkpoints may differ in it

    def _begin(self, dtype: np.dtype[Any]) -> tuple[str, zarr.Array[Any]]:
        identity = uuid4().hex
        group = zarr.open_group(self._store(dtype), mode="w", zarr_format=3, attributes={IDENTITY: identity})
        for name, values in self.named.items():
            labels.write_label(group, name, values)
        self._arrays[dtype.name] = identity, create_steps(group, self.matrix, self.shape, dtype)
        return self._arrays[dtype.name]

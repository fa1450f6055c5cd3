"""Series stores: one matrix at many steps of a training, (step, token_id, hidden), in one zarr group.

The layout is documented in `stores/README.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from embgeom_dask import progress
from embgeom_dask.errors import EmbgeomError, InputError, parse_path
from embgeom_dask.storage import fill, model_stores, paths, replacement, results
from embgeom_dask.storage.labels import digest_labels, strings, write_label
from embgeom_dask.storage.lazy_rows import computing_dtype
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.step_matrices import IDENTITY, StepMatrix, create_steps, digests_of
from embgeom_dask.storage.validation import LABELS, MATRICES, written_by

if TYPE_CHECKING:
    import xarray as xr

SERIES_FORMAT = 2
"""The version of the layout, the attribute `series_format`: one more when names or meanings change."""

_STEP = re.compile(r"(?P<store>.+\.zarr/?):(?P<step>\d{1,18})")


@dataclass(frozen=True)
class StoredSeries:
    """A series store that is open.

    `model` is what it is of, `matrix` the name of its array, (steps, V, d); `step` (steps,) int64, ascending, are the
    numbers of its steps, `labels` those of the rows, as `make_labels` gives, `sha256` the digest of each step and
    `chunk_sha256` (steps, chunks) those of its chunks; `identity` tells it from any other.
    """

    path: str
    model: str
    matrix: str
    array: zarr.Array[Any]
    step: NDArray[np.int64]
    labels: xr.Dataset
    sha256: list[str]
    chunk_sha256: NDArray[Any]
    identity: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Steps, rows and columns."""
        return cast(tuple[int, int, int], self.array.shape)

    def read(self, place: int) -> NDArray[Any]:
        """Return the rows of the step at a place, (V, d). Raises EmbgeomError where they are not those written."""
        with paths.explained(f"read step {self.step[place]} of {self.path}", passing=()):
            rows = cast(NDArray[Any], self.array[place])
        if fill.sha256(rows) != self.sha256[place]:
            raise EmbgeomError(
                f"cannot read step {self.step[place]} of {self.path}: it holds other bytes than were converted: "
                "convert the series again, and overwrite the store"
            )
        return rows

    @cached_property
    def _labels_sha256(self) -> str:
        """The digest of the labels, which are those of every step."""
        return digest_labels(self.labels, self.shape[1])

    def place(self, step: int) -> int:
        """Return the place of the step of that number. Raises InputError where there is none."""
        found = np.flatnonzero(self.step == step)
        if not found.size:
            raise InputError(f"{self.path} has no step {step}: its {self.step.size} are {_some(self.step)}")
        return int(found[0])

    def at(self, place: int) -> StepMatrix:
        """Return the matrix at a place, which is read where it is."""
        _, rows, width = self.shape
        return StepMatrix(
            store=self.path,
            name=self.matrix,
            model=f"{self.model} step {self.step[place]}",
            vocab_size=rows,
            hidden_size=width,
            dtype=np.dtype(self.array.dtype).name,
            sha256=self.sha256[place],
            tied=False,
            chunk_rows=self.array.chunks[1],
            labels_sha256=self._labels_sha256,
            step=int(self.step[place]),
            place=place,
            steps=len(self.step),
            identity=self.identity,
            chunk_sha256=tuple(self.chunk_sha256[place].tolist()),
        )


def write_series(
    path: PathLike,
    matrix: str,
    read: Callable[[int], NDArray[Any]],
    shape: tuple[int, int, int],
    step: NDArray[np.int64],
    *,
    attrs: Mapping[str, Any],
    labels: xr.Dataset | None,
    overwrite: bool = False,
    resume: str | None = None,
) -> str:
    """Write a series store, step by step, and return its path. `read(i)` gives the rows of the i-th step as floats.

    It is written aside and moved into place when it is complete, as `write_model` does; `attrs` needs `model`. With
    `resume`, which names these very steps, what fails is kept, and the next writer goes on from the steps there.

    Raises
    ------
    InputError
        where something exists at `path` and `overwrite` is not given, or it is no series store, or where steps differ
        in dtype.
    """
    target = paths.locate(path)
    paths.check_writable(target)
    if not (there := paths.look(target)).free:
        if not is_series(target):
            raise InputError(f"{path} is not a series store: move it away")
        if not overwrite:
            raise InputError(f"{path} exists: `overwrite` replaces it, another `name` keeps it")
    named = model_stores.empty_labels(shape[1]) if labels is None else labels
    with replacement.replacing(target, overwrite=overwrite, resume=resume, there=there) as aside:
        group = zarr.open_group(writer := paths.writer(aside), mode="a", zarr_format=3)
        for name in ("token_id", *LABELS):
            write_label(group, name, named[name].to_numpy())
        write_label(group, "step", step, "step")
        kept = paths.names_in(paths.join(aside, matrix)) if resume else ()
        digests = _fill(group, matrix, read, shape, step, f"{attrs['model']} {matrix}", kept)
        write_label(group, "step_sha256", np.array([each[0] for each in digests], np.object_), "step")
        write_label(group, "chunk_sha256", np.array([each[1] for each in digests], np.object_), "step", "chunk")
        told = [[each[0] for each in digests], step.tolist(), digest_labels(named, shape[1]), attrs["model"]]
        facts = {
            "matrix": matrix,
            IDENTITY: sha256(json.dumps(told).encode()).hexdigest(),
            "series_format": SERIES_FORMAT,
            "written_by": written_by(),
        }
        replacement.finish(aside, {**attrs, **facts, "coordinates": " ".join(LABELS)}, writer)
    return str(path)


def _fill(
    group: zarr.Group,
    name: str,
    read: Callable[[int], NDArray[Any]],
    shape: tuple[int, int, int],
    step: NDArray[np.int64],
    title: str,
    kept: Container[str],
) -> list[tuple[str, tuple[str, ...]]]:
    """Write every step but those of which `kept` names all chunks, as an earlier writer left them, and they are whole.

    Return the SHA-256 of each step and of its chunks.
    """
    array = cast(zarr.Array[Any], group[name]) if name in group else None
    digests = []
    with progress.bar(shape[0], title, "steps") as advance:
        for place in range(shape[0]):
            left = None if array is None else _left(array, place, kept)
            rows = read(place) if left is None else left
            array = create_steps(group, name, shape, rows.dtype) if array is None else array
            if left is None:
                if rows.dtype != array.dtype:
                    raise InputError(
                        f"step {step[place]} is {rows.dtype} and others are {array.dtype}: give steps of one dtype"
                    )
                array[place] = rows
            digests.append((fill.sha256(rows), digests_of(rows, array.chunks[1])))
            advance(1, fresh=left is None)
    return digests


def _left(array: zarr.Array[Any], place: int, kept: Container[str]) -> NDArray[Any] | None:
    """The rows of a step that an earlier writer left; None where a chunk is missing or damaged."""
    if all(f"c/{place}/{chunk}/0" in kept for chunk in range(-(-array.shape[1] // array.chunks[1]))):
        with suppress(Exception):
            return cast(NDArray[Any], array[place])
    return None


def is_series(path: PathLike) -> bool:
    """Whether a series store is at `path`, of this layout or another."""
    try:
        return "series_format" in paths.open_group(paths.locate(path)).attrs
    except (FileNotFoundError, ValueError, EmbgeomError):
        return False


def find_step(given: str) -> tuple[str, int] | None:
    """Return the series store and the number of `STORE.zarr:STEP`; None for every other path.

    Examples
    --------
    >>> find_step("stores/run.zarr:100"), find_step("stores/run.zarr")
    (('stores/run.zarr', 100), None)
    """
    found = _STEP.fullmatch(given)
    return (found["store"], int(found["step"])) if found else None


def read_series(store: PathLike) -> StoredSeries:
    """Open a series store, to read its steps.

    Raises
    ------
    InputError
        where there is none, or it is of another layout or damaged.
    """
    path = paths.locate(store)
    try:
        group = paths.open_group(path)
    except (FileNotFoundError, ValueError):
        raise InputError(f"no series store at {store}: embgeom store-series makes one") from None
    attrs = dict(group.attrs)
    if "series_format" not in attrs:
        raise InputError(f"{store} is not a series store: embgeom store-series makes one")
    results.check_format(f"{store} is a series store", attrs, "series_format", SERIES_FORMAT)
    try:
        matrix, model = str(attrs["matrix"]), str(attrs["model"])
        array = cast(zarr.Array[Any], group[matrix])
        found: dict[str, Any] = {
            name: strings(np.asarray(cast(Any, group[name])[:]))
            for name in (*LABELS, "step", "step_sha256", "chunk_sha256")
        }
        identity = str(attrs[IDENTITY])
        whole = matrix in MATRICES and array.ndim == 3 and found["step"].shape == array.shape[:1]
        whole = whole and found["step_sha256"].shape == array.shape[:1] and found["token"].shape == array.shape[1:2]
        whole = whole and found["chunk_sha256"].shape == (array.shape[0], -(-array.shape[1] // array.chunks[1]))
    except Exception as error:  # zarr raises any type for bytes that are not what they should be
        raise InputError(f"{store} is damaged: {paths.explain(error)}: convert the series again") from error
    if not whole:
        raise InputError(f"{store} is damaged: its arrays differ in length: convert the series again")
    labels = model_stores.make_labels(**{name: found[name] for name in LABELS})
    digests = found["step_sha256"].tolist(), found["chunk_sha256"]
    return StoredSeries(path, model, matrix, array, found["step"], labels, *digests, identity)


def find_matrix(store: PathLike, step: int) -> StepMatrix:
    """Find the matrix at a step of a series store. Raises InputError as `read_series`, and where there is no step."""
    series = read_series(store)
    return series.at(series.place(step))


def open_series(store: PathLike, *, raw: bool = False) -> xr.Dataset:
    """Open a series store: its matrix as a dask array over (step, token_id, hidden), a dask chunk a zarr chunk.

    Parameters
    ----------
    store : path or URL
        The store, as `store_series` makes it.
    raw : bool
        Whether the matrix has the dtype that it is stored in. By default, bfloat16 and float16 become float32, which
        holds all their values, because numpy, and so xarray, would sum them in 16 bits.

    Returns
    -------
    xarray.Dataset
        `output_embedding` or `input_embedding (step, token_id, hidden)`, the coordinates `step`, `token_id` and the
        labels of rows. Every command takes a step of it: `eg.survey(series.output_embedding.sel(step=100))`.

    Raises
    ------
    InputError
        If `store` is not a series store, or is damaged.

    Examples
    --------
    >>> from embgeom_dask import store_series
    >>> store = store_series(np.arange(24, dtype=np.float32).reshape(3, 4, 2), name="org/run")
    >>> open_series(store)["output_embedding"].sel(step=2, token_id=1).values
    array([18., 19.], dtype=float32)
    """
    import xarray as xr

    found = read_series(parse_path("store", store))
    dataset: xr.Dataset = xr.open_zarr(cast(Any, paths.reader(found.path)), consolidated=True, chunks={})
    dataset = dataset[[found.matrix]]
    coords = {name: ("token_id", found.labels[name].to_numpy()) for name in LABELS}
    dataset = dataset.assign_coords({"step": found.step, "token_id": np.arange(found.shape[1]), **coords})
    if not raw:
        computing = computing_dtype(dataset[found.matrix].dtype.name)
        dataset[found.matrix] = dataset[found.matrix].astype(computing, copy=False)
    dataset[found.matrix].attrs = {"model": found.model, "revision": "", "matrix": found.matrix}
    return dataset


def _some(step: NDArray[np.int64]) -> str:
    """The first and the last steps, for a message."""
    listed = step.tolist()
    return ", ".join(map(str, listed if len(listed) < 8 else [*listed[:4], "...", *listed[-2:]]))

"""The steps of a training, read from an array, a file, a folder, a series store or a list of stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.batches import many
from embgeom_dask.checkpoints.matrix_files import find_stack_file
from embgeom_dask.checkpoints.name_and_tokenizer import find_name
from embgeom_dask.checkpoints.step_files import as_floats, check_kind, checked, open_stack
from embgeom_dask.checkpoints.step_folders import Step, ascending, find_steps, labels_of, number_of, open_checkpoint
from embgeom_dask.checkpoints.torch_files import from_torch
from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.execution import arrays
from embgeom_dask.execution.arrays import Data, given_rows, is_array, temporary_folder
from embgeom_dask.pairwise.rows import digest
from embgeom_dask.storage import fill, labels, model_stores, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.series_stores import StoredSeries, is_series, read_series
from embgeom_dask.storage.step_matrices import StepMatrix, StepsAside

Array = NDArray[Any]


class Steps(NamedTuple):
    """The rows (V, d) of every step of a training.

    `shape` is (steps, V, d), `read(i)` gives the rows of the i-th as floats, `step` (steps,) int64, ascending, is the
    number of each; `name` what they are called; `labels`, where rows have tokens, is as `make_labels` gives; `matrices`
    are the stored ones of a list, and `settings` what tells other steps from others; `matrix` what each is in a store.
    `stored(i)` gives the i-th as a matrix that is read where it is; None where the steps are in no store. `token_id`
    (V,) are the ids of the rows; None where these are their numbers.
    """

    shape: tuple[int, int, int]
    read: Callable[[int], Array]
    name: str
    step: NDArray[np.int64]
    settings: dict[str, Any]
    labels: xr.Dataset | None = None
    matrices: Sequence[Matrix] = ()
    matrix: str = "output_embedding"
    stored: Callable[[int], Matrix] | None = None
    token_id: NDArray[np.int64] | None = None


@contextmanager
def open_steps(
    data: Data | Iterable[Data], role: Role | None = None, *, identified: bool = True, tokenizer: PathLike | None = None
) -> Iterator[Steps]:
    """Open the steps of what is given; an array is read to tell it from others only if it is to be `identified`.

    Raises
    ------
    InputError
        where there are none, or they are of several shapes.
    """
    if not many.is_one(data):
        yield _of_list(many.each_of(data, "series"), role)
    elif is_array(data):
        array = arrays.matrix_of(data, role)
        yield (_of_labelled if isinstance(array, xr.DataArray) else _of_array)(array, identified=identified)
    elif (file := find_stack_file(path := parse_path("data", data))) is not None:
        with open_stack(*file) as stack:
            yield Steps(stack.shape, stack.read, stack.name, stack.step, stack.identity)
    elif is_series(path):
        yield _of_stored(read_series(path))
    elif Path(path).is_dir() and not model_stores.is_store(path):
        yield _of_folder(Path(path), role, tokenizer)
    else:
        raise InputError(
            f"{path}: give FILE.safetensors or FILE.h5 with a tensor of steps, a series store, a folder of "
            "checkpoints, or several stores in their order"
        )


def _of_array(data: Any, *, identified: bool) -> Steps:
    shape = checked(tuple(data.shape), "the array given")
    dtype = str(data.dtype).rpartition(".")[2]
    check_kind(dtype, "the array given")

    def read(step: int) -> Array:
        rows = data[step]
        return as_floats(from_torch(rows) if isinstance(rows, torch.Tensor) else np.asarray(rows))

    told = sha256()
    for step in range(shape[0] if identified else 0):
        told.update(digest(read(step)).tobytes())
    return Steps(shape, read, "array", np.arange(shape[0]), {"array": [*shape, dtype, told.hexdigest()]})


def with_digest(steps: Steps, told: str) -> Steps:
    """The same steps; of an array, whose digest is `told`, as `open_steps` gives those that are to be identified."""
    array = steps.settings.get("array")
    return steps if array is None else steps._replace(settings={**steps.settings, "array": [*array[:-1], told]})


def _of_labelled(array: xr.DataArray, *, identified: bool) -> Steps:
    """The steps of a DataArray, along `step` if it has that dimension, with the labels that the array has."""
    checked(array.shape, "the array given")
    along = "step" if "step" in array.dims else array.dims[0]
    first = arrays.as_data_array(array.isel({along: 0}), None)
    steps = _of_array(array.transpose(along, *first.dims), identified=identified)
    step, ids, named = _numbers_along(array, along), arrays.token_id_of(first), arrays.labels_of(first)
    facts = {**steps.settings, "steps": step.tolist(), "labels": labels.digest_labels(named, steps.shape[1])}
    facts |= {} if ids is None else {"tokens": fill.sha256(ids)}
    numbered = ids is None or np.array_equal(ids, np.arange(ids.size))
    return steps._replace(
        name=arrays.named(array)[0],
        step=step,
        settings=facts,
        labels=named if named["has_token"].any() else None,
        matrix=arrays.matrix_name(array),
        token_id=None if numbered else ids,
    )


def _numbers_along(array: xr.DataArray, along: Hashable) -> NDArray[np.int64]:
    """The numbers of the steps: the integers along their dimension; where there are none, they count from 0."""
    if along not in array.coords or array[along].dtype.kind not in "iu":
        return np.arange(array.sizes[along])
    step = array[along].to_numpy().astype(np.int64)
    if step[0] < 0 or (np.diff(step) <= 0).any():
        raise InputError(f"the steps of the array given do not ascend from 0 or more: give array.sortby({along!r})")
    return step


def _of_stored(series: StoredSeries) -> Steps:
    facts = {"series": sha256("".join(series.sha256).encode()).hexdigest(), "steps": fill.sha256(series.step)}
    facts["labels"] = labels.digest_labels(series.labels, series.shape[1])
    named = series.labels if series.labels["has_token"].any() else None
    known: dict[str, Any] = {"matrix": series.matrix, "stored": series.at}
    return Steps(series.shape, series.read, series.model, series.step, facts, named, **known)


def _of_list(given: Sequence[Data], role: Role | None) -> Steps:
    """The steps that a list of stores is, in its order; their numbers where all have one, or end in one by name."""
    matrices = []
    for each in given:
        if is_array(each):
            raise InputError("series takes one array (steps, rows, columns), or a list of stores")
        if isinstance(each, str | os.PathLike) and is_series(path := os.fspath(each)):
            raise InputError(
                f"{path} holds several steps: give one such store alone, or of a list each step, {path}:STEP"
            )
        with given_rows(each, role) as found:
            matrices.append(found.matrix)
    shape = (len(matrices), *_one_shape({(each.vocab_size, each.hidden_size): each.label for each in matrices}))
    step = ascending(
        [each.step if isinstance(each, StepMatrix) else number_of(Path(each.store).name) for each in matrices]
    )
    settings = {"steps": step.tolist()} if step[-1] != len(step) - 1 else {}

    def read(place: int) -> Array:
        return matrices[place].read(0, shape[1])

    name = matrices[0].name
    named = model_stores.all_labels_of(matrices[0])
    return Steps(shape, read, matrices[0].model, step, settings, named, matrices, name, matrices.__getitem__)


def _of_folder(folder: Path, role: Role | None, tokenizer: PathLike | None) -> Steps:
    """The steps in a folder of checkpoints, or of stores."""
    steps = find_steps(folder)
    if all(model_stores.is_store(each.path) for each in steps):
        return _of_list([each.path for each in steps], role)
    first = open_checkpoint(steps[0].path, role)
    own = cast(Role, first.matrix.removesuffix("_embedding"))
    sources = [first.rows, *(open_checkpoint(each.path, own, first.key).rows for each in steps[1:])]
    shapes = {each.shape: step.path.name for each, step in zip(sources, steps, strict=True)}
    shape = (len(steps), *_one_shape(cast(dict[tuple[int, int], str], shapes)))
    tokens, _ = labels_of(steps[0].path, first, tokenizer)

    def read(place: int) -> Array:
        return as_floats(sources[place].read(0, shape[1]))

    settings = {"folder": folder.name, "tensor": first.key, "modified": [_modified(each) for each in steps]}
    name = find_name(folder)[0]
    return Steps(shape, read, name, np.array([each.number for each in steps]), settings, tokens, matrix=first.matrix)


def _modified(step: Step) -> list[int]:
    """The number of a step, the bytes of its files, and when the last of them was written."""
    files = [each for each in step.path.iterdir() if each.is_file()] if step.path.is_dir() else [step.path]
    facts = [each.stat() for each in files]
    return [step.number, sum(each.st_size for each in facts), max((each.st_mtime_ns for each in facts), default=0)]


@contextmanager
def matrices_of(steps: Steps) -> Iterator[tuple[Callable[[int], Matrix], Callable[[Matrix], None]]]:
    """What gives the matrix at a place, one after the other, and what is to be told once it is read no more.

    Of a store they are read where they are; others are written to a temporary folder for as long as they are in use.
    """
    if steps.stored is not None:
        yield steps.stored, lambda _: None
        return
    with temporary_folder() as folder:
        aside = StepsAside(folder, steps.name, steps.matrix, steps.shape, steps.labels)
        yield lambda place: aside.put(place, int(steps.step[place]), steps.read(place)), aside.drop


def _one_shape(shapes: dict[tuple[int, int], str]) -> tuple[int, int]:
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise InputError(f"{first} has {one[0]} x {one[1]} values and {second} {other[0]} x {other[1]}: give one shape")
    return next(iter(shapes))


def attributes(steps: Steps, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The attributes of a result over steps."""
    attrs = results.provenance("series", steps.matrices, ["cpu"], 0.0, {**steps.settings, **(settings or {})})
    if not steps.matrices:
        attrs |= {"model": [steps.name], **{name: [""] for name in ("revision", "matrix", "sha256", "labels_sha256")}}
    return attrs


def coordinates(steps: Steps) -> dict[str, Any]:
    """The coordinates of a result over steps: their numbers, the tokens of rows, and whose stores they are."""
    ids = np.arange(steps.shape[1]) if steps.token_id is None else steps.token_id
    found: dict[str, Any] = {"step": steps.step, "token_id": ids}
    if steps.labels is not None:
        found |= {name: ("token_id", steps.labels[name].to_numpy()) for name in ("token", "text")}
    if steps.matrices:
        found["step_model"] = ("step", [each.model for each in steps.matrices])
    return found

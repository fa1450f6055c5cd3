"""A vocabulary at many steps of its training: norms, centroid and identical rows of each, and when rows change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embgeom_dask import devices
from embgeom_dask.analyses import many
from embgeom_dask.analyses.survey import summarize
from embgeom_dask.checkpoints.torch_files import from_torch
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution.arrays import Data, given_rows, is_array
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.pairwise.rows import digest
from embgeom_dask.progress import bar, showing
from embgeom_dask.storage import model_stores, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]

_NUMBERS = (
    *("centroid_l2", "norm_mean", "norm_min", "norm_max", "unique_count", "group_count", "member_count"),
    *("changed_count", "joined_count", "left_count"),
)


class Steps(NamedTuple):
    """The rows (V, d) of every step: `read(i)` gives those of step i, `shape` is (steps, V, d), `name` what they are
    called; `matrices` the stored ones of a list, and `settings` what tells them from others.
    """

    shape: tuple[int, int, int]
    read: Callable[[int], Array]
    name: str
    matrices: list[Matrix]
    settings: dict[str, Any]


def series(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    out: PathLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Describe a vocabulary at every step of its training, and say when each row changes and which rows become one.

    Numbers of a step are those of `survey` and `duplicates`, exactly. Steps are read one after the other, in this
    process, which holds the rows of one.

    Parameters
    ----------
    data : path, array, or list of these
        `FILE.safetensors` or `FILE.safetensors:KEY` with a tensor (steps, rows, columns) of floats or of the bits of
        bfloat16 as 16-bit unsigned integers; an array of that shape, also one of dask; or a list of stores or arrays of
        one shape, in the order of their steps.
    role : {"input", "output"}, optional
        The matrix of stores; by default output, or input if a store has no output matrix.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again.
    progress : bool, optional
        Whether to show a bar with rate and time left; by default only in a notebook.

    Returns
    -------
    xarray.Dataset
        Over `step`, from 0:

        - `norm_mean`, `norm_min` and `norm_max` of the L2 norms; `centroid (step, hidden)` and `centroid_l2`.
        - `unique_count`, `group_count` and `member_count`, the tokens in groups of identical rows (-0 is 0).
        - `changed_count`, how many rows are others than at the step before; `joined_count`, tokens that are in a group
          and were not; `left_count`, those that were and are not. All 0 at the first step.

        Over `token_id`: `first_change_step`, the first step at which the row is another than at the first, and
        `last_change_step`, the last at which it is another than at the step before; -1 for a row that never changes.
        `change_count`, how often it does; `grouped_step_count`, at how many steps it is in a group.

    Raises
    ------
    InputError
        If the file, the tensor, a store or a matrix is not there or of no such shape, if a row has NaN, infinity, or a
        float64 value below 2^-400 or above 2^400 in size, or if something else is at `out`.
    EmbgeomError
        If a file or a store cannot be read.

    Examples
    --------
    >>> rows = np.zeros((3, 4, 2), np.float32)
    >>> rows[1:, 0], rows[2, 1:3] = [1, 0], [2, 2]
    >>> found = series(rows)
    >>> found["member_count"].values, found["first_change_step"].values
    (array([4, 3, 2]), array([ 1,  2,  2, -1]))
    """
    started = perf_counter()
    with showing(progress), _steps(data, role, identified=out is not None) as steps:
        attrs = results.provenance("series", steps.matrices, ["cpu"], 0.0, steps.settings)
        if not steps.matrices:
            attrs |= {"model": [steps.name], **{name: [""] for name in ("revision", "matrix", "sha256")}}
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        with devices.session(torch.device("cpu")):
            dataset = _measured(steps)
        if steps.matrices:
            named = model_stores.labels_of(steps.matrices[0])
            dataset = dataset.assign_coords({name: ("token_id", named[name].to_numpy()) for name in ("token", "text")})
            dataset = dataset.assign_coords(step_model=("step", [each.model for each in steps.matrices]))
    return results.finish(dataset, attrs, started, out)


@contextmanager
def _steps(data: Data | Iterable[Data], role: Role | None, *, identified: bool) -> Iterator[Steps]:
    """The steps of what is given; an array is read to tell it from others only if it is to be `identified`."""
    if many.is_one(data):
        if not is_array(data):
            with _of_file(os.fspath(cast(PathLike, data))) as steps:
                yield steps
            return
        yield _of_array(data, identified=identified)
        return
    yield _of_list(many.each_of(data, "series"), role)


def _of_array(data: Any, *, identified: bool) -> Steps:
    shape = _checked(tuple(data.shape), "the array given")
    dtype = str(data.dtype).rpartition(".")[2]
    if dtype not in ("bfloat16", "float16", "float32", "float64", "uint16"):
        raise InputError(f"the array given is {dtype}: give floats, or bits of bfloat16 as uint16")

    def read(step: int) -> Array:
        rows = data[step]
        return _floats(from_torch(rows) if isinstance(rows, torch.Tensor) else np.asarray(rows))

    told = sha256()
    for step in range(shape[0] if identified else 0):
        told.update(digest(read(step)).tobytes())
    return Steps(shape, read, "array", [], {"array": [*shape, dtype, told.hexdigest()]})


@contextmanager
def _of_file(path: str) -> Iterator[Steps]:
    file, _, key = path.partition(".safetensors:")
    file = f"{file}.safetensors" if key else path
    if not file.endswith(".safetensors"):
        raise InputError(f"{path}: give FILE.safetensors with a tensor of steps, or several stores in their order")
    try:
        facts = os.stat(file)  # noqa: PTH116
        opened = safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    with opened as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        names = [name for name, shape in shapes.items() if len(shape) == 3 and key in ("", name)]
        if len(names) != 1:
            there = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:5])
            raise InputError(
                f"{file} has {len(names)} tensors of steps, rows and columns: name one, FILE:KEY ({there})"
            )
        kept = tensors.get_slice(names[0])

        def read(step: int) -> Array:
            try:
                return _floats(from_torch(kept[step : step + 1][0]))
            except (SafetensorError, TypeError) as error:
                raise EmbgeomError(f"cannot read step {step} of {file}: {error}") from error

        settings = {"file": Path(file).name, "tensor": names[0], "modified": [facts.st_size, facts.st_mtime_ns]}
        yield Steps(_checked(shapes[names[0]], names[0]), read, f"{Path(file).stem}:{names[0]}", [], settings)


def _of_list(given: Sequence[Data], role: Role | None) -> Steps:
    """The steps that a list of stores or arrays is."""
    matrices = []
    for each in given:
        if is_array(each):
            raise InputError("series takes one array (steps, rows, columns), or a list of stores")
        with given_rows(each, role) as found:
            matrices.append(found.matrix)
    shapes = {(each.vocab_size, each.hidden_size): each.label for each in matrices}
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise InputError(f"{first} has {one[0]} x {one[1]} values and {second} {other[0]} x {other[1]}: give one shape")
    shape = (len(matrices), matrices[0].vocab_size, matrices[0].hidden_size)

    def read(step: int) -> Array:
        return matrices[step].read(0, shape[1])

    return Steps(shape, read, matrices[0].model, matrices, {})


def _checked(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(shape) != 3 or not all(shape):
        raise InputError(f"{name} has the shape {list(shape)}: give steps, rows and columns")
    return cast(tuple[int, int, int], tuple(map(int, shape)))


def _floats(rows: Array) -> Array:
    """Rows as floats: 16-bit unsigned integers are the bits of bfloat16."""
    return (
        np.ascontiguousarray(rows).view(ml_dtypes.bfloat16) if rows.dtype == np.uint16 else np.ascontiguousarray(rows)
    )


def _measured(steps: Steps) -> xr.Dataset:
    """The numbers of every step, and of every token over all of them."""
    count, size, width = steps.shape
    numbers, centroid = {name: np.zeros(count) for name in _NUMBERS}, np.empty((count, width))
    first, last = np.full(size, -1), np.full(size, -1)
    changes, grouped_steps = np.zeros(size, np.int64), np.zeros(size, np.int64)
    start = before = was = None
    with bar(count, steps.name, "steps") as advance:
        for step in range(count):
            rows = steps.read(step)
            summary, names = summarize(rows), digest(rows).view("V16").ravel()
            if summary.unfit.any():
                bad = np.flatnonzero(summary.unfit)[:5].tolist()
                raise InputError(f"step {step} of {steps.name}: rows {bad} hold NaN, infinity or values out of range")
            middle, norms = summary.sums.mean(size), Rationals.of(summary.norms)
            centroid[step] = middle.nearest()
            _, place, of_group = np.unique(names, return_inverse=True, return_counts=True)
            grouped = of_group[place] > 1
            told: tuple[Any, ...] = (middle.l2, norms.mean, summary.norms.min(), summary.norms.max(), of_group.size)
            told += (np.count_nonzero(of_group > 1), np.count_nonzero(grouped))
            if start is None or before is None or was is None:
                start, before, was = names, names, grouped
            changed = names != before
            told += (np.count_nonzero(changed), np.count_nonzero(grouped & ~was), np.count_nonzero(was & ~grouped))
            for name, value in zip(_NUMBERS, told, strict=True):
                numbers[name][step] = value
            first[(first < 0) & (names != start)] = step
            last[changed] = step
            changes += changed
            grouped_steps += grouped
            before, was = names, grouped
            advance(1)
    counts = {name: each.astype(np.int64) if name.endswith("_count") else each for name, each in numbers.items()}
    variables: dict[str, Any] = {name: ("step", values) for name, values in counts.items()}
    variables["centroid"] = (("step", "hidden"), centroid)
    of_tokens = {"first_change_step": first, "last_change_step": last, "change_count": changes}
    of_tokens["grouped_step_count"] = grouped_steps
    variables |= {name: ("token_id", values) for name, values in of_tokens.items()}
    return xr.Dataset(variables, {"step": np.arange(count), "token_id": np.arange(size)})

"""A vocabulary at many steps of its training: norms, centroid and identical rows of each, and when rows change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.over_steps import ask_each, check_each
from embgeom_dask.analyses.series_state import NUMBERS, SavedState, SeriesState
from embgeom_dask.analyses.steps import Steps, attributes, coordinates, open_steps, with_digest
from embgeom_dask.batches import step_records
from embgeom_dask.errors import parse_path
from embgeom_dask.execution.arrays import Data, is_array
from embgeom_dask.execution.cluster import ClientLike, check_usable, connect, in_threads
from embgeom_dask.progress import bar, showing
from embgeom_dask.storage import paths, result_trees, results
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]


def series(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    each: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    out: PathLike | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
    resume_command: str | None = None,
) -> Any:
    """Describe a vocabulary at every step of its training: norms, centroid, identical rows, and when each row changes.

    The numbers of a step are exactly those of `survey` and `duplicates`. This process reads the steps one after the
    other and holds the rows of one at a time. With `each`, a cluster works on up to four steps at a time.

    Parameters
    ----------
    data : path, array, or list of these
        The steps, as one of: a tensor (steps, rows, columns) of a file, `FILE.safetensors`, `FILE.h5` or `FILE.hdf5`,
        with `:KEY` if it has several, of floats or of bfloat16 bits as 16-bit unsigned integers; a folder with a
        checkpoint for each step, named `checkpoint-100`, `step_200` or the like; an array of that shape, also one of
        dask, or a DataArray, whose dimension `step` may lie anywhere; a series store; or a list of stores of one shape,
        in the order of their steps. The numbers of the steps are those of a series store, the integers along `step`,
        those in the names of checkpoints and stores, or those of a list `step` or `steps` of ascending integers beside
        the tensor; else they count from 0. Token ids and tokens of a DataArray are found as `scan` finds them.
    role : {"input", "output"}, optional
        The matrix of stores and checkpoints; by default output, or input if there is no output matrix.
    each : str, list of str, or dict, optional
        Other questions to ask of every step: `survey`, `tokens`, `duplicates`, `outliers`, `spectrum`. A dict gives
        each its settings: `{"outliers": {"tokens": "0:100"}, "spectrum": {"components": 0}}`.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        `each` it is a folder that holds `table.zarr`, `survey.zarr` and so on. Progress is kept in `RESULT.zarr.parts`
        beside each result; if a call is interrupted or killed, the same call continues from there. Without `out` all
        results are in memory.
    client : Client, cluster or str, optional
        What `each` is computed on: a dask client, a cluster or an address; by default the client that is active, or
        else a cluster in this process.
    progress : bool, optional
        Whether to show a progress bar; by default only in a notebook.
    resume_command : str, optional
        The command line that continues this call; `status` shows it.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        With `each` a DataTree. Its root is the Dataset returned without `each`. It has a node for each question, whose
        variables are those of that command with the dimension `step` in place of `model`. Where a step has fewer
        groups, members or outlier dimensions than others, they are padded with NaN, -1 or no text.

        Over `step`:

        - `norm_mean`, `norm_min` and `norm_max` of the L2 norms; `centroid (step, hidden)` and `centroid_l2`.
        - `unique_count`, `group_count` and `member_count`, the tokens in groups of identical rows (-0 is 0).
        - `changed_count`, the number of rows that differ from the step before; `joined_count`, of tokens that are in a
          group of identical rows and were in none at the step before; `left_count`, of tokens that were in a group and
          are in none now. All are 0 at the first step.

        Over `token_id`: `first_change_step`, the first step at which the row differs from the first step, and
        `last_change_step`, the last step at which it differs from the step before; -1 for a row that never changes.
        `change_count`, the number of changes; `grouped_step_count`, the number of steps at which it is in a group.

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
    started, asked = perf_counter(), check_each(each)
    if is_array(data):
        check_usable(client)  # steps of a dask array are computed by the client that is active
    with showing(progress), open_steps(data, role, identified=out is not None) as steps:
        at = None if out is None else parse_path("out", out)
        if not asked:
            return _series(steps, started, at, resume_command)[0]
        if at is not None:
            step_records.begin(at, ["table", *asked], steps.shape[0], resume_command)
        with connect(client, out=out) as active, in_threads():
            target = None if at is None else paths.join(at, results.TABLE)
            table, steps = _series(steps, started, target, resume_command)
            return result_trees.tree_of(table, ask_each(asked, steps, active, at, resume_command))


def _series(steps: Steps, started: float, out: str | None, resume: str | None) -> tuple[xr.Dataset, Steps]:
    """What is told of every step, and of every token over all of them; and the steps, told from others."""
    attrs = attributes(steps)
    if out is not None and (done := results.existing(out, attrs)) is not None:
        step_records.remove_parts(out)
        return done, steps
    kept = None
    if out is not None:
        kept = SavedState(attrs["fingerprint"], step_records.Record(out, steps.shape[0], resume))
    with devices.session(torch.device("cpu")):
        known = _known(steps, kept)
    if kept is None:
        steps = with_digest(steps, known.digest.hexdigest())
        attrs = attributes(steps)
    dataset = _dataset(known)
    found = results.finish(dataset.assign_coords(coordinates(steps)), attrs, started, out)
    if out is not None:
        step_records.remove_parts(out)
    return found, steps


def _known(steps: Steps, kept: SavedState | None) -> SeriesState:
    """What is known after all steps."""
    known = SeriesState(steps.shape) if kept is None else kept.load(steps.shape)
    if kept is not None:
        kept.record.write(known.done)
    with bar(steps.shape[0], steps.name, "steps") as advance:
        advance(known.done, fresh=False)
        for place in range(known.done, steps.shape[0]):
            known.add(steps.read(place), int(steps.step[place]), steps.name)
            advance(1)
            if kept is not None:
                kept.save(known)
    return known


def _dataset(known: SeriesState) -> xr.Dataset:
    """The numbers of every step, and of every token over all of them."""
    told = dict(zip(NUMBERS, known.told["numbers"], strict=True))
    counts = {name: each.astype(np.int64) if name.endswith("_count") else each for name, each in told.items()}
    variables: dict[str, Any] = {name: ("step", values) for name, values in counts.items()}
    variables["centroid"] = (("step", "hidden"), known.told["centroid"])
    names = {"first": "first_change_step", "last": "last_change_step", "changes": "change_count"}
    names["grouped"] = "grouped_step_count"
    variables |= {name: ("token_id", known.told[which]) for which, name in names.items()}
    return xr.Dataset(variables)

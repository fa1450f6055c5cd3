"""The survey of seed notebook 07.3o: centroid and row norms of any number of models, one pass over each matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.batches import many
from embgeom_dask.execution.arrays import Data, given_rows
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.map_rows import by_chunk, rows_of_task
from embgeom_dask.kernels.exact_sums import ColumnSums, column_sums
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.kernels.row_norms import nearest_norms
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.storage import result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike


class Summary(NamedTuple):
    """What is kept of some rows: `sums`, those of their columns; `norms` (rows,) float64, nearest to the L2 norm of
    each row; and `unfit` (rows,) uint8, what keeps a row from being computed with: it has no part in the sums.
    """

    sums: ColumnSums
    norms: NDArray[np.float64]
    unfit: NDArray[np.uint8]


def survey(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Describe the centroid and the row norms of one matrix of each store, or of an array, as a Dataset over `model`.

    All numbers are float64, computed on the CPU, and correctly rounded: the centroid and its statistics are the float64
    numbers nearest to those of the exact mean of the stored values; the norm of a row is the nearest to its exact norm;
    statistics of norms are the nearest to those of these numbers. So no bit depends on chunks, workers or threads.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        several stores it is a folder: each model is saved as `<organisation>--<name>.zarr`, all of them together as
        `table.zarr`.
    part : str, optional
        Which part of a list of stores to do, where several commands share the list and the folder `out`: "2/8" is the
        second of eight parts. By default all.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset
        - `centroid (model, hidden)`, the mean row; padded with NaN if the models differ in width.
        - `centroid_l1`, `centroid_l2`, `centroid_linf`, its norms; `centroid_mean`, `centroid_std`, `centroid_min`,
          `centroid_max`, of its components.
        - `norm_mean`, `norm_median`, `norm_std`, `norm_min`, `norm_max`, of the L2 norms of the rows.
        - `centroid_ratio`, `centroid_l2` divided by `norm_mean`; NaN if all rows are zero.
        - `vocab_size`, `hidden_size` (int64), `dtype` (str), `tied` (bool), and the coordinates `revision` and
          `matrix`, the name of the stored array.

        A standard deviation is that of the sample (n - 1; NaN for n = 1); a median of an even number of values is the
        mean of the middle two.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if a row has NaN, infinity, or a float64 value below 2^-400 or above
        2^400 in size, or if something else is at `out`.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> found = survey(make_store("tiny.zarr", output=np.array([[3, 4], [6, 8]], np.float32)))
    >>> found["centroid"].values, found["norm_mean"].values
    (array([[4.5, 6. ]]), array([7.5]))
    """
    with showing(progress):
        return many.one_or_together("survey", data, _survey, together, role=role, out=out, client=client, part=part)


def _survey(data: Data, role: Role | None, out: PathLike | None, client: ClientLike | None) -> xr.Dataset:
    """Survey one model."""
    started = perf_counter()
    with given_rows(data, role, client, whole=True) as given:
        matrix = given.matrix
        attrs = results.provenance("survey", [matrix], ["cpu"], 0.0)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        sums = ColumnSums.none(matrix.hidden_size)
        norms, found = np.empty(matrix.vocab_size), np.empty(matrix.vocab_size, np.uint8)
        rows = rows_of_task(matrix)
        for start, part in by_chunk("survey", matrix, _summarize_part, client=client, out=out, rows=rows):
            sums.add(part.sums)
            here = slice(start, start + part.norms.size)
            norms[here], found[here] = part.norms, part.unfit
        check_fit(matrix, given.ids, found)
        dataset = _dataset(matrix, sums.mean(matrix.vocab_size), norms)
    return results.finish(dataset, attrs, started, out)


def together(surveys: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the surveys of several models into one; centroids are padded with NaN."""
    if not surveys:
        return xr.Dataset(attrs=many.joined(surveys, "survey"))
    dataset = xr.concat(
        surveys, "model", data_vars="minimal", coords="minimal", compat="override", join="outer", combine_attrs="drop"
    )
    return result_names.complete(dataset.drop_encoding().assign_attrs(many.joined(surveys, "survey")))


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the scalars of a survey as a table: one row a number, one column a model."""
    return dataset.drop_dims("hidden").reset_coords().to_dataframe().T


def summarize(rows: NDArray[Any]) -> Summary:
    """Sum the columns of `rows` (n, d) without error, and take the norms of the rows, NaN of those that are unfit."""
    with devices.session(torch.device("cpu")):
        found = unfit(rows)
        fit = found == 0
        norms = np.full(len(rows), np.nan)
        norms[fit] = nearest_norms(rows if fit.all() else rows[fit])
        return Summary(column_sums(rows, fit), norms, found)


def _summarize_part(matrix: Matrix, part: tuple[int, int]) -> Summary:
    return summarize(matrix.read(*part))


def _dataset(matrix: Matrix, centroid: Rationals, norms: NDArray[np.float64]) -> xr.Dataset:
    mean_row = centroid.nearest()
    numbers = {**_describe(centroid, mean_row), **_describe_norms(norms)}
    numbers["centroid_ratio"] = centroid.l2 / numbers["norm_mean"] if norms.any() else math.nan
    facts: dict[str, Any] = {name: getattr(matrix, name) for name in ("vocab_size", "hidden_size", "dtype", "tied")}
    named = {"model": matrix.model, "revision": matrix.revision, "matrix": matrix.name, **numbers, **facts}
    columns = {name: ("model", np.array([value])) for name, value in named.items()}
    dataset = xr.Dataset({**columns, "centroid": (("model", "hidden"), mean_row[None])})
    return dataset.set_coords(["model", "revision", "matrix"])


def _describe(centroid: Rationals, mean_row: NDArray[np.float64]) -> dict[str, float]:
    return {
        "centroid_l1": centroid.l1,
        "centroid_l2": centroid.l2,
        "centroid_linf": centroid.linf,
        "centroid_mean": centroid.mean,
        "centroid_std": centroid.sample_std,
        "centroid_min": mean_row.min(),
        "centroid_max": mean_row.max(),
    }


def _describe_norms(norms: NDArray[np.float64]) -> dict[str, float]:
    exactly = Rationals.of(norms)
    return {
        "norm_mean": exactly.mean,
        "norm_median": np.median(norms),
        "norm_std": exactly.sample_std,
        "norm_min": norms.min(),
        "norm_max": norms.max(),
    }

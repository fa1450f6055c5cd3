"""The spectrum of a vocabulary: eigenvalues of its covariance, leading components, isotropy; one pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.survey import summarize
from embgeom_dask.batches.trees import one_or_tree
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.kept_rows import reading_once
from embgeom_dask.execution.map_rows import by_chunk, in_order
from embgeom_dask.execution.memory_budget import MemoryBudget
from embgeom_dask.kernels.column_products import (
    BLOCK_ROWS,
    ColumnProducts,
    error_of,
    sample_covariance,
    stripe_bytes,
    stripes,
)
from embgeom_dask.kernels.eigenvalues import eigen
from embgeom_dask.kernels.exact_sums import ColumnSums, column_sums
from embgeom_dask.kernels.projections import projections
from embgeom_dask.kernels.row_checks import SMALLEST
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.statistics.isotropy import mean_cosine, partition_isotropy
from embgeom_dask.statistics.sky import read_axes, sky_of
from embgeom_dask.storage import result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.units import bytes_text

Array = NDArray[Any]

_OUTLYING = 5
"""A column is an outlier whose variance is so many times the mean of all columns' (Rudman, Chen and Eickhoff 2023)."""

_SQUARES = 6
"""Matrices (d, d) float64 that the process which asks holds: sums, covariance, vectors, and what LAPACK works in."""


class Moments(NamedTuple):
    """What one pass keeps of some rows: `sums` of their columns and `units`, those of the rows made as long as 1; how
    many rows are `zero`; `unfit` (n,) uint8; and the `products` of columns, of each piece of the rows.

    Of several groups of stripes only the first has more than products.
    """

    sums: ColumnSums
    units: ColumnSums
    zero: int
    unfit: Array
    products: list[ColumnProducts]


class RowsAndStripes(NamedTuple):
    """What one task looks at: rows start..stop-1, in pieces of so many rows, and a group of stripes of columns."""

    start: int
    stop: int
    piece: int
    group: list[int]


def spectrum(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    components: int = 3,
    sky: Sequence[int] | str | None = None,
    sky_by_rank: bool = False,
    isotropy: bool = False,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Find the eigenvalues of the covariance of a matrix's rows, its leading components, and how isotropic it is.

    The covariance is that of the sample: of the rows less their exact mean, divided by N - 1. One pass over the rows
    makes it, from sums of about 100 bits. So its float64 entries are the same for any number of workers and threads and
    any chunks, and no digit is lost even where the mean is 2^24 times as far from 0 as the rows are from the mean.
    Eigenvalues and vectors are LAPACK's, and their last bits depend on the machine. `eigenvalue_error` bounds the error
    of every eigenvalue, and `component_error` the sine of the angle between a vector and the true one.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    components : int
        How many leading vectors to keep, with the scores of every token. The scores take a second pass over the rows,
        which workers keep from the first pass as far as memory allows; with 0 there is no second pass.
    sky : three ints or str, optional
        Three components x, y and z, counted from 1: `(1, 2, 3)` or "1,2,3". The result then has the direction of every
        token from the mean row in these components, as latitude and longitude (a map of the sky).
    sky_by_rank : bool
        Whether to give also latitudes by rank, by which tokens are spread evenly over the sphere from south to north.
    isotropy : bool
        Whether to give also `partition_isotropy`. It takes one more pass, with as many products as the covariance.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        several stores it is a folder: each model is saved as `<organisation>--<name>.zarr`, the table of all of them
        as `table.zarr`.
    part : str, optional
        Which part of a list of stores to do, where several commands share the list and the folder `out`: "2/8" is the
        second of eight parts. By default all.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Of a list a DataTree: a node for each model, and in the root a table of the numbers that each has one of.

        - `eigenvalue (eigenvalue_rank)`, largest first; one that rounding makes negative is given as 0.
          `eigenvalue_share`, each divided by the sum of all, and `cumulative_share`. `eigenvalue_error`, in the units
          of eigenvalues.
        - `component_vector (component, hidden)`, of length 1, whose largest component in size (the first of several)
          is positive; `component_error (component)`; `score (token_id, component)`, the product of a row less the mean
          row with the vector, to within its last place and the rounding of the vector.
        - With `sky`: `sky_latitude (token_id)`, asin(z / r), and `sky_longitude`, atan2(y, x), in degrees, of the
          scores x, y, z on these components; `sky_distance`, r = sqrt(x^2 + y^2 + z^2). Angles are NaN where r is 0.
          With `sky_by_rank` `sky_ranked_latitude`, asin((2 k - 1) / n - 1) for the k-th of n tokens from the south.
        - `participation_ratio`, (sum of eigenvalues)^2 / sum of their squares; NaN if all rows are the same.
          `isoscore`, of Rudman, Gillman, Rayne and Eickhoff (2022, arXiv 2108.07344). Their definition simplifies to
          (participation ratio - 1) / (d - 1); NaN for one column.
        - With `isotropy`: `partition_isotropy`, of Mu and Viswanath (2018, arXiv 1702.01417): the smallest Z(c) divided
          by the largest, where Z(c) = sum of exp(c.x) over the rows x. c runs over the eigenvectors of X'X and, since
          their signs are arbitrary, their opposites. The vectors are LAPACK's, so the last digits depend on the
          machine.
        - `mean_cosine` of all pairs of rows, (|sum of unit rows|^2 - n) / (n (n - 1)), within `mean_cosine_error`; n
          leaves out the `zero_count` rows of zeros, which have no direction. `mean_square_distance` of all pairs, which
          is twice the sum of the eigenvalues. No pair is visited for these two.
        - `column_variance (hidden)`, `centroid (hidden)`, and `outlier_dimension (outlier)`, the columns whose variance
          is at least 5 times the mean of all columns' (Rudman, Chen and Eickhoff 2023), largest first.
        - `vocab_size`, `hidden_size`; the coordinates `model`, `revision`, `matrix`, `token_id`, `token`, `text`.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if a row has NaN, infinity, or a float64 value below 2^-400 or above
        2^400 in size, if there is one row alone, if `components` is negative or more than the columns, if `sky` is not
        three different components of them, if the covariance does not fit into memory, or if something else is at
        `out`.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    >>> found = spectrum(make_store("tiny.zarr", output=rows), components=1)
    >>> found["eigenvalue"].values.round(3), found["score"].values.ravel()
    (array([6.   , 0.667]), array([ 3., -3.,  0.,  0.]))
    """

    def one(each: Data, target: PathLike | None, active: ClientLike | None, _: int) -> xr.Dataset:
        return _spectrum(each, role, components, isotropy, (axes, bool(sky_by_rank)), target, active, memory)

    axes = read_axes(sky, components)
    if sky_by_rank and not axes:
        raise InputError("`sky_by_rank`: give the components of the map with `sky`")
    memory = MemoryBudget(devices.memory(torch.device("cpu"))[1])

    with showing(progress):
        how: dict[str, Any] = {"components": components, "sky": sky, "sky_by_rank": sky_by_rank}
        how |= {"isotropy": True} if isotropy else {}
        return one_or_tree("spectrum", data, one, role=role, out=out, client=client, part=part, asked=how)


def _spectrum(
    data: Data,
    role: Role | None,
    components: int,
    isotropy: bool,
    sky: tuple[list[int], bool],
    out: PathLike | None,
    client: ClientLike | None,
    memory: MemoryBudget,
) -> xr.Dataset:
    """The spectrum of one model, of several that share the memory of this process."""
    started, (axes, by_rank) = perf_counter(), sky
    with given_rows(data, role, client, whole=True) as given:
        matrix = given.matrix
        settings: dict[str, Any] = {"components": components} | ({"sky": [*axes]} if axes else {})
        settings |= {"sky_by_rank": True} if by_rank else {}
        settings |= {"isotropy": True} if isotropy else {}
        settings |= {"tokens": given.selection} if given.selection else {}
        attrs = results.provenance("spectrum", [matrix], ["cpu"], 0.0, settings)
        needed = _check(matrix, components)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        given.stored_labels()
        with memory.taking(needed), connect(client, out=out) as active, devices.session(torch.device("cpu")):
            dataset = _measured(active, given, components, isotropy=isotropy)
        if axes:
            dataset = dataset.assign(sky_of(dataset["score"].to_numpy(), axes, by_rank=by_rank))
        if components:
            dataset = dataset.assign_coords(given.labels().drop_vars("has_token").coords)
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


def _check(matrix: Matrix, components: int) -> int:
    """Refuse what cannot be computed; return the bytes that it takes in this process."""
    if matrix.vocab_size < 2:
        raise InputError(f"{matrix.model}: {matrix.name} has one row: a covariance needs two or more")
    if not 0 <= components <= matrix.hidden_size:
        raise InputError(f"`components` {components}: give 0 to {matrix.hidden_size}, the columns of {matrix.model}")
    needed, free = 8 * _SQUARES * matrix.hidden_size**2, devices.memory(torch.device("cpu"))[1]
    if needed > free:
        raise InputError(
            f"the covariance of {matrix.hidden_size} columns takes {bytes_text(needed)} here, and {bytes_text(free)} "
            "are free: use a machine with more memory"
        )
    return needed


def _measured(client: Client, given: Given, components: int, *, isotropy: bool) -> xr.Dataset:
    """The variables of the result, of one pass, one more for scores, and one for the partition function."""
    with reading_once(client, given.matrix, rows_of_part(given.matrix)) if components or isotropy else nullcontext():
        return _described(client, given, components, isotropy=isotropy)


def _described(client: Client, given: Given, components: int, *, isotropy: bool) -> xr.Dataset:
    """The same, of rows that are read once, as far as they may be kept."""
    matrix = given.matrix
    rows, width = matrix.vocab_size, matrix.hidden_size
    found = _moments(client, given)
    covariance, high, low, off = _covariance(found, rows)
    variance = covariance.diagonal().copy()
    total, size = float(variance.sum()), _size(covariance)
    ratio = (total / size) ** 2 if size else math.nan
    partition = {"partition_isotropy": partition_isotropy(client, matrix, covariance, high)} if isotropy else {}
    spectrum = eigen(covariance, components, off)
    up_to = spectrum.value.cumsum()
    sum_of_all = up_to[-1] or math.nan
    outlying = np.flatnonzero(variance >= _OUTLYING * variance.mean()) if total else np.zeros(0, np.int64)
    variables: dict[str, Any] = {
        "eigenvalue": ("eigenvalue_rank", spectrum.value),
        "eigenvalue_share": ("eigenvalue_rank", spectrum.value / sum_of_all),
        "cumulative_share": ("eigenvalue_rank", up_to / sum_of_all),
        "eigenvalue_error": spectrum.error,
        "participation_ratio": ratio,
        "isoscore": (ratio - 1) / (width - 1) if width > 1 else math.nan,
        **partition,
        **mean_cosine(found.units, rows - found.zero),
        "mean_square_distance": 2 * math.fsum(variance),
        "zero_count": found.zero,
        "vocab_size": rows,
        "hidden_size": width,
        "centroid": ("hidden", high),
        "column_variance": ("hidden", variance),
        "outlier_dimension": ("outlier", outlying[np.argsort(-variance[outlying], kind="stable")]),
    }
    if components:
        scores = np.empty((rows, components))
        for start, part in by_chunk("scores", matrix, _score, high, low, spectrum.vector, client=client):
            scores[start : start + len(part)] = part
        variables["component_vector"] = (("component", "hidden"), spectrum.vector)
        variables["component_error"] = ("component", spectrum.sine)
        variables["score"] = (("token_id", "component"), scores)
    return xr.Dataset(variables)


def covariance_of(client: Client, given: Given) -> tuple[Array, Array, Array, float]:
    """The covariance (d, d) of the rows, divided by N - 1; their mean in two words, (d,) each; and a bound of how far
    the covariance is from the true one, in the Frobenius norm. Refuses what `spectrum` refuses.
    """
    _check(given.matrix, 0)
    return _covariance(_moments(client, given), given.matrix.vocab_size)


def _covariance(found: Moments, rows: int) -> tuple[Array, Array, Array, float]:
    """The same of what a pass found, whose products are not kept."""
    high, low = found.sums.mean(rows).in_two_words()
    squares = sum(float(np.trace(total[:, : len(total)])) for group in found.products for total in group.total)
    covariance = sample_covariance(found.products, high, low, rows)
    found.products.clear()
    # each entry is rounded twice, and its sums are off a little
    return covariance, high, low, 2.0**-51 * _size(covariance) + 1.01 * error_of(rows) * squares / (rows - 1)


def _size(covariance: Array) -> float:
    """The Frobenius norm, of which no square overflows."""
    largest = float(np.abs(covariance).max())
    return largest * float(np.linalg.norm(covariance / largest)) if largest else 0.0


def _moments(client: Client, given: Given) -> Moments:
    """One pass over the rows: in pieces whose sums are added in order, so that no cluster decides a bit."""
    matrix, width = given.matrix, given.matrix.hidden_size
    groups = list(column_groups(width))
    piece, step = _piece(width), rows_of_part(matrix)
    parts = [
        RowsAndStripes(start, min(start + step, matrix.vocab_size), piece, group)
        for start in range(0, matrix.vocab_size, step)
        for group in groups
    ]
    sums, units, zero = ColumnSums.none(width), ColumnSums.none(width), 0
    unfit: list[Array] = []
    products = {group[0]: ColumnProducts.none(width, group) for group in groups}
    sizes = [part.stop - part.start if part.group is groups[0] else 0 for part in parts]
    for part, found in zip(parts, in_order(client, "spectrum", matrix, parts, sizes, _look), strict=True):
        sums.add(found.sums)
        units.add(found.units)
        zero += found.zero
        unfit.append(found.unfit)
        for each in found.products:
            products[part.group[0]].add(each)
    check_fit(matrix, given.ids, np.concatenate(unfit))
    return Moments(sums, units, zero, np.concatenate(unfit), list(products.values()))


def rows_of_part(matrix: Matrix) -> int:
    """The rows that a task reads: those of a chunk, or as many as one piece of them has."""
    piece = _piece(matrix.hidden_size)
    return piece * -(-matrix.chunk_rows // piece)


def _piece(width: int) -> int:
    """The rows whose products are summed before others come to them, which decides their bits."""
    return int(max(8 * BLOCK_ROWS, 1 << (4 * width - 1).bit_length()))


def column_groups(width: int) -> Iterator[list[int]]:
    """The stripes of columns, in groups whose products fit into what a task may give back."""
    group: list[int] = []
    size = 0
    for first in stripes(width):
        size += stripe_bytes(width, first)
        if group and size > tuning.PRODUCT_BYTES:
            yield group
            group, size = [], stripe_bytes(width, first)
        group.append(first)
    yield group


def _look(matrix: Matrix, part: RowsAndStripes) -> Moments:
    """What is kept of the rows of a part; runs on a worker."""
    with devices.session(torch.device("cpu")):
        rows = matrix.read(part.start, part.stop)
        nothing = ColumnSums(np.zeros((matrix.hidden_size, 0), np.int64))
        found = Moments(nothing, nothing, 0, np.zeros(0, np.uint8), [])
        if part.group[0] == 0:
            summary = summarize(rows)
            zero = int(np.count_nonzero(summary.norms == 0))
            found = Moments(summary.sums, _units(rows, summary.norms), zero, summary.unfit, [])
            if summary.unfit.any():  # refused when all are known
                return found
        for start in range(0, len(rows), part.piece):
            products = ColumnProducts.none(matrix.hidden_size, part.group)
            products.add_rows(rows[start : start + part.piece])
            found.products.append(products)
        return found


def _units(rows: Array, norms: Array) -> ColumnSums:
    """The sums of the columns of rows made as long as 1; those of zeros have no part in it."""
    sums = ColumnSums.none(rows.shape[1])
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        keep = norms[part] > 0
        unit = rows[part].astype(np.float64) / np.where(keep, norms[part], 1)[:, None]
        unit[np.abs(unit) < SMALLEST] = 0
        sums.add(column_sums(unit, keep))
    return sums


def _score(matrix: Matrix, part: tuple[int, int], high: Array, low: Array, vectors: Array) -> Array:
    with devices.session(torch.device("cpu")):
        return projections(matrix.read(*part), high, low, vectors)

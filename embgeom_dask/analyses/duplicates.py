"""Groups of bit-identical rows, for any number of models in one dask run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.batches import many
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.map_rows import by_chunk, rows_of_task
from embgeom_dask.kernels.row_checks import NOT_FINITE, unfit
from embgeom_dask.pairwise.rows import DistinctRows, check_fit, digest, group
from embgeom_dask.progress import showing
from embgeom_dask.storage import result_names, result_tokens, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]


def duplicates(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Find the groups of identical rows of one matrix of each store, or of an array.

    Two rows are identical if all their bits are equal, where -0 counts as +0. This includes rows with NaN or infinity.
    Rows are compared by a cryptographic digest. A group has at least two members.

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
        Counts, ids and indices are int64.

        - `unique_count (model)`, the number of different rows; `removed_count`, `vocab_size` minus `unique_count`;
          `group_count`; `member_count`, the number of tokens in groups; `vocab_size`; the coordinates `revision` and
          `matrix`, the name of the stored array.
        - `group_model (group)`, the index of the group's model; `group_population (group)`. Groups are ordered by
          model, then by size, the largest first, then by lowest token id.
        - `member_token_id (member)`; `member_group (member)`, the index of the member's group; the coordinate
          `member_token (member)`, and `member_text`. Members are ordered by group, then by token id.
        - `token_to_group (token_id)`, for one model only: the group of each token, -1 if its row is unique.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if a float64 row has a value below 2^-400 or above 2^400 in size, or if
        something else is at `out`.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    >>> duplicates(make_store("tiny.zarr", output=rows))["member_token_id"].values
    array([0, 2])
    """
    with showing(progress):
        return many.one_or_together(
            "duplicates", data, _duplicates, together, role=role, out=out, client=client, part=part
        )


def _duplicates(data: Data, role: Role | None, out: PathLike | None, client: ClientLike | None) -> xr.Dataset:
    """Find the groups of one model."""
    started = perf_counter()
    with given_rows(data, role, client, whole=True) as given:
        matrix = given.matrix
        settings = {"tokens": given.selection} if given.selection else {}
        attrs = results.provenance("duplicates", [matrix], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        given.stored_labels()
        digests, reasons = np.empty((matrix.vocab_size, 16), np.uint8), np.empty(matrix.vocab_size, np.uint8)
        rows = rows_of_task(matrix)
        for start, (names, found) in by_chunk("duplicates", matrix, _look, client=client, out=out, rows=rows):
            part = slice(start, start + len(names))
            digests[part], reasons[part] = names, found
        check_fit(matrix, given.ids, reasons)
        dataset = result_tokens.with_ids(_dataset(given, group(given.rows, digests)), [given.token_id])
    return results.finish(dataset, attrs, started, out)


def together(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the groups of several models into one Dataset."""
    if not found:
        return xr.Dataset(attrs=many.joined(found, "duplicates"))
    before = np.cumsum([0, *(each.sizes["group"] for each in found[:-1])])
    columns = {}
    for name, variable in found[0].variables.items():
        parts = [each[name].to_numpy() for each in found]
        if name in ("group_model", "member_group"):  # places in the whole
            first = before if name == "member_group" else np.arange(len(found))
            parts = [part + start for part, start in zip(parts, first, strict=True)]
        if name not in ("token_to_group", "token_id", "group", "member"):
            columns[str(name)] = (variable.dims[0], np.concatenate(parts))
    dataset = xr.Dataset(columns).set_coords(["model", "revision", "matrix", "member_token", "member_text"])
    return result_names.complete(dataset.assign_attrs(many.joined(found, "duplicates")))


def _look(matrix: Matrix, part: tuple[int, int]) -> tuple[Array, Array]:
    """The digest of each row, and what keeps it from being used: NaN and infinity have bits like any other value."""
    with devices.session(torch.device("cpu")):
        rows = matrix.read(*part)
        found = unfit(rows)
        return digest(rows), np.where(found == NOT_FINITE, 0, found)


def _dataset(given: Given, rows: DistinctRows) -> xr.Dataset:
    matrix = given.matrix
    groups = _shared(rows)
    population = np.array([members.size for members in groups], np.int64)
    member_group = np.repeat(np.arange(population.size), population)
    ids = np.concatenate([np.zeros(0, np.int64), *groups])
    labels = given.stored_labels()
    counts = {
        "vocab_size": matrix.vocab_size,
        "unique_count": rows.token_id.size,
        "removed_count": rows.members.size - rows.token_id.size,
        "group_count": len(groups),
        "member_count": ids.size,
    }
    return xr.Dataset(
        {
            **{name: ("model", np.array([count], np.int64)) for name, count in counts.items()},
            "group_model": ("group", np.zeros(population.size, np.int64)),
            "group_population": ("group", population),
            "member_token_id": ("member", ids),
            "member_group": ("member", member_group),
            "token_to_group": ("token_id", tokens_to_groups(rows, matrix.vocab_size)),
        },
        {
            "model": ("model", np.array([matrix.model])),
            "revision": ("model", np.array([matrix.revision])),
            "matrix": ("model", np.array([matrix.name])),
            "token_id": np.arange(matrix.vocab_size),
            "member_token": ("member", labels["token"][ids]),
            "member_text": ("member", labels["text"][ids]),
        },
    )


def tokens_to_groups(rows: DistinctRows, vocab_size: int) -> Array:
    """The group of identical rows that each token is in, (vocab_size,) int64; -1 for a row that is unique."""
    found = np.full(vocab_size, -1)
    for number, members in enumerate(_shared(rows)):
        found[members] = number
    return found


def _shared(rows: DistinctRows) -> list[Array]:
    """The members of each row that several tokens have, most tokens first, then lowest id."""
    order = np.argsort(-rows.weights, kind="stable")[: np.count_nonzero(rows.weights > 1)]
    bounds = zip(rows.offsets[order], rows.offsets[order + 1], strict=True)
    return [rows.members[start:stop] for start, stop in bounds]

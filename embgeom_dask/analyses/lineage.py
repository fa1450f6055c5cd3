"""Which of many models share bytes, rows, columns or tokens: each matrix is read once, then digests are compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.map_rows import in_order
from embgeom_dask.execution.plan import ITEMSIZE
from embgeom_dask.pairwise.rows import digest, half_sha256
from embgeom_dask.progress import bar
from embgeom_dask.selections.matching import names
from embgeom_dask.storage import results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]

_PIECE_ROWS = 1024
"""Rows whose columns get one digest."""

_COUNTS = ("identical_row_count", "shared_row_count", "identical_column_count", "shared_column_count")


class Cuts(NamedTuple):
    """What one task looks at: the rows between each two of `cuts` (k + 1,), as values of type `dtype`."""

    cuts: Array
    dtype: str


class Digests(NamedTuple):
    """What tells a model from others: `rows` (V, 16) uint8; `columns`, by how many of the first rows they are of, (d,
    16) uint8 each; `tokens`, their names.
    """

    rows: Array
    columns: dict[int, Array]
    tokens: set[str]


def lineage(stores: Sequence[Data], role: Role | None, out: PathLike | None, client: ClientLike | None) -> xr.Dataset:
    """Compare all of several models with all of them: what `compare` gives of a list."""
    started = perf_counter()
    if len(stores) < 2:
        raise InputError("compare needs two stores or more: name another")
    with ExitStack() as stack:
        given = [stack.enter_context(given_rows(each, role, client, whole=True)) for each in stores]
        settings = {} if all(each.selection is None for each in given) else {"tokens": [g.selection for g in given]}
        attrs = results.provenance("compare", [each.matrix for each in given], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        for each in given:
            each.matrix.labels()  # so that they are verified: those of all models are too much to keep
        cuts = sorted({each.matrix.vocab_size for each in given})
        dtype = max((each.matrix.dtype for each in given), key=lambda name: (ITEMSIZE[name], name))
        if len({each.matrix.dtype for each in given}) > 1 and ITEMSIZE[dtype] < ITEMSIZE["float64"]:
            dtype = "float32"  # which holds the values of all shorter ones
        with connect(client, out=out) as active, bar(len(given), "compare", "models") as advance:
            found = []
            for each in given:
                found.append(_digests(active, each, cuts, dtype))
                each.read.clear()
                advance(1)
        dataset = _dataset(given, found)
    return results.finish(dataset, attrs, started, out)


def _digests(client: Client, given: Given, sizes: Sequence[int], dtype: str) -> Digests:
    """The digests of one model: of its columns for every number of rows that a model has."""
    matrix = given.matrix
    step = _PIECE_ROWS * -(-matrix.chunk_rows // _PIECE_ROWS)
    ends = [size for size in sizes if size <= matrix.vocab_size]
    cuts = np.unique([*range(0, matrix.vocab_size, _PIECE_ROWS), *ends])
    starts = range(0, matrix.vocab_size, step)
    parts = [Cuts(cuts[(cuts >= start) & (cuts <= min(start + step, matrix.vocab_size))], dtype) for start in starts]
    counts = [int(np.ptp(part.cuts)) for part in parts]
    rows, pieces = [], []
    for names_of_rows, names_of_pieces in in_order(client, "digests", matrix, parts, counts, _look):
        rows.append(names_of_rows)
        pieces += names_of_pieces
    upto = {end: int(np.searchsorted(cuts, end)) for end in ends}
    whole = np.stack(pieces, axis=1)  # (d, pieces, 16)
    columns = {end: _joined(whole[:, :count]) for end, count in upto.items()}
    return Digests(np.concatenate(rows), columns, set(names(given)) - {""})


def _look(matrix: Matrix, part: Cuts) -> tuple[Array, list[Array]]:
    """The digests of rows, and of the columns of every piece of them; runs on a worker."""
    with devices.session(torch.device("cpu")):
        start = int(part.cuts[0])
        rows = matrix.read(start, int(part.cuts[-1]))
        rows = rows if matrix.dtype == part.dtype else rows.astype(part.dtype)
        bounds = zip(part.cuts[:-1] - start, part.cuts[1:] - start, strict=True)
        return digest(rows), [digest(np.ascontiguousarray(rows[begin:end].T)) for begin, end in bounds]


def _joined(pieces: Array) -> Array:
    """One digest (16,) of those of the pieces of each column (d, pieces, 16)."""
    found = b"".join(half_sha256(each.tobytes()) for each in pieces)
    return np.frombuffer(found, np.uint8).reshape(-1, 16)


def _dataset(given: Sequence[Given], found: Sequence[Digests]) -> xr.Dataset:
    count = len(given)
    rows = _numbered([each.rows for each in found])
    counts = {name: np.zeros((count, count), np.int64) for name in (*_COUNTS, "shared_token_count")}
    same = np.zeros((count, count), bool)
    for a in range(count):
        for b in range(a, count):
            same[a, b] = same[b, a] = _identity(given[a].matrix) == _identity(given[b].matrix)
            values = (*_shared_rows(given, rows, a, b), *_shared_columns(found[a], found[b]))
            for name, value in zip(counts, (*values, len(found[a].tokens & found[b].tokens)), strict=True):
                counts[name][a, b] = counts[name][b, a] = value
    matrices = [each.matrix for each in given]
    facts = {name: [getattr(each, name) for each in matrices] for name in ("hidden_size", "dtype", "tied")}
    whose = {name: [getattr(each, name) for each in matrices] for name in ("model", "revision")}
    return xr.Dataset(
        {"same_bytes": (("model", "against"), same)}
        | {name: (("model", "against"), values) for name, values in counts.items()}
        | {"vocab_size": ("model", [each.rows.size for each in given])}
        | {name: ("model", np.array(values)) for name, values in facts.items()},
        {
            **{name: ("model", np.array(values, np.str_)) for name, values in whose.items()},
            "matrix": ("model", np.array([each.name for each in matrices], np.str_)),
            "against": ("against", np.array(whose["model"], np.str_)),
            "against_revision": ("against", np.array(whose["revision"], np.str_)),
        },
    )


def _identity(matrix: Matrix) -> tuple[Any, ...]:
    return matrix.sha256, matrix.dtype, matrix.vocab_size, matrix.hidden_size


def _numbered(digests: Sequence[Array]) -> list[Array]:
    """A number for each digest (n, 16) of every model, (n,) int64: the same where the digests are."""
    _, numbers = np.unique(np.concatenate(digests).view("V16").ravel(), return_inverse=True)
    return np.split(numbers, np.cumsum([len(each) for each in digests])[:-1])


def _shared_rows(given: Sequence[Given], rows: Sequence[Array], a: int, b: int) -> tuple[int, int]:
    """How many token ids have the same row in both, and how many different rows are in both."""
    if given[a].token_id is given[b].token_id is None:
        size = min(rows[a].size, rows[b].size)
        alike = np.count_nonzero(rows[a][:size] == rows[b][:size])
    else:
        _, first, second = np.intersect1d(given[a].ids, given[b].ids, return_indices=True)
        alike = np.count_nonzero(rows[a][first] == rows[b][second])
    return int(alike), np.intersect1d(rows[a], rows[b]).size


def _shared_columns(first: Digests, second: Digests) -> tuple[int, int]:
    """How many columns are the same in both, and how many different ones are in both, of the rows that both have."""
    size = min(len(first.rows), len(second.rows))
    mine, theirs = first.columns[size], second.columns[size]
    width = min(len(mine), len(theirs))
    alike = np.count_nonzero((mine[:width] == theirs[:width]).all(axis=1))
    return int(alike), len({each.tobytes() for each in mine} & {each.tobytes() for each in theirs})

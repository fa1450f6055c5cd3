"""Groups of bit-identical rows, for any number of models in one dask run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr
from distributed import Client, as_completed
from numpy.typing import NDArray

from embgeom_dask import devices, progress, results
from embgeom_dask.cluster import connect
from embgeom_dask.errors import InputError
from embgeom_dask.rows import RowSet, digest, group
from embgeom_dask.stores import Matrix, Role, find_matrix, labels

Array = NDArray[Any]
StorePath = str | os.PathLike[str]


def duplicates(
    stores: StorePath | Iterable[StorePath],
    matrix: Role | None = None,
    *,
    out: StorePath | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Find the groups of identical rows of one matrix of each store.

    Rows are identical where all their bits are, with -0 as +0; a row with NaN or infinity is no exception. They are
    told by a digest of 128 bits. A group has two members or more. Counts, ids and indices are int64:

    - `unique_count (model)`, the different rows; `removed_count`, `vocab_size` less `unique_count`; `group_count`;
      `member_count`, the tokens in groups; `vocab_size`; the coordinate `matrix`, the stored array;
    - `group_model (group)`, the model's place in `model`; `group_population (group)`. Groups come model by model, the
      largest first, equal ones by lowest token id;
    - `member_token_id (member)`, `member_group (member)`, the group's place in `group`, and the coordinate
      `member_token (member)`. Members come group by group, by token id;
    - of one model alone, `token_to_group (token_id)`: each token's group, -1 where its row is unique.

    The result is saved at `out`; where the same result is there already, it is opened instead.

    Raises
    ------
    InputError
        where there is no store or no such matrix, or something else is at `out`.
    EmbgeomError
        where a store cannot be read.
    """
    started = perf_counter()
    paths = [stores] if isinstance(stores, str | os.PathLike) else list(stores)
    if not paths:
        raise InputError("duplicates needs at least one store: embgeom list shows them")
    matrices = [find_matrix(path, matrix) for path in paths]
    attrs = results.provenance("duplicates", matrices, ["cpu"], 0.0)
    if out is not None and (done := results.existing(out, attrs)) is not None:
        return done
    distinct = [group(np.arange(len(digests)), digests) for digests in _digest_all(matrices, client, scheduler)]
    dataset = _dataset(matrices, distinct).assign_attrs(attrs | {"seconds": round(perf_counter() - started, 3)})
    if out is not None:
        results.save(dataset, out)
    return dataset


def _digest_all(matrices: Sequence[Matrix], client: Client | None, scheduler: str | None) -> list[Array]:
    """The digests (V, 16) of every row of every matrix: one dask task a chunk, all at once."""
    done: dict[Any, Array] = {}
    total = sum({matrix: matrix.vocab_size for matrix in matrices}.values())
    with connect(client, scheduler) as active, progress.bar(total, "duplicates", "rows") as advance:
        parts = [
            [
                active.submit(_digest_part, matrix, start, min(start + matrix.chunk_rows, matrix.vocab_size))
                for start in range(0, matrix.vocab_size, matrix.chunk_rows)
            ]
            for matrix in matrices
        ]
        wanted = {part.key: part for own in parts for part in own}  # a matrix given twice is read once
        for future in as_completed(list(wanted.values()), loop=active.loop):
            done[future.key] = future.result()
            advance(len(done[future.key]))
    return [np.concatenate([done[part.key] for part in own]) for own in parts]


def _digest_part(matrix: Matrix, start: int, stop: int) -> Array:
    with devices.session(torch.device("cpu")):
        return digest(matrix.read(start, stop))


def _dataset(matrices: Sequence[Matrix], distinct: Sequence[RowSet]) -> xr.Dataset:
    groups = [_shared(rows) for rows in distinct]
    counts = {
        "vocab_size": [matrix.vocab_size for matrix in matrices],
        "unique_count": [rows.token_id.size for rows in distinct],
        "removed_count": [rows.members.size - rows.token_id.size for rows in distinct],
        "group_count": [len(own) for own in groups],
        "member_count": [sum(members.size for members in own) for own in groups],
    }
    population = np.array([members.size for own in groups for members in own], np.int64)
    member_group = np.repeat(np.arange(population.size), population)
    ids = [np.concatenate([np.zeros(0, np.int64), *own]) for own in groups]
    tokens = [labels(matrix.store, own)["token"].to_numpy() for matrix, own in zip(matrices, ids, strict=True)]
    text = np.dtypes.StringDType()
    variables: dict[str, Any] = {
        **{name: ("model", np.array(values, np.int64)) for name, values in counts.items()},
        "group_model": ("group", np.repeat(np.arange(len(groups)), counts["group_count"])),
        "group_population": ("group", population),
        "member_token_id": ("member", np.concatenate(ids)),
        "member_group": ("member", member_group),
    }
    if len(matrices) == 1:
        variables["token_to_group"] = ("token_id", np.full(matrices[0].vocab_size, -1))
        variables["token_to_group"][1][ids[0]] = member_group
    return xr.Dataset(
        variables,
        {
            "model": ("model", np.array([matrix.model for matrix in matrices], text)),
            "matrix": ("model", np.array([matrix.name for matrix in matrices], text)),
            "member_token": ("member", np.concatenate(tokens)),
        },
    )


def _shared(rows: RowSet) -> list[Array]:
    """The members of each row that several tokens have, most tokens first, then lowest id."""
    order = np.argsort(-rows.weights, kind="stable")[: np.count_nonzero(rows.weights > 1)]
    bounds = zip(rows.offsets[order], rows.offsets[order + 1], strict=True)
    return [rows.members[start:stop] for start, stop in bounds]

"""The farthest pair of rows of each connected component, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.map_rows import in_order
from embgeom_dask.execution.plan import ITEMSIZE, Plan
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]
Farthest = tuple[float, int, int]
"""A distance, and the two rows of a matrix that it is of, the lower first."""

_SMALL = 256
"""Sets of at most so many rows are compared where they are read, all pairs in float64; larger ones in tiles."""


def diameters(client: Client, plan: Plan, number: Array) -> tuple[Array, Array]:
    """Find the farthest pair of each component.

    Parameters
    ----------
    client : Client
    plan : Plan
        That of the rows compared: a matrix with itself.
    number : (rows, radii) int64
        The component of each distinct row at each radius, counted through all radii; -1 for none.

    Returns
    -------
    distances (components,) float64 and the rows of the matrix that these are of (components, 2) int64, the lower first;
    of equal distances the pair of the lowest tokens
    """
    rows = plan.rows.first
    sets = list(_sets(number))
    unlike: dict[tuple[int, int], Array] = {(int(each[0]), each.size): each for each in sets if each.size > 1}
    found = dict(
        zip(unlike, _farthest_of(client, plan, [rows.token_id[each] for each in unlike.values()]), strict=True)
    )
    every = [_of_tokens(plan, each, found.get((int(each[0]), each.size))) for each in sets]
    distance, *pair = zip(*every, strict=True) if every else ((), (), ())
    return np.array(distance, np.float64), np.array(pair, np.int64).T


def _of_tokens(plan: Plan, positions: Array, found: Farthest | None) -> Farthest:
    """The farthest pair of the tokens of rows from that of the rows; None: there is one row.

    Where the rows are at no distance from each other, as parallel ones in cosine, tokens of one row are a pair as good.
    """
    if found is not None and not _is_zero(plan, found):
        return found
    rows = plan.rows.first
    groups = [rows.members[rows.offsets[each] : rows.offsets[each + 1]][:2] for each in positions.tolist()]
    first, second = np.sort(np.concatenate(groups))[:2].tolist()
    return 0.0, first, second


def _is_zero(plan: Plan, found: Farthest) -> bool:
    """Whether a distance is 0 before it is rounded."""
    if found[0] > 0:
        return False
    x, y = plan.sides[0].matrix.take(np.array(found[1:])).astype(np.float64)
    return plan.metric.order(x, y) == plan.metric.order_of(Fraction(0))


def _sets(number: Array) -> Iterator[Array]:
    """The positions of the rows of each component, ascending, by the numbers of the components.

    Those of one radius lie within those of the next: two of the same lowest row and the same size are the same.
    """
    for column in number.T:
        order = np.argsort(column, kind="stable")
        order = order[np.searchsorted(column[order], 0) :]
        if order.size:
            yield from np.split(order, np.flatnonzero(np.diff(column[order])) + 1)


def _farthest_of(client: Client, plan: Plan, sets: Sequence[Array]) -> Iterator[Farthest]:
    """The farthest pair of each of the sets of different rows of a matrix."""
    matrix, metric = plan.sides[0].matrix, plan.metric.name
    parts = list(_parts(matrix, [each for each in sets if each.size <= _SMALL]))
    sizes = [sum(each.size for each in part) for part in parts]
    looked = in_order(client, "diameters", matrix, parts, sizes, partial(_look, metric=metric))
    small = chain.from_iterable(looked)
    for each in sets:
        if each.size <= _SMALL:
            yield next(small)
            continue
        how: dict[str, Any] = {"metric": metric, "device": plan.device, "client": client}
        scanned = scan(matrix, tokens=each, farthest=1, **how)
        first, second = scanned["farthest_token_id"].to_numpy()[0].tolist()
        yield scanned["farthest_distance"].item(), first, second


def _parts(matrix: Matrix, sets: Sequence[Array]) -> Iterator[list[Array]]:
    """The sets in parts, each of which one task reads."""
    most = max(1, tuning.PART_BYTES // (matrix.hidden_size * ITEMSIZE[matrix.dtype]))
    part: list[Array] = []
    held = 0
    for each in sets:
        if part and held + each.size > most:
            yield part
            part, held = [], 0
        part.append(each)
        held += each.size
    if part:
        yield part


def _look(matrix: Matrix, part: list[Array], *, metric: str) -> list[Farthest]:
    """The farthest pair of each set of rows; runs on a worker."""
    with devices.session(torch.device("cpu")):
        stored = matrix.take(np.concatenate(part))
        ends = np.cumsum([each.size for each in part])
        return [_farthest(ids, rows, metric) for ids, rows in zip(part, np.split(stored, ends[:-1]), strict=True)]


def _farthest(ids: Array, stored: Array, metric: str) -> Farthest:
    rows = Rows(len(stored), lambda _: stored)
    exact = Exact(METRICS[metric], rows, rows, stored.shape[1], 1.0)
    first, second = np.triu_indices(len(stored), 1)
    values, slack = exact.values(first, second)
    keep = ~(values + slack < np.max(values - slack))
    best, _ = exact.sort(exact.keys(first[keep], second[keep]), descending=True)
    best = best.take(slice(1))
    distance = exact.distances(best.first, best.second)
    return float(distance[0]), int(ids[best.first[0]]), int(ids[best.second[0]])

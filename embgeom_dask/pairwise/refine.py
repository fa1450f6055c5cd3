"""Finer products for dense pairs: those of some rows with some columns that a tile leaves undecided by the thousand.

Points that have a finer form are refined by it: integers by the points that they were rounded from. Points as stored,
of bfloat16, are refined about the centres of clusters of close rows, and those outside any cluster in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.recentre import recentre
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.tiles import Tile

Array = NDArray[Any]


@dataclass(frozen=True)
class DensePairs:
    """The pairs of some rows (m,) with some columns (n,), bool each, of a tile: many of them are undecided."""

    rows: Array
    columns: Array

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.rows.any())

    def hold(self, i: Array, j: Array) -> Array:
        """Which pairs (p,) of the tile are among them: bool."""
        held: Array = self.rows[i] & self.columns[j]
        return held


def dense_pairs(tile: Tile, i: Array, j: Array) -> DensePairs:
    """Find those of the pairs (p,) that a tile left undecided for which finer products cost less than one by one.

    There are none if the undecided pairs are few or scattered, or if no finer product decides more of them.
    """
    m, n = tile.rows.size, tile.columns.size
    none = DensePairs(np.zeros(m, np.bool_), np.zeros(n, np.bool_))
    as_stored = tile.precision.element == "bfloat16" and tile.rows.norms.error is None
    if tile.metric.is_filter or not (tile.rows.has_finer_form or as_stored):
        return none
    columns = np.bincount(j, minlength=n) >= tuning.DENSE_ROW_PAIRS
    rows = np.bincount(i[columns[j]], minlength=m) >= tuning.DENSE_ROW_PAIRS
    found = DensePairs(rows, columns)
    left = np.count_nonzero(found.hold(i, j))
    one_in = tuning.DENSE_ONE_IN_ROUNDED if tile.rows.has_finer_form else tuning.DENSE_ONE_IN
    is_dense = left * one_in >= np.count_nonzero(rows) * np.count_nonzero(columns)
    pairs = len(tile.rows.stored) * len(tile.columns.stored)
    few = max(tuning.DENSE_ROW_PAIRS**2, pairs / tuning.DENSE_LEAST_ONE_IN)
    return found if is_dense and left >= few else none


def finer_tiles(tile: Tile, dense: DensePairs) -> Iterator[Tile]:
    """Multiply the dense pairs of a tile again, one level finer.

    The plan counts memory for these products only if the points have a finer form. Other finer products use the memory
    of the product of the tile.
    """
    if not dense:
        return
    rows, columns = np.flatnonzero(dense.rows), np.flatnonzero(dense.columns)
    if tile.rows.has_finer_form:
        sides = tile.rows.without_points(rows), tile.columns.without_points(columns)
        yield tile.like(sides[0].unrounded(), sides[1].unrounded())
        return
    tile.forget_product()
    by_rows = rows.size < columns.size
    block, marked = (tile.rows, rows) if by_rows else (tile.columns, columns)
    clusters = _clusters(block, marked) if tile.metric.shifts else iter([(None, marked)])
    for centre, cluster in clusters:
        first, second = (cluster, columns) if by_rows else (rows, cluster)
        if centre is not None:
            yield tile.like(tile.rows.take(first).about(centre), tile.columns.take(second).about(centre))
            continue
        step = tuning.DOUBLED_ROWS
        for i in range(0, first.size, step):
            for j in range(0, second.size, step):
                parts = tile.rows.take(first[i : i + step]), tile.columns.take(second[j : j + step])
                yield tile.like(parts[0].doubled(), parts[1].doubled())


def tiles_about_rows(tile: Tile, dense: DensePairs) -> Iterator[Tile]:
    """Multiply dense pairs of a tile again, in float64 about one of them, where they are of close rows.

    After that row is subtracted, both rows of a pair are about as short as they are apart. So products in float64 give
    nearly all bits of their distance.
    """
    if not (dense and tile.metric.shifts and len(tile.rows.stored) and len(tile.columns.stored)):
        return
    if not tile.rows.has_finer_form:
        tile.forget_product()
    marked, columns = np.flatnonzero(dense.rows), np.flatnonzero(dense.columns)
    for _ in range(tuning.CLUSTERS):
        if not marked.size:
            return
        centre = tile.rows.row(int(marked[0]))
        first, second = (
            side.without_points(some).about_row(centre) for side, some in ((tile.rows, marked), (tile.columns, columns))
        )
        least = tuning.CLOSE**2 * float(tile.rows.norms.norm[marked[0]])
        near, also_near = (np.flatnonzero(side.norms.norm <= least) for side in (first, second))
        if near.size > 1 and also_near.size:
            yield tile.like(first.take(near), second.take(also_near))
        marked = np.delete(marked, near if near.size else 0)


def places_in(finer: Tile, tile: Tile, i: Array, j: Array) -> tuple[Array, Array, Array]:
    """Which of the pairs i, j (p,) of a tile are in a finer one: their indices (q,), and i and j (q,) there."""
    rows, columns = _places(finer.rows, tile.rows)[i], _places(finer.columns, tile.columns)[j]
    (there,) = np.nonzero((rows >= 0) & (columns >= 0))
    return there, rows[there], columns[there]


def _places(part: Block, whole: Block) -> Array:
    """The place of each row of a block (b,) in a part of it, -1 where it is in none."""
    order = np.argsort(whole.positions)
    places = np.full(whole.size, -1)
    places[order[np.searchsorted(whole.positions[order], part.positions)]] = np.arange(part.size)
    return places


def _clusters(block: Block, marked: Array) -> Iterator[tuple[torch.Tensor | None, Array]]:
    """Clusters of marked rows that are close to one point, with that point; then the rows in none, with None.

    Dense pairs are most often those of close rows with others, to which all of these are about as near. Less one of
    them the close rows are short, and so are the errors of their products.
    """
    alone = []
    for _ in range(tuning.CLUSTERS):
        if not marked.size:
            break
        centre = block.points[int(marked[0])]
        _, away, _ = recentre(block.points[torch.from_numpy(marked)], centre)
        close = away <= tuning.CLOSE**2 * block.norms.norm[marked[0]]
        if close.sum() > 1:
            yield centre, marked[close]
        else:
            alone.append(marked[close])
        marked = marked[~close]
    yield None, np.concatenate([*alone, marked])

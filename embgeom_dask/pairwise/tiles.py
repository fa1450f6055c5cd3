"""A tile: all pairs of two blocks, multiplied on their device, with bounds of every pair's value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.row_passes import recentre
from embgeom_dask.metrics import Metric, Precision
from embgeom_dask.pairwise.blocks import Block

Array = NDArray[Any]

_SLAB = 256
"""Rows of a part of a ranked tile."""

_STEPS = 2
"""Tiles that a block is multiplied with itself in: 3/4 of its square."""

DOUBLED = 512
"""Rows of either side whose points are made float64 at a time."""

_CROWD = 32
"""Pairs of one row or column of a tile left undecided that make it part of a crowd."""

_FEW = 128
"""Less than one in so many pairs of two blocks cost little, one by one, beside the product; finer products more."""

_DENSE = 8
"""One in so many pairs of a crowd left undecided makes a finer product cheaper than these pairs one by one."""

_DENSE_ROUNDED = 16
"""The same where the finer product is of the rows of a tile of integers, unrounded."""

_CLOSE = 1 / 32
"""Rows as far apart as that, relative to their length, are told apart much better about one of them."""

_HUBS = 8
"""Groups of close rows that are sought among those of a crowd."""


@dataclass
class Tile:
    """All pairs of the rows of two blocks; `diagonal`: only the pairs i < j count."""

    metric: Metric
    rows: Block
    columns: Block
    diagonal: bool
    _product: torch.Tensor | None = field(default=None, init=False)

    @property
    def product(self) -> torch.Tensor:
        """The product (m, n) on the device, made when it is first asked for; a later one may take its memory."""
        if self._product is None:  # a cached_property of Python 3.11 would have all threads wait for each other
            self._product = self.metric.product(self.rows.points, self.columns.points)
        return self._product

    @property
    def rounded(self) -> bool:
        """Whether the points are rounded to integers."""
        return self.rows.rounded

    def unrounded(self) -> Tile:
        """The same pairs of points that are not."""
        return Tile(self.metric, self.rows.unrounded(), self.columns.unrounded(), self.diagonal)

    @property
    def precision(self) -> Precision:
        """How the product was made."""
        return Precision(str(self.product.dtype).removeprefix("torch."), self.product.device.type == "cpu")

    @property
    def terms(self) -> tuple[LinearBound, LinearBound]:
        """Lower and upper bound of the value of each pair of points, as the points of the scan have it."""
        low, high = self.metric.terms(self.rows.norms, self.columns.norms, self.rows.points.shape[1], self.precision)
        return low.times(self.rows.unit), high.times(self.rows.unit)

    def pairs(self, i: Array, j: Array) -> tuple[Array, Array]:
        """The positions of pairs of this tile, within one matrix the lower first."""
        first, second = self.rows.positions[i], self.columns.positions[j]
        return (np.minimum(first, second), np.maximum(first, second)) if self.diagonal else (first, second)


def crowd(tile: Tile, i: Array, j: Array) -> tuple[Array, Array]:
    """Which rows (m,) and columns (n,), bool each, of a tile have pairs that a filter left undecided by the thousand.

    The tile is of integers, or of bfloat16 points as stored; `i` and `j` are the pairs left. Tiles of `finer` decide
    them for less than they cost one by one. All are false where there is no crowd, or the tile is finer already.
    """
    m, n = tile.rows.size, tile.columns.size
    none = np.zeros(m, np.bool_), np.zeros(n, np.bool_)
    as_stored = tile.precision.element == "bfloat16" and tile.rows.norms.error is None
    if not (tile.rounded or as_stored):
        return none
    columns = np.bincount(j, minlength=n) >= _CROWD
    rows = np.bincount(i[columns[j]], minlength=m) >= _CROWD
    left = np.count_nonzero(rows[i] & columns[j])
    one_in = _DENSE_ROUNDED if tile.rounded else _DENSE
    dense = left * one_in >= np.count_nonzero(rows) * np.count_nonzero(columns)
    few = max(_CROWD**2, len(tile.rows.stored) * len(tile.columns.stored) / _FEW)
    return (rows, columns) if dense and left >= few else none


def finer(tile: Tile, in_rows: Array, in_columns: Array) -> Iterator[Tile]:
    """Multiply some rows (m,) and columns (n,), bool each, of a tile again, to tell their pairs apart.

    Those of a tile of integers as they were before they were rounded. Among points as stored a crowd is most often rows
    close to each other, to which others are all as near: these are multiplied about one of them, in bfloat16; what is
    left, in float64.
    """
    rows, columns = np.flatnonzero(in_rows), np.flatnonzero(in_columns)
    if not rows.size:
        return
    if tile.rounded:
        parts = tile.rows.take(rows).unrounded(), tile.columns.take(columns).unrounded()
        yield Tile(tile.metric, *parts, tile.diagonal)
        return
    by_rows = rows.size < columns.size
    for centre, hub in _hubs(tile.rows, rows) if by_rows else _hubs(tile.columns, columns):
        first, second = (hub, columns) if by_rows else (rows, hub)
        if centre is not None:
            parts = tile.rows.take(first).about(centre), tile.columns.take(second).about(centre)
            yield Tile(tile.metric, *parts, tile.diagonal)
            continue
        for i in range(0, first.size, DOUBLED):
            for j in range(0, second.size, DOUBLED):
                parts = tile.rows.take(first[i : i + DOUBLED]), tile.columns.take(second[j : j + DOUBLED])
                yield Tile(tile.metric, parts[0].doubled(), parts[1].doubled(), tile.diagonal)


def _hubs(block: Block, marked: Array) -> Iterator[tuple[torch.Tensor | None, Array]]:
    """Groups of marked rows that are close to one point, and that point; then those in no group, and None."""
    alone = []
    for _ in range(_HUBS):
        if not marked.size:
            break
        centre = block.points[int(marked[0])]
        _, away, _ = recentre(block.points[torch.from_numpy(marked)], centre)
        close = away <= _CLOSE**2 * block.norms.norm[marked[0]]
        if close.sum() > 1:
            yield centre, marked[close]
        else:
            alone.append(marked[close])
        marked = marked[~close]
    yield None, np.concatenate([*alone, marked])


def without_duplicates(duplicate_of: Array, tile: Tile, i: Array, j: Array, least: Array) -> tuple[Array, Array, Array]:
    """The pairs (p,) of a tile less those of identical rows: `duplicate_of` is the row identical to each."""
    first, second = tile.pairs(i, j)
    keep = duplicate_of[first] != second
    return i[keep], j[keep], least[keep]


def triangle(metric: Metric, block: Block) -> Iterator[Tile]:
    """Make the pairs of a block with itself, in tiles without most of those below the diagonal."""
    step = -(-block.size // _STEPS)
    for start in range(0, block.size, step):
        yield Tile(metric, block.take(slice(start, start + step)), block.take(slice(start, None)), diagonal=True)


def parts_sorted_by_norm(
    metric: Metric, rows: Block, columns: Block, *, diagonal: bool, reach: Callable[[], float]
) -> Iterator[Tile]:
    """Make only those parts of a tile of ranked blocks that may hold a pair whose value is at least `reach()`.

    By the triangle inequality no distance exceeds the sum of the two radii. `reach` is asked before each part.
    """
    start = 0
    while start < rows.size:
        value = reach()
        distance = float(metric.distance(np.array(max(value, 0.0)))) * (1 - 1e-9)
        count = int(np.searchsorted(-columns.radius, rows.radius[start] - distance, side="right"))
        first = start if diagonal else 0
        if count <= first:
            return
        whole = value > 0 and rows.radius[-1] + columns.radius[-1] >= distance
        stop = rows.size if whole else start + _SLAB
        part, other = rows.take(slice(start, stop)), columns.take(slice(first, count))
        yield Tile(metric, part, other, diagonal)
        start = stop

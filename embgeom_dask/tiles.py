"""A tile: all pairs of two blocks, multiplied on their device, with bounds of every pair's value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.blocks import Block
from embgeom_dask.metrics import Metric, Precision, Terms

Array = NDArray[Any]

_SLAB = 256
"""Rows of a part of a ranked tile."""

DOUBLED = 512
"""Rows of either side whose points are made float64 at a time."""

_CROWD = 4
"""One in so many pairs of a row or column left undecided is a crowd."""


@dataclass(frozen=True)
class Tile:
    """All pairs of the rows of two blocks; `product` (m, n) on the device; `diagonal`: only the pairs i < j count."""

    metric: Metric
    rows: Block
    columns: Block
    product: torch.Tensor
    diagonal: bool

    @property
    def precision(self) -> Precision:
        """How the product was made."""
        return Precision(str(self.product.dtype).removeprefix("torch."), self.product.device.type == "cpu")

    @cached_property
    def terms(self) -> tuple[Terms, Terms]:
        """Lower and upper bound of the value of each pair of points."""
        return self.metric.terms(self.rows.norms, self.columns.norms, self.rows.points.shape[1], self.precision)

    def pairs(self, i: Array, j: Array) -> tuple[Array, Array]:
        """The positions of pairs of this tile, within one matrix the lower first."""
        first, second = self.rows.positions[i], self.columns.positions[j]
        return (np.minimum(first, second), np.maximum(first, second)) if self.diagonal else (first, second)


def crowded(tile: Tile, i: Array, j: Array) -> tuple[Array, Array]:
    """The rows and columns (bool each) of a tile of bfloat16 products in which a filter left many pairs, i and j.

    A float64 product decides these for less than their pairs cost one by one. Only points as stored can be doubled.
    """
    m, n = tile.product.shape
    if tile.precision.element != "bfloat16":
        return np.zeros(m, np.bool_), np.zeros(n, np.bool_)
    columns = np.bincount(j, minlength=n) > m // _CROWD
    rows = np.bincount(i[~columns[j]], minlength=m) > n // _CROWD
    return rows, columns


def without_twins(twin: Array, tile: Tile, i: Array, j: Array, least: Array) -> tuple[Array, Array, Array]:
    """The pairs (p,) of a tile less those of identical rows: `twin` names the position of the row identical to each."""
    first, second = tile.pairs(i, j)
    keep = twin[first] != second
    return i[keep], j[keep], least[keep]


def multiply(metric: Metric, rows: Block, columns: Block, *, diagonal: bool) -> Tile:
    """Make the tile of two blocks."""
    return Tile(metric, rows, columns, metric.product(rows.points, columns.points), diagonal)


def ranked_parts(
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
        yield multiply(metric, part, other, diagonal=diagonal)
        start = stop

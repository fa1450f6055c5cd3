"""Decide the pairs that a product leaves undecided: dense ones by finer products, then each pair exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import bounds_of_pairs
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.refine import dense_pairs, finer_tiles, places_in, tiles_about_rows
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


def classes(thresholds: Thresholds, tile: Tile, i: Array, j: Array, exact: Exact) -> Array:
    """The class (p,) int64 among thresholds of pairs i, j (p,) of a tile; its product may be given up."""
    index, left = np.empty(i.size, np.int64), np.ones(i.size, np.bool_)
    for finer in finer_tiles(tile, dense_pairs(tile, i, j)):
        there, rows, columns = places_in(finer, tile, i, j)
        found, sure = thresholds.between(*bounds_of_pairs(finer.product, finer.terms, rows, columns), exact)
        found[~sure] = classes(thresholds, finer, rows[~sure], columns[~sure], exact)
        index[there], left[there] = found, False
    first, second = tile.pairs(i[left], j[left])
    index[left], _ = thresholds.classify(first, second, exact, tile.values(i[left], j[left], exact))
    return index


def values_of(tile: Tile, i: Array, j: Array, exact: Exact) -> tuple[Array, Array]:
    """The values (p,) of pairs i, j (p,) of a tile, and how far each may be off: a few units in their last place.

    The product of the tile may be given up.
    """
    values, slack, left = np.empty(i.size), np.empty(i.size), np.ones(i.size, np.bool_)
    for close in tiles_about_rows(tile, dense_pairs(tile, i, j)):
        there, rows, columns = places_in(close, tile, i, j)
        least, most = (bound / exact.unit for bound in bounds_of_pairs(close.product, close.terms, rows, columns))
        values[there], slack[there] = (least + most) / 2, (most - least) / 2
        slack[there] += 4 * UNIT * np.abs(values[there])
        left[there] = ~(slack[there] <= _FEW_UNITS * exact.width * UNIT * values[there])
    values[left], slack[left] = tile.values(i[left], j[left], exact)
    tile.remember(i[left], j[left], values[left], slack[left])
    return values, slack


_FEW_UNITS = 64
"""Of values that products tell: so many times the bound of what one by one they would be off."""

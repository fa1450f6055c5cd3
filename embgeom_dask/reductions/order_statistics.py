"""The distances of given ranks, among the pairs of a few bins: for exact quantiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.bounds import round_up
from embgeom_dask.kernels.passes import count_within
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import Table
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


def state_bytes() -> int:
    """Bytes of the states, on worker and client."""
    return 100 * tuning.COLLECTED_PAIRS


@dataclass(frozen=True, eq=False)
class WeightedPairs(Table):
    """Pairs of rows `first`, `second`, their `value` in plain float64, and how many pairs of tokens each stands for.

    Once a panel is done, one pair of each distance stands for all.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    value: NDArray[np.float64]
    weight: NDArray[np.int64]


@dataclass(frozen=True)
class OrderStatistics(Reduction[WeightedPairs, WeightedPairs, WeightedPairs]):
    """The distances of rank `ranks` (q,) int64 among the pairs in the `classes` (ascending) of `thresholds`.

    Ranks count pairs of tokens from 1, nearest first; rank 0 is a pair of identical tokens. `weights` (rows,) int64,
    for either side, is how many tokens share each row.
    """

    thresholds: Thresholds
    classes: tuple[int, ...]
    ranks: Array
    weights: tuple[Array, Array]
    name = "quantiles"
    state_type = WeightedPairs

    @property
    def nbytes(self) -> int:
        """Bytes of the states."""
        return state_bytes()

    def empty(self, hint: Array | None = None) -> WeightedPairs:  # noqa: ARG002
        """No pairs."""
        return WeightedPairs.empty()

    def update(self, state: WeightedPairs, tile: Tile, exact: Exact) -> WeightedPairs:
        """Add the pairs of a tile that lie in one of the classes."""
        dtype, classes = tile.precision.dtype, np.array(self.classes)
        below, above = self.thresholds.in_points(exact)
        inside = -round_up(-np.append(-np.inf, below)[classes], dtype)
        outside = round_up(np.append(above, np.inf)[classes], dtype)
        nothing = np.zeros(tile.rows.size, np.int64), np.zeros(tile.columns.size, np.int64)
        _, _, i, j = count_within(tile.product, tile.terms, nothing, inside, outside, diagonal=tile.diagonal)
        first, second = tile.pairs(i, j)
        index, values = self.thresholds.classify(first, second, exact)
        keep = np.isin(index, classes)
        first, second = first[keep], second[keep]
        found = WeightedPairs(first, second, values[keep], self.weights[0][first] * self.weights[1][second])
        return WeightedPairs.concat([state, found])

    def finish(self, state: WeightedPairs, exact: Exact) -> WeightedPairs:
        """One pair of each distance."""
        order, rank = exact.rank(state.first, state.second, state.value)
        ordered, starts = state.take(order), np.flatnonzero(np.diff(rank, prepend=-1))
        weight = np.add.reduceat(ordered.weight, starts) if starts.size else ordered.weight
        return replace(ordered.take(starts), weight=weight)

    def merge(self, merged: WeightedPairs | None, found: list[WeightedPairs], exact: Exact) -> WeightedPairs:
        """One pair of each distance."""
        return self.finish(WeightedPairs.concat([self.empty() if merged is None else merged, *found]), exact)

    def finalize(self, state: WeightedPairs, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `quantile_distance (quantile)`."""
        place = np.searchsorted(np.cumsum(state.weight), self.ranks)
        distance = np.zeros(self.ranks.size)
        (real,) = np.nonzero(self.ranks)
        distance[real] = exact.distances(state.first[place[real]], state.second[place[real]])
        return {"quantile_distance": (("quantile",), distance)}

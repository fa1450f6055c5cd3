"""Distances of given rank, among the pairs of a few bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.bounds import round_up
from embgeom_dask.kernels.passes import count_within
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, State, Variables
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


def state_bytes() -> int:
    """Bytes of the states, on worker and client."""
    return 100 * tuning.COLLECTED_PAIRS


@dataclass(frozen=True)
class OrderStatistics(Reduction):
    """The distances of rank `ranks` (q,) int64 among the pairs in the `classes` (ascending) of `thresholds`.

    Ranks count pairs of tokens from 1, nearest first; rank 0 is a pair of identical tokens. `weights` (rows,) int64,
    for either side, is how many tokens share each row. State: one pair of rows of each distance, `first`, `second`
    (int64) and `value`, and how many pairs of tokens have it, `weight` (int64).
    """

    thresholds: Thresholds
    classes: tuple[int, ...]
    ranks: Array
    weights: tuple[Array, Array]
    name = "quantiles"

    @property
    def nbytes(self) -> int:
        """Bytes of the states."""
        return state_bytes()

    def empty(self, hint: Array | None = None) -> State:  # noqa: ARG002
        """No pairs."""
        dtypes = {"first": np.int64, "second": np.int64, "value": np.float64, "weight": np.int64}
        return {name: np.empty(0, dtype) for name, dtype in dtypes.items()}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
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
        first, second, values = first[keep], second[keep], values[keep]
        found = (first, second, values, self.weights[0][first] * self.weights[1][second])
        return {name: np.concatenate([state[name], column]) for name, column in zip(state, found, strict=True)}

    def finish(self, state: State, exact: Exact) -> State:
        """One pair of each distance."""
        order, rank = exact.rank(state["first"], state["second"], state["value"])
        starts = np.flatnonzero(np.diff(rank, prepend=-1))
        kept = {name: column[order][starts] for name, column in state.items()}
        weight = state["weight"][order]
        return {**kept, "weight": np.add.reduceat(weight, starts) if starts.size else weight}

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels."""
        joined = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
        return self.finish(joined, exact)

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `quantile_distance (quantile)`."""
        place = np.searchsorted(np.cumsum(state["weight"]), self.ranks)
        distance = np.zeros(self.ranks.size)
        (real,) = np.nonzero(self.ranks)
        distance[real] = exact.distances(state["first"][place[real]], state["second"][place[real]])
        return {"quantile_distance": (("quantile",), distance)}

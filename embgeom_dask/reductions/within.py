"""How many pairs, and how many of each token's, lie within given radii."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import round_up
from embgeom_dask.kernels.passes import count_within
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, State, Variables
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


@dataclass(frozen=True)
class Within(Reduction):
    """Counts of the tokens at distance <= each radius; `radii` are closed thresholds.

    `weights` (rows,) int64, for either side, is how many tokens share each row. Where `symmetric`, both rows of a pair
    are counted. State: `row` (n,) int64, rows of the first side that have others within the largest radius, and
    `degree` (n, radii) int64, how many tokens; while a panel runs, every row.
    """

    radii: Thresholds
    weights: tuple[Array, Array]
    symmetric: bool
    name = "within"

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client."""
        return 8 * self.weights[0].size * (4 * self.radii.distance.size + 2)

    def empty(self, hint: Array | None = None) -> State:  # noqa: ARG002
        """Zeros."""
        rows = self.weights[0].size
        return {"row": np.arange(rows), "degree": np.zeros((rows, self.radii.distance.size), np.int64)}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile, in place."""
        rows, columns, dtype = tile.rows.positions, tile.columns.positions, tile.precision.dtype
        weights = self.weights[0][rows], self.weights[1][columns]
        inside, outside = self.radii.in_points(exact)
        inside, outside = -round_up(-inside, dtype), round_up(outside, dtype)
        near, near_columns, i, j = count_within(
            tile.product, tile.terms, weights, inside, outside, diagonal=tile.diagonal
        )
        degree = state["degree"]
        degree[rows] += near
        if self.symmetric:
            degree[columns] += near_columns
        first, second = tile.pairs(i, j)
        index, _ = self.radii.classify(first, second, exact)
        for k in range(self.radii.distance.size):
            np.add.at(degree[:, k], first[index <= k], self.weights[1][second[index <= k]])
            if self.symmetric:
                np.add.at(degree[:, k], second[index <= k], self.weights[0][first[index <= k]])
        return state

    def finish(self, state: State, exact: Exact) -> State:  # noqa: ARG002
        """The rows that have others within a radius."""
        keep = state["degree"].any(axis=1)
        return {"row": state["row"][keep], "degree": state["degree"][keep]}

    def merge(self, states: list[State], exact: Exact) -> State:
        """Add the states of several panels."""
        total = self.empty()
        for state in states:
            total["degree"][state["row"]] += state["degree"]
        return self.finish(total, exact)

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `within_count`, `within_degree` and `radius`, identical tokens included."""
        first = sides.first
        degree = np.zeros((first.token_id.size, self.radii.distance.size), np.int64)
        degree[state["row"]] = state["degree"]
        if sides.symmetric:
            degree += first.weights[:, None] - 1
        degree = np.repeat(degree, first.weights, axis=0)[np.argsort(first.members)]
        pairs = degree.sum(axis=0)
        return {
            "radius": (("radius",), self.radii.distance),
            "within_count": (("radius",), pairs // 2 if sides.symmetric else pairs),
            "within_degree": (("token_id", "radius"), degree),
        }

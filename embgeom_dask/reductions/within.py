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
from embgeom_dask.pairwise.tables import Table
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import token_lines
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.undecided import classes

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Degrees(Table):
    """Rows of the first side, `row` (n,), and how many tokens each has within the radii, `degree` (n, radii).

    While a panel runs these are all rows in order, then those alone that have any.
    """

    row: NDArray[np.int64]
    degree: NDArray[np.int64]


@dataclass(frozen=True)
class Within(Reduction[Degrees, Degrees, Degrees]):
    """Counts of the tokens at distance <= each radius; `radii` are closed thresholds.

    `weights` (rows,) int64, for either side, is how many tokens share each row. Where `symmetric`, both rows of a pair
    are counted. Pairs of identical rows are left out where `duplicate_of` (rows,) int64 is given, the position on the
    second side of the row identical to each, -1 where none is; states count them.
    """

    radii: Thresholds
    weights: tuple[Array, Array]
    symmetric: bool
    duplicate_of: Array | None = None
    name = "within"
    state_type = Degrees

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client."""
        return 8 * self.weights[0].size * (4 * self.radii.distance.size + 2)

    @property
    def only_near(self) -> bool:
        """True."""
        return True

    def span(self, exact: Exact) -> float:
        """The value at the largest radius."""
        return self.radii.span(exact)

    def empty(self, hint: Array | None = None) -> Degrees:  # noqa: ARG002
        """Zeros."""
        rows = self.weights[0].size
        return Degrees(np.arange(rows), np.zeros((rows, self.radii.distance.size), np.int64))

    def update(self, state: Degrees, tile: Tile, exact: Exact) -> Degrees:
        """Add the pairs of a tile, in place."""
        rows, columns, dtype = tile.rows.positions, tile.columns.positions, tile.precision.dtype
        weights = self.weights[0][rows], self.weights[1][columns]
        inside, outside = self.radii.in_points(exact)
        inside, outside = -round_up(-inside, dtype), round_up(outside, dtype)
        near, near_columns, i, j = count_within(
            tile.product, tile.terms, weights, inside, outside, diagonal=tile.diagonal, ends=tile.ends
        )
        degree = state.degree
        degree[rows] += near
        if self.symmetric:
            degree[columns] += near_columns
        first, second = tile.pairs(i, j)
        index = classes(self.radii, tile, i, j, exact)
        for k in range(self.radii.distance.size):
            np.add.at(degree[:, k], first[index <= k], self.weights[1][second[index <= k]])
            if self.symmetric:
                np.add.at(degree[:, k], second[index <= k], self.weights[0][first[index <= k]])
        return state

    def finish(self, state: Degrees, exact: Exact) -> Degrees:  # noqa: ARG002
        """The rows that have others within a radius."""
        return state.take(np.flatnonzero(state.degree.any(axis=1)))

    def merge(self, merged: Degrees | None, found: list[Degrees], exact: Exact) -> Degrees:
        """Add up."""
        total = self.empty()
        for each in found if merged is None else [merged, *found]:
            total.degree[each.row] += each.degree
        return self.finish(total, exact)

    def finalize(self, state: Degrees, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `within_count`, `within_degree` and `radius`: tokens of one row are within all, or left out."""
        first = sides.first
        degree = np.zeros((first.token_id.size, self.radii.distance.size), np.int64)
        degree[state.row] = state.degree
        if sides.symmetric and self.duplicate_of is None:
            degree += first.weights[:, None] - 1
        elif not sides.symmetric and self.duplicate_of is not None:
            same = np.where(self.duplicate_of >= 0, sides.second.weights[self.duplicate_of], 0)
            degree -= same[:, None]
        degree = degree[token_lines(first)]
        pairs = degree.sum(axis=0)
        return {
            "radius": (("radius",), self.radii.distance),
            "within_count": (("radius",), pairs // 2 if sides.symmetric else pairs),
            "within_degree": (("token_id", "radius"), degree),
        }

"""Statistics of the distances of every row: mean, standard deviation, skewness, kurtosis, smallest, largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.power_sums import BITS, SUMS, add_numbers, add_powers, transposed
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import Table
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import token_lines
from embgeom_dask.reductions.neighbors import Candidates
from embgeom_dask.reductions.turned import TurnedNeighbors

Array = NDArray[Any]
Bounds = tuple[LinearBound, LinearBound]


@dataclass(frozen=True, eq=False)
class PowerSums(Table):
    """Rows of the first side, `row` (n,), and the sums of powers of their distances, `sums` (n, SUMS, 2).

    While a panel runs these are all rows in order, then those alone that have any.
    """

    row: NDArray[np.int64]
    sums: NDArray[np.int64]


@dataclass(frozen=True)
class RowMoments(Reduction[PowerSums, PowerSums, PowerSums]):
    """Sums of the powers of the distances of each row, as integers: the same in any order.

    A distance is rounded to a multiple of 2^(exponent - 28), where no distance of the row is over 2^exponent:
    `exponent` (rows,) int64. `weights` (rows,) int64, of either side, is how many tokens share each
    row. Where `symmetric`, a pair counts for both of its rows.
    """

    exponent: Array
    weights: tuple[Array, Array]
    symmetric: bool
    name = "row_moments"
    state_type = PowerSums

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, with those of numbers of Python while they are named."""
        return self.weights[0].size * (8 + 16 * SUMS) * 4

    def empty(self, hint: Array | None = None) -> PowerSums:  # noqa: ARG002
        """Zeros."""
        rows = self.weights[0].size
        return PowerSums(np.arange(rows), np.zeros((rows, SUMS, 2), np.int64))

    def update(self, state: PowerSums, tile: Tile, exact: Exact) -> PowerSums:
        """Add the pairs of a tile, in place."""
        if tile.rows.norms.step is not None and tile.rows.has_finer_form:
            tile = tile.unrounded()  # digits leave every integer in doubt
        product, terms = tile.product, tile.terms
        self._add(state, tile, product, terms, exact, swapped=False)
        if self.symmetric:
            self._add(state, tile, *transposed(product, terms), exact, swapped=True)
        return state

    def _add(
        self, state: PowerSums, tile: Tile, product: torch.Tensor, terms: Bounds, exact: Exact, *, swapped: bool
    ) -> None:
        """Add the pairs of a tile to the sums of its rows, or where it is `swapped` of its columns."""
        mine, other = (tile.columns, tile.rows) if swapped else (tile.rows, tile.columns)
        exponent, weights = self.exponent[mine.positions], self.weights[0 if swapped else 1][other.positions]
        length = float(exact.metric.distance(np.array(exact.unit)))
        quantum = np.ldexp(1 / length, (BITS - exponent).astype(np.int32))
        above = None if not tile.diagonal else not swapped
        sums = state.sums[mine.positions]
        i, j = add_powers(product, terms, quantum, weights, sums, root=exact.metric.root, above=above)
        if i.size:
            distance = exact.distances(*tile.pairs(*((j, i) if swapped else (i, j))))
            number = np.rint(np.ldexp(distance, (BITS - exponent[i]).astype(np.int32)))
            add_numbers(sums, i, number.astype(np.int64), weights[j])
        state.sums[mine.positions] = sums

    def finish(self, state: PowerSums, exact: Exact) -> PowerSums:  # noqa: ARG002
        """The rows that were compared."""
        return state.take(np.flatnonzero(state.sums.any(axis=(1, 2))))

    def merge(self, merged: PowerSums | None, found: list[PowerSums], exact: Exact) -> PowerSums:  # noqa: ARG002
        """Add up."""
        total = self.empty()
        for each in found if merged is None else [merged, *found]:
            total.sums[each.row] += each.sums
        return total

    def finalize(self, state: PowerSums, sides: Sides, exact: Exact) -> Variables:
        """Name `row_mean`, `row_std`, `row_skew`, `row_kurtosis`, `row_step` (token_id) and `row_count`."""
        first, second = sides.first, sides.second
        count = second.members.size - sides.symmetric
        numbers = state.sums[..., 0].astype(object) * (1 << 32) + state.sums[..., 1]
        one, two, ta, tb, aa, ab, bb = numbers.T
        three, four = ta * (1 << BITS) + tb, aa * (1 << 2 * BITS) + ab * (2 << BITS) + bb
        moments = np.array([_moments(count, *each) for each in zip(one, two, three, four, strict=True)], float)
        moments = moments.reshape(-1, 4)
        step = np.ldexp(1.0, (self.exponent - BITS).astype(np.int32))
        moments[:, :2] *= step[:, None]
        if exact.metric.is_product:
            moments[:, [0, 2]] = 0.0 - moments[:, [0, 2]]
        line = token_lines(first)
        names = ("row_mean", "row_std", "row_skew", "row_kurtosis")
        found: Variables = {name: (("token_id",), column[line]) for name, column in zip(names, moments.T, strict=True)}
        return found | {"row_step": (("token_id",), step[line]), "row_count": ((), np.array(count))}


@dataclass(frozen=True)
class RowEnd(TurnedNeighbors):
    """The smallest or the `largest` of the distances or products of each row: its nearest, or its farthest."""

    largest: bool = False

    @property
    def name(self) -> str:
        """The name of its variable."""
        return "row_max" if self.largest else "row_min"

    def finalize(self, state: Candidates, sides: Sides, exact: Exact) -> Variables:
        """Name `row_min` or `row_max` (token_id); NaN where there is no other token."""
        row, distance = self._first(state, self.turned(exact))
        ends = np.full(self.rows, np.nan)
        ends[row] = 0.0 - distance if exact.metric.is_product else distance
        if sides.symmetric:  # identical rows are at distance 0; products have none of these
            shared = sides.first.weights > 1
            ends[shared] = np.fmax(ends[shared], 0.0) if self.largest else 0.0
        return {self.name: (("token_id",), ends[token_lines(sides.first)])}

    def is_turned(self, exact: Exact) -> bool:
        """Whether the largest distances are sought, or the smallest products."""
        return self.largest != exact.metric.is_product


def _moments(count: int, one: int, two: int, three: int, four: int) -> tuple[float, float, float, float]:
    """Mean, standard deviation, skewness and kurtosis of `count` integers, from the sums of their powers.

    Integers are divided with one rounding each: nothing cancels.
    """
    if count == 0:
        return (np.nan,) * 4
    spread = count * two - one**2
    if spread == 0:
        return one / count, 0.0, np.nan, np.nan
    variance = spread / count**2
    third = (count**2 * three - 3 * count * one * two + 2 * one**3) / count**3
    fourth = (count**3 * four - 4 * count**2 * one * three + 6 * count * one**2 * two - 3 * one**4) / count**4
    return one / count, variance**0.5, third / variance**1.5, fourth / variance**2
